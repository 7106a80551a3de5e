/*
 * Descriptors for a process that has none to spare: every number is taken, or
 * its soft limit is too low. A child for a moment shares the memory but not the
 * descriptors, so it can let go of its copies, open what it needs and map it,
 * here as well as there. The channel stays open in it if there is one.
 *
 * A hard limit of 0 cannot be helped.
 */
#include "fail.h"
#include "session.h"

#define CLONE_VFORK 0x4000
#define WCLONE 0x80000000UL /* __WCLONE: a child that sends no signal */
#define RLIMIT_NOFILE 7

static bool borrowing; /* this is that child. Guarded by the control lock */

static void let_go(unsigned first, unsigned last)
{
	if (first <= last)
		SYS3(__NR_close_range, first, last, 0);
}

static void let_go_of_all_but(int a, int b)
{
	unsigned low = (unsigned)(a < b ? a : b), high = (unsigned)(a < b ? b : a);

	if (a < 0 || b < 0)
		low = high; /* -1 is the largest unsigned */
	if (low > 0)
		let_go(0, low - 1);
	if (low < high && high > 0)
		let_go(low + 1, high - 1);
	if (high < ~0U)
		let_go(high + 1, ~0U);
}

/* In the child. Its limits are its own, too. */
static long work(long (*f)(void *), void *arg)
{
	uint64_t limit[2];

	if (SYS4(__NR_prlimit64, 0, RLIMIT_NOFILE, NULL, limit) == 0) {
		limit[0] = limit[1];
		SYS4(__NR_prlimit64, 0, RLIMIT_NOFILE, limit, NULL);
	}
	FAIL_POINT("borrow: child begins");
	let_go_of_all_but(fd_is(control.channel, control.channel_inode) ? control.channel : -1,
			  fd_is(control.pulse, control.pulse_inode) ? control.pulse : -1);
	return f(arg);
}

__attribute__((noinline)) long with_descriptors(long (*f)(void *), void *arg)
{
	static volatile long result; /* the child shares the stack, but not registers */
	long pid;

	control_lock();
	uint32_t depth = control_depth();
	if (borrowing) {
		control_unlock();
		return -EMFILE;
	}
	borrowing = true;
	result = -EMFILE;
	/* It has the lock by this thread's number. */
	uint32_t number = thread_renumber(thread_id());
	pid = SYS6(__NR_clone, CLONE_VM | CLONE_VFORK, 0, 0, 0, 0, 0);
	if (pid == 0) {
		result = work(f, arg);
		for (;;)
			SYS1(__NR_exit, 0);
	}
	if (pid > 0)
		while (SYS4(__NR_wait4, pid, NULL, WCLONE, NULL) == -EINTR)
			;
	thread_renumber(number);
	control_abandoned(depth);
	borrowing = false;
	long r = result;
	control_unlock();
	return r;
}
