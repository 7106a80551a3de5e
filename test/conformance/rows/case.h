/* The frame of the conformance programs: one program per family of rows.
 *
 * A case is written ROW(139, "title") { ... } and binds the row of that number of the table of
 * semantics (ROWS("16,122", ...) binds several). It runs in a fresh child with its own process
 * group and a hard time limit, and ends in one line on stdout:
 *
 *     ok   139 title
 *     FAIL 139 title: file:line: what was expected, and what came
 *     skip 139 title: why this machine cannot show it
 *
 * The programs use nothing but what a program can see, so the same binary runs on the kernel
 * and in a space. The runner itself never makes a System V call: each case begins in a process
 * that has not used any yet, and a forked child removes what the case left.
 */
#ifndef CASE_H
#define CASE_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Missing from some libcs; the values are the kernel's. */
#ifndef SHM_STAT_ANY
#define SHM_STAT_ANY 15
#endif
#ifndef SEM_STAT_ANY
#define SEM_STAT_ANY 20
#endif
#ifndef MSG_STAT_ANY
#define MSG_STAT_ANY 13
#endif
#ifndef MSG_COPY
#define MSG_COPY 040000
#endif
#ifndef SHM_DEST
#define SHM_DEST 01000
#define SHM_LOCKED 02000
#endif
#ifndef SHM_HUGETLB
#define SHM_HUGETLB 04000
#endif
#ifndef SHM_NORESERVE
#define SHM_NORESERVE 010000
#endif

#define CASE_SECONDS 40	/* hard limit of a case, unless it names its own */
#define WAIT_SECONDS 15	/* limit of each wait for an event inside a case */
#define STRANGER 12345	/* two ids that own nothing on any machine */
#define OTHER 54321
#define BAD_POINTER ((void *)16)	/* in the first page: never mapped */

enum family { SHM, SEM, MSG };

union semun {
	int val;
	void *buf;
	unsigned short *array;
};

/* What the runner shares with every process of the running case. */
struct board {
	atomic_int line;	/* last EXPECT passed: said when the time limit strikes */
	atomic_int verdict;	/* 0 none yet, 1 failed, 2 skipped */
	char text[700];
	atomic_int ready[64];	/* thread ids that are about to sleep */
	atomic_int n[64];	/* free for the case: counters and flags across processes */
	struct { char name[24], text[64]; } limit[12];	/* a space's, as they were: see set_limit */
	atomic_int kept;
	struct { int family, id; } object[1 << 17];
};

static struct board *board;
static char self_path[PATH_MAX];	/* for cases that exec this program: see ACT */

struct case_entry {
	const char *label, *title, *file;
	void (*run)(void);
	int seconds;
};
static struct case_entry cases[256];
static int n_cases;

struct act_entry { const char *name; int (*run)(int argc, char **argv); };
static struct act_entry acts[16];
static int n_acts;

#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)
#define CASE_(id, label, title, secs) \
	static void CAT(run_, id)(void); \
	__attribute__((constructor)) static void CAT(add_, id)(void) \
	{ cases[n_cases++] = (struct case_entry){ label, title, __FILE__, CAT(run_, id), secs }; } \
	static void CAT(run_, id)(void)
#define ROW(n, title) CASE_(__LINE__, #n, title, CASE_SECONDS)
#define ROWS(list, title) CASE_(__LINE__, list, title, CASE_SECONDS)
#define LONG_ROWS(list, title, secs) CASE_(__LINE__, list, title, secs)

