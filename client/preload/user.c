/*
 * The program's pointers. The kernel answers EFAULT for a bad one; a library
 * would die of it. So a page is tried with a system call that copies from or
 * to it and does nothing else, once per thread and page; the pages found good
 * are remembered, which costs a hot call one comparison.
 */
#include "ipcspace.h"

#define PAGE 4096UL

/* rt_sigprocmask copies the set before it looks at how, which is no valid one
 * here: EFAULT for a bad page, EINVAL for a good one. */
static bool page_readable(uintptr_t p)
{
	return SYS4(__NR_rt_sigprocmask, 0x7fff, p & ~7UL, 0, 8) != -EFAULT;
}

/* With no new set rt_sigprocmask only stores the present one: eight bytes,
 * which are put back. */
static bool page_writable(uintptr_t p)
{
	uint64_t *word = (uint64_t *)(p & ~7UL);
	uint64_t kept;

	if (!page_readable(p))
		return false;
	kept = *word;
	if (SYS4(__NR_rt_sigprocmask, 0, 0, word, 8) == -EFAULT)
		return false;
	*word = kept;
	return true;
}

static bool pages_good(uintptr_t *known, bool (*try)(uintptr_t), const void *p, size_t n)
{
	uintptr_t first = (uintptr_t)p, last = first + (n ? n - 1 : 0);

	if (n == 0)
		return true;
	if (last < first)
		return false;
	for (uintptr_t at = first;; at = (at & ~(PAGE - 1)) + PAGE) {
		uintptr_t page = at >> 12;

		if (known[page % USER_PAGES] != (page << 1 | 1)) {
			if (!try(at))
				return false;
			known[page % USER_PAGES] = page << 1 | 1;
		}
		if (page == last >> 12)
			return true;
	}
}

bool user_readable_slow(struct thread *t, const void *p, size_t n)
{
	return pages_good(t->readable, page_readable, p, n);
}

bool user_writable(struct thread *t, void *p, size_t n)
{
	return pages_good(t->writable, page_writable, p, n);
}
