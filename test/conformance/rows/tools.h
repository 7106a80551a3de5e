/* What the cases are made of: objects, processes that sleep, credentials, limits, faults. */
#ifndef TOOLS_H
#define TOOLS_H

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

static inline struct msginfo queue_info(int cmd)
{
	struct msginfo i;
	MUST(msgctl(0, cmd, (struct msqid_ds *)&i));
	return i;
}
static inline void set_qbytes(int q, unsigned long bytes)
{
	struct msqid_ds d = queue_stat(q);
	d.msg_qbytes = bytes;
	MUST(msgctl(q, IPC_SET, &d));
}

static inline size_t page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }

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
/* What lies behind the message, in a buffer that is said to be longer, need not be there. */
static inline void expect_short_buffer(int q)
{
	char *m = MUST(mmap(NULL, 2 * page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	char *buffer = m + page_size() - sizeof(long) - 8;
	MUST(munmap(m + page_size(), page_size()));
	EXPECT_EQ(msgrcv(q, buffer, 8192, 7, 0), 8);
	EXPECT_EQ(*(long *)(void *)buffer, 7);
	EXPECT_EQ(memcmp(buffer + sizeof(long), "12345678", 8), 0);
	EXPECT_ERR(msgrcv(q, buffer, 8192, 9, 0), EFAULT);
}
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
	if (p == 0)	/* nobody outlives a runner that is killed */
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
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

/* Waits for a flag among the board's. */
static inline void until_flag(int i) { UNTIL(board->n[i] != 0); }

/* Runs a thread to its end. */
static inline void in_thread(void *(*run)(void *), void *arg)
{
	pthread_t t;
	EXPECT_OK(pthread_create(&t, NULL, run, arg));
	EXPECT_OK(pthread_join(t, NULL));
}

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

/* Limits are sysctls. The kernel's are only ever written in a namespace that the case made for
 * itself; a space's, which the manager serves, are put back after the case. In a space the runner
 * chooses the limits to begin with, and says so: CONFORMANCE_LIMITS is "default" or "low". */
static inline bool limits_are_given(void) { return getenv("CONFORMANCE_LIMITS") != NULL; }
static inline bool limits_are_low(void)
{
	const char *l = getenv("CONFORMANCE_LIMITS");
	return l && strcmp(l, "low") == 0;
}
static inline bool may_set_limits(void)
{
	struct statfs of;
	const long fuse = 0x65735546;
	if (limits_are_given())
		return geteuid() == 0 && statfs("/proc/sys/kernel/shmmni", &of) == 0 && of.f_type == fuse;
	return geteuid() == 0 && unshare(CLONE_NEWIPC) == 0;
}
static inline void remember_limit(const char *name, const char *path)
{
	int i = 0, fd = open(path, O_RDONLY | O_CLOEXEC);
	while (board->limit[i].name[0] && strcmp(board->limit[i].name, name) != 0)
		i++;
	if (!board->limit[i].name[0] && read(fd, board->limit[i].text, sizeof board->limit[i].text - 1) > 0)
		snprintf(board->limit[i].name, sizeof board->limit[i].name, "%s", name);
	close(fd);
}
static inline int set_limit(const char *name, const char *text)
{
	char path[128];
	snprintf(path, sizeof path, "/proc/sys/kernel/%s", name);
	if (limits_are_given())
		remember_limit(name, path);
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
#endif
