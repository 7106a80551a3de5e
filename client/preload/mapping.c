/*
 * munmap, mmap and mremap of the program: a segment that they unmap, move or cut
 * is counted as the kernel counts it. (marks.c has what changes a mapping where
 * it stands.)
 *
 * The calls themselves are the kernel's, unchanged; what follows happens only
 * where they touched a segment.
 */
#include "attach.h"

#define MREMAP_FIXED 2
#define MREMAP_DONTUNMAP 4

int munmap_call(void *at, size_t length)
{
	uintptr_t addr = (uintptr_t)at;
	long r;

	if (likely(!concerns_pieces(addr, whole_pages(length)))) {
		r = SYS2(__NR_munmap, at, length);
	} else {
		pieces_follow();
		r = SYS2(__NR_munmap, at, length);
		if (r == 0)
			pieces_unmapped(addr, whole_pages(length));
		pieces_followed();
	}
	user_forget(addr, length);
	return (int)finish(r);
}

EXPORT int munmap(void *at, size_t length)
{
	return munmap_call(at, length);
}

void *mmap_call(void *at, size_t length, int prot, int flags, int fd, int64_t offset)
{
	uintptr_t addr = (uintptr_t)at;
	long r;

	if (likely(!(flags & MAP_FIXED) || !concerns_pieces(addr, whole_pages(length)))) {
		r = SYS6(__NR_mmap, at, length, prot, flags, fd, offset);
	} else {
		pieces_follow();
		r = SYS6(__NR_mmap, at, length, prot, flags, fd, offset);
		if (!is_error(r))
			pieces_unmapped(addr, whole_pages(length));
		pieces_followed();
	}
	if (flags & MAP_FIXED)
		user_forget(addr, length);
	return is_error(r) ? (void *)finish(r) : (void *)r;
}

EXPORT void *mmap(void *at, size_t length, int prot, int flags, int fd, int64_t offset)
{
	return mmap_call(at, length, prot, flags, fd, offset);
}

EXPORT void *mmap64(void *at, size_t length, int prot, int flags, int fd, int64_t offset)
{
	return mmap_call(at, length, prot, flags, fd, offset);
}

/* What stood at [from, from + length) stands at to, as long as grown says. The
 * kernel cuts off what is too much, and moves by a second mapping for a moment. */
static void pieces_moved(uintptr_t from, size_t length, uintptr_t to, size_t grown)
{
	if (to != from)
		pieces_unmapped(to, grown);
	if (grown < length)
		pieces_unmapped(from + grown, length - grown);
	if (to == from) {
		for (struct piece *p = piece_next(NULL); p != NULL && grown > length; p = piece_next(p))
			if (p->addr + p->length == from + length)
				p->length += grown - length;
		return;
	}
	pieces_cut(from, length);
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p)) {
		if (!piece_inside(p, from, length))
			continue;
		size_t begin = p->addr - from, end = begin + p->length;
		struct abi_use *use = use_of(p->serial);

		p->addr = to + begin;
		if (end == length && grown > length)
			p->length = grown - begin;
		if (use != NULL)
			use->atime = use->dtime = now_real();
		if (piece_joins(p))
			piece_count_out(p);
	}
}

/* Counts one that the kernel has made, unless it has grown one instead. */
static void piece_new(const struct piece *made)
{
	struct piece *p = piece_joins(made) ? NULL : piece_take();

	if (p == NULL)
		return;
	*p = *made;
	p->state = PIECE_TAKEN;
	piece_publish(p);
	count_in(made->serial);
}

/* A second mapping of what stands at from. */
static void pieces_copied(uintptr_t from, uintptr_t to, size_t length)
{
	pieces_unmapped(to, length);
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p)) {
		if (from < p->addr || from >= p->addr + p->length)
			continue;
		struct piece copy = *p;

		copy.offset += from - p->addr;
		copy.addr = to;
		copy.length = length;
		piece_new(&copy);
		return;
	}
}

/* Whether mremap refuses its arguments before it looks at what is mapped
 * (check_mremap_params in mm/mremap.c). */
static bool malformed(uintptr_t addr, size_t old, size_t new, int flags, uintptr_t to)
{
	bool fixed = flags & MREMAP_FIXED, keeps = flags & MREMAP_DONTUNMAP;

	return addr % PAGE != 0 || new == 0 ||
	       (flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP)) ||
	       ((fixed || keeps) && !(flags & MREMAP_MAYMOVE)) || (keeps && old != new) ||
	       (fixed && (to % PAGE != 0 || (addr < to + new && to < addr + old)));
}

/* The kernel's mremap grows or moves no more than one mapping of a segment. A
 * segment's pieces may be one here: they have become alike again. */
static bool crosses(uintptr_t addr, size_t old, size_t new, int flags)
{
	uintptr_t next = UINTPTR_MAX;
	const struct piece *p = piece_at(addr, &next);

	if (p == NULL || (new <= old && !(flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))))
		return false;
	return (old < new ? old : new) > p->addr + p->length - addr;
}

/* Moves what is not a segment onto one: what is mapped of it, up to the first
 * segment, and the holes leave what they come to lie on (remap_move in mm/mremap.c). */
