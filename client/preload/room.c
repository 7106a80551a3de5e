/*
 * Where the library's own mappings lie: far below what the loader maps, and
 * the small ones in one stretch, chosen at the first call. Otherwise they
 * would land wherever the program has just unmapped something, and it may
 * have plans for that place (shmat at a chosen address).
 *
 * Each mapping, and each page table, is copied by every fork. So the anonymous ones
 * stand side by side, which makes them one, and what is used of them stands near the
 * single pages. Nothing holds the place for those to come.
 */
#include "ipcspace.h"

#define MIB (1UL << 20)
#define ROOM (24 * MIB)
#define TABLE (2 * MIB)		/* what one page table maps */
#define PAGES (1 * MIB)		/* the room's beginning; anonymous memory is the rest */
#define REACH (32 * 1024 * MIB) /* what is asked for goes round in as much */

static uintptr_t room;			    /* its beginning */
static uintptr_t pages_used, memory_used;   /* bytes given out */
static uintptr_t last_page;	  /* given back last: untouched, for that costs a fault */
static uintptr_t free_page;	  /* before; its first word leads to the next */

uintptr_t room_wish(size_t size)
{
	static uintptr_t wished;
	uintptr_t home = ((uintptr_t)&room & ~(2 * MIB - 1)) - 2 * REACH;

	size = (size + PAGE - 1) & ~(PAGE - 1);
	return home + (__atomic_fetch_add(&wished, size, __ATOMIC_RELAXED) & (REACH - 1));
}

/* Finds a place where the program has nothing. */
static bool find_room(void)
{
	if (load64(&room) != 0)
		return true;
	long p = SYS6(__NR_mmap, room_wish(ROOM + TABLE), ROOM + TABLE, 0,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (is_error(p))
		return false;
	cas64(&room, 0, ((uintptr_t)p + TABLE - 1) & ~(TABLE - 1));
	SYS2(__NR_munmap, p, ROOM + TABLE);
	return true;
}

/* The next size bytes between two ends of the room. 0: there are no more. */
static uintptr_t take(uintptr_t *used, size_t size, size_t from, size_t to)
{
	if (!find_room())
		return 0;
	uintptr_t at = from + __atomic_fetch_add(used, size, __ATOMIC_ACQ_REL);

	return at + size <= to ? room + at : 0;
}

/* At a place, unless the program has something there by now; 0: anywhere. */
static void *map(uintptr_t at, size_t size, int prot, int flags, int fd)
{
	if (at == 0)
		at = room_wish(size);
	else
		flags |= MAP_FIXED_NOREPLACE;
	long p = SYS6(__NR_mmap, at, size, prot, flags, fd, 0);

	if (p == -EEXIST)
		p = SYS6(__NR_mmap, room_wish(size), size, prot, flags & ~MAP_FIXED_NOREPLACE, fd, 0);
	return is_error(p) ? NULL : (void *)p;
}

void *room_map(size_t size, int prot, int flags, int fd)
{
	uintptr_t at = last_page;

	if (size == PAGE && at != 0) {
		last_page = 0;
	} else if (size == PAGE && free_page != 0) {
		at = free_page;
		free_page = *(uintptr_t *)at;
	} else {
		size = (size + PAGE - 1) & ~(PAGE - 1);
		return map(take(&pages_used, size, 0, PAGES), size, prot, flags, fd);
	}
	long p = SYS6(__NR_mmap, at, size, prot, flags | MAP_FIXED, fd, 0);

	return is_error(p) ? NULL : (void *)p;
}

void *room_anonymous(size_t size)
{
	size = (size + PAGE - 1) & ~(PAGE - 1);
	return map(take(&memory_used, size, PAGES, ROOM), size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
}

void room_give_page(void *page)
{
	uintptr_t at = (uintptr_t)page;

	if (at < room || at >= room + ROOM) {
		SYS2(__NR_munmap, page, PAGE);
		return;
	}
	SYS6(__NR_mmap, page, PAGE, PROT_READ | PROT_WRITE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (last_page != 0) {
		*(uintptr_t *)last_page = free_page;
		free_page = last_page;
	}
	last_page = at;
}
