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

/* ---- objects ---- */

/* Has the id removed when the case is over, however it ends. */
static int keep(enum family family, int id)
{
	if (id >= 0 && board) {
		int i = atomic_fetch_add(&board->kept, 1);
		if (i >= (int)(sizeof board->object / sizeof board->object[0]))
			FAIL("too many objects in one case");
		board->object[i].family = family;
		board->object[i].id = id;
	}
	return id;
}
static inline int new_segment(size_t size) { return keep(SHM, MUST(shmget(IPC_PRIVATE, size, 0600))); }
static inline int new_set(int n) { return keep(SEM, MUST(semget(IPC_PRIVATE, n, 0600))); }
static inline int new_queue(void) { return keep(MSG, MUST(msgget(IPC_PRIVATE, 0600))); }

/* The three families by one name, for rules that they share. */
static inline int get(enum family f, key_t key, int size, int flags)
{
	int id = f == SHM ? shmget(key, size, flags) : f == SEM ? semget(key, size, flags) : msgget(key, flags);
	return (flags & IPC_CREAT) || key == IPC_PRIVATE ? keep(f, id) : id;
}
union any_ds { struct shmid_ds shm; struct semid_ds sem; struct msqid_ds msg; char room[512]; };
static inline int ctl(enum family f, int id, int cmd, void *buf)
{
	return f == SHM ? shmctl(id, cmd, buf)
	     : f == SEM ? semctl(id, 0, cmd, (union semun){ .buf = buf }) : msgctl(id, cmd, buf);
}
static inline struct ipc_perm *perm_of(enum family f, union any_ds *ds)
{
	return f == SHM ? &ds->shm.shm_perm : f == SEM ? &ds->sem.sem_perm : &ds->msg.msg_perm;
}
static inline time_t ctime_of(enum family f, union any_ds *ds)
{
	return f == SHM ? ds->shm.shm_ctime : f == SEM ? ds->sem.sem_ctime : ds->msg.msg_ctime;
}
static inline int stat_cmd(enum family f) { return f == SHM ? SHM_STAT : f == SEM ? SEM_STAT : MSG_STAT; }
static inline int stat_any_cmd(enum family f) { return f == SHM ? SHM_STAT_ANY : f == SEM ? SEM_STAT_ANY : MSG_STAT_ANY; }
static inline int info_cmd(enum family f) { return f == SHM ? SHM_INFO : f == SEM ? SEM_INFO : MSG_INFO; }
#define EACH_FAMILY(f) for (enum family f = SHM; f <= MSG; f++)

/* A key that no family uses. */
static inline key_t free_key(void)
{
	static unsigned count;
	for (;;) {
		key_t key = (key_t)((0x49000000u + (unsigned)getpid() * 251u + count++ * 65537u) | 1u);
		if (shmget(key, 0, 0) < 0 && semget(key, 0, 0) < 0 && msgget(key, 0) < 0)
			return key;
	}
}

static inline struct shmid_ds segment_stat(int id) { struct shmid_ds d = { 0 }; MUST(shmctl(id, IPC_STAT, &d)); return d; }
static inline struct msqid_ds queue_stat(int id) { struct msqid_ds d = { 0 }; MUST(msgctl(id, IPC_STAT, &d)); return d; }
static inline struct semid_ds set_stat(int id)
{
	struct semid_ds d = { 0 };
	MUST(semctl(id, 0, IPC_STAT, (union semun){ .buf = &d }));
	return d;
}
static inline long nattch(int id) { return (long)segment_stat(id).shm_nattch; }
static inline int value(int set, int num) { return MUST(semctl(set, num, GETVAL)); }
static inline void set_value(int set, int num, int v) { MUST(semctl(set, num, SETVAL, (union semun){ .val = v })); }
#define SEMOP(set, ...) \
	semop(set, (struct sembuf[]){ __VA_ARGS__ }, sizeof((struct sembuf[]){ __VA_ARGS__ }) / sizeof(struct sembuf))
static inline int op1(int set, int num, int delta, int flags) { return SEMOP(set, { num, delta, flags }); }

