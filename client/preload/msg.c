/* msgget and msgctl, as ipc/msg.c. */
#include "ctl.h"
#include "queue.h"

enum { MSG_STAT = 11, MSG_INFO, MSG_STAT_ANY };

struct user_msginfo {
	int32_t msgpool, msgmap, msgmax, msgmnb, msgmni, msgssz, msgtql;
	uint16_t msgseg, unused;
};

EXPORT int msgget(int key, int flags)
{
	if (unlikely(session_ready() < 0))
		return (int)finish(session_refused() ? -ENOSYS : SYS2(__NR_msgget, key, flags));
	return (int)finish(get_object(ABI_MSG, (uint32_t)key, 0, flags));
}

static long info(int cmd, void *buf)
{
	const struct abi_table_header *t = session.table;
	struct user_msginfo i = {.msgpool = 512000, .msgmap = 16384, .msgmax = (int32_t)t->msg_max,
				 .msgmnb = (int32_t)t->msg_mnb, .msgmni = (int32_t)t->msg_mni,
				 .msgssz = 16, .msgtql = 16384, .msgseg = 0xffff};

	if (cmd == MSG_INFO) {
		struct exchange x = {.request = {.kind = ABI_MSG_CTL, .arg = {ABI_MSG, 0, cmd}}};
		int r = channel_call(&x);

		if (r < 0)
			return r;
		i.msgpool = (int32_t)load32(&t->in_use[ABI_MSG]);
		i.msgmap = (int32_t)x.reply.val[0];
		i.msgtql = (int32_t)x.reply.val[1];
	}
	return ctl_store(buf, &i, sizeof i, ctl_max_index(ABI_MSG));
}

static void counters(struct handle *h, struct user_msqid *to)
{
	const struct abi_control_header *head = header_of(h);
	uint64_t sent, taken;

	lock_help(h);
	do {
		sent = load64(&head->sent);
		taken = load64(&head->taken);
	} while (load64(&head->sent) != sent);
	to->cbytes = queue_bytes(sent, taken);
	to->qnum = queue_count(sent, taken);
}

static bool stat_here(int id, struct user_msqid *to)
{
	const struct abi_record *r;
	struct call c;

	call_begin(&c);
	struct handle *h = ctl_here(&c, ABI_MSG, id, to, sizeof *to, &r);

	if (h != NULL) {
		const struct abi_control_header *head = header_of(h);
		uint64_t sent = load64(&head->last_send), received = load64(&head->last_recv);

		ctl_record(&to->perm, r);
		to->stime = last_time(sent);
		to->rtime = last_time(received);
		to->ctime = r->ctime;
		counters(h, to);
		to->qbytes = r->size;
		to->lspid = table_pid(last_session(sent), 0);
		to->lrpid = table_pid(last_session(received), last_thread(head, received));
		to->unused[0] = to->unused[1] = 0;
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
	}
	bool done = h != NULL && handle_valid(h);
	call_end(&c);
	return done;
}

static long stat_queue(int id, int cmd, void *buf)
{
	struct abi_stat s;

	if (cmd == IPC_STAT && stat_here(id, buf))
		return 0;
	long result = ctl_stat(ABI_MSG, id, cmd, &s);
	if (result < 0)
		return result;
	struct user_msqid u = {.stime = s.time[0], .rtime = s.time[1], .ctime = s.time[2],
			       .cbytes = s.count[0], .qnum = s.count[1], .qbytes = s.size,
			       .lspid = s.pid[0], .lrpid = s.pid[1]};

	ctl_perm(&u.perm, &s);
	return ctl_store(buf, &u, sizeof u, result);
}

static long set_perm(int id, const void *buf)
{
	const struct user_msqid *u = buf;
	struct call c;

	call_begin(&c);
	bool readable = user_readable(c.thread, buf, sizeof *u);

	call_end(&c);
	return readable ? ctl_set(ABI_MSG, id, &u->perm, &u->qbytes) : -EFAULT;
}

EXPORT int msgctl(int id, int cmd, void *buf)
{
	long r;

	if (unlikely(session_ready() < 0))
		return (int)finish(session_refused() ? -ENOSYS : SYS3(__NR_msgctl, id, cmd, buf));
	if (id < 0 || cmd < 0)
		return (int)finish(-EINVAL);
	switch (cmd) {
	case IPC_INFO:
	case MSG_INFO:
		r = info(cmd, buf);
		break;
	case IPC_STAT:
	case MSG_STAT:
	case MSG_STAT_ANY:
		r = stat_queue(id, cmd, buf);
		break;
	case IPC_SET:
		r = set_perm(id, buf);
		break;
	case IPC_RMID:
		r = ctl_remove(ABI_MSG, id);
		break;
	default:
		r = -EINVAL;
	}
	return (int)finish(r);
}
