/*
 * libc's syscall(): programs that reach the calls of System V IPC by number, or
 * those that the library follows, or change the credentials of one thread, come
 * through here. A program that makes the system call itself does not;
 * `ipcspace run --strict` refuses it.
 */
#include "ipcspace.h"

EXPORT int semop(int, void *, size_t);
EXPORT int semtimedop(int, void *, size_t, const void *);
EXPORT int semget(int, int, int);
EXPORT int semctl(int, int, int, ...);
EXPORT int msgget(int, int);
EXPORT int msgsnd(int, const void *, size_t, int);
EXPORT long msgrcv(int, void *, size_t, long, int);
EXPORT int msgctl(int, int, void *);
EXPORT int shmget(int, size_t, int);
EXPORT int shmctl(int, int, void *);
EXPORT int remap_file_pages(void *, size_t, int, size_t, int);
EXPORT int mprotect(void *, size_t, int);
EXPORT int pkey_mprotect(void *, size_t, int, int);
EXPORT int mseal(void *, size_t, unsigned long);
EXPORT int mlock(const void *, size_t);
EXPORT int mlock2(const void *, size_t, unsigned);
EXPORT int munlock(const void *, size_t);
EXPORT int unshare(int);
EXPORT int setns(int, int);
EXPORT int chroot(const char *);
EXPORT int execve(const char *, char *const *, char *const *);
EXPORT int execveat(int, const char *, char *const *, char *const *, int);

/* A bit that libc adds to commands for old kernels (linux/ipc.h). */
#define IPC_64 0x100

/* Whether the call makes a process with a copy of this one's memory, attaches
 * and all, in this space. One for another namespace is told by this one. */
static bool makes_child(long number, const long *a)
{
	uint64_t flags = (uint64_t)a[0], stack = (uint64_t)a[1];

#ifdef __NR_fork
	if (number == __NR_fork)
		return true;
#endif
	if (number == __NR_clone3) { /* struct clone_args: flags first, stack the sixth */
		const uint64_t *args = (const uint64_t *)a[0];
		struct call c;

		call_begin(&c);
		bool readable = user_readable(c.thread, args, 7 * sizeof *args);

		call_end(&c);
		if (!readable)
			return false;
		flags = args[0];
		stack = args[5];
	} else if (number != __NR_clone) {
		return false;
	}
	if (flags & CLONE_NEWIPC)
		session_elsewhere();
	return stack == 0 && !(flags & (CLONE_VM | CLONE_NEWIPC));
}

EXPORT long syscall(long number, ...)
{
	__builtin_va_list ap;
	long a[6];

	__builtin_va_start(ap, number);
	for (int i = 0; i < 6; i++)
		a[i] = __builtin_va_arg(ap, long);
	__builtin_va_end(ap);
	switch (number) {
	case __NR_semop:
		return semop((int)a[0], (void *)a[1], (size_t)a[2]);
	case __NR_semtimedop:
		return semtimedop((int)a[0], (void *)a[1], (size_t)a[2], (const void *)a[3]);
	case __NR_semget:
		return semget((int)a[0], (int)a[1], (int)a[2]);
	case __NR_semctl:
		return semctl((int)a[0], (int)a[1], (int)a[2] & ~IPC_64, a[3]);
	case __NR_msgget:
		return msgget((int)a[0], (int)a[1]);
	case __NR_msgsnd:
		return msgsnd((int)a[0], (const void *)a[1], (size_t)a[2], (int)a[3]);
	case __NR_msgrcv:
		return msgrcv((int)a[0], (void *)a[1], (size_t)a[2], a[3], (int)a[4]);
	case __NR_msgctl:
		return msgctl((int)a[0], (int)a[1] & ~IPC_64, (void *)a[2]);
	case __NR_shmget:
		return shmget((int)a[0], (size_t)a[1], (int)a[2]);
	case __NR_shmat:
		return (long)shmat_call((int)a[0], (const void *)a[1], (int)a[2]);
	case __NR_shmdt:
		return shmdt_call((const void *)a[0]);
	case __NR_shmctl:
		return shmctl((int)a[0], (int)a[1] & ~IPC_64, (void *)a[2]);
	case __NR_remap_file_pages:
		return remap_file_pages((void *)a[0], (size_t)a[1], (int)a[2], (size_t)a[3], (int)a[4]);
	case __NR_mmap:
		return (long)mmap_call((void *)a[0], (size_t)a[1], (int)a[2], (int)a[3], (int)a[4], a[5]);
	case __NR_mremap:
		return (long)mremap_call((void *)a[0], (size_t)a[1], (size_t)a[2], (int)a[3], (void *)a[4]);
	case __NR_munmap:
		return munmap_call((void *)a[0], (size_t)a[1]);
	case __NR_mprotect:
		return mprotect((void *)a[0], (size_t)a[1], (int)a[2]);
	case __NR_pkey_mprotect:
		return pkey_mprotect((void *)a[0], (size_t)a[1], (int)a[2], (int)a[3]);
	case __NR_mseal:
		return mseal((void *)a[0], (size_t)a[1], (unsigned long)a[2]);
	case __NR_mbind:
		return mbind_by_number(a);
	case __NR_madvise:
		return madvise_call((void *)a[0], (size_t)a[1], (int)a[2]);
	case __NR_mlock:
		return mlock((const void *)a[0], (size_t)a[1]);
	case __NR_mlock2:
		return mlock2((const void *)a[0], (size_t)a[1], (unsigned)a[2]);
	case __NR_munlock:
		return munlock((const void *)a[0], (size_t)a[1]);
	case __NR_unshare:
		return unshare((int)a[0]);
	case __NR_setns:
		return setns((int)a[0], (int)a[1]);
	case __NR_chroot:
		return chroot((const char *)a[0]);
	case __NR_execve:
		return execve((const char *)a[0], (char *const *)a[1], (char *const *)a[2]);
	case __NR_execveat:
		return execveat((int)a[0], (const char *)a[1], (char *const *)a[2], (char *const *)a[3],
				(int)a[4]);
	}
	long r = makes_child(number, a) ? fork_by_number(number, a)
					: SYS6(number, a[0], a[1], a[2], a[3], a[4], a[5]);

	switch (number) {
	case __NR_setuid:
	case __NR_setgid:
	case __NR_setreuid:
	case __NR_setregid:
	case __NR_setresuid:
	case __NR_setresgid:
	case __NR_setgroups:
	case __NR_capset:
	case __NR_setfsuid:
	case __NR_setfsgid:
		creds_thread_changed();
	}
	return is_error(r) ? finish(r) : r;
}
