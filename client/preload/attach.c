/*
 * shmat and shmdt: a mapping, and a count in the session's page.
 *
 * The way of nearly all calls takes no lock and makes one system call: a second
 * mapping of a page of the segment that this process keeps mapped, its anchor
 * (mremap of 0 bytes; no descriptor that the program could have closed), and
 * munmap. A handler may interrupt it anywhere, and siglongjmp may leave it
 * there; what is left is then what the kernel leaves when the signal comes at
 * the end of the call: an attach whose address the program never learnt, or
 * one that is gone (and at worst still has its mapping, which nobody counts).
 */
#include "attach.h"

#define SHM_RDONLY 010000
#define SHM_RND 020000
#define SHM_REMAP 040000
#define SHM_EXEC 0100000

/* How long a thread that left shmat by siglongjmp is waited for, in ns. */
#define PATIENCE INT64_C(2000000)

/* --- without the lock -------------------------------------------------- */

static uint32_t excluded; /* how many want nobody here */

/* Whether the calling thread may go on without the lock. Its mark is a plain
 * store: who excludes makes the barrier for both (membarrier). A handler's call
 * leaves the mark as it was. */
static bool enter(struct call *c, uint32_t *outer)
{
	uint32_t *mark = &c->thread->attaching;

	*outer = c->nested ? *mark : 0;
	__atomic_store_n(mark, 1, __ATOMIC_RELAXED);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	if (likely(load32(&excluded) == 0))
		return true;
	store32(mark, *outer);
	return false;
}

static void leave(struct call *c, uint32_t outer)
{
	store32(&c->thread->attaching, outer);
}

void attach_exclude(void)
{
	int64_t begun = 0;

	__atomic_fetch_add(&excluded, 1, __ATOMIC_SEQ_CST);
	while (threads_attaching()) {
		if (begun == 0)
			begun = now_monotonic();
		if (now_monotonic() - begun > PATIENCE)
			break;
		SYS0(__NR_sched_yield);
	}
}

void attach_include(void)
{
	__atomic_fetch_sub(&excluded, 1, __ATOMIC_SEQ_CST);
}

void attach_alone(void)
{
	store32(&excluded, 0);
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

static size_t length_of(const struct handle *h)
{
	return whole_pages(h->size);
}

static uint64_t next_attach(void)
{
	static uint64_t attaches;

	return __atomic_add_fetch(&attaches, 1, __ATOMIC_RELAXED);
}

/* For reading and writing, at any place. 0: not this way. */
static long attach_again(struct handle *h)
{
	struct abi_use *use = &session.page->uses[h->use % ABI_PAGE_USES];
	size_t length = length_of(h);

	if (use->serial != h->serial)
		return 0;
	use_add(use, 1);
	FAIL_POINT("attach: counted");
	long p = stands(h) ? SYS4(__NR_mremap, h->anchor, 0, length, MREMAP_MAYMOVE) : -EIDRM;
	FAIL_POINT("attach: mapped");
	struct piece *new = is_error(p) ? NULL : piece_take();
	if (new == NULL) {
		use_add(use, UINT32_MAX);
		if (!is_error(p))
			SYS2(__NR_munmap, p, length);
		return 0;
	}
	use->atime = now_real();
	*new = (struct piece){PIECE_TAKEN, h->id, (uintptr_t)p, length, 0, h->serial, h->size,
			      next_attach(), PROT_READ | PROT_WRITE, 0};
	piece_publish(new);
	FAIL_POINT("attach: noted");
	return p;
}

/* Of an attach that is whole. False: it is in pieces, or none of ours. */
static bool detach_whole(uintptr_t addr)
{
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p)) {
		struct piece seen = *p;

		if (seen.addr != addr || seen.offset != 0 || seen.size > seen.length ||
		    (seen.marks & MARK_SEALED))
			continue;
		/* Counted out first: then it is nobody's business any more what
		 * is mapped here, and who comes at the same time finds it gone. */
		if (!piece_count_out(p))
			return false;
		SYS2(__NR_munmap, addr, seen.length);
		user_forget(addr, seen.length);
		FAIL_POINT("detach: unmapped");
		tell_if_doomed(seen.id, seen.serial);
		return true;
	}
	return false;
}

