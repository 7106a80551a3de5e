/* Rows 139 to 143: at whose end SEM_UNDO is undone. What an adjustment comes to is in semadj.c; thousands of
 * deaths, and who sees the undo when, are in hard.c. */
#include "case.h"

ROW(139, "the process's end adds the negated sum of its SEM_UNDO operations")
{
	int set = new_set(3);
	MUST(op1(set, 0, 10, 0));
	pid_t p;
	CHILD(p) {
		EXPECT_OK(op1(set, 0, -4, SEM_UNDO));
		EXPECT_OK(op1(set, 0, -1, SEM_UNDO));
		EXPECT_OK(op1(set, 0, 2, 0));
		EXPECT_OK(SEMOP(set, { 1, 3, SEM_UNDO }, { 1, -1, SEM_UNDO }, { 2, 5, 0 }));
		EXPECT_EQ(value(set, 0), 7);
		EXPECT_EQ(value(set, 1), 2);
	}
	JOIN(p);
	EXPECT_EQ(value(set, 0), 12);
	EXPECT_EQ(value(set, 1), 0);
	EXPECT_EQ(value(set, 2), 5);
}

ROW(139, "a call that fails leaves nothing to undo")
{
	int set = new_set(2);
	MUST(op1(set, 0, 5, 0));
	pid_t p;
	CHILD(p) {
		EXPECT_ERR(SEMOP(set, { 0, -1, SEM_UNDO }, { 1, -1, SEM_UNDO | IPC_NOWAIT }), EAGAIN);
		EXPECT_ERR(op1(set, 0, 32767, SEM_UNDO), ERANGE);
	}
	JOIN(p);
	EXPECT_EQ(value(set, 0), 5);
	EXPECT_EQ(value(set, 1), 0);
}

ROW(139, "what a sleeper was given is undone when it ends")
{
	int set = new_set(1);
	pid_t p;
	CHILD(p)
		EXPECT_OK(op1(set, 0, -1, SEM_UNDO));
	UNTIL_COUNT(set, 0, GETNCNT, 1);
	EXPECT_OK(op1(set, 0, 1, 0));
	JOIN(p);
	EXPECT_EQ(value(set, 0), 1);
}

ROW(140, "on exit, _exit and signals, before the parent's wait returns")
{
	static const int ways[] = { 0, -1, SIGKILL, SIGSEGV, SIGABRT, SIGTERM };
	int set = new_set(1);
	struct rlimit no_core = { 0, 0 };
	MUST(setrlimit(RLIMIT_CORE, &no_core));
	for (int i = 0; i < 120; i++) {
		int way = ways[i % 6];
		pid_t p;
		CHILD(p) {
			EXPECT_OK(op1(set, 0, 3, SEM_UNDO));
			if (way > 0)
				raise(way);
			if (way == 0)
				exit(0);
		}
		MUST(waitpid(p, NULL, 0));
		EXPECT_EQ(value(set, 0), 0);
	}
}

ROWS("140,230", "and of a process that has no descriptors at all")
{
	int set = new_set(1);
	struct rlimit none;
	MUST(getrlimit(RLIMIT_NOFILE, &none));
	none.rlim_cur = 0;
	for (int i = 0; i < 300; i++) {
		pid_t p;
		CHILD(p) {
			MUST(syscall(SYS_close_range, 3, ~0U, 0));
			MUST(setrlimit(RLIMIT_NOFILE, &none));
			EXPECT_OK(op1(set, 0, 3, SEM_UNDO));
			if (i % 2)
				raise(SIGKILL);
		}
		MUST(waitpid(p, NULL, 0));
		EXPECT_EQ(value(set, 0), 0);
	}
}

ROW(140, "and of a process that its parent left to another one, which uses other sets")
{
	struct { _Atomic int set, ready, orphan; } *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		FAIL("mmap");
	MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
	MUST(op1(new_set(1), 0, 1, 0));
	pid_t p, q;
	CHILD(p) {
		pid_t parent = getpid();
		shared->set = new_set(1);
		EXPECT_OK(op1(shared->set, 0, 1, 0));
		CHILD(q) {
			MUST(prctl(PR_SET_PDEATHSIG, 0));
			shared->ready = 1;
			UNTIL(getppid() != parent);
			EXPECT_OK(op1(shared->set, 0, 7, SEM_UNDO));
			shared->orphan = getpid();
			pause();
		}
		UNTIL(shared->ready);
	}
	JOIN(p);
	UNTIL(shared->orphan != 0);
	EXPECT_EQ(value(shared->set, 0), 8);
	MUST(kill(shared->orphan, SIGKILL));
	MUST(waitpid(shared->orphan, NULL, 0));
	EXPECT_EQ(value(shared->set, 0), 1);
}

ROW(141, "a forked child has nothing to undo")
{
	int set = new_set(1);
	pid_t p, q;
	CHILD(p) {
		EXPECT_OK(op1(set, 0, 3, SEM_UNDO));
		CHILD(q)
			EXPECT_EQ(value(set, 0), 3);
		JOIN(q);
		EXPECT_EQ(value(set, 0), 3);
		CHILD(q)
			EXPECT_OK(op1(set, 0, 4, SEM_UNDO));
		JOIN(q);
		EXPECT_EQ(value(set, 0), 3);
	}
	JOIN(p);
	EXPECT_EQ(value(set, 0), 0);
}

ACT(value_is)	/* set, expected */
{
	return argc == 2 && semctl(atoi(argv[0]), 0, GETVAL) == atoi(argv[1]) ? 0 : 1;
}

