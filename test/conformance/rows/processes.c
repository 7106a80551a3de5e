/* Rows 229 and 230: the calls in every state that a process can be in. */
#include "case.h"
#include <dirent.h>
#include "use.h"

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

static void makes_and_removes(atomic_int *failed)
{
	while (!stop_threads) {
		int set = semget(IPC_PRIVATE, 1, 0600);
		if (set < 0 || semctl(set, 0, SETVAL, 7) != 0 || semctl(set, 0, GETVAL) != 7 || semctl(set, 0, IPC_RMID) != 0)
			(*failed)++;
	}
}
static void *in_thread_itself(void *unused)
{
	makes_and_removes(&board->n[1]);
	return unused;
}
static void *in_vfork_child(void *unused)
{
	pid_t q = vfork();
	if (q == 0) {
		board->n[0] = getpid();
		makes_and_removes(&board->n[2]);
		_exit(0);
	}
	JOIN(q);
	return unused;
}

/* Longer than anybody who waits for the child takes it for slow. */
ROW(229, "beside a vfork child that is stopped in the midst of its calls")
{
	pthread_t t[2];
	new_set(1);	/* the process's first call is not the child's */
	EXPECT_OK(pthread_create(&t[0], NULL, in_vfork_child, NULL));
	UNTIL(board->n[0] != 0);
	EXPECT_OK(pthread_create(&t[1], NULL, in_thread_itself, NULL));
	for (int i = 0; i < 12; i++) {
		pause_ms(5 + i % 5);
		EXPECT_OK(kill(board->n[0], SIGSTOP));
		pause_ms(150);
		EXPECT_OK(kill(board->n[0], SIGCONT));
	}
	stop_threads = 1;
	for (int i = 0; i < 2; i++)
		EXPECT_OK(pthread_join(t[i], NULL));
	EXPECT_EQ(board->n[1], 0);
	EXPECT_EQ(board->n[2], 0);
}

static int descriptors(void)
{
	int n = 0;
	DIR *d = opendir("/proc/self/fd");
	while (d && readdir(d))
		n++;
	closedir(d);
	return n;
}

/* A vfork child has the memory, but descriptors of its own. */
ROW(229, "beside a vfork child that made the first call, again and again")
{
	pthread_t t[2];
	int before = descriptors();
	EXPECT_OK(pthread_create(&t[0], NULL, in_vfork_child, NULL));
	UNTIL(board->n[0] != 0);
	EXPECT_OK(pthread_create(&t[1], NULL, in_thread_itself, NULL));
	pause_ms(1000);
	stop_threads = 1;
	for (int i = 0; i < 2; i++)
		EXPECT_OK(pthread_join(t[i], NULL));
	EXPECT_EQ(board->n[1], 0);
	EXPECT_EQ(board->n[2], 0);
	EXPECT(descriptors() < before + 10);
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
static void exec_use_with(struct used u, char *const envp[])
{
	char t[4][16];
	for (int i = 0; i < 4; i++)
		snprintf(t[i], sizeof t[i], "%d", i < 3 ? u.id[i] : u.key);
	execle(self_path, self_path, "--act", "use", t[0], t[1], t[2], t[3], (char *)0, envp);
}
static void exec_use(struct used u) { exec_use_with(u, environ); }

ROW(229, "after exec, by the ids alone")
{
	struct used u = made_elsewhere();
	AFTER(u, exec_use(u));
}

ROWS("142,229", "after exec with an environment made anew, as of su - and env -i")
{
	struct used u = made_elsewhere();
	char *one[] = { (char *)"A=1", NULL }, *bad[] = { (char *)"A=1", BAD_POINTER, NULL };
	AFTER(u, exec_use_with(u, one + 1));
	AFTER(u, exec_use_with(u, one));
	AFTER(u, exec_use_with(u, NULL));
	AFTER(u, { clearenv(); exec_use(u); });
	char *argv[] = { self_path, NULL }, *const *volatile nowhere = BAD_POINTER;
	EXPECT_ERR(execve(self_path, argv, nowhere), EFAULT);
	EXPECT_ERR(execve(self_path, argv, bad), EFAULT);
	EXPECT_ERR(execve("/nowhere", argv, one), ENOENT);
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
