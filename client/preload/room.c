/*
 * Where the library's own mappings lie: far below what the loader maps, and
 * the small ones in one stretch, taken at the first call. Otherwise they
 * would land wherever the program has just unmapped something, and it may
 * have plans for that place (shmat at a chosen address).
 */
#include "ipcspace.h"

#define MIB (1UL << 20)
#define ROOM (24 * MIB)
#define REACH (32 * 1024 * MIB) /* what is asked for goes round in as much */

static uintptr_t room, room_used; /* its beginning; bytes given out */
static uintptr_t last_page;	  /* given back last: untouched, for that costs a fault */
static uintptr_t free_page;	  /* before; its first word leads to the next */

uintptr_t room_wish(size_t size)
{
	static uintptr_t wished;
	uintptr_t home = ((uintptr_t)&room & ~(2 * MIB - 1)) - 2 * REACH;

	size = (size + PAGE - 1) & ~(PAGE - 1);
	return home + (__atomic_fetch_add(&wished, size, __ATOMIC_RELAXED) & (REACH - 1));
}

static uintptr_t take(size_t size)
{
	size = (size + PAGE - 1) & ~(PAGE - 1);
	if (load64(&room) == 0) {
		long p = SYS6(__NR_mmap, room_wish(ROOM), ROOM, 0,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		if (is_error(p))
			return 0;
		if (!cas64(&room, 0, (uintptr_t)p))
			SYS2(__NR_munmap, p, ROOM);
	}
	uintptr_t at = __atomic_fetch_add(&room_used, size, __ATOMIC_ACQ_REL);

	return at + size <= ROOM ? room + at : 0;
}

void *room_reserve(size_t size)
{
	uintptr_t at = take(size);

	if (at != 0)
		return (void *)at;
	long p = SYS6(__NR_mmap, room_wish(size), size, 0,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return is_error(p) ? NULL : (void *)p;
}

void *room_map(size_t size, int prot, int flags, int fd)
{
	uintptr_t at = 0;

	if (size == PAGE && last_page != 0) {
		at = last_page;
		last_page = 0;
	} else if (size == PAGE && free_page != 0) {
		at = free_page;
		free_page = *(uintptr_t *)at;
	}
	if (at == 0)
		at = take(size);
	int fixed = at ? MAP_FIXED : 0;

	if (at == 0)
		at = room_wish(size);
	long p = SYS6(__NR_mmap, at, size, prot, flags | fixed, fd, 0);

	return is_error(p) ? NULL : (void *)p;
}

void *room_anonymous(size_t size)
{
	return room_map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			-1);
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
