/* msgget and msgctl, as ipc/msg.c. */
#include "ctl.h"
#include "queue.h"

enum { MSG_STAT = 11, MSG_INFO, MSG_STAT_ANY };

struct user_msginfo {
	int32_t msgpool, msgmap, msgmax, msgmnb, msgmni, msgssz, msgtql;
	uint16_t msgseg;
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

static void stat_direct(struct handle *h, const struct abi_record *r, struct user_msqid *u)
{
	const struct abi_control_header *head = header_of(h);
	uint64_t sent, taken, last_send, last_recv;
	struct abi_stat s;

	lock_help(h);
	do {
		sent = load64(&head->sent);
		taken = load64(&head->taken);
	} while (load64(&head->sent) != sent);
	last_send = load64(&head->last_send);
	last_recv = load64(&head->last_recv);
	ctl_record(&s, r);
	ctl_perm(&u->perm, &s);
	u->stime = last_time(last_send);
	u->rtime = last_time(last_recv);
	u->ctime = r->ctime;
	u->cbytes = queue_bytes(sent, taken);
	u->qnum = queue_count(sent, taken);
	u->qbytes = r->size;
	u->lspid = table_pid(last_session(last_send));
	u->lrpid = table_pid(last_session(last_recv));
}

static long stat_queue(int id, int cmd, void *buf)
{
	bool direct = cmd == IPC_STAT && !session.foreign_ids;
	struct handle *h = direct ? handle_find(ABI_MSG, (uint32_t)id) : NULL;
	struct user_msqid u = {0};
	struct abi_record r;
	struct abi_stat s;
	uint64_t slot;
	long result = 0;

	if (h != NULL && h->mem != NULL && table_record(ABI_MSG, (uint32_t)id, &r, &slot)) {
		stat_direct(h, &r, &u);
	} else {
		result = ctl_stat(ABI_MSG, id, cmd, &s);
		if (result < 0)
			return result;
		ctl_perm(&u.perm, &s);
		u.stime = s.time[0];
		u.rtime = s.time[1];
		u.ctime = s.time[2];
		u.cbytes = s.count[0];
		u.qnum = s.count[1];
		u.qbytes = s.size;
		u.lspid = s.pid[0];
		u.lrpid = s.pid[1];
	}
	return ctl_store(buf, &u, sizeof u, result);
}

static long set_perm(int id, const void *buf)
{
	const struct user_msqid *u = buf;
	struct call c = call_begin();
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