ACT(idle)	/* never uses a call of the family: only lives, until its standard input ends */
{
	char c;
	return (int)read(0, &c, 1);
}

ROW(142, "exec keeps what is to be undone, until the new program ends")
{
	int set = new_set(1);
	char text[16];
	snprintf(text, sizeof text, "%d", set);
	pid_t p;
	CHILD(p) {
		EXPECT_OK(op1(set, 0, 3, SEM_UNDO));
		EXEC_ACT("value_is", text, "3");
	}
	JOIN(p);
	EXPECT_EQ(value(set, 0), 0);
}

ROWS("140,142", "and before wait returns, though the new program made calls without SEM_UNDO only")
{
	int set = new_set(1);
	char text[16];
	snprintf(text, sizeof text, "%d", set);
	for (int i = 0; i < 200; i++) {
		pid_t p;
		CHILD(p) {
			EXPECT_OK(op1(set, 0, 3, SEM_UNDO));
			EXEC_ACT("value_is", text, "3");
		}
		JOIN(p);
		EXPECT_EQ(value(set, 0), 0);
	}
}

ROW(142, "also when the parent of the process ends before it")
{
	int set = new_set(1), seg = new_segment(4096);
	MUST(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
	for (int i = 0; i < 40; i++) {
		int ends[2], told[2];
		MUST(semctl(set, 0, SETVAL, 1));
		MUST(pipe2(ends, O_CLOEXEC));
		MUST(pipe2(told, O_CLOEXEC));
		pid_t parent, child;
		CHILD(parent) {
			EXPECT(shmat(seg, NULL, 0) != (void *)-1);
			MUST(child = fork());
			if (child == 0) {
				MUST(dup2(ends[0], 0));
				EXPECT_OK(op1(set, 0, -1, SEM_UNDO));
				child = getpid();
				MUST(write(told[1], &child, sizeof child));
				EXEC_ACT("idle");
			}
			if (i % 2)
				pause();
			raise(SIGKILL);
		}
		MUST(close(told[1]));
		EXPECT_EQ(read(told[0], &child, sizeof child), (ssize_t)sizeof child);
		pause_ms(i % 7);
		kill(parent, SIGKILL);
		MUST(waitpid(parent, NULL, 0));
		for (int j = 0; j < 10; j++) {
			EXPECT_EQ(value(set, 0), 0);
			pause_ms(1);
		}
		kill(child, SIGKILL);
		MUST(waitpid(child, NULL, 0));
		EXPECT_EQ(value(set, 0), 1);
		close(ends[0]);
		close(ends[1]);
		close(told[0]);
	}
}

ROW(142, "also a program that never makes a call of its own")
{
	int set = new_set(1), ends[2];
	MUST(pipe2(ends, O_CLOEXEC));
	pid_t p;
	CHILD(p) {
		MUST(dup2(ends[0], 0));
		EXPECT_OK(op1(set, 0, 3, SEM_UNDO));
		EXEC_ACT("idle");
	}
	close(ends[0]);
	UNTIL(semctl(set, 0, GETVAL) == 3);
	char link[64], exe[PATH_MAX] = "";
	snprintf(link, sizeof link, "/proc/%d/cmdline", (int)p);
	double end = now() + WAIT_SECONDS;
	while (!memmem(exe, sizeof exe, "idle", 4)) {
		int fd = open(link, O_RDONLY);
		if (fd >= 0) {
			(void)!read(fd, exe, sizeof exe);
			close(fd);
		}
		if (now() > end)
			FAIL("the child did not exec");
	}
	pause_ms(50);
	EXPECT_EQ(value(set, 0), 3);
	close(ends[1]);
	JOIN(p);
	EXPECT_EQ(value(set, 0), 0);
}

static void *undo_in_thread(void *arg)
{
	EXPECT_OK(op1(*(int *)arg, 0, 1, SEM_UNDO));
	return NULL;
}

ROW(143, "threads share one list: a thread's end undoes nothing")
{
	int set = new_set(1);
	pid_t p;
	CHILD(p) {
		EXPECT_OK(op1(set, 0, 1, SEM_UNDO));
		for (int i = 0; i < 3; i++) {
			in_thread(undo_in_thread, &set);
		}
		pause_ms(20);
		EXPECT_EQ(value(set, 0), 4);
	}
	JOIN(p);
	EXPECT_EQ(value(set, 0), 0);
}

static void *outlive_main(void *arg)
{
	int set = *(int *)arg;
	UNTIL(thread_state(getpid()) == 'Z');
	board->n[0] = 1;
	until_flag(1);
	board->n[2] = value(set, 0);
	return NULL;
}

ROW(143, "undone when the last thread goes, not when main does")
{
	int set = new_set(1);
	pid_t p;
	CHILD(p) {
		static int id;
		pthread_t t;
		id = set;
		EXPECT_OK(op1(set, 0, 5, SEM_UNDO));
		EXPECT_OK(pthread_create(&t, NULL, outlive_main, &id));
		syscall(SYS_exit, 0);	/* this thread only */
	}
	until_flag(0);
	pause_ms(20);
	EXPECT_EQ(value(set, 0), 5);
	board->n[1] = 1;
	MUST(waitpid(p, NULL, 0));
	EXPECT_EQ(board->n[2], 5);
	EXPECT_EQ(value(set, 0), 0);
}

ROW(143, "a thread that takes a unit may end before the one that gives it back")
{
	int set = new_set(1);
	pid_t p;
	CHILD(p) {
		in_thread(undo_in_thread, &set);
		EXPECT_OK(op1(set, 0, -1, SEM_UNDO));
	}
	JOIN(p);
	EXPECT_EQ(value(set, 0), 0);
}
