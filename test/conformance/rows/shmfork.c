/* Rows 77 to 80: what fork, exec, threads and the end of a process do to attaches. */
#include "case.h"

ROW(77, "a forked child has all attaches, and they count at once")
{
	int a = new_segment(4096), b = new_segment(4096), ends[2];
	char *m = MUST(shmat(a, NULL, 0));
	MUST((long)shmat(a, NULL, SHM_RDONLY));
	MUST((long)shmat(b, NULL, 0));
	MUST(pipe(ends));
	for (int i = 1; i <= 20; i++) {
		pid_t p;
		CHILD(p) {
			char c;
			close(ends[1]);
			m[1] = (char)i;
			(void)!read(ends[0], &c, 1);
		}
		EXPECT_EQ(nattch(a), 2 + 2 * i);
		EXPECT_EQ(nattch(b), 1 + i);
		UNTIL(m[1] == i);
	}
	close(ends[1]);
	for (int i = 0; i < 20; i++)
		MUST(wait(NULL));
	EXPECT_EQ(nattch(a), 2);
	EXPECT_EQ(nattch(b), 1);
}

ROW(77, "fork sets atime and lpid, the parent's; the child's exit sets dtime and lpid")
{
	int id = new_segment(4096);
	pid_t p, q;
	CHILD(p) {
		MUST((long)shmat(id, NULL, 0));
		CHILD(q) {
			pause_ms(1100);
		}
		board->n[0] = q;
		struct shmid_ds d = segment_stat(id);
		EXPECT_EQ(d.shm_lpid, getpid());
		EXPECT_EQ(d.shm_dtime, 0);
		time_t attached = d.shm_atime;
		JOIN(q);
		d = segment_stat(id);
		EXPECT_EQ(d.shm_lpid, q);
		EXPECT(d.shm_dtime > attached);
	}
	JOIN(p);
	EXPECT_EQ(segment_stat(id).shm_lpid, p);
}

ROW(77, "a child that ends at once, before anybody looked, is lpid all the same")
{
	int id = new_segment(4096);
	MUST(shmat(id, NULL, 0));
	for (int round = 0; round < 20; round++) {
		pid_t p = MUST(fork());
		if (p == 0)
			syscall(SYS_exit, 0);
		MUST(waitpid(p, NULL, 0));
		EXPECT_EQ(segment_stat(id).shm_lpid, p);
		EXPECT_EQ(nattch(id), 1);
	}
}

ROW(77, "of several children that ended before anybody looked, the last is lpid")
{
	int id = new_segment(4096);
	pid_t p, q;
	MUST(shmat(id, NULL, 0));
	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < 4; i++) {
			p = MUST(fork());
			if (p == 0)
				syscall(SYS_exit, 0);
			MUST(waitpid(p, NULL, 0));
		}
		EXPECT_EQ(segment_stat(id).shm_lpid, p);
		CHILD(p) {
			CHILD(q) {}
			JOIN(q);
		}
		JOIN(p);
		EXPECT_EQ(segment_stat(id).shm_lpid, p);
	}
}

ROW(77, "grandchildren count at once, too, and the forking child is lpid")
{
	int id = new_segment(4096);
	MUST(shmat(id, NULL, 0));
	for (int round = 0; round < 10; round++) {
		pid_t p, q;
		CHILD(p) {
			CHILD(q)
				pause_ms(60000);
			EXPECT_EQ(nattch(id), 3);
			EXPECT_EQ(segment_stat(id).shm_lpid, getpid());
			kill(q, SIGKILL);
			MUST(waitpid(q, NULL, 0));
			EXPECT_EQ(nattch(id), 2);
		}
		JOIN(p);
		EXPECT_EQ(nattch(id), 1);
	}
}