/* --- with the lock ----------------------------------------------------- */

/* The segment's handle with the descriptor that access needs. */
static struct handle *segment(uint32_t id, uint32_t access, int *error)
{
	struct handle *h = handle_find(ABI_SHM, id);

	if (h != NULL && (access & ~h->rights) == 0 && fd_is(h->fd, h->fd_inode))
		return h;
	return handle_open(ABI_SHM, id, access, error);
}

/* fixed: at addr, which may be 0, as shmat has it after rounding down. */
static long map_segment(struct handle *h, int fd, uintptr_t addr, bool fixed, int flags)
{
	size_t length = length_of(h);
	int prot = PROT_READ | (flags & SHM_RDONLY ? 0 : PROT_WRITE) |
		   (flags & SHM_EXEC ? PROT_EXEC : 0);
	int how = MAP_SHARED;
	struct abi_use *use = use_of(h->serial);

	if (use == NULL)
		return -ENOMEM;
	if (addr != 0 && !(flags & SHM_REMAP) && addr + h->size < addr)
		return -EINVAL;
	bool replaces = fixed && (addr == 0 || (flags & SHM_REMAP));
	if (fixed)
		how |= replaces ? MAP_FIXED : MAP_FIXED_NOREPLACE;
	use_add(use, 1);
	int64_t before = use->atime, now = now_real();
	if (replaces)
		use->atime = now; /* what it replaces may be this very code */
	FAIL_POINT("attach: counted");
	long p = stands(h) ? SYS6(__NR_mmap, addr, length, prot, how, fd, 0) : -EIDRM;
	if (is_error(p) && replaces)
		cas64((uint64_t *)&use->atime, (uint64_t)now, (uint64_t)before);
	if (!is_error(p) && fixed && (uintptr_t)p != addr) {
		SYS2(__NR_munmap, p, length); /* a kernel without NOREPLACE */
		p = -EEXIST;
	}
	if (!is_error(p) && replaces) {
		pieces_unmapped((uintptr_t)p, length);
		user_forget((uintptr_t)p, length);
	}
	FAIL_POINT("attach: mapped");
	struct piece *new = is_error(p) ? NULL : piece_take();
	if (new == NULL) {
		use_add(use, UINT32_MAX);
		if (!is_error(p))
			SYS2(__NR_munmap, p, length);
		return p == -EEXIST ? -EINVAL : is_error(p) ? p : -ENOMEM;
	}
	use->atime = now_real();
	*new = (struct piece){PIECE_TAKEN, h->id, (uintptr_t)p, length, 0, h->serial, h->size,
			      next_attach(), prot, 0};
	piece_publish(new);
	FAIL_POINT("attach: noted");
	h->use = (uint32_t)(use - session.page->uses);
	if (h->anchor == NULL && h->attached && (h->rights & ABI_ACCESS_WRITE))
		__atomic_store_n(&h->anchor,
				 room_map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, h->fd),
				 __ATOMIC_RELEASE);
	h->attached = true;
	return p;
}

struct attach {
	uint32_t id, access;
	uintptr_t addr;
	bool fixed;
	int flags;
};

static long attach_for(void *attach)
{
	struct attach *a = attach;
	int error = 0;
	struct handle *h = segment(a->id, a->access, &error);

	if (h == NULL)
		return error;
	if (!fd_is(h->fd, h->fd_inode))
		return -EMFILE; /* it was opened, but elsewhere */
	if ((a->access & ABI_ACCESS_WRITE) || !(h->rights & ABI_ACCESS_WRITE))
		return map_segment(h, h->fd, a->addr, a->fixed, a->flags);
	/* A mapping of a descriptor that allows writing could be made writable. */
	long fd = handle_descriptor(h, a->access), r = fd;
	if (fd >= 0) {
		r = map_segment(h, (int)fd, a->addr, a->fixed, a->flags);
		SYS1(__NR_close, fd);
	}
	return r;
}

