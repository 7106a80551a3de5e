/* The one session of the process: whether it has a space, and which. */
#include "session.h"

#define O_RDONLY 0
#define ST_RDONLY 1
#define AT_SECURE 23 /* getauxval(3) */
#define SIG_SETMASK 2
#define P_PID 1 /* waitid(2) */
#define WNOHANG 1
#define WEXITED 4
#define WNOWAIT 0x01000000
#define __WALL 0x40000000

struct session session = {.mode = MODE_UNKNOWN};

/* The process's libc, if it has these. */
extern char **environ __attribute__((weak));
extern unsigned long getauxval(unsigned long type) __attribute__((weak));
extern int *__errno_location(void) __attribute__((weak, const));

long finish(long r)
{
	if (likely(r >= 0))
		return r;
	if (__errno_location != NULL)
		*__errno_location() = (int)-r;
	return -1;
}

/* --- configuration ----------------------------------------------------- */

struct configured configured;

/* Inode of the IPC namespace in which the program began, 0: unknown. Looked at
 * before anything that could lead to another: a look costs a program that never
 * calls some percent of its start. What is executed in another one is told of it. */
static uint64_t home;

/* The calling thread's. */
static uint64_t ipc_namespace(void)
{
	uint64_t st[18];

	if (SYS4(__NR_newfstatat, AT_FDCWD, "/proc/thread-self/ns/ipc", st, 0) < 0)
		return 0;
	return st[1];
}

/* libc's getenv() stands in a page that few programs need at their start. */
const char *environment_of(char *const envp[], const char *name)
{
	for (; envp != NULL && *envp != NULL; envp++) {
		const char *s = *envp, *n = name;

		while (*n && *s == *n)
			s++, n++;
		if (*n == 0 && *s == '=')
			return s + 1;
	}
	return NULL;
}

const char *environment_value(const char *name)
{
	return environment_of(&environ != NULL ? environ : NULL, name);
}

/* Whether the program has more rights than its caller, as a set-user-id one
 * has. glibc before 2.16 does not pass on what the kernel says. */
static bool secure(void)
{
	if (getauxval != NULL)
		return getauxval(AT_SECURE) != 0;
	return SYS0(__NR_getuid) != SYS0(__NR_geteuid) || SYS0(__NR_getgid) != SYS0(__NR_getegid);
}

/* One of our variables, NULL if it is not set. A secure program, which has us by
 * /etc/ld.so.preload, has none: its caller could lead it to a space of its own. */
static const char *setting(const char *name)
{
	return secure() ? NULL : environment_value(name);
}

/* Read when the library is loaded: programs overwrite or clear their
 * environment later. */
__attribute__((constructor)) static void configure(void)
{
	const char *value = setting("IPCSPACE_DIR");
	size_t n = 0;

	configured.dir_named = value != NULL && *value != 0;
	if (!configured.dir_named)
		value = "/run/ipcspace";
	while (value[n] && n + 1 < sizeof control.dir) {
		control.dir[n] = value[n];
		n++;
	}
	control.dir[n] = 0;
	value = setting("IPCSPACE_REQUIRED");
	configured.required = value != NULL && same_text(value, "1");
	value = setting("IPCSPACE_DIR_WRITABLE");
	configured.writable_ok = value != NULL && same_text(value, "ok");
	for (value = setting("IPCSPACE_HOME"); value != NULL && *value >= '0' && *value <= '9'; value++)
		home = 10 * home + (uint64_t)(*value - '0');
	configured.environment = &environ != NULL ? environ : NULL;
}

/* --- the control lock -------------------------------------------------- */

static uint32_t lock_word; /* 0 free, 1 held, 2 held and waited for */
static uint32_t lock_owner, lock_depth;
static uint64_t lock_mask; /* the owner's signal mask before */

/* Whether this thread has the lock. A vfork child has its parent's number, and leaves
 * the lock to it when it is killed: then signals are not blocked. */
static bool lock_mine(void)
{
	const uint64_t most = ~(UINT64_C(1) << (9 - 1) | UINT64_C(1) << (19 - 1)); /* SIGKILL, SIGSTOP */
	uint64_t mask = 0;

	SYS4(__NR_rt_sigprocmask, SIG_SETMASK, NULL, &mask, 8);
	return mask == most;
}

/* Whether the owner is no more, or never was in this process: a raw clone copies
 * it from a thread of another. A process and its vfork child share the lock, each
 * not among the threads of the other. */