struct message { long type; char text[8192]; };
static inline int send_text(int q, long type, const char *text, int flags)
{
	struct message m = { .type = type };
	snprintf(m.text, sizeof m.text, "%s", text);
	return msgsnd(q, &m, strlen(text), flags);
}
static inline int send_size(int q, long type, size_t size, int flags)
{
	struct message m = { .type = type };
	return msgsnd(q, &m, size, flags);
}
/* Receives into *m, its text ended with a zero byte. */
static inline long receive(int q, struct message *m, long type, int flags)
{
	long n = msgrcv(q, m, sizeof m->text - 1, type, flags);
	if (n >= 0)
		m->text[n] = 0;
	return n;
}

/* ---- processes ---- */

static inline pid_t fork_(void)
{
	fflush(stdout);
	pid_t p = fork();
	if (p < 0)
		FAIL("fork: %s", errno_name(errno));
	return p;
}
/* CHILD(p) { body } runs the body in a forked child that leaves with status 0. */
#define CHILD(p) for (p = fork_(); p == 0; _exit(0))

static inline int wait_for(pid_t p)
{
	int status = 0;
	int fd = (int)syscall(SYS_pidfd_open, p, 0);
	if (fd >= 0) {
		struct pollfd f = { fd, POLLIN, 0 };
		double end = now() + WAIT_SECONDS;
		int n;
		while ((n = poll(&f, 1, 1000)) <= 0)
			if (now() > end)
				FAIL("process %d did not end within %d s", (int)p, WAIT_SECONDS);
		close(fd);
	}
	while (waitpid(p, &status, 0) < 0)
		if (errno != EINTR)
			FAIL("waitpid: %s", errno_name(errno));
	return status;
}
/* Waits for a child and expects that it left with status 0. */
#define JOIN(p) \
	do { MARK(); int s_ = wait_for(p); \
	     if (WIFSIGNALED(s_)) FAIL("child %s died of signal %d", #p, WTERMSIG(s_)); \
	     if (WEXITSTATUS(s_) != 0) FAIL("child %s left with status %d", #p, WEXITSTATUS(s_)); } while (0)

/* Called by a thread right before the call that is to sleep. The call on the object before it
 * pays for everything that only a first use costs, so that the next sleep is the one meant. */
static inline void ready(enum family f, int id)
{
	union any_ds ds;
	ctl(f, id, IPC_STAT, &ds);
	int me = (int)syscall(SYS_gettid);
	for (int i = 0; i < 64; i++) {
		int none = 0;
		if (atomic_compare_exchange_strong(&board->ready[i], &none, me))
			return;
	}
	FAIL("more than 64 sleepers");
}

static inline char thread_state(pid_t tid)
{
	char path[64], line[256] = "";
	snprintf(path, sizeof path, "/proc/%d/stat", (int)tid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t n = read(fd, line, sizeof line - 1);
	close(fd);
	char *end = n > 0 ? strrchr(line, ')') : NULL;
	return end && end[1] == ' ' ? end[2] : 0;
}

/* A sleeper has no count to look at except in sets. It announced itself with ready(); asleep for
 * many samples in a row, it sleeps in the call that followed. */
static inline bool is_asleep(pid_t tid)
{
	for (int i = 0; i < 12; i++) {
		if (thread_state(tid) != 'S')
			return false;
		pause_ms(1);
	}
	return true;
}
static inline bool take_ready(pid_t tid)
{
	for (int i = 0; i < 64; i++) {
		int want = tid;
		if (atomic_compare_exchange_strong(&board->ready[i], &want, 0))
			return true;
	}
	return false;
}
#define UNTIL_ASLEEP(tid) \
	do { UNTIL(take_ready(tid)); UNTIL(is_asleep(tid)); pause_ms(10); } while (0)
/* The same for semop, exactly: GETNCNT or GETZCNT says who sleeps. */
#define UNTIL_COUNT(set, num, cmd, n) UNTIL(semctl(set, num, cmd) == (n))

/* Still asleep a moment after something that must not wake it. */
#define EXPECT_STILL_ASLEEP(p) \
	do { pause_ms(30); EXPECT_EQ(waitpid(p, NULL, WNOHANG), 0); UNTIL(is_asleep(p)); \
	     EXPECT_EQ(waitpid(p, NULL, WNOHANG), 0); } while (0)

/* ---- credentials ---- */

#define NEED_ROOT() do { if (geteuid() != 0) SKIP("needs root"); } while (0)

/* Becomes an ordinary user for good, without supplementary groups. */
static inline void become(uid_t uid, gid_t gid)
{
	MUST(setgroups(0, NULL));
	MUST(setresgid(gid, gid, gid));
	MUST(setresuid(uid, uid, uid));
}

#define CAP_LOCK_MEMORY 14	/* CAP_IPC_LOCK */
#define CAP_OWN_IPC 15		/* CAP_IPC_OWNER */
#define CAP_ADMIN 21		/* CAP_SYS_ADMIN */
#define CAP_RESOURCE 24		/* CAP_SYS_RESOURCE */

struct cap_head { uint32_t version; int pid; };
struct cap_data { uint32_t effective, permitted, inheritable; };

static inline bool has_cap(int cap)
{
	struct cap_head h = { 0x20080522, 0 };
	struct cap_data d[2] = { { 0 } };
	MUST(syscall(SYS_capget, &h, d));
	return d[cap / 32].effective >> (cap % 32) & 1;
}
/* Changes the effective set only, of the calling thread: the permitted one lets it come back. */
static inline void set_effective(int cap, bool on)
{
	struct cap_head h = { 0x20080522, 0 };
	struct cap_data d[2] = { { 0 } };
	MUST(syscall(SYS_capget, &h, d));
	if (on)
		d[cap / 32].effective |= 1u << (cap % 32);
	else
		d[cap / 32].effective &= ~(1u << (cap % 32));
	MUST(syscall(SYS_capset, &h, d));
}
static inline void only_capability(int cap)	/* cap < 0: none */
{
	for (int c = 0; c <= 40; c++)
		if (has_cap(c) != (c == cap))
			set_effective(c, c == cap);
}

/* Limits are sysctls on the kernel, and something else in a space, where the runner chooses them
 * and says so: CONFORMANCE_LIMITS is "default" or "low". Sysctls are only ever written in a
 * namespace that the case made for itself. */
static inline bool limits_are_given(void) { return getenv("CONFORMANCE_LIMITS") != NULL; }
static inline bool limits_are_low(void)
{
	const char *l = getenv("CONFORMANCE_LIMITS");
	return l && strcmp(l, "low") == 0;
}
static inline bool may_set_limits(void)
{
	return !limits_are_given() && geteuid() == 0 && unshare(CLONE_NEWIPC) == 0;
}
static inline int set_limit(const char *name, const char *text)
{
	char path[128];
	snprintf(path, sizeof path, "/proc/sys/kernel/%s", name);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n = write(fd, text, strlen(text));
	int e = errno;
	close(fd);
	errno = e;
	return n < 0 ? -1 : 0;
}

/* ---- signals and faults ---- */

static inline void on_signal(int sig, void (*handler)(int), int flags)
{
	struct sigaction a = { .sa_handler = handler, .sa_flags = flags };
	sigemptyset(&a.sa_mask);
	MUST(sigaction(sig, &a, NULL));
}
static inline void no_op(int sig) { (void)sig; }

static sigjmp_buf fault_jump;
static void fault_caught(int sig) { siglongjmp(fault_jump, sig); }
/* The signal that one access raises; 0 for none. */
static inline int fault(volatile void *address, bool write)
{
	volatile char *p = address;
	struct sigaction a = { .sa_handler = fault_caught }, segv, bus;
	sigaction(SIGSEGV, &a, &segv);
	sigaction(SIGBUS, &a, &bus);
	int sig = sigsetjmp(fault_jump, 1);
	if (sig == 0) {
		if (write)
			*p = *p;
		else
			(void)*p;
	}
	sigaction(SIGSEGV, &segv, NULL);
	sigaction(SIGBUS, &bus, NULL);
	return sig;
}
static inline size_t page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }

#include "runner.h"
#endif
