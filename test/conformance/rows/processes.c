/* Rows 229 to 234: the calls in every state that a process can be in. */
#include "case.h"
#include <dirent.h>

/* What every case here asks for: all twelve calls, on objects made by the parent. */
struct used { int id[3]; key_t key; };

static struct used make_used(void)
{
	struct used u = { .key = free_key() };
	EACH_FAMILY(f)
		u.id[f] = MUST(get(f, u.key, f == SEM ? 3 : 4096, IPC_CREAT | 0666));
	return u;
}

/* 0, or the number of the step that failed: also for places where EXPECT cannot be used. */
static int use(const struct used *u)
{
	struct { long type; char text[16]; } m = { 5, "hello" };
	union any_ds ds;
	char *at;
	if (shmget(u->key, 0, 0) != u->id[SHM] || semget(u->key, 0, 0) != u->id[SEM] ||
	    msgget(u->key, 0) != u->id[MSG])
		return 1;
	if ((at = shmat(u->id[SHM], NULL, 0)) == (void *)-1)
		return 2;
	at[100]++;
	if (shmdt(at) < 0 || shmctl(u->id[SHM], IPC_STAT, &ds.shm) < 0)
		return 3;
	if (op1(u->id[SEM], 0, 1, 0) < 0 || op1(u->id[SEM], 0, -1, SEM_UNDO) < 0 || op1(u->id[SEM], 0, 1, SEM_UNDO) < 0 ||
	    SEMOP(u->id[SEM], { 0, -1, 0 }, { 1, 1, SEM_UNDO }, { 1, -1, SEM_UNDO }) < 0)
		return 4;
	if (semctl(u->id[SEM], 0, GETVAL) < 0 || semctl(u->id[SEM], 2, SETVAL, 3) < 0)
		return 5;
	struct sembuf down = { 1, -1, 0 };
	struct timespec none = { 0, 1000 };
	if (semtimedop(u->id[SEM], &down, 1, &none) != -1 || (errno != EAGAIN && errno != EINTR))
		return 6;
	m.type = (long)getpid();
	if (msgsnd(u->id[MSG], &m, 5, 0) < 0 || msgrcv(u->id[MSG], &m, 5, m.type, IPC_NOWAIT) != 5)
		return 7;
	if (msgctl(u->id[MSG], IPC_STAT, &ds.msg) < 0)
		return 8;
	int fresh = semget(IPC_PRIVATE, 1, 0600);
	if (fresh < 0 || op1(fresh, 0, 1, SEM_UNDO) < 0 || semctl(fresh, 0, IPC_RMID) < 0)
		return 9;
	return 0;
}

/* Runs the change and then the calls, in a child that made no call before and in one that did. */
#define AFTER(u, ...) \
	for (int used_before_ = 0; used_before_ < 2; used_before_++) { \
		pid_t p_; \
		CHILD(p_) { \
			if (used_before_) \
				EXPECT_EQ(use(&u), 0); \
			__VA_ARGS__; \
			EXPECT_EQ(use(&u), 0); \
			EXPECT_EQ(use(&u), 0); \
		} \
		JOIN(p_); \
	}