ROW(77, "the child of a raw clone counts before its first call, and without one")
{
	int id = new_segment(4096);
	MUST((long)shmat(id, NULL, 0));
	long p = MUST(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
	if (p == 0) {
		pause();
		_exit(1);
	}
	EXPECT_EQ(nattch(id), 2);
	kill((pid_t)p, SIGKILL);
	wait_for((pid_t)p);
	EXPECT_EQ(nattch(id), 1);
}

ROW(77, "what the parent attaches after the fork is not the child's")
{
	int id = new_segment(4096), begin[2];
	MUST(pipe(begin));
	pid_t p;
	CHILD(p) {
		char c;
		(void)!read(begin[0], &c, 1);
		EXPECT_EQ(nattch(id), 1);	/* its first call */
		MUST((long)shmat(id, NULL, 0));
		EXPECT_EQ(nattch(id), 2);
	}
	MUST((long)shmat(id, NULL, 0));
	MUST(write(begin[1], "", 1));
	JOIN(p);
	EXPECT_EQ(nattch(id), 1);
}

ROW(77, "a child detaches its own attach only")
{
	int id = new_segment(4096);
	char *m = MUST(shmat(id, NULL, 0));
	pid_t p;
	CHILD(p) {
		EXPECT_EQ(nattch(id), 2);
		EXPECT_OK(shmdt(m));
		EXPECT_EQ(nattch(id), 1);
		EXPECT_ERR(shmdt(m), EINVAL);
	}
	JOIN(p);
	EXPECT_EQ(fault(m, true), 0);
	EXPECT_EQ(nattch(id), 1);
	EXPECT_OK(shmdt(m));
}

struct inherited { int id; void *attach; };
static int unmaps(void *arg)
{
	struct inherited *i = arg;
	EXPECT_OK(munmap(i->attach, 4096));	/* no call of the family yet */
	EXPECT_EQ(nattch(i->id), 3);
	return 0;
}

ROW(77, "nor does a child that libc's clone() made unmap what the parent has")
{
	static char stack[1 << 18] __attribute__((aligned(16)));
	struct inherited i = { .id = new_segment(4096) };
	MUST((long)shmat(i.id, NULL, 0));
	i.attach = MUST(shmat(i.id, NULL, 0));
	for (int round = 0; round < 3; round++) {
		JOIN((pid_t)MUST(clone(unmaps, stack + sizeof stack, SIGCHLD, &i)));
		EXPECT_EQ(nattch(i.id), 2);
		EXPECT_EQ(fault(i.attach, true), 0);
		pid_t p;
		CHILD(p) {}	/* after a fork, as before */
		JOIN(p);
	}
	EXPECT_OK(shmdt(i.attach));
	EXPECT_EQ(nattch(i.id), 1);
}

ACT(nattch_is)	/* id, expected */
{
	struct shmid_ds d;
	if (argc != 2 || shmctl(atoi(argv[0]), IPC_STAT, &d) < 0)
		return 2;
	return (long)d.shm_nattch == atol(argv[1]) ? 0 : 1;
}

ROW(78, "exec detaches everything")
{
	int id = new_segment(4096);
	char text[16];
	snprintf(text, sizeof text, "%d", id);
	MUST((long)shmat(id, NULL, 0));
	pid_t p;
	CHILD(p) {
		MUST((long)shmat(id, NULL, 0));
		EXPECT_EQ(nattch(id), 3);
		EXEC_ACT("nattch_is", text, "1");
	}
	JOIN(p);
	EXPECT_EQ(nattch(id), 1);
}

ACT(read_end)
{
	char c;
	return read(STDIN_FILENO, &c, 1) != 0;
}

ROWS("77,78", "a child that calls exec at once, before anybody looked, is lpid and sets dtime")
{
	int id = new_segment(4096);
	void *attached = MUST(shmat(id, NULL, 0));
	int until[2], executed[2];
	MUST(pipe2(until, O_CLOEXEC));
	MUST(pipe2(executed, O_CLOEXEC));
	EXPECT_EQ(segment_stat(id).shm_dtime, 0);
	pid_t p = MUST(fork());
	if (p == 0) {
		dup2(until[0], STDIN_FILENO);
		EXEC_ACT("read_end");
		_exit(99);
	}
	char c;
	close(executed[1]);
	EXPECT_EQ(read(executed[0], &c, 1), 0);	/* the exec has closed it */
	struct shmid_ds d = segment_stat(id);
	EXPECT_EQ(d.shm_nattch, 1);
	EXPECT_EQ(d.shm_lpid, p);
	EXPECT(d.shm_dtime >= d.shm_atime && d.shm_dtime <= time(NULL));
	MUST(shmdt(attached));
	d = segment_stat(id);
	EXPECT_EQ(d.shm_nattch, 0);
	EXPECT_EQ(d.shm_lpid, getpid());
	close(until[1]);
	JOIN(p);
}

/* A child that calls exec once it has got a byte. */
struct late { pid_t pid; int go, until, executed; };

static struct late late_exec(int way)
{
	int go[2], until[2], executed[2];
	MUST(pipe2(go, O_CLOEXEC));
	MUST(pipe2(until, O_CLOEXEC));
	MUST(pipe2(executed, O_CLOEXEC));
	pid_t p = MUST(fork());
	if (p == 0) {
		char c, *argv[] = { self_path, (char *)"--act", (char *)"read_end", NULL };
		close(go[1]);
		dup2(until[0], STDIN_FILENO);
		if (read(go[0], &c, 1) < 0)
			_exit(98);
		char *slash = strrchr(self_path, '/');
		execv("/nowhere", argv);	/* fails: nothing is detached */
		switch (way) {
		case 0: EXEC_ACT("read_end"); break;
		case 1: execv(self_path, argv); break;
		case 2: execve(self_path, argv, environ); break;
		case 3: execle(self_path, self_path, "--act", "read_end", (char *)0, environ); break;
		case 4: fexecve(open(self_path, O_RDONLY | O_CLOEXEC), argv, environ); break;
		case 5: *slash = '\0'; setenv("PATH", self_path, 1); execvp(slash + 1, argv); break;
		case 6: *slash = '\0'; setenv("PATH", self_path, 1); execvpe(slash + 1, argv, environ); break;
		case 7: *slash = '\0'; setenv("PATH", self_path, 1); execlp(slash + 1, "x", "--act", "read_end", (char *)0); break;
		case 8: syscall(SYS_execve, self_path, argv, environ); break;
		}
		_exit(99);
	}
	close(go[0]);
	close(until[0]);
	close(executed[1]);
	return (struct late){ p, go[1], until[1], executed[0] };
}

ROWS("77,78", "exec detaches when it is called, however, not when the child was born: lpid")
{
	for (int way = 0; way <= 8; way++) {
		int id = new_segment(4096);
		void *first = MUST(shmat(id, NULL, 0)), *second = MUST(shmat(id, NULL, 0));
		struct late a = late_exec(way), b = late_exec(way);
		char c;
		MUST(write(a.go, "", 1));
		EXPECT_EQ(read(a.executed, &c, 1), 0);
		MUST(shmdt(first));
		MUST(write(b.go, "", 1));
		EXPECT_EQ(read(b.executed, &c, 1), 0);
		struct shmid_ds d = segment_stat(id);
		EXPECT_EQ(d.shm_nattch, 1);
		EXPECT_EQ(d.shm_lpid, b.pid);
		MUST(shmdt(second));
		EXPECT_EQ(segment_stat(id).shm_lpid, getpid());
		close(a.until);
		close(b.until);
		JOIN(a.pid);
		JOIN(b.pid);
	}
}

ROW(78, "exit, _exit and death by signal detach before the parent can know")
{
	static const int ways[] = { 0, -1, SIGKILL, SIGSEGV, SIGABRT, SIGTERM };
	int id = new_segment(4096);
	struct rlimit no_core = { 0, 0 };
	MUST(setrlimit(RLIMIT_CORE, &no_core));
	for (int i = 0; i < 120; i++) {
		int way = ways[i % 6];
		pid_t p;
		CHILD(p) {
			MUST((long)shmat(id, NULL, 0));
			MUST((long)shmat(id, NULL, 0));
			if (way > 0)
				raise(way);
			if (way == 0)
				exit(0);
		}
		MUST(waitpid(p, NULL, 0));
		EXPECT_EQ(nattch(id), 0);
	}
	EXPECT(segment_stat(id).shm_dtime > 0);
}

static void *attach_in_thread(void *arg)
{
	int id = *(int *)arg;
	char *m = shmat(id, NULL, 0);
	board->n[0] = (int)nattch(id);
	*m = 't';
	return m;
}

ROW(79, "threads do not count: one attach, wherever it was made, lives as long as the process")
{
	int id = new_segment(4096);
	pthread_t t[4];
	void *m;
	EXPECT_OK(pthread_create(&t[0], NULL, attach_in_thread, &id));
	EXPECT_OK(pthread_join(t[0], &m));
	EXPECT_EQ(board->n[0], 1);
	EXPECT_EQ(nattch(id), 1);
	EXPECT_EQ(*(char *)m, 't');
	EXPECT_OK(shmdt(m));
	EXPECT_EQ(nattch(id), 0);
}

ROW(79, "a vfork child does not count, until exit or exec")
{
	int id = new_segment(4096);
	char text[16];
	snprintf(text, sizeof text, "%d", id);
	MUST((long)shmat(id, NULL, 0));
	volatile long inside = -1;
	pid_t p = vfork();
	if (p == 0) {
		struct shmid_ds d;
		if (shmctl(id, IPC_STAT, &d) == 0)
			inside = (long)d.shm_nattch;
		_exit(0);
	}
	EXPECT_EQ(inside, 1);
	MUST(waitpid(p, NULL, 0));
	EXPECT_EQ(nattch(id), 1);
	p = vfork();
	if (p == 0) {
		EXEC_ACT("nattch_is", text, "1");
		_exit(9);
	}
	JOIN(p);
	EXPECT_EQ(nattch(id), 1);
}

ROW(80, "a fork that leaves an attach out does not set its atime and lpid")
{
	int id = new_segment(4096);
	char *m = MUST(shmat(id, NULL, 0));
	pid_t p, q;
	CHILD(p) {
		MUST(shmat(id, NULL, 0));
		board->n[0] = 1;
		pause_ms(60000);
	}
	UNTIL(board->n[0]);
	EXPECT_EQ(segment_stat(id).shm_lpid, p);
	EXPECT_OK(madvise(m, 4096, MADV_DONTFORK));
	CHILD(q)
		;
	JOIN(q);
	EXPECT_EQ(segment_stat(id).shm_lpid, p);
}

ROW(80, "MADV_DONTFORK: the child does not inherit and does not count")
{
	int id = new_segment(4096);
	char *m = MUST(shmat(id, NULL, 0));
	MUST(madvise(m, page_size(), MADV_DONTFORK));
	pid_t p;
	CHILD(p) {
		EXPECT_EQ(nattch(id), 1);
		EXPECT_EQ(fault(m, false), SIGSEGV);
	}
	JOIN(p);
	EXPECT_EQ(nattch(id), 1);
	MUST(madvise(m, page_size(), MADV_DOFORK));
	CHILD(p)
		EXPECT_EQ(nattch(id), 2);
	JOIN(p);
}