/* ACT(name) is what this program does after exec with "--act name": its value is the exit status. */
#define ACT(name) \
	static int CAT(act_, name)(int argc, char **argv); \
	__attribute__((constructor)) static void CAT(addact_, name)(void) \
	{ acts[n_acts++] = (struct act_entry){ #name, CAT(act_, name) }; } \
	static int CAT(act_, name)(int argc __attribute__((unused)), char **argv __attribute__((unused)))
#define EXEC_ACT(...) execl(self_path, self_path, "--act", __VA_ARGS__, (char *)0)

/* ---- verdicts ---- */

static const char *errno_name(int e)
{
	static const struct { int e; const char *name; } names[] = {
		{ 0, "no error" }, { EPERM, "EPERM" }, { ENOENT, "ENOENT" }, { ESRCH, "ESRCH" },
		{ EINTR, "EINTR" }, { E2BIG, "E2BIG" }, { EBADF, "EBADF" }, { EAGAIN, "EAGAIN" },
		{ ENOMEM, "ENOMEM" }, { EACCES, "EACCES" }, { EFAULT, "EFAULT" },
		{ EEXIST, "EEXIST" }, { EINVAL, "EINVAL" }, { EMFILE, "EMFILE" },
		{ EFBIG, "EFBIG" }, { ENOSPC, "ENOSPC" }, { ERANGE, "ERANGE" },
		{ ENOSYS, "ENOSYS" }, { ENOMSG, "ENOMSG" }, { EIDRM, "EIDRM" },
	};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (names[i].e == e)
			return names[i].name;
	static char number[32];
	snprintf(number, sizeof number, "errno %d", e);
	return number;
}

/* Ends the calling process with the first verdict of the case. */
__attribute__((noreturn, format(printf, 3, 4)))
static void verdict_(int what, const char *where, const char *format, ...)
{
	int none = 0;
	char text[600];
	va_list ap;
	va_start(ap, format);
	vsnprintf(text, sizeof text, format, ap);
	va_end(ap);
	if (!board)	/* after exec the board is gone: the parent sees status 99 */
		dprintf(2, "%s%s\n", where, text);
	else if (atomic_compare_exchange_strong(&board->verdict, &none, what))
		snprintf(board->text, sizeof board->text, "%s%s", where, text);
	_exit(99);
}
#define STR_(x) #x
#define STR(x) STR_(x)
#define HERE __FILE__ ":" STR(__LINE__) ": "
#define FAIL(...) verdict_(1, HERE, __VA_ARGS__)
#define SKIP(...) verdict_(2, "", __VA_ARGS__)
#define MARK() ((void)(board && (atomic_store(&board->line, __LINE__), 1)))

#define EXPECT(cond) \
	do { MARK(); if (!(cond)) FAIL("expected %s", #cond); } while (0)
#define EXPECT_EQ(got, want) \
	do { MARK(); long long g_ = (long long)(got), w_ = (long long)(want); \
	     if (g_ != w_) FAIL("%s: expected %s = %lld, came %lld", #got, #want, w_, g_); } while (0)
#define EXPECT_ERR(call, want) \
	do { MARK(); errno = 0; long long r_ = (long long)(call); int e_ = errno; \
	     if (r_ != -1) FAIL("%s: expected %s, came %lld", #call, errno_name(want), r_); \
	     if (e_ != (want)) FAIL("%s: expected %s, came %s", #call, errno_name(want), errno_name(e_)); } while (0)
#define EXPECT_OK(call) EXPECT_EQ_OR_ERRNO(call, 0)
#define EXPECT_EQ_OR_ERRNO(call, want) \
	do { MARK(); errno = 0; long long r_ = (long long)(call), w_ = (long long)(want); int e_ = errno; \
	     if (r_ != w_) FAIL("%s: expected %lld, came %lld (%s)", #call, w_, r_, errno_name(e_)); } while (0)
/* The value of a call that must not fail. */
#define MUST(call) \
	({ MARK(); errno = 0; __typeof__(call) v_ = (call); int e_ = errno; \
	   if ((long long)v_ == -1) { FAIL("%s: %s", #call, errno_name(e_)); } \
	   v_; })

/* ---- time ---- */

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void pause_ms(int ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000L };
	while (nanosleep(&t, &t) < 0 && errno == EINTR)
		;
}

static inline void nap_(void)
{
	struct timespec t = { 0, 100000 };
	nanosleep(&t, NULL);
}

#define UNTIL(cond) \
	do { MARK(); double end_ = now() + WAIT_SECONDS; \
	     while (!(cond)) { if (now() > end_) FAIL("waited %d s for %s", WAIT_SECONDS, #cond); nap_(); } } while (0)

/* Whole seconds of CLOCK_REALTIME; one second of tolerance, as the kernel's may be a tick late. */
#define EXPECT_RECENT(stamp, since) \
	EXPECT((stamp) >= (since) - 1 && (stamp) <= time(NULL) + 1)

#include "tools.h"
#include "runner.h"
#endif