static bool owner_gone(uint32_t owner)
{
	const int how = WEXITED | WNOHANG | WNOWAIT | __WALL;
	uint32_t info[32] = {0}; /* siginfo_t: si_pid is the fifth word, 0 while the child lives */

	if (SYS3(__NR_tgkill, SYS0(__NR_getpid), owner, 0) != -ESRCH)
		return false;
	if (SYS5(__NR_waitid, P_PID, owner, info, how, 0) == 0)
		return info[4] != 0;
	return session.alive == NULL || load32(session.alive) != 1 ||
	       SYS3(__NR_tgkill, SYS0(__NR_getppid), owner, 0) == -ESRCH;
}

void control_lock(void)
{
	uint64_t all = ~UINT64_C(0), mask;
	uint32_t tid = thread_id();

	if (load32(&lock_owner) == tid) {
		if (lock_mine()) {
			lock_depth++;
			return;
		}
		control_reset();
	}
	SYS4(__NR_rt_sigprocmask, SIG_SETMASK, &all, &mask, 8);
	if (!cas32(&lock_word, 0, 1))
		while (__atomic_exchange_n(&lock_word, 2, __ATOMIC_ACQUIRE) != 0) {
			const struct timespec64 while_ = {0, 50000000};
			uint32_t owner = load32(&lock_owner);

			if (SYS4(__NR_futex, &lock_word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 2,
				 &while_) == -ETIMEDOUT &&
			    owner != 0 && owner == load32(&lock_owner) && owner_gone(owner))
				control_reset();
		}
	lock_mask = mask;
	lock_depth = 1;
	store32(&lock_owner, tid);
}

/* Whether a handler will run as soon as mask is set. */
static bool handler_waits(uint64_t mask)
{
	uint64_t pending = 0;

	if (SYS2(__NR_rt_sigpending, &pending, sizeof pending) < 0)
		return false;
	for (uint64_t left = pending & ~mask; left != 0; left &= left - 1) {
		uint64_t action[4] = {0}; /* struct sigaction begins with the handler */

		SYS4(__NR_rt_sigaction, __builtin_ctzll(left) + 1, NULL, action, sizeof mask);
		if (action[0] > 1) /* neither SIG_DFL nor SIG_IGN */
			return true;
	}
	return false;
}

bool call_disturbed(void)
{
	struct thread *t = this_thread;

	return t != NULL && t->active != 0 && t->disturbed == t->active;
}

