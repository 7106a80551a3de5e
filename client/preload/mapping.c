/*
 * munmap, mmap, mremap, mprotect and madvise of the program: a segment that
 * they unmap, move or cut is counted as the kernel counts it.
 *
 * The calls themselves are the kernel's, unchanged; what follows happens only
 * where they touched a segment.
 */
#include "attach.h"

#define MREMAP_FIXED 2
#define MREMAP_DONTUNMAP 4
#define MADV_REMOVE 9
#define MADV_DONTFORK 10
#define MADV_DOFORK 11

static bool overlaps(const struct piece *p, uintptr_t addr, size_t length)
{
	return p->addr < addr + length && addr < p->addr + p->length;
}

/* The piece at addr; or NULL, and *next is where the next one begins, if it does
 * before that. */
static const struct piece *piece_at(uintptr_t addr, uintptr_t *next)
{
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p)) {
		if (addr - p->addr < p->length)
			return p;
		if (p->addr > addr && p->addr < *next)
			*next = p->addr;
	}
	return NULL;
}

/* Whether a call on a range concerns a segment at all. A look without the
 * lock: who maps and unmaps one range at once has no order to keep. */
static bool concerns(uintptr_t addr, size_t length)
{
	if (likely(__atomic_load_n(&pieces_live, __ATOMIC_ACQUIRE) == 0) || length == 0)
		return false;
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p))
		if (overlaps(p, addr, length))
			return true;
	return false;
}

/* The lock under which a call follows what it does to segments. */
static void follow(void)
{
	control_lock();
	attach_exclude();
}

static void followed(void)
{
	attach_include();
	control_unlock();
}

static size_t pages(size_t length)
{
	return (length + PAGE - 1) & ~(PAGE - 1);
}

/* One mapping of the segment more, as shm_open() counts it. */
static void count_in(uint64_t serial)
{
	struct abi_use *use = use_of(serial);

	if (use != NULL) {
		use->atime = now_real();
		use_add(use, 1);
	}
}

/* Cuts p at addr if that lies inside: two mappings from here on. */
static void cut(struct piece *p, uintptr_t addr)
{
	if (addr <= p->addr || addr >= p->addr + p->length)
		return;
	struct piece *rest = piece_take();
	if (rest == NULL)
		return;
	size_t head = addr - p->addr;

	*rest = *p;
	rest->state = PIECE_TAKEN;
	rest->addr = addr;
	rest->offset += head;
	rest->length -= head;
	p->length = head;
	piece_publish(rest);
	count_in(p->serial);
}

static void cut_range(uintptr_t addr, size_t length)
{
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p))
		if (overlaps(p, addr, length)) {
			cut(p, addr + length);
			cut(p, addr);
		}
}

static bool inside(const struct piece *p, uintptr_t addr, size_t length)
{
	return p->addr >= addr && p->addr + p->length <= addr + length;
}

void pieces_unmapped(uintptr_t addr, size_t length)
{
	cut_range(addr, length);
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p))
		if (inside(p, addr, length))
			piece_gone(p);
}

void pieces_left_out(struct abi_session_page *page)
{
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p))
		for (int i = 0; p->not_forked && i < ABI_PAGE_USES; i++)
			if (page->uses[i].serial == p->serial && page->uses[i].count > 0)
				page->uses[i].count--;
}

void pieces_forked(void)
{
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p))
		if (p->not_forked && cas32(&p->state, PIECE_LIVE, PIECE_FREE))
			pieces_live--;
}

/* --- the calls --------------------------------------------------------- */

EXPORT int munmap(void *at, size_t length)
{
	uintptr_t addr = (uintptr_t)at;
	long r;

	if (likely(!concerns(addr, pages(length))))
		return (int)finish(SYS2(__NR_munmap, at, length));
	follow();
	r = SYS2(__NR_munmap, at, length);
	if (r == 0)
		pieces_unmapped(addr, pages(length));
	followed();
	return (int)finish(r);
}

static void *map(void *at, size_t length, int prot, int flags, int fd, int64_t offset)
{
	uintptr_t addr = (uintptr_t)at;
	long r;

	if (likely(!(flags & MAP_FIXED) || !concerns(addr, pages(length)))) {
		r = SYS6(__NR_mmap, at, length, prot, flags, fd, offset);
	} else {
		follow();
		r = SYS6(__NR_mmap, at, length, prot, flags, fd, offset);
		if (!is_error(r))
			pieces_unmapped(addr, pages(length));
		followed();
	}
	return is_error(r) ? (void *)finish(r) : (void *)r;
}

EXPORT void *mmap(void *at, size_t length, int prot, int flags, int fd, int64_t offset)
{
	return map(at, length, prot, flags, fd, offset);
}

EXPORT void *mmap64(void *at, size_t length, int prot, int flags, int fd, int64_t offset)
{
	return map(at, length, prot, flags, fd, offset);
}

/* What stood at [from, from + length) stands at to, as long as grown says. The
 * kernel cuts off what is too much, and moves by a second mapping for a moment. */
static void pieces_moved(uintptr_t from, size_t length, uintptr_t to, size_t grown)
{
	if (to != from)
		pieces_unmapped(to, grown);
	if (grown < length)
		pieces_unmapped(from + grown, length - grown);
	cut_range(from, length);
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p)) {
		if (!inside(p, from, length))
			continue;
		size_t begin = p->addr - from, end = begin + p->length;
		struct abi_use *use = to != from ? use_of(p->serial) : NULL;

		p->addr = to + begin;
		if (end == length && grown > length)
			p->length = grown - begin;
		if (use != NULL)
			use->atime = use->dtime = now_real();
	}
}