static long attach_locked(int id, uintptr_t addr, int flags)
{
	uint32_t access = ABI_ACCESS_READ | (flags & SHM_RDONLY ? 0 : ABI_ACCESS_WRITE) |
			  (flags & SHM_EXEC ? ABI_ACCESS_EXEC : 0);

	bool fixed = addr != 0;

	if (id < 0)
		return -EINVAL;
	if (addr & (PAGE - 1)) {
		if (!(flags & SHM_RND))
			return -EINVAL;
		addr &= ~(PAGE - 1);
	}
	if (addr == 0 && (flags & SHM_REMAP))
		return -EINVAL;
	struct attach a = {(uint32_t)id, access, addr, fixed, flags};

	control_lock();
	long r = attach_for(&a);
	if (unlikely(r == -EMFILE))
		r = with_descriptors(attach_for, &a);
	control_unlock();
	return r;
}

static long do_shmat(int id, uintptr_t addr, int flags)
{
	struct handle *h = handle_find(ABI_SHM, (uint32_t)id);
	struct call c;
	uint32_t outer;
	long r = 0;

	call_begin(&c);
	if (likely(addr == 0 && flags == 0 && h != NULL && h->anchor != NULL) && enter(&c, &outer)) {
		r = attach_again(h);
		leave(&c, outer);
	}
	call_end(&c);
	return likely(r != 0) ? r : attach_locked(id, addr, flags);
}

/* One that is sealed stays, and shmdt says nothing of it. */
static void detach_piece(struct piece *p)
{
	if (is_error(SYS2(__NR_munmap, p->addr, p->length)))
		return;
	user_forget(p->addr, p->length);
	FAIL_POINT("detach: unmapped");
	piece_gone(p);
}

/* Takes out the pieces of the attach that began at addr, as ksys_shmdt(): the lowest
 * says which attach it is, whatever became of it; the others go as far as they end
 * where the segment would. What else was mapped into holes since then stays. */
static bool detach_locked(uintptr_t addr)
{
	struct piece *lowest = NULL;

	control_lock();
	attach_exclude();
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p))
		if (p->addr - p->offset == addr && p->addr >= addr &&
		    (lowest == NULL || p->addr < lowest->addr))
			lowest = p;
	if (lowest != NULL) {
		uint64_t attach = lowest->attach;
		size_t whole = whole_pages(lowest->size);

		detach_piece(lowest);
		for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p))
			if (p->addr - p->offset == addr && p->addr >= addr && p->attach == attach &&
			    p->addr + p->length - addr <= whole)
				detach_piece(p);
	}
	attach_include();
	control_unlock();
	return lowest != NULL;
}

static int do_shmdt(uintptr_t addr)
{
	struct call c;
	bool done = false;
	uint32_t outer;

	call_begin(&c);
	if (likely((addr & (PAGE - 1)) == 0) && enter(&c, &outer)) {
		done = detach_whole(addr);
		leave(&c, outer);
	}
	call_end(&c);
	if (likely(done))
		return 0;
	if (addr & (PAGE - 1))
		return -EINVAL;
	/* Or an attach of the kernel's, from before the process came here. */
	return detach_locked(addr) ? 0 : (int)SYS1(__NR_shmdt, addr);
}

void *shmat_call(int id, const void *addr, int flags)
{
	long r;

	if (unlikely(session_ready() < 0))
		r = session_refused() ? -ENOSYS : SYS3(__NR_shmat, id, addr, flags);
	else
		r = do_shmat(id, (uintptr_t)addr, flags);
	return is_error(r) ? (void *)finish(r) : (void *)r;
}

EXPORT void *shmat(int id, const void *addr, int flags)
{
	return shmat_call(id, addr, flags);
}

int shmdt_call(const void *addr)
{
	/* Also away from the space, what was attached there can be detached. */
	if (unlikely(session_ready() < 0 && pieces_live == 0))
		return (int)finish(session_refused() ? -ENOSYS : SYS1(__NR_shmdt, addr));
	return (int)finish(do_shmdt((uintptr_t)addr));
}

EXPORT int shmdt(const void *addr)
{
	return shmdt_call(addr);
}
