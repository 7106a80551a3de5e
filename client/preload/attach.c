/*
 * shmat and shmdt: mmap and munmap of a descriptor kept from the first use,
 * and a count in the session's page, which the manager reads for nattch.
 */
#include "attach.h"

#define SHM_RDONLY 010000
#define SHM_RND 020000
#define SHM_REMAP 040000
#define SHM_EXEC 0100000

/* What this process has mapped of segments. Guarded by the control lock; a
 * child of fork inherits it as it inherits the mappings. */
static struct piece *pieces;
static uint32_t pieces_end;
uint32_t pieces_live;

#define PIECES_ROOM (1U << 16)

struct piece *piece_new(void)
{
	if (pieces == NULL)
		pieces = room_anonymous(PIECES_ROOM * sizeof *pieces);
	if (pieces == NULL)
		return NULL;
	for (uint32_t i = 0; i < pieces_end; i++)
		if (pieces[i].length == 0)
			return &pieces[i];
	return pieces_end < PIECES_ROOM ? &pieces[pieces_end++] : NULL;
}

struct piece *piece_next(struct piece *p)
{
	for (p = p ? p + 1 : pieces; p != NULL && p < pieces + pieces_end; p++)
		if (p->length != 0)
			return p;
	return NULL;
}

/* This process's count for a segment; NULL: no room for another segment. */
struct abi_use *use_of(uint64_t serial)
{
	struct abi_use *uses = session.page->uses, *unused = NULL;

	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < ABI_PAGE_USES; i++) {
			if (uses[i].serial == serial)
				return &uses[i];
			if (unused == NULL && uses[i].serial == 0)
				unused = &uses[i];
		}
		if (unused != NULL) {
			unused->count = 0;
			unused->atime = unused->dtime = 0;
			store64(&unused->serial, serial);
			return unused;
		}
		/* The manager takes over the times of those used no more. */
		if (channel_simple(ABI_MSG_FOLD, 0, 0, 0, 0, NULL) < 0)
			break;
	}
	return NULL;
}

/* The segment's handle with the descriptor that access needs. */
static struct handle *segment(uint32_t id, uint32_t access, int *error)
{
	struct handle *h = handle_find(ABI_SHM, id);

	if (h != NULL && (access & ~h->rights) == 0 && fd_is(h->fd, h->fd_inode))
		return h;
	return handle_open(ABI_SHM, id, access, error);
}

/* Whether the segment is still there, after its use was counted: the manager
 * first marks the slot and then counts, so one of the two sees the other. */
static bool stands(const struct handle *h)
{
	struct abi_record r;
	uint64_t slot;

	full_barrier();
	return load64(h->table_word) == h->slot ||
	       (table_record(ABI_SHM, h->id, &r, &slot) && r.serial == h->serial);
}

static long map_segment(struct handle *h, uintptr_t addr, int flags)
{
	size_t length = (h->size + PAGE - 1) & ~(PAGE - 1);
	int prot = PROT_READ | (flags & SHM_RDONLY ? 0 : PROT_WRITE) |
		   (flags & SHM_EXEC ? PROT_EXEC : 0);
	int how = MAP_SHARED;
	struct abi_use *use = use_of(h->serial);

	if (use == NULL)
		return -ENOMEM;
	if (addr != 0)
		how |= flags & SHM_REMAP ? MAP_FIXED : MAP_FIXED_NOREPLACE;
	store32(&use->count, use->count + 1);
	FAIL_POINT("attach: counted");
	long p = stands(h) ? SYS6(__NR_mmap, addr, length, prot, how, h->fd, 0) : -EIDRM;
	if (!is_error(p) && addr != 0 && (uintptr_t)p != addr) {
		SYS2(__NR_munmap, p, length); /* a kernel without NOREPLACE */
		p = -EEXIST;
	}
	if (!is_error(p) && (flags & SHM_REMAP))
		pieces_unmapped((uintptr_t)p, length);
	FAIL_POINT("attach: mapped");
	struct piece *new = is_error(p) ? NULL : piece_new();
	if (new == NULL) {
		store32(&use->count, use->count - 1);
		if (!is_error(p))
			SYS2(__NR_munmap, p, length);
		return p == -EEXIST ? -EINVAL : is_error(p) ? p : -ENOMEM;
	}
	use->atime = now_real();
	*new = (struct piece){(uintptr_t)p, length, 0, h->serial, h->size, h->id, prot, false};
	pieces_live++;
	FAIL_POINT("attach: noted");
	return p;
}

static long do_shmat(int id, uintptr_t addr, int flags)
{
	uint32_t access = ABI_ACCESS_READ | (flags & SHM_RDONLY ? 0 : ABI_ACCESS_WRITE) |
			  (flags & SHM_EXEC ? ABI_ACCESS_EXEC : 0);

	if (id < 0)
		return -EINVAL;
	if (addr & (PAGE - 1)) {
		if (!(flags & SHM_RND))
			return -EINVAL;
		addr &= ~(PAGE - 1);
	}
	if (addr == 0 && (flags & SHM_REMAP))
		return -EINVAL;
	control_lock();
	int error = 0;
	struct handle *h = segment((uint32_t)id, access, &error);
	long r = h ? map_segment(h, addr, flags) : error;

	control_unlock();
	return r;
}

/* A segment marked for destruction goes with its last attach. */
static void tell_if_doomed(uint32_t id, uint64_t serial)
{
	struct abi_record r;
	uint64_t slot;

	if (table_record(ABI_SHM, id, &r, &slot) && r.serial == serial && (r.mode & ABI_MODE_DEST))
		channel_simple(ABI_MSG_DETACHED, id, 0, 0, 0, NULL);
}

void piece_gone(struct piece *p)
{
	struct abi_use *use = use_of(p->serial);

	p->length = 0;
	pieces_live--;
	if (use != NULL && use->count > 0) {
		use->dtime = now_real();
		store32(&use->count, use->count - 1);
	}
	FAIL_POINT("detach: counted");
	full_barrier();
	tell_if_doomed(p->id, p->serial);
}

/* Takes out every piece of the attach that began at addr, as ksys_shmdt():
 * the lowest piece says which segment it is. What else was mapped into holes
 * since then stays. */
static int do_shmdt(uintptr_t addr)
{
	const struct piece *lowest = NULL;

	if (addr & (PAGE - 1))
		return -EINVAL;
	control_lock();
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p))
		if (p->addr - p->offset == addr && (lowest == NULL || p->addr < lowest->addr))
			lowest = p;
	uint64_t serial = lowest ? lowest->serial : 0;
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p))
		if (p->addr - p->offset == addr && p->serial == serial) {
			SYS2(__NR_munmap, p->addr, p->length);
			FAIL_POINT("detach: unmapped");
			piece_gone(p);
		}
	control_unlock();
	/* Or an attach of the kernel's, from before the process came here. */
	return lowest ? 0 : (int)SYS1(__NR_shmdt, addr);
}

EXPORT void *shmat(int id, const void *addr, int flags)
{
	long r;

	if (unlikely(session_ready() < 0))
		r = session_refused() ? -ENOSYS : SYS3(__NR_shmat, id, addr, flags);
	else
		r = do_shmat(id, (uintptr_t)addr, flags);
	return is_error(r) ? (void *)finish(r) : (void *)r;
}

EXPORT int shmdt(const void *addr)
{
	/* Also away from the space, what was attached there can be detached. */
	if (unlikely(session_ready() < 0 && pieces_live == 0))
		return (int)finish(session_refused() ? -ENOSYS : SYS1(__NR_shmdt, addr));
	return (int)finish(do_shmdt((uintptr_t)addr));
}