void control_unlock(void)
{
	uint64_t mask = lock_mask;

	if (--lock_depth > 0)
		return;
	if (this_thread != NULL && this_thread->active != 0 && handler_waits(mask))
		this_thread->disturbed = this_thread->active;
	store32(&lock_owner, 0);
	if (__atomic_exchange_n(&lock_word, 0, __ATOMIC_RELEASE) == 2)
		SYS3(__NR_futex, &lock_word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
	SYS4(__NR_rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8);
}

/* How often this thread has the lock. */
uint32_t control_depth(void)
{
	return lock_depth;
}

/* What a vfork child took of its parent's lock, and did not give back for it was
 * killed. */
void control_abandoned(uint32_t depth)
{
	lock_depth = depth;
}

/* In a child, whose one thread held the lock as it forked, and has this number now. */
void control_inherit(uint32_t tid)
{
	thread_renumber(tid);
	store32(&lock_owner, tid);
}

/* In a child that was made while anybody held it, or nobody. */
void control_reset(void)
{
	thread_renumber(0);
	store32(&lock_owner, 0);
	lock_depth = 0;
	store32(&lock_word, 0);
}

/* --- start ------------------------------------------------------------- */

static uint32_t count_cpus(void)
{
	uint64_t mask[64];
	long n = SYS3(__NR_sched_getaffinity, 0, sizeof mask, mask);
	uint32_t cpus = 0;

	for (long i = 0; i < n / 8; i++)
		for (uint64_t w = mask[i]; w != 0; w &= w - 1)
			cpus++;
	return cpus ? cpus : 1;
}

/* A page that reads 1 here and 0 in every child. */
static const uint32_t *make_alive(void)
{
	uint32_t *p = room_map(ABI_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	if (p == NULL || SYS3(__NR_madvise, p, ABI_PAGE_SIZE, MADV_WIPEONFORK) < 0)
		return NULL;
	store32(p, 1);
	return p;
}

static long open_in_dir(const char *name, int flags)
{
	char path[DIR_MAX + 32];
	char *end = path;

	for (const char *s = control.dir; *s;)
		*end++ = *s++;
	*end++ = '/';
	for (const char *s = name; *s;)
		*end++ = *s++;
	*end = 0;
	return SYS3(__NR_openat, AT_FDCWD, path, flags | O_CLOEXEC);
}

/* Maps the space's table. The folder must be mounted read-only: the path on
 * such a mount is the manager's only proof of itself. */
static long map_table(void)
{
	uint64_t fs[16]; /* struct statfs: flags is the eleventh word */
	long fd = open_in_dir(ABI_TABLE_NAME, O_RDONLY);

	if (fd < 0)
		return fd;
	long r = SYS2(__NR_fstatfs, fd, fs);
	if (r == 0 && !(fs[10] & ST_RDONLY) && !configured.writable_ok)
		r = -EPERM;
	if (r == 0)
		r = SYS6(__NR_mmap, room_wish(ABI_TABLE_SIZE), ABI_TABLE_SIZE, PROT_READ,
			 MAP_SHARED, fd, 0);
	SYS1(__NR_close, fd);
	if (is_error(r))
		return r;
	const struct abi_table_header *t = (const struct abi_table_header *)r;
	if (t->magic != ABI_MAGIC || t->layout_major != ABI_LAYOUT_MAJOR) {
		SYS2(__NR_munmap, r, ABI_TABLE_SIZE);
		return -EPROTO;
	}
	session.table = t;
	return 0;
}

bool session_elsewhere(void)
{
	uint64_t here = ipc_namespace();

	if (home == 0)
		home = here;
	return here != 0 && here != home;
}

uint64_t session_left(void)
{
	return home != 0 && session_elsewhere() ? home : 0;
}

void session_look_home(void)
{
	struct thread *t = thread_own();

	t->away = session_elsewhere();
	if (t->away && session.mode == MODE_SPACE)
		store32(&session.mode, MODE_AWAY);
}

/* Maps the table and registers. */
static long arrive(void *unused)
{
	long r = session.table == NULL ? map_table() : 0;

	(void)unused;
	if (r == 0 && session.alive == NULL) {
		session.alive = make_alive();
		if (session.alive == NULL)
			r = -ENOMEM;
	}
	if (r == 0) {
		session.cpus = count_cpus();
		if (load32(session.alive) != 1)
			fork_forget();
		r = channel_open();
	}
	if (r == 0)
		store32((uint32_t *)session.alive, 1);
	return r;
}

/* Finds the space and registers. With control held. */
static int register_process(void)
{
	long r = arrive(NULL);

	if (r == -EMFILE)
		r = with_descriptors(arrive, NULL);

	if (r == -ENOENT && !configured.dir_named && !configured.required) {
		store32(&session.mode, MODE_KERNEL);
		return -ENOSYS;
	}
	if (r == 0) {
		if (session.mode == MODE_UNKNOWN)
			store32(&session.mode, MODE_SPACE);
		return 0;
	}
	/* A space that is there and cannot be had is an error, never the kernel's calls instead. */
	store32(&session.mode, configured.required || r != -ENOENT ? MODE_REFUSED : MODE_KERNEL);
	return -ENOSYS;
}

int session_start(void)
{
	int r = 0;

	if ((session.mode == MODE_SPACE || session.mode == MODE_AWAY) &&
	    session.alive != NULL && load32(session.alive) != 1)
		fork_adopt();
	if (session.mode == MODE_UNKNOWN && session_elsewhere()) { /* a raw clone, CLONE_NEWIPC */
		store32(&session.mode, MODE_AWAY);
		session_look_home();
	}
	switch (load32(&session.mode)) {
	case MODE_SPACE:
		return 0;
	case MODE_KERNEL:
	case MODE_REFUSED:
		return -ENOSYS;
	case MODE_AWAY:
		if (thread_own()->away)
			return -ENOSYS;
		if (__atomic_load_n(&session.page, __ATOMIC_ACQUIRE) != NULL)
			return 0;
	}
	control_lock();
	if (session.mode == MODE_UNKNOWN || (session.mode == MODE_AWAY && session.page == NULL))
		r = register_process();
	else if (session.mode != MODE_SPACE && session.mode != MODE_AWAY)
		r = -ENOSYS;
	control_unlock();
	return r;
}

bool session_refused(void)
{
	return load32(&session.mode) == MODE_REFUSED;
}
