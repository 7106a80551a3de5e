/*
 * The program's pointers. The kernel answers EFAULT for a bad one; a library
 * would die of it. So a page is tried with a system call that copies from or
 * to it and does nothing else. Pages of the stack in use, of the program's
 * own data and of its heap stay where they are: once found good they are
 * remembered, which costs a hot call one comparison, until the program unmaps or
 * protects them by a call that this library stands before. Other memory can be
 * unmapped or protected at any time, so it is tried at every call.
 */
#include "ipcspace.h"

/* Of the stack, from the stack pointer up. */
#define STACK_PAGES 64

#define AT_PHDR 3
#define AT_PHNUM 5
#define PT_LOAD 1
#define PT_PHDR 6

struct program_header {
	uint32_t type, flags;
	uint64_t offset, vaddr, paddr, filesz, memsz, align;
};

extern unsigned long getauxval(unsigned long type) __attribute__((weak));

/* The program's own segments, in pages: [first, end), and the heap after. */
static uintptr_t program_first, program_end, heap_end;

static void find_program(void)
{
	const struct program_header *ph = getauxval ? (void *)getauxval(AT_PHDR) : NULL;
	unsigned long n = ph ? getauxval(AT_PHNUM) : 0;
	uintptr_t base = 0, first = UINTPTR_MAX, end = 0;

	for (unsigned long i = 0; i < n; i++)
		if (ph[i].type == PT_PHDR)
			base = (uintptr_t)ph - ph[i].vaddr;
	for (unsigned long i = 0; i < n; i++) {
		if (ph[i].type != PT_LOAD)
			continue;
		if (base + ph[i].vaddr < first)
			first = base + ph[i].vaddr;
		if (base + ph[i].vaddr + ph[i].memsz > end)
			end = base + ph[i].vaddr + ph[i].memsz;
	}
	program_first = end ? first >> 12 : 1;
	program_end = end ? (end + PAGE - 1) >> 12 : 1;
}

static bool stays(uintptr_t page)
{
	uintptr_t stack = stack_pointer() >> 12;

	if (page >= stack && page - stack < STACK_PAGES)
		return true;
	if (program_first == 0)
		find_program();
	if (page < program_first)
		return false;
	if (page >= program_end && page >= heap_end)
		heap_end = (uintptr_t)SYS1(__NR_brk, 0) >> 12;
	return page < program_end || page < heap_end;
}

#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23

/* Makes the page as a load or a store would, and does neither (Linux 5.14). False: that is
 * not possible there, or here. An emulator may say yes to any advice: also where nothing is
 * ever mapped. */
static bool page_made(uintptr_t p, long advice)
{
	return SYS3(__NR_madvise, p & ~(PAGE - 1), PAGE, advice) == 0;
}

static bool pages_can_be_made(void)
{
	static int8_t heard; /* 0: unknown, -1: not */

	if (heard == 0)
		heard = page_made(0, MADV_POPULATE_WRITE) ? -1 : 1;
	return heard > 0;
}

/* Valgrind knows some instructions that do nothing as a question to it: 0x1001 asks how
 * many of it there are, one in the other. */
static bool on_valgrind(void)
{
	uint64_t question[6] = {0x1001};
#if defined(__x86_64__)
	register uint64_t depth __asm__("rdx") = 0;

	__asm__ volatile("rolq $3, %%rdi; rolq $13, %%rdi\n\t"
			 "rolq $61, %%rdi; rolq $51, %%rdi\n\t"
			 "xchgq %%rbx, %%rbx"
			 : "+r"(depth)
			 : "a"(question)
			 : "cc", "memory");
#else
	register uint64_t depth __asm__("x3") = 0;
	register uint64_t *asked __asm__("x4") = question;

	__asm__ volatile("ror x12, x12, #3; ror x12, x12, #13\n\t"
			 "ror x12, x12, #51; ror x12, x12, #61\n\t"
			 "orr x10, x10, x10"
			 : "+r"(depth)
			 : "r"(asked)
			 : "cc", "memory");
#endif
	return depth != 0;
}