/* A helper makes the objects, so that the case's own process has not used any call. */
static struct used made_elsewhere(void)
{
	static struct used *u;
	pid_t p;
	u = MUST(mmap(NULL, sizeof *u, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	CHILD(p)
		*u = make_used();
	JOIN(p);
	return *u;
}

ROW(229, "after fork, of a process that used the calls and of one that did not")
{
	struct used u = made_elsewhere();
	AFTER(u, { pid_t q; CHILD(q) { EXPECT_EQ(use(&u), 0); } JOIN(q); });
	AFTER(u, { pid_t q = fork_(); if (q) { JOIN(q); _exit(0); } });
	AFTER(u, { pid_t q; for (int i = 0; i < 30; i++) { if ((q = fork_())) { JOIN(q); _exit(0); } EXPECT_EQ(use(&u), 0); } });
}

static atomic_int stop_threads;
static void *use_and_use(void *u)
{
	while (!stop_threads)
		EXPECT_EQ(use(u), 0);
	return NULL;
}

ROW(229, "after fork of a process whose other threads are in the middle of calls")
{
	static struct used u;
	u = made_elsewhere();
	pthread_t t[2];
	for (int i = 0; i < 2; i++)
		EXPECT_OK(pthread_create(&t[i], NULL, use_and_use, &u));
	double end = now() + 2;
	for (int i = 0; i < 200 && now() < end; i++) {
		pid_t p;
		CHILD(p)
			EXPECT_EQ(use(&u), 0);
		JOIN(p);
	}
	stop_threads = 1;
	for (int i = 0; i < 2; i++)
		EXPECT_OK(pthread_join(t[i], NULL));
}

static void *use_once(void *u)
{
	EXPECT_EQ(use(u), 0);
	return NULL;
}

/* The delays cover the time that a first call takes. */
ROW(229, "after fork or a raw clone while another thread makes the process's first call")
{
	static struct used u;
	u = made_elsewhere();
	for (int i = 0; i < 60; i++) {
		pid_t p, q;
		CHILD(p) {
			pthread_t t;
			EXPECT_OK(pthread_create(&t, NULL, use_once, &u));
			for (double end = now() + i * 20e-6; now() < end;)
				;
			q = i % 2 ? fork_() : (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
			if (q == 0)
				_exit(use(&u));
			JOIN(q);
			EXPECT_OK(pthread_join(t, NULL));
		}
		JOIN(p);
	}
}

ROW(229, "in a vfork child, and after it")
{
	struct used u = made_elsewhere();
	AFTER(u, {
		pid_t q = vfork();
		if (q == 0)
			_exit(use(&u));
		JOIN(q);
	});
}

/* A raw clone passes by whatever libc does around fork. */
ROW(229, "in a child of a raw clone, and after it")
{
	struct used u = made_elsewhere();
	AFTER(u, {
		pid_t q = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
		if (q == 0)
			_exit(use(&u));
		JOIN(q);
	});
}

static struct used parse(char **argv)
{
	return (struct used){ { atoi(argv[0]), atoi(argv[1]), atoi(argv[2]) }, atoi(argv[3]) };
}
ACT(use)
{
	struct used u = parse(argv);
	return argc == 4 ? use(&u) : 99;
}
static void exec_use(struct used u)
{
	char t[4][16];
	for (int i = 0; i < 4; i++)
		snprintf(t[i], sizeof t[i], "%d", i < 3 ? u.id[i] : u.key);
	EXEC_ACT("use", t[0], t[1], t[2], t[3]);
}

ROW(229, "after exec, by the ids alone")
{
	struct used u = made_elsewhere();
	AFTER(u, exec_use(u));
}

static void close_all(void)
{
	struct rlimit l;
	MUST(getrlimit(RLIMIT_NOFILE, &l));
	int end = l.rlim_max > 70000 ? 70000 : (int)l.rlim_max;
	for (int fd = 0; fd < end; fd++)
		close(fd);
}

ROW(229, "after closing every descriptor")
{
	struct used u = made_elsewhere();
	AFTER(u, close_all());
	AFTER(u, { for (int fd = 0; fd < 1024; fd++) close(fd); });
}

ROW(229, "after closing every descriptor and exec")
{
	struct used u = made_elsewhere();
	AFTER(u, { close_all(); exec_use(u); });
}

ROW(229, "after putting another file on every descriptor")
{
	struct used u = made_elsewhere();
	AFTER(u, {
		struct rlimit l;
		int null = MUST(open("/dev/null", O_RDWR));
		MUST(getrlimit(RLIMIT_NOFILE, &l));
		for (int fd = 0; fd < (int)l.rlim_cur && fd < 70000; fd++)
			if (fd != null)
				dup2(null, fd);
	});
}

ROW(229, "descriptors that the program opened are still its own")
{
	struct used u = made_elsewhere();
	int ends[2];
	char c = 0;
	AFTER(u, {
		close_all();
		MUST(pipe(ends));
		EXPECT_EQ(ends[0], 0);
		EXPECT_EQ(use(&u), 0);
		EXPECT_EQ(write(ends[1], "x", 1), 1);
		EXPECT_EQ(read(ends[0], &c, 1), 1);
		EXPECT_EQ(c, 'x');
	});
}

ROW(229, "after setuid")
{
	NEED_ROOT();
	struct used u = made_elsewhere();
	AFTER(u, become(STRANGER, OTHER));
}

ROW(229, "after chroot to an empty folder")
{
	NEED_ROOT();
	struct used u = made_elsewhere();
	/* Removed before it is entered, so that nothing stays behind: an empty root all the same. */
	AFTER(u, {
		char path[] = "/tmp/emptyXXXXXX";
		if (!mkdtemp(path))
			SKIP("no folder in /tmp");
		MUST(chdir(path));
		MUST(rmdir(path));
		MUST(chroot("."));
	});
}

ROW(230, "with a soft limit of no descriptors")
{
	struct used u = made_elsewhere();
	struct rlimit none;
	MUST(getrlimit(RLIMIT_NOFILE, &none));
	none.rlim_cur = 0;
	AFTER(u, MUST(setrlimit(RLIMIT_NOFILE, &none)));
	AFTER(u, { close_all(); MUST(setrlimit(RLIMIT_NOFILE, &none)); });
}

ROW(230, "with a soft limit of no descriptors, in the child of one that used them")
{
	struct used u = made_elsewhere();
	struct rlimit none;
	MUST(getrlimit(RLIMIT_NOFILE, &none));
	none.rlim_cur = 0;
	EXPECT_EQ(use(&u), 0);
	AFTER(u, MUST(setrlimit(RLIMIT_NOFILE, &none)));
}

ROW(230, "with a descriptor limit of 0, for good")
{
	struct used u = made_elsewhere();
	struct rlimit none = { 0, 0 };
	AFTER(u, MUST(setrlimit(RLIMIT_NOFILE, &none)));
	AFTER(u, { close_all(); MUST(setrlimit(RLIMIT_NOFILE, &none)); });
}

ROW(230, "with every descriptor taken")
{
	struct used u = made_elsewhere();
	struct rlimit few = { 64, 64 };
	AFTER(u, {
		MUST(setrlimit(RLIMIT_NOFILE, &few));
		while (dup(2) >= 0)
			;
		EXPECT_EQ(errno, EMFILE);
	});
}

ROW(230, "the next descriptor that the program opens is the one it expects")
{
	struct used u = made_elsewhere();
	int first = MUST(dup(2));
	close(first);
	EXPECT_EQ(use(&u), 0);
	char *m = MUST(shmat(u.id[SHM], NULL, 0));
	EXPECT_EQ(dup(2), first);
	MUST(shmdt(m));
}

static int count_threads(void)
{
	int n = 0;
	DIR *d = opendir("/proc/self/task");
	EXPECT(d != NULL);
	for (struct dirent *e; (e = readdir(d));)
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

ROW(231, "no thread, child, signal, handler or mask of the implementation's is to be seen")
{
	struct used u = made_elsewhere();
	sigset_t before, after, pending;
	struct sigaction a[65], b;
	sigprocmask(SIG_SETMASK, NULL, &before);
	for (int s = 1; s < 65; s++)
		sigaction(s, NULL, &a[s]);
	for (int i = 0; i < 20; i++)
		EXPECT_EQ(use(&u), 0);
	EXPECT_EQ(count_threads(), 1);
	EXPECT_ERR(waitpid(-1, NULL, WNOHANG), ECHILD);
	sigprocmask(SIG_SETMASK, NULL, &after);
	sigpending(&pending);
	for (int s = 1; s < 65; s++) {
		EXPECT_EQ(sigismember(&before, s), sigismember(&after, s));
		EXPECT(sigismember(&pending, s) <= 0);
		if (sigaction(s, NULL, &b) == 0)
			EXPECT(a[s].sa_handler == b.sa_handler);
	}
}

static struct used in_handler;
static volatile sig_atomic_t handled, step_failed;
static void use_in_handler(int sig)
{
	int e = errno;
	(void)sig;
	handled++;
	int step = use(&in_handler);
	if (step)
		step_failed = step;
	errno = e;
}

ROW(232, "all calls work in handlers that interrupt all calls")
{
	in_handler = made_elsewhere();
	on_signal(SIGUSR1, use_in_handler, SA_RESTART);
	pid_t p, me = getpid();
	CHILD(p)
		while (getppid() == me) {
			kill(me, SIGUSR1);
			pause_ms(1);
		}
	double end = now() + 2;
	while (now() < end) {
		int step = use(&in_handler);
		EXPECT_EQ(step, 0);
	}
	kill(p, SIGKILL);
	EXPECT(handled > 10);
	EXPECT_EQ(step_failed, 0);
}

ROW(233, "errno is left alone by success; failure is -1, of shmat (void *)-1")
{
	struct used u = made_elsewhere();
	struct { long type; char text[8]; } m = { 1, "x" };
	union any_ds ds;
	char *at;
	for (int i = 0; i < 2; i++) {
		errno = 4321;
		EXPECT_EQ(shmget(u.key, 0, 0), u.id[SHM]);
		EXPECT((at = shmat(u.id[SHM], NULL, 0)) != (void *)-1);
		EXPECT_EQ(shmdt(at), 0);
		EXPECT_EQ(shmctl(u.id[SHM], IPC_STAT, &ds.shm), 0);
		EXPECT_EQ(semget(u.key, 0, 0), u.id[SEM]);
		EXPECT_EQ(op1(u.id[SEM], 0, 1, SEM_UNDO), 0);
		EXPECT_EQ(op1(u.id[SEM], 0, -1, SEM_UNDO), 0);
		EXPECT_EQ(semctl(u.id[SEM], 0, GETVAL), 0);
		EXPECT_EQ(msgget(u.key, 0), u.id[MSG]);
		EXPECT_EQ(msgsnd(u.id[MSG], &m, 1, 0), 0);
		EXPECT_EQ(msgrcv(u.id[MSG], &m, 1, 0, 0), 1);
		EXPECT_EQ(msgctl(u.id[MSG], IPC_STAT, &ds.msg), 0);
		EXPECT_EQ(keep(SEM, semget(IPC_PRIVATE, 1, 0600)) >= 0, 1);
		EXPECT_EQ(errno, 4321);
	}
	EXPECT(shmat(-1, NULL, 0) == (void *)-1);
	EXPECT_EQ(errno, EINVAL);
}

static void *wait_for_message(void *q)
{
	struct message m;
	ready(MSG, *(int *)q);
	receive(*(int *)q, &m, 77, 0);
	return NULL;
}
static void *wait_for_room(void *q)
{
	ready(MSG, *(int *)q);
	send_size(*(int *)q, 1, 10, 0);
	return NULL;
}
static pid_t sleeping_thread(void)
{
	pid_t tid = 0;
	UNTIL((tid = board->ready[0]) != 0);
	UNTIL_ASLEEP(tid);
	return tid;
}

ROW(234, "msgrcv and msgsnd are cancellation points")
{
	int q = new_queue();
	pthread_t t;
	void *result;
	EXPECT_OK(pthread_create(&t, NULL, wait_for_message, &q));
	sleeping_thread();
	EXPECT_OK(pthread_cancel(t));
	EXPECT_OK(pthread_join(t, &result));
	EXPECT(result == PTHREAD_CANCELED);
	struct msqid_ds d = queue_stat(q);
	d.msg_qbytes = 1;
	MUST(msgctl(q, IPC_SET, &d));
	EXPECT_OK(pthread_create(&t, NULL, wait_for_room, &q));
	sleeping_thread();
	EXPECT_OK(pthread_cancel(t));
	EXPECT_OK(pthread_join(t, &result));
	EXPECT(result == PTHREAD_CANCELED);
	EXPECT_OK(send_text(q, 77, "x", 0));
	EXPECT_EQ(queue_stat(q).msg_qnum, 1);
}

static void *wait_for_unit(void *set)
{
	int rc = op1(*(int *)set, 0, -1, 0);
	board->n[0] = rc == 0 ? 1 : -errno;
	pthread_testcancel();
	return NULL;
}

ROW(234, "semop is none")
{
	int set = new_set(1);
	pthread_t t;
	void *result;
	EXPECT_OK(pthread_create(&t, NULL, wait_for_unit, &set));
	UNTIL_COUNT(set, 0, GETNCNT, 1);
	EXPECT_OK(pthread_cancel(t));
	pause_ms(50);
	/* A libc that cancels by a signal (musl) ends the sleep with it: that is row 123. */
	EXPECT(board->n[0] == 0 || board->n[0] == -EINTR);
	if (semctl(set, 0, GETNCNT) == 1)
		EXPECT_OK(op1(set, 0, 1, 0));
	EXPECT_OK(pthread_join(t, &result));
	EXPECT(result == PTHREAD_CANCELED);
	EXPECT(board->n[0] == 1 || board->n[0] == -EINTR);
}
