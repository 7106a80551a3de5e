/* shmget and shmctl, as ipc/shm.c. */
#include "ctl.h"

enum { SHM_LOCK = 11, SHM_UNLOCK, SHM_STAT, SHM_INFO, SHM_STAT_ANY };

struct user_shminfo {
	uint64_t shmmax, shmmin, shmmni, shmseg, shmall, unused[4];
};
struct user_shm_info {
	int32_t used_ids, pad;
	uint64_t shm_tot, shm_rss, shm_swp, swap_attempts, swap_successes;
};

EXPORT int shmget(int key, size_t size, int flags)
{
	if (unlikely(session_ready() < 0))
		return (int)finish(session_refused() ? -ENOSYS : SYS3(__NR_shmget, key, size, flags));
	return (int)finish(get_object(ABI_SHM, (uint32_t)key, size, flags));
}

static long info(void *buf)
{
	const struct abi_table_header *t = session.table;
	struct user_shminfo i = {t->shm_max, 1, t->shm_mni, t->shm_mni, t->shm_all, {0}};

	return ctl_store(buf, &i, sizeof i, ctl_max_index(ABI_SHM));
}

static long usage(void *buf)
{
	const struct abi_table_header *t = session.table;
	struct exchange x = {.request = {.kind = ABI_MSG_CTL, .arg = {ABI_SHM, 0, SHM_INFO}}};
	int r = channel_call(&x);
	struct user_shm_info i = {.used_ids = (int32_t)load32(&t->in_use[ABI_SHM]),
				  .shm_tot = load64(&t->shm_pages),
				  .shm_rss = (uint64_t)x.reply.val[0],
				  .shm_swp = (uint64_t)x.reply.val[1]};

	return r < 0 ? r : ctl_store(buf, &i, sizeof i, ctl_max_index(ABI_SHM));
}

static long stat_segment(int id, int cmd, void *buf)
{
	struct abi_stat s;
	long r = ctl_stat(ABI_SHM, id, cmd, &s);

	if (r < 0)
		return r;
	struct user_shmid u = {.segsz = s.size, .atime = s.time[0], .dtime = s.time[1],
			       .ctime = s.time[2], .cpid = s.pid[1], .lpid = s.pid[0],
			       .nattch = s.count[0]};

	ctl_perm(&u.perm, &s);
	return ctl_store(buf, &u, sizeof u, r);
}

static long set_perm(int id, const void *buf)
{
	struct call c;

	call_begin(&c);
	bool readable = user_readable(c.thread, buf, sizeof(struct user_shmid));

	call_end(&c);
	if (!readable)
		return -EFAULT;
	return ctl_set(ABI_SHM, id, &((const struct user_shmid *)buf)->perm, NULL);
}

EXPORT int shmctl(int id, int cmd, void *buf)
{
	long r;

	if (unlikely(session_ready() < 0))
		return (int)finish(session_refused() ? -ENOSYS : SYS3(__NR_shmctl, id, cmd, buf));
	if (id < 0 || cmd < 0)
		return (int)finish(-EINVAL);
	switch (cmd) {
	case IPC_INFO:
		r = info(buf);
		break;
	case SHM_INFO:
		r = usage(buf);
		break;
	case IPC_STAT:
	case SHM_STAT:
	case SHM_STAT_ANY:
		r = stat_segment(id, cmd, buf);
		break;
	case IPC_SET:
		r = set_perm(id, buf);
		break;
	case IPC_RMID:
		r = ctl_remove(ABI_SHM, id);
		break;
	case SHM_LOCK:
	case SHM_UNLOCK:
		r = channel_simple(ABI_MSG_CTL, ABI_SHM, id, cmd, 0, NULL);
		break;
	default:
		r = -EINVAL;
	}
	return (int)finish(r);
}