static long move_onto(uintptr_t addr, size_t length, int flags, uintptr_t to)
{
	uintptr_t limit = addr + length;

	piece_at(addr, &limit);
	for (uintptr_t at = addr; at < limit;) {
		size_t n = mapped_part(at, limit - at);
		long r;

		if (n == 0 && at > addr) {
			at += PAGE;
			continue;
		}
		if (n == 0)
			return -EFAULT;
		r = SYS5(__NR_mremap, at, n, n, flags, to + (at - addr));
		if (is_error(r))
			return r;
		pieces_unmapped(to + (at - addr), n);
		at += n;
	}
	return limit < addr + length ? -EFAULT : (long)to;
}

/* Whether an mremap that failed has unmapped where it was to go before that. */
static bool made_room(uintptr_t to, size_t length)
{
	uintptr_t at = to, next = to + length;

	if (piece_at(to, &next) == NULL)
		at = next;
	return at < to + length && mapped_part(at, PAGE) == 0;
}

static long followed_mremap(uintptr_t addr, size_t old, size_t new, int flags, uintptr_t to)
{
	uintptr_t next = UINTPTR_MAX;
	long r;

	if (malformed(addr, old, new, flags, to))
		return -EINVAL;
	if ((flags & MREMAP_FIXED) && old == new && piece_at(addr, &next) == NULL)
		return move_onto(addr, old, flags, to);
	if (crosses(addr, old, new, flags))
		return -EFAULT;
	r = SYS5(__NR_mremap, addr, old, new, flags, to);
	if (is_error(r)) {
		if ((flags & MREMAP_FIXED) && made_room(to, new))
			pieces_unmapped(to, new);
		return r;
	}
	if (old == 0 || (flags & MREMAP_DONTUNMAP))
		pieces_copied(addr, (uintptr_t)r, new);
	else
		pieces_moved(addr, old, (uintptr_t)r, new);
	return r;
}

void *mremap_call(void *at, size_t length, size_t wanted, int flags, void *to)
{
	uintptr_t addr = (uintptr_t)at;
	size_t old = whole_pages(length), new = whole_pages(wanted);
	long r;

	if (likely(!concerns_pieces(addr, old ? old : PAGE) &&
		   !((flags & MREMAP_FIXED) && concerns_pieces((uintptr_t)to, new)))) {
		r = SYS5(__NR_mremap, at, length, wanted, flags, to);
	} else {
		pieces_follow();
		r = followed_mremap(addr, old, new, flags, (uintptr_t)to);
		pieces_followed();
	}
	user_forget(addr, old);
	if (flags & MREMAP_FIXED)
		user_forget((uintptr_t)to, new);
	return is_error(r) ? (void *)finish(r) : (void *)r;
}

EXPORT void *mremap(void *at, size_t length, size_t wanted, int flags, ...)
{
	__builtin_va_list ap;
	void *to;

	__builtin_va_start(ap, flags);
	to = __builtin_va_arg(ap, void *);
	__builtin_va_end(ap);
	return mremap_call(at, length, wanted, flags, to);
}

/* Whether the range is in mappings of one attach that are alike, without a hole,
 * as the kernel wants it. (Here they may be one mapping again, or two attaches one
 * file.) */
static bool alike(uintptr_t addr, size_t length, const struct piece *first)
{
	uintptr_t next;

	for (uintptr_t at = addr; at < addr + length; at = next) {
		next = UINTPTR_MAX;
		const struct piece *p = piece_at(at, &next);

		if (p == NULL || p->attach != first->attach || p->prot != first->prot ||
		    ((p->marks ^ first->marks) & ~MARK_POLICY))
			return false;
		next = p->addr + p->length;
	}
	return true;
}

/* One mapping in place of those that were there. The kernel takes them away before
 * it makes the new one: a segment that is marked for destruction may go in between,
 * and the memory with it. */
static long pieces_renewed(uintptr_t addr, size_t length, size_t offset)
{
	struct abi_record r;
	uint64_t slot;
	uintptr_t next = UINTPTR_MAX;
	struct piece seen = *piece_at(addr, &next);

	pieces_unmapped(addr, length);
	if (!table_record(ABI_SHM, seen.id, &r, &slot) || r.serial != seen.serial) {
		SYS2(__NR_munmap, addr, length);
		return -EIDRM;
	}
	seen.addr = addr;
	seen.length = length;
	seen.offset = offset;
	seen.marks &= MARK_LOCKED;
	piece_new(&seen);
	return 0;
}

EXPORT int remap_file_pages(void *at, size_t length, int prot, size_t offset, int flags)
{
	uintptr_t addr = (uintptr_t)at & ~(PAGE - 1), next = UINTPTR_MAX;
	size_t n = length & ~(PAGE - 1);
	const struct piece *p;
	long r;

	if (likely(!concerns_pieces(addr, n)))
		return (int)finish(SYS5(__NR_remap_file_pages, at, length, prot, offset, flags));
	pieces_follow();
	p = piece_at(addr, &next);
	if (p != NULL && !alike(addr, n, p))
		r = -EINVAL;
	else
		r = SYS5(__NR_remap_file_pages, at, length, prot, offset, flags);
	if (r == 0 && p != NULL)
		r = pieces_renewed(addr, n, offset * PAGE);
	pieces_followed();
	return (int)finish(r);
}