/* Valgrind takes a try by rt_sigprocmask for a use of the bytes, and tells the user of
 * errors that the program does not have. It sees nothing in a page that is made. */
static bool watched(void)
{
	static int8_t heard;

	if (heard == 0)
		heard = on_valgrind() && pages_can_be_made() ? 1 : -1;
	return heard > 0;
}

/* rt_sigprocmask copies the set before it looks at how, which is no valid one
 * here: EFAULT for a bad page, EINVAL for a good one. */
static bool page_readable(uintptr_t p, size_t n)
{
	(void)n;
	if (p < PAGE) /* NULL would mean: no set */
		return false;
	if (unlikely(watched()))
		return page_made(p, MADV_POPULATE_READ);
	return SYS4(__NR_rt_sigprocmask, 0x7fff, p & ~7UL, 0, 8) != -EFAULT;
}

bool user_try(const void *p)
{
	return page_readable((uintptr_t)p, 8);
}

/* With no new set rt_sigprocmask only stores the present one: eight bytes,
 * which are put back. They are bytes that the call is about to write, or what
 * another thread stores beside them in the meantime would be undone. Where a
 * few that begin at no word are to be written the page is made instead, for
 * three times the price. */
static bool page_writable(uintptr_t p, size_t n)
{
	uintptr_t at = (p + 7) & ~7UL;

	if (unlikely(watched()))
		return page_made(p, MADV_POPULATE_WRITE);
	if (at + 8 > p + n) {
		if (pages_can_be_made() && page_made(p, MADV_POPULATE_WRITE))
			return true;
		at = p & ~7UL;
	}
	uint64_t *word = (uint64_t *)at;

	if (!page_readable(at, 8))
		return false;
	uint64_t kept = *word;

	if (SYS4(__NR_rt_sigprocmask, 0, 0, word, 8) == -EFAULT)
		return false;
	*word = kept;
	return true;
}

/* try: for the part of n bytes at p that lies in one page. */
static bool pages_good(uintptr_t *known, bool (*try)(uintptr_t, size_t), const void *p, size_t n)
{
	uintptr_t first = (uintptr_t)p, last = first + (n ? n - 1 : 0);

	if (n == 0)
		return true;
	if (last < first)
		return false;
	for (uintptr_t at = first;; at = (at & ~(PAGE - 1)) + PAGE) {
		uintptr_t page = at >> 12, end = at | (PAGE - 1);

		if (!user_known(known, (void *)at, 1)) {
			if (!try(at, (last < end ? last : end) - at + 1))
				return false;
			if (stays(page))
				known[page % USER_PAGES] = page << 12;
		}
		if (page == last >> 12)
			return true;
	}
}

bool user_readable_slow(struct thread *t, const void *p, size_t n)
{
	return pages_good(t->readable, page_readable, p, n);
}

bool user_writable_slow(struct thread *t, void *p, size_t n)
{
	return pages_good(t->writable, page_writable, p, n);
}

static void pages_forget(uintptr_t *known, uintptr_t first, uintptr_t end)
{
	for (int i = 0; i < USER_PAGES; i++) {
		uintptr_t page = __atomic_load_n(&known[i], __ATOMIC_RELAXED) >> 12;

		if (page >= first && page < end)
			__atomic_store_n(&known[i], i == 0 ? PAGE : 0, __ATOMIC_RELAXED);
	}
}

void user_forget_of(struct thread *t, uintptr_t first, uintptr_t end)
{
	pages_forget(t->readable, first, end);
	pages_forget(t->writable, first, end);
}

/* A thread's stack is its own business; the program's data are all threads'. */
void user_forget(uintptr_t addr, size_t length)
{
	uintptr_t first = addr >> 12, end = (addr + length + PAGE - 1) >> 12;

	if (likely(this_thread == NULL))
		return;
	if (end > program_first && first < (heap_end > program_end ? heap_end : program_end))
		threads_forget(first, end);
	else
		user_forget_of(this_thread, first, end);
}
