/*
 * mprotect, madvise, mlock, mseal and mbind of the program: what they change in a
 * part of a mapping, the kernel cuts off, and counts as an attach of its own.
 */
#include "attach.h"

#define MADV_NORMAL 0
#define MADV_RANDOM 1
#define MADV_SEQUENTIAL 2
#define MADV_REMOVE 9
#define MADV_DONTFORK 10
#define MADV_DOFORK 11
#define MADV_HUGEPAGE 14
#define MADV_NOHUGEPAGE 15
#define MADV_DODUMP 17
#define MLOCK_ONFAULT 1
#define MCL_CURRENT 1
#define MCL_ONFAULT 4
#define MS_ASYNC 1
#define MPOL_DEFAULT 0

/* Pieces of a range get prot, or those of the marks in mask that bits says. */
struct change {
	int prot; /* -1: as it is */
	uint32_t mask, bits;
};

static bool differs(const struct piece *p, const struct change *c)
{
	return (c->prot >= 0 && p->prot != c->prot) || (p->marks & c->mask) != c->bits;
}

/* Of p, [from, to): a part at an edge may go over to a neighbour that is so already. */
static void change_part(struct piece *p, uintptr_t from, uintptr_t to, const struct change *c)
{
	struct piece part = *p;
	bool at_begin = from == p->addr, at_end = to == p->addr + p->length;
	uintptr_t next = UINTPTR_MAX;

	part.addr = from;
	part.length = to - from;
	part.offset += from - p->addr;
	part.marks = (p->marks & ~c->mask) | c->bits;
	part.prot = c->prot >= 0 ? c->prot : p->prot;
	if (at_begin != at_end && piece_joins(&part)) {
		p->length -= part.length;
		p->addr += at_begin ? part.length : 0;
		p->offset += at_begin ? part.length : 0;
		return;
	}
	piece_cut(p, to);
	piece_cut(p, from);
	p = piece_at(from, &next);
	p->marks = part.marks;
	p->prot = part.prot;
}

static void mark(uintptr_t addr, size_t length, const struct change *c)
{
	uintptr_t end = addr + length, next;

	for (uintptr_t at = addr; at < end; at = next) {
		next = end;
		struct piece *p = piece_at(at, &next);

		if (p == NULL)
			continue;
		if (p->addr + p->length < end)
			next = p->addr + p->length;
		if (differs(p, c))
			change_part(p, at, next, c);
	}
}

/* How much of the range, from its beginning, a call takes without an error. */
static size_t taken(long number, uintptr_t addr, size_t length, long third, long fourth)
{
	size_t good = 0, bad = length / PAGE + 1;

	while (bad - good > 1) {
		size_t n = good + (bad - good) / 2;

		if (SYS4(number, addr, n * PAGE, third, fourth) == 0)
			good = n;
		else
			bad = n;
	}
	return good * PAGE;
}

size_t mapped_part(uintptr_t addr, size_t length)
{
	return taken(__NR_msync, addr, length, MS_ASYNC, 0);
}

/* key < 0: the mapping keeps the one that it has. */
static int protect(long number, void *at, size_t length, int prot, int key)
{
	uintptr_t addr = (uintptr_t)at;
	size_t n = whole_pages(length);
	struct change c = {prot, key < 0 ? 0 : MARK_KEY, key < 0 ? 0 : (uint32_t)key << 12 & MARK_KEY};
	long r;

	if (likely(!concerns_pieces(addr, n))) {
		r = SYS4(number, at, length, prot, key);
		user_forget(addr, n);
		return (int)finish(r);
	}
	pieces_follow();
	r = SYS4(number, at, length, prot, key);
	user_forget(addr, n);
	if (r == -ENOMEM || r == -EACCES || r == -EPERM) /* what comes before a hole is done */
		n = taken(number, addr, n, prot, key);
	if (r == 0 || r == -ENOMEM || r == -EACCES || r == -EPERM)
		mark(addr, n, &c);
	pieces_followed();
	return (int)finish(r);
}

