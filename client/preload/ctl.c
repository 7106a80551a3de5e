/* What the three families' *get and *ctl calls have in common. */
#include "ctl.h"

long ctl_stat(int family, int id, int cmd, struct abi_stat *stat)
{
	struct exchange x = {.request = {.kind = ABI_MSG_CTL, .arg = {family, id, cmd}},
			     .reply_data = stat,
			     .reply_room = sizeof *stat};
	long r = channel_call(&x);

	return r < 0 ? r : x.reply.val[0];
}

long ctl_set(int family, int id, const struct user_perm *perm, const uint64_t *qbytes)
{
	struct exchange x = {.request = {.kind = ABI_MSG_CTL,
					 .len = qbytes ? sizeof *qbytes : 0,
					 .arg = {family, id, IPC_SET, perm->uid, perm->gid,
						 perm->mode}},
			     .data = qbytes};

	return channel_call(&x);
}

long ctl_remove(int family, int id)
{
	long r = channel_simple(ABI_MSG_CTL, family, id, IPC_RMID, 0, NULL);

	handle_sweep(family);
	return r;
}

long ctl_max_index(int family)
{
	uint32_t n = load32(&session.table->max_index[family]);

	return n ? n - 1 : 0;
}

void ctl_perm(struct user_perm *to, const struct abi_stat *s)
{
	*to = (struct user_perm){s->key, s->uid, s->gid, s->cuid, s->cgid, s->mode,
				 (uint16_t)s->seq, 0, 0, {0, 0}};
}

struct handle *ctl_here(struct call *c, int family, int id, void *buf, size_t size,
			const struct abi_record **r)
{
	struct handle *h = session.foreign_ids ? NULL : handle_find(family, (uint32_t)id);

	if (h == NULL || h->mem == NULL || !user_writable(c->thread, buf, size))
		return NULL;
	*r = table_named(h->slot);
	return *r ? h : NULL;
}

long ctl_store(void *to, const void *from, size_t n, long result)
{
	struct call c;

	call_begin(&c);
	bool writable = user_writable(c.thread, to, n);

	if (writable)
		memcpy(to, from, n);
	call_end(&c);
	return writable ? result : -EFAULT;
}

long get_object(int family, uint32_t key, uint64_t size, int flags)
{
	uint32_t wanted = ((uint32_t)flags >> 6 | (uint32_t)flags >> 3 | (uint32_t)flags) & 7;
	struct abi_record r;
	int64_t id = 0;

	if (key != 0) {
		int found = table_find(family, key, &r);

		if (found < 0 && !(flags & IPC_CREAT))
			return -ENOENT;
		if (found >= 0 && (flags & IPC_CREAT) && (flags & IPC_EXCL))
			return -EEXIST;
		if (found >= 0 && size > r.size && family != ABI_MSG)
			return -EINVAL;
		/* By the mode alone; capabilities are for the manager to judge. */
		if (found >= 0 && (wanted == 0 || (!session.foreign_ids && creds_allow(&r, wanted))))
			return found;
	}
	struct exchange x = {.request = {.kind = ABI_MSG_GET,
					 .arg = {family, (int64_t)(int32_t)key, flags, (int64_t)size}}};
	handle_sweep(family);
	long e = channel_call(&x);

	id = x.reply.val[0];
	return e < 0 ? e : id;
}