/* A second mapping of what stands at from. */
static void pieces_copied(uintptr_t from, uintptr_t to, size_t length)
{
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p)) {
		if (from < p->addr || from >= p->addr + p->length)
			continue;
		struct piece *copy = piece_take();

		if (copy == NULL)
			return;
		*copy = *p;
		copy->state = PIECE_TAKEN;
		copy->offset += from - p->addr;
		copy->addr = to;
		copy->length = length;
		piece_publish(copy);
		count_in(p->serial);
		return;
	}
}

/* Whether the kernel's mremap would refuse (EFAULT) to grow or move what is not
 * one mapping. A segment's pieces may be one here: they have become alike again.
 * Several may be moved, if all else stays (check_prep_vma in mm/mremap.c). */
static bool crosses(uintptr_t addr, size_t old, size_t new, int flags)
{
	uintptr_t next = UINTPTR_MAX;
	bool moves_many = old == new && (flags & MREMAP_FIXED) && !(flags & MREMAP_DONTUNMAP);
	const struct piece *p = piece_at(addr, &next);

	if (p == NULL || moves_many || (new <= old && !(flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))))
		return false;
	return (old < new ? old : new) > p->addr + p->length - addr;
}

EXPORT void *mremap(void *at, size_t length, size_t wanted, int flags, ...)
{
	__builtin_va_list ap;
	uintptr_t addr = (uintptr_t)at;
	size_t old = pages(length), new = pages(wanted);
	void *to;
	long r;

	__builtin_va_start(ap, flags);
	to = __builtin_va_arg(ap, void *);
	__builtin_va_end(ap);
	if (likely(!concerns(addr, old ? old : PAGE))) {
		r = SYS5(__NR_mremap, at, length, wanted, flags, to);
	} else {
		follow();
		r = crosses(addr, old, new, flags) ? -EFAULT
						   : SYS5(__NR_mremap, at, length, wanted, flags, to);
		if (!is_error(r) && (old == 0 || (flags & MREMAP_DONTUNMAP)))
			pieces_copied(addr, (uintptr_t)r, new);
		else if (!is_error(r))
			pieces_moved(addr, old, (uintptr_t)r, new);
		followed();
	}
	return is_error(r) ? (void *)finish(r) : (void *)r;
}

EXPORT int mprotect(void *at, size_t length, int prot)
{
	uintptr_t addr = (uintptr_t)at;
	size_t n = pages(length);
	long r;

	if (likely(!concerns(addr, n)))
		return (int)finish(SYS3(__NR_mprotect, at, length, prot));
	follow();
	r = SYS3(__NR_mprotect, at, length, prot);
	if (r == 0)
		for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p))
			if (overlaps(p, addr, n) && p->prot != prot) {
				cut(p, addr + n);
				cut(p, addr);
			}
	for (struct piece *p = r == 0 ? piece_next(NULL) : NULL; p != NULL; p = piece_next(p))
		if (inside(p, addr, n))
			p->prot = prot;
	followed();
	return (int)finish(r);
}

/* MADV_REMOVE where there are segments, whose files are sealed against it: the
 * manager frees their pages. As madvise does, one mapping after the other. */
static long remove_pages(uintptr_t addr, size_t length)
{
	uintptr_t end = addr + length, next;
	long unmapped = 0, r = 0;

	follow();
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
	followed();
	return r < 0 ? r : unmapped;
}

EXPORT int madvise(void *at, size_t length, int advice)
{
	uintptr_t addr = (uintptr_t)at;
	size_t n = pages(length);
	bool not_forked = advice == MADV_DONTFORK;
	long r = SYS3(__NR_madvise, at, length, advice);

	if (unlikely(r == -EPERM && advice == MADV_REMOVE && concerns(addr, n)))
		r = remove_pages(addr, n);
	if (r == 0 && (not_forked || advice == MADV_DOFORK) && concerns(addr, n)) {
		follow();
		for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p))
			if (overlaps(p, addr, n) && p->not_forked != not_forked) {
				cut(p, addr + n);
				cut(p, addr);
			}
		for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p))
			if (inside(p, addr, n))
				p->not_forked = not_forked;
		followed();
	}
	return (int)finish(r);
}

/* The kernel takes the old mapping away before it makes the new one: a segment
 * that is marked for destruction may go in between, and the memory with it. */
static long pieces_renewed(uintptr_t addr, size_t length, size_t offset)
{
	struct abi_record r;
	uint64_t slot;
	long result = 0;

	cut_range(addr, length);
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p)) {
		struct piece seen = *p;

		if (!inside(p, addr, length) || !piece_count_out(p))
			continue;
		tell_if_doomed(seen.id, seen.serial);
		struct piece *renewed = NULL;
		if (table_record(ABI_SHM, seen.id, &r, &slot) && r.serial == seen.serial)
			renewed = piece_take();
		if (renewed == NULL) {
			SYS2(__NR_munmap, seen.addr, seen.length);
			result = -EIDRM;
			continue;
		}
		*renewed = seen;
		renewed->state = PIECE_TAKEN;
		renewed->offset = offset + (seen.addr - addr);
		piece_publish(renewed);
		count_in(seen.serial);
		break;
	}
	return result;
}

EXPORT int remap_file_pages(void *at, size_t length, int prot, size_t offset, int flags)
{
	uintptr_t addr = (uintptr_t)at;
	long r;

	if (likely(!concerns(addr, pages(length))))
		return (int)finish(SYS5(__NR_remap_file_pages, at, length, prot, offset, flags));
	follow();
	r = SYS5(__NR_remap_file_pages, at, length, prot, offset, flags);
	if (r == 0)
		r = pieces_renewed(addr, pages(length), offset * PAGE);
	followed();
	return (int)finish(r);
}
