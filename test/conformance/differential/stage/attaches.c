/* What is done with segments: attaches, named by places, and the memory that they are. */
#include "actor.h"
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>

#define PAGE 4096UL

static struct { char *address; size_t size; int whole; } attach[ATTACHES];

/* slot attach flags pages */
static void do_attach(void)
{
	int k = (int)arg[1];
	if (attach[k].address) {
		say(" taken");
		return;
	}
	struct shmid_ds d = { 0 };
	char *p = shmat(id_of(SHM), NULL, (int)arg[2]);
	if (p == (char *)-1) {
		result(-1);
		return;
	}
	/* A reader of the size may be refused where the attach was not: *_STAT_ANY is for all. */
	shmctl(id_of(SHM) & 0x7fff, 15, &d);
	attach[k].address = p;
	attach[k].size = (d.shm_segsz + PAGE - 1) & ~(PAGE - 1);
	attach[k].whole = 1;
	say(" attached %zu%s", attach[k].size, (uintptr_t)p % PAGE ? " unaligned" : "");
}

static void do_detach(void)
{
	int k = (int)arg[0];
	result(shmdt(attach[k].address));
	attach[k].address = NULL;
}

/* attach part: 0 all, 1 the first page, 2 the last */
static void do_unmap(void)
{
	int k = (int)arg[0];
	size_t size = attach[k].size;
	if (!attach[k].address || (arg[1] && (size < 3 * PAGE || !attach[k].whole))) {
		say(" no");
		return;
	}
	result(arg[1] == 0 ? munmap(attach[k].address, size)
	     : munmap(attach[k].address + (arg[1] == 2 ? size - PAGE : 0), PAGE));
	attach[k].whole = 0;
	if (arg[1] == 0)
		attach[k].address = NULL;
}

/* slot attach flags: over the memory of an attach that is there, with SHM_REMAP or without */
static void do_attach_over(void)
{
	int k = (int)arg[1];
	if (!attach[k].address) {
		say(" no");
		return;
	}
	char *p = shmat(id_of(SHM), attach[k].address + (arg[2] & SHM_RND ? 5 : 0), (int)arg[2]);
	if (p == (char *)-1)
		result(-1);
	else
		say(" %s", p == attach[k].address ? "there" : "elsewhere");
	if (p != (char *)-1)
		attach[k].whole = 0;
}

/* attach protection part: 0 all, 1 the first page, 2 the second */
static void do_protect(void)
{
	int k = (int)arg[0];
	size_t size = attach[k].size;
	if (!attach[k].address || (arg[2] && size < 3 * PAGE)) {
		say(" no");
		return;
	}
	result(mprotect(attach[k].address + (arg[2] == 2 ? PAGE : 0), arg[2] ? PAGE : size, (int)arg[1]));
}

/* attach pages: to that size, wherever */
static void do_move(void)
{
	int k = (int)arg[0];
	size_t size = (size_t)arg[1] * PAGE;
	if (!attach[k].address || !attach[k].whole) {
		say(" no");
		return;
	}
	char *p = mremap(attach[k].address, attach[k].size, size, MREMAP_MAYMOVE);
	if (p == MAP_FAILED) {
		result(-1);
		return;
	}
	say(" moved");
	attach[k].address = p;
	attach[k].size = size;
}

/* attach advice part: 0 all, 1 the first page, 2 from the second on */
static void do_advise(void)
{
	int k = (int)arg[0];
	size_t size = attach[k].size;
	if (!attach[k].address || !attach[k].whole || (arg[2] && size < 3 * PAGE))
		say(" no");
	else
		result(madvise(attach[k].address + (arg[2] == 2 ? PAGE : 0),
			       arg[2] == 0 ? size : arg[2] == 1 ? PAGE : size - PAGE, (int)arg[1]));
}

/* slot SHM_LOCK or SHM_UNLOCK */
static void do_lock(void) { result(shmctl(id_of(SHM), (int)arg[1], NULL)); }

static sigjmp_buf fault;
static void caught(int sig) { siglongjmp(fault, sig); }

/* attach offset value (-1: only read) */
static void do_touch(void)
{
	int k = (int)arg[0], sig;
	if (!attach[k].address || !attach[k].whole || (size_t)arg[1] >= attach[k].size) {
		say(" no");
		return;
	}
	volatile char *p = attach[k].address + arg[1];
	signal(SIGSEGV, caught);
	signal(SIGBUS, caught);
	if ((sig = sigsetjmp(fault, 1)) == 0) {
		if (arg[2] >= 0)
			*p = (char)arg[2];
		say(" %d", *p);
	} else {
		say(" %s", sigabbrev_np(sig));
	}
}

int perform_attach(const char *name)
{
	static const struct { const char *name; void (*run)(void); } calls[] = {
		{ "shmat", do_attach }, { "shmdt", do_detach }, { "munmap", do_unmap }, { "touch", do_touch },
		{ "over", do_attach_over }, { "mprotect", do_protect }, { "mremap", do_move }, { "madvise", do_advise },
		{ "shmlock", do_lock },
	};
	for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
		if (strcmp(name, calls[i].name) == 0)
			return calls[i].run(), 1;
	return 0;
}
