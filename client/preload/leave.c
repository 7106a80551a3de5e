/* Calls by which a process leaves the place from which it reached its space. */
#include "object.h"

#define CLONE_SYSVSEM 0x00040000
#define CLONE_NEWUSER 0x10000000

/* Ends the list of adjustments, as exit_sem() does in these calls, unless other
 * threads share it. */
static void undo_now(void)
{
	if (thread_total() <= 1 && session_ready() == 0)
		channel_simple(ABI_MSG_UNDO, 0, 0, 0, 0, NULL);
}

EXPORT int unshare(int flags)
{
	int (*real)(int) = (int (*)(int))libc_function("unshare");
	bool undo = flags & (CLONE_NEWIPC | CLONE_SYSVSEM);
	long r;

	if (undo && session.mode == MODE_UNKNOWN)
		session_start();
	r = real ? real(flags) : finish(SYS1(__NR_unshare, flags));
	if (r == 0 && undo)
		undo_now();
	if (r == 0 && (flags & CLONE_NEWUSER))
		session.foreign_ids = true;
	if (r == 0 && (flags & CLONE_NEWIPC))
		session_look_home();
	return (int)creds_changed(r);
}

EXPORT int setns(int fd, int type)
{
	int (*real)(int, int) = (int (*)(int, int))libc_function("setns");
	long r;

	if (session.mode == MODE_UNKNOWN)
		session_start();
	r = real ? real(fd, type) : finish(SYS2(__NR_setns, fd, type));
	if (r == 0 && (type == 0 || (type & CLONE_NEWUSER)))
		session.foreign_ids = true; /* or the same: the manager knows */
	if (r == 0 && (type == 0 || (type & CLONE_NEWIPC))) {
		undo_now();
		session_look_home();
	}
	return (int)creds_changed(r);
}

typedef int clone_call(int (*run)(void *), void *stack, int flags, void *arg, ...);
extern clone_call __clone __attribute__((weak)); /* glibc's: programs without dlsym */

/* A child that begins in a namespace of its own knows that by its parent's. Which
 * of the three pointers at the end are there is for the flags to say: libc reads
 * them as they come, too. */
EXPORT int clone(int (*run)(void *), void *stack, int flags, void *arg, ...)
{
	clone_call *real = (clone_call *)libc_function("clone");
	__builtin_va_list ap;
	void *p[3];

	__builtin_va_start(ap, arg);
	for (int i = 0; i < 3; i++)
		p[i] = __builtin_va_arg(ap, void *);
	__builtin_va_end(ap);
	if (flags & CLONE_NEWIPC)
		session_elsewhere();
	if (real == NULL)
		real = __clone;
	return real ? real(run, stack, flags, arg, p[0], p[1], p[2]) : (int)finish(-ENOSYS);
}

/* A space that was in sight before stays within reach. */
EXPORT int chroot(const char *path)
{
	int (*real)(const char *) = (int (*)(const char *))libc_function("chroot");

	session_ready();
	return real ? real(path) : (int)finish(SYS1(__NR_chroot, path));
}