EXPORT int mprotect(void *at, size_t length, int prot)
{
	return protect(__NR_mprotect, at, length, prot, -1);
}

EXPORT int pkey_mprotect(void *at, size_t length, int prot, int key)
{
	return protect(__NR_pkey_mprotect, at, length, prot, key);
}

EXPORT int mseal(void *at, size_t length, unsigned long flags)
{
	uintptr_t addr = (uintptr_t)at;
	struct change c = {-1, MARK_SEALED, MARK_SEALED};
	long r;

	if (likely(!concerns_pieces(addr, whole_pages(length))))
		return (int)finish(SYS3(__NR_mseal, at, length, flags));
	pieces_follow();
	r = SYS3(__NR_mseal, at, length, flags);
	if (r == 0)
		mark(addr, whole_pages(length), &c);
	pieces_followed();
	return (int)finish(r);
}

/* Words of a node mask that are zero do not count: it may be longer than it has to. */
static uint32_t policy(long mode, const uint64_t *nodes, uint64_t bits)
{
	uint32_t sum = (uint32_t)mode;

	if (mode == MPOL_DEFAULT)
		return 0;
	for (uint64_t i = 0; nodes != NULL && i * 64 + 1 < bits; i++)
		if (nodes[i] != 0)
			sum = (sum ^ (uint32_t)(nodes[i] + (nodes[i] >> 32) + i)) * 0x9e3779b1U;
	return (sum | 1U << 20) & MARK_POLICY;
}

long mbind_by_number(const long *a)
{
	uintptr_t addr = (uintptr_t)a[0];
	size_t n = whole_pages((size_t)a[1]);
	long r;

	if (likely(!concerns_pieces(addr, n)))
		return finish(SYS6(__NR_mbind, addr, a[1], a[2], a[3], a[4], a[5]));
	pieces_follow();
	r = SYS6(__NR_mbind, addr, a[1], a[2], a[3], a[4], a[5]);
	if (r == 0) {
		struct change c = {-1, MARK_POLICY,
				   policy(a[2], (const uint64_t *)a[3], (uint64_t)a[4])};

		mark(addr, n, &c);
	}
	pieces_followed();
	return finish(r);
}

/* Whether the memory of some piece cannot be had: mlock has locked it, and fails. */
static bool unreadable(uintptr_t addr, size_t length)
{
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p))
		if (piece_overlaps(p, addr, length) &&
		    (p->prot == 0 || p->offset + p->length > whole_pages(p->size)))
			return true;
	return false;
}

static int lock_range(long number, void *at, size_t length, int flags, uint32_t bits)
{
	uintptr_t addr = (uintptr_t)at & ~(PAGE - 1);
	size_t n = whole_pages(length + ((uintptr_t)at & (PAGE - 1)));
	struct change c = {-1, MARK_LOCKED | MARK_ON_FAULT, bits};
	long r;

	if (likely(!concerns_pieces(addr, n)))
		return (int)finish(SYS3(number, at, length, flags));
	pieces_follow();
	r = SYS3(number, at, length, flags);
	if (r == 0) {
		mark(addr, n, &c);
	} else if (r == -ENOMEM || r == -EAGAIN) {
		size_t mapped = mapped_part(addr, n);

		if (mapped < n || unreadable(addr, n)) /* else it is the limit */
			mark(addr, mapped, &c);
	}
	pieces_followed();
	return (int)finish(r);
}

EXPORT int mlock(const void *at, size_t length)
{
	return lock_range(__NR_mlock, (void *)(uintptr_t)at, length, 0, MARK_LOCKED);
}

EXPORT int mlock2(const void *at, size_t length, unsigned flags)
{
	return lock_range(__NR_mlock2, (void *)(uintptr_t)at, length, (int)flags,
			  MARK_LOCKED | (flags & MLOCK_ONFAULT ? MARK_ON_FAULT : 0));
}

EXPORT int munlock(const void *at, size_t length)
{
	return lock_range(__NR_munlock, (void *)(uintptr_t)at, length, 0, 0);
}

static int lock_all(long number, int flags, uint32_t bits, bool present)
{
	struct change c = {-1, MARK_LOCKED | MARK_ON_FAULT, bits};

	if (likely(__atomic_load_n(&pieces_live, __ATOMIC_ACQUIRE) == 0))
		return (int)finish(SYS1(number, flags));
	pieces_follow();
	long r = SYS1(number, flags);
	if (r == 0 && present)
		mark(0, UINTPTR_MAX & ~(PAGE - 1), &c);
	pieces_followed();
	return (int)finish(r);
}

EXPORT int mlockall(int flags)
{
	return lock_all(__NR_mlockall, flags, MARK_LOCKED | (flags & MCL_ONFAULT ? MARK_ON_FAULT : 0),
			flags & MCL_CURRENT);
}

EXPORT int munlockall(void)
{
	return lock_all(__NR_munlockall, 0, 0, true);
}

/* MADV_REMOVE where there are segments, whose files are sealed against it: the
 * manager frees their pages. As madvise does, one mapping after the other. */
static long remove_pages(uintptr_t addr, size_t length)
{
	uintptr_t end = addr + length, next;
	long unmapped = 0, r = 0;

	pieces_follow();
	for (; r == 0 && addr < end; addr = next) {
		next = end;
		const struct piece *p = piece_at(addr, &next);

		if (p != NULL && p->addr + p->length < end)
			next = p->addr + p->length;
		r = SYS3(__NR_madvise, addr, next - addr, MADV_REMOVE);
		if (r == -EPERM && p != NULL)
			r = channel_simple(ABI_MSG_PUNCH, p->id, (int64_t)(p->offset + (addr - p->addr)),
					   (int64_t)(next - addr), 0, NULL);
		if (r == -ENOMEM) { /* for a hole, when all else is done */
			unmapped = r;
			r = 0;
		}
	}
	pieces_followed();
	return r < 0 ? r : unmapped;
}

/* What an advice changes for good. */
static struct change advised(int advice)
{
	switch (advice) {
	case MADV_NORMAL:
		return (struct change){-1, MARK_RANDOM | MARK_SEQUENTIAL, 0};
	case MADV_RANDOM:
		return (struct change){-1, MARK_RANDOM | MARK_SEQUENTIAL, MARK_RANDOM};
	case MADV_SEQUENTIAL:
		return (struct change){-1, MARK_RANDOM | MARK_SEQUENTIAL, MARK_SEQUENTIAL};
	case MADV_DONTFORK:
		return (struct change){-1, MARK_NOT_FORKED, MARK_NOT_FORKED};
	case MADV_DOFORK:
		return (struct change){-1, MARK_NOT_FORKED, 0};
	case MADV_DONTDUMP:
		return (struct change){-1, MARK_NOT_DUMPED, MARK_NOT_DUMPED};
	case MADV_DODUMP:
		return (struct change){-1, MARK_NOT_DUMPED, 0};
	case MADV_HUGEPAGE:
		return (struct change){-1, MARK_HUGE | MARK_NOT_HUGE, MARK_HUGE};
	case MADV_NOHUGEPAGE:
		return (struct change){-1, MARK_HUGE | MARK_NOT_HUGE, MARK_NOT_HUGE};
	}
	return (struct change){-1, 0, 0};
}

int madvise_call(void *at, size_t length, int advice)
{
	uintptr_t addr = (uintptr_t)at;
	size_t n = whole_pages(length);
	struct change c = advised(advice);
	long r;

	if (c.mask != 0 && unlikely(concerns_pieces(addr, n))) {
		pieces_follow();
		r = SYS3(__NR_madvise, at, length, advice);
		if (r == 0 || r == -ENOMEM) /* holes are passed over */
			mark(addr, n, &c);
		pieces_followed();
		return (int)finish(r);
	}
	r = SYS3(__NR_madvise, at, length, advice);
	if (unlikely(r == -EPERM && advice == MADV_REMOVE && concerns_pieces(addr, n)))
		r = remove_pages(addr, n);
	return (int)finish(r);
}

EXPORT int madvise(void *at, size_t length, int advice)
{
	return madvise_call(at, length, advice);
}
