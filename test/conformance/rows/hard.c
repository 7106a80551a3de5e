/* Programs that break naive implementations: each stands for a way in which real programs are
 * interrupted, stopped or killed in the middle of a call. Trials are bounded by number and time. */
#include "case.h"
#include <sys/time.h>

#define TRIALS(n, limit, seconds) \
	for (double n##_end = now() + (seconds), n##_once = 1; n##_once; n##_once = 0) \
		for (int n = 0; n < (limit) && now() < n##_end; n++)

/* ---- siglongjmp out of a handler that interrupted semop ---- */

static sigjmp_buf out;
static void jump_out(int sig)
{
	(void)sig;
	atomic_fetch_add(&board->n[4], 1);
	siglongjmp(out, 1);
}

/* Sleeps in semop(-1) until the handler jumps out of it, or a unit comes. board->n[0] is the round
 * whose sleep is over, board->n[1] the one after which the next may begin, board->n[4] counts the
 * handler's runs: the signal may also come when the sleep is over already. */
static void sleep_and_jump(int set)
{
	static volatile int round;
	on_signal(SIGUSR1, jump_out, 0);
	for (;;) {
		round++;
		if (sigsetjmp(out, 1) == 0)
			MUST(op1(set, 0, -1, 0));
		board->n[0] = round;
		UNTIL(board->n[1] >= round);
	}
}

LONG_ROWS("123,130,235", "siglongjmp: a unit given after a handler jumped out of semop stays in the semaphore", 60)
{
	int set = new_set(1);
	pid_t p;
	CHILD(p)
		sleep_and_jump(set);
	TRIALS(i, 500, 3) {
		UNTIL_COUNT(set, 0, GETNCNT, 1);
		kill(p, SIGUSR1);
		UNTIL(board->n[0] == i + 1);
		EXPECT_EQ(semctl(set, 0, GETNCNT), 0);
		EXPECT_OK(op1(set, 0, 1, 0));
		EXPECT_EQ(value(set, 0), 1);
		EXPECT_OK(op1(set, 0, -1, IPC_NOWAIT));
		board->n[1] = i + 1;
	}
}

ROWS("123,160", "siglongjmp: SETALL finds nobody asleep where a handler jumped out, and leaves otime alone")
{
	int set = new_set(1);
	unsigned short one = 1;
	pid_t p;
	CHILD(p)
		sleep_and_jump(set);
	UNTIL_COUNT(set, 0, GETNCNT, 1);
	kill(p, SIGUSR1);
	UNTIL(board->n[0] == 1);
	EXPECT_OK(semctl(set, 0, SETALL, (union semun){ .array = &one }));
	EXPECT_EQ(set_stat(set).sem_otime, 0);
	EXPECT_EQ(value(set, 0), 1);
}

LONG_ROWS("123,130,235", "siglongjmp-race: signal and unit at once: the unit is taken once or not at all", 60)
{
	int set = new_set(1);
	pid_t p, giver;
	CHILD(p)
		sleep_and_jump(set);
	CHILD(giver)
		for (int i = 1;; i++) {
			UNTIL(board->n[2] >= i);
			MUST(op1(set, 0, 1, 0));
			board->n[3] = i;
		}
	TRIALS(i, 500, 3) {
		UNTIL_COUNT(set, 0, GETNCNT, 1);
		board->n[2] = i + 1;
		for (volatile int spin = 0; spin < i % 50 * 100; spin++)
			;
		kill(p, SIGUSR1);
		UNTIL(board->n[0] == i + 1 && board->n[3] == i + 1 && board->n[4] == i + 1);
		EXPECT_EQ(semctl(set, 0, GETNCNT), 0);
		int left = value(set, 0), last = semctl(set, 0, GETPID);
		EXPECT(left == 0 || left == 1);
		EXPECT_EQ(last, left ? giver : p);
		if (left)
			EXPECT_OK(op1(set, 0, -1, IPC_NOWAIT));
		board->n[1] = i + 1;
	}
}

/* ---- a handler that calls semop on the set that it interrupted ---- */

static int handler_set;
static volatile sig_atomic_t handled;
static void semop_in_handler(int sig)
{
	int e = errno;
	(void)sig;
	handled++;
	if (SEMOP(handler_set, { 0, 1, 0 }, { 1, 2, SEM_UNDO }) < 0 ||
	    SEMOP(handler_set, { 1, -2, SEM_UNDO }, { 0, -1, 0 }) < 0 ||
	    op1(handler_set, 0, 1, 0) < 0 || op1(handler_set, 0, -1, 0) < 0)
		FAIL("semop in the handler: %s", errno_name(errno));
	errno = e;
}

static void every(int microseconds)
{
	struct itimerval t = { { 0, microseconds }, { 0, microseconds } };
	MUST(setitimer(ITIMER_REAL, &t, NULL));
}

LONG_ROWS("107,232", "handler: semop in a handler that interrupts semop on the same set", 60)
{
	handler_set = new_set(2);
	set_value(handler_set, 0, 10);
	set_value(handler_set, 1, 10);
	on_signal(SIGALRM, semop_in_handler, 0);
	every(300);
	TRIALS(i, 1000000, 2) {
		EXPECT_OK(op1(handler_set, 0, 1, 0));
		EXPECT_OK(SEMOP(handler_set, { 0, -1, SEM_UNDO }, { 1, 1, 0 }));
		EXPECT_OK(SEMOP(handler_set, { 1, -1, 0 }, { 0, 1, SEM_UNDO }));
		EXPECT_OK(op1(handler_set, 0, -1, 0));
	}
	every(0);
	EXPECT(handled > 10);
	EXPECT_EQ(value(handler_set, 0), 10);
	EXPECT_EQ(value(handler_set, 1), 10);
}

static void unit_in_handler(int sig)
{
	(void)sig;
	if (op1(handler_set, 0, 1, 0) < 0)
		FAIL("semop in the handler: %s", errno_name(errno));
}

ROWS("123,232", "handler-gives: a handler gives the unit that the interrupted call waits for: EINTR, and it is there")
{
	handler_set = new_set(1);
	for (int i = 0; i < 50; i++) {
		pid_t p;
		CHILD(p) {
			on_signal(SIGUSR1, unit_in_handler, SA_RESTART);
			EXPECT_ERR(op1(handler_set, 0, -1, 0), EINTR);
			EXPECT_EQ(value(handler_set, 0), 1);
			EXPECT_OK(op1(handler_set, 0, -1, 0));
		}
		UNTIL_COUNT(handler_set, 0, GETNCNT, 1);
		kill(p, SIGUSR1);
		JOIN(p);
		EXPECT_EQ(value(handler_set, 0), 0);
	}
}

/* ---- an owner stopped inside a critical section ---- */

static void work(int set, int queue, int me)
{
	for (;;) {
		struct message m;
		MUST(op1(set, 0, -1, 0));
		MUST(SEMOP(set, { 0, 1, SEM_UNDO }, { 1, -1, SEM_UNDO }));
		MUST(SEMOP(set, { 1, 1, SEM_UNDO }, { 0, -1, SEM_UNDO }));
		MUST(op1(set, 0, 1, 0));
		MUST(send_text(queue, 100 + me, "mine", 0));
		EXPECT_EQ_OR_ERRNO(receive(queue, &m, 100 + me, 0), 4);
		atomic_fetch_add(&board->n[me], 1);
	}
}

LONG_ROWS("236,237", "stopped: others go on while one is stopped at any instant of its calls", 90)
{
	enum { N = 3 };
	int set = new_set(2), queue = new_queue(), status;
	pid_t p[N];
	unsigned seed = (unsigned)getpid();
	set_value(set, 0, 100);
	set_value(set, 1, 100);
	for (int i = 0; i < N; i++)
		CHILD(p[i])
			work(set, queue, i);
	for (int i = 0; i < N; i++)
		UNTIL(board->n[i] > 0);
	TRIALS(t, 400, 3) {
		struct timespec any = { 0, rand_r(&seed) % 2000000 };
		int stopped = (int)(rand_r(&seed) % N), before[N];
		nanosleep(&any, NULL);
		kill(p[stopped], SIGSTOP);
		MUST(waitpid(p[stopped], &status, WUNTRACED));
		EXPECT(WIFSTOPPED(status));
		for (int i = 0; i < N; i++)
			before[i] = board->n[i];
		for (int i = 0; i < N; i++)
			if (i != stopped)
				UNTIL(board->n[i] > before[i] + 3);
		EXPECT_OK(SEMOP(set, { 0, 1, 0 }, { 1, 1, 0 }));
		EXPECT_OK(SEMOP(set, { 0, -1, 0 }, { 1, -1, 0 }));
		EXPECT_EQ(board->n[stopped], before[stopped]);
		kill(p[stopped], SIGCONT);
		UNTIL(board->n[stopped] > before[stopped]);
	}
}

LONG_ROWS("235,236", "killed: others go on, and nothing is left, when one is killed at any instant of its calls", 90)
{
	int set = new_set(2), queue = new_queue();
	unsigned seed = (unsigned)getpid();
	struct message m;
	pid_t steady;
	set_value(set, 1, 100);
	set_value(set, 0, 100);
	CHILD(steady)
		work(set, queue, 0);
	TRIALS(t, 500, 3) {
		pid_t p;
		int before = board->n[1];
		struct timespec any = { 0, rand_r(&seed) % 1000000 };
		CHILD(p)
			for (;;) {
				MUST(SEMOP(set, { 0, 1, SEM_UNDO }, { 1, -1, SEM_UNDO }));
				MUST(SEMOP(set, { 1, 1, SEM_UNDO }, { 0, -1, SEM_UNDO }));
				MUST(send_text(queue, 7, "x", 0));
				EXPECT_EQ_OR_ERRNO(receive(queue, &m, 7, 0), 1);
				atomic_fetch_add(&board->n[1], 1);
			}
		UNTIL(board->n[1] > before);
		nanosleep(&any, NULL);
		kill(p, SIGKILL);
		MUST(waitpid(p, NULL, 0));
		before = board->n[0];
		UNTIL(board->n[0] > before + 2);
		while (receive(queue, &m, 7, IPC_NOWAIT) >= 0)
			;
	}
	kill(steady, SIGKILL);
	MUST(waitpid(steady, NULL, 0));
	/* The steady one holds at most one unit of its operations without SEM_UNDO. */
	EXPECT(value(set, 0) == 100 || value(set, 0) == 99);
	EXPECT_EQ(value(set, 1), 100);
	EXPECT(queue_stat(queue).msg_qnum <= 1);
}

/* ---- a child's undo, seen right after wait() and right after the end of its pipe ---- */

static void die(int way)
{
	struct rlimit no_core = { 0, 0 };
	setrlimit(RLIMIT_CORE, &no_core);
	if (way == 0)
		exit(0);
	if (way == 1)
		_exit(0);
	if (way == 2)
		abort();
	if (way == 3)
		kill(getpid(), SIGKILL);
	for (;;)
		pause();
}

LONG_ROWS("139,140", "undo-wait: right after wait() a child's undo is done, whatever it died of", 60)
{
	int set = new_set(2);
	TRIALS(i, 3000, 3) {
		pid_t p;
		CHILD(p) {
			MUST(SEMOP(set, { 0, 1, SEM_UNDO }, { 1, 2, SEM_UNDO }));
			die(i % 4);
		}
		MUST(waitpid(p, NULL, 0));
		EXPECT_EQ(value(set, 0), 0);
		EXPECT_EQ(value(set, 1), 0);
	}
}

LONG_ROWS("139,140", "undo-eof: right after the end of a pipe that the child held, too", 60)
{
	int set = new_set(1), ends[2];
	TRIALS(i, 3000, 3) {
		char c;
		pid_t p;
		MUST(pipe(ends));
		CHILD(p) {
			close(ends[0]);
			MUST(op1(set, 0, 1, SEM_UNDO));
			(void)!write(ends[1], "r", 1);
			die(i % 5);
		}
		close(ends[1]);
		EXPECT_EQ(read(ends[0], &c, 1), 1);
		if (i % 5 == 4)
			kill(p, SIGKILL);
		EXPECT_EQ(read(ends[0], &c, 1), 0);
		EXPECT_EQ(value(set, 0), 0);
		close(ends[0]);
		MUST(waitpid(p, NULL, 0));
	}
}

/* ---- kill, waitpid, semop(+1) ---- */

LONG_ROWS("235", "kill-post: a unit given after a sleeper was killed and reaped stays in the semaphore", 60)
{
	int set = new_set(1);
	TRIALS(i, 2000, 3) {
		pid_t p;
		CHILD(p)
			MUST(op1(set, 0, -1, i % 2 ? SEM_UNDO : 0));
		if (i % 4 != 3)
			UNTIL_COUNT(set, 0, GETNCNT, 1);
		kill(p, SIGKILL);
		MUST(waitpid(p, NULL, 0));
		EXPECT_OK(op1(set, 0, 1, 0));
		EXPECT_EQ(value(set, 0), 1);
		EXPECT_EQ(semctl(set, 0, GETNCNT), 0);
		EXPECT_OK(op1(set, 0, -1, IPC_NOWAIT));
	}
}

LONG_ROWS("235", "kill-post-next: it goes to the sleeper behind the dead one", 60)
{
	int set = new_set(1);
	TRIALS(i, 500, 3) {
		pid_t first, next;
		CHILD(first)
			MUST(op1(set, 0, -1, 0));
		UNTIL_COUNT(set, 0, GETNCNT, 1);
		CHILD(next)
			MUST(op1(set, 0, -1, 0));
		UNTIL_COUNT(set, 0, GETNCNT, 2);
		kill(first, SIGKILL);
		MUST(waitpid(first, NULL, 0));
		EXPECT_OK(op1(set, 0, 1, 0));
		JOIN(next);
		EXPECT_EQ(value(set, 0), 0);
	}
}

LONG_ROWS("235", "kill-send: a message sent after a receiver was killed and reaped stays in the queue", 60)
{
	int q = new_queue();
	TRIALS(i, 100, 3) {
		struct message m;
		pid_t p;
		CHILD(p) {
			ready(MSG, q);
			MUST(receive(q, &m, 0, 0));
		}
		if (i % 4 != 3)
			UNTIL_ASLEEP(p);
		kill(p, SIGKILL);
		MUST(waitpid(p, NULL, 0));
		take_ready(p);
		EXPECT_OK(send_text(q, 1, "x", 0));
		EXPECT_EQ(queue_stat(q).msg_qnum, 1);
		EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, IPC_NOWAIT), 1);
	}
}

/* ---- EINTR with SA_RESTART ---- */

static void count_handled(int sig) { (void)sig; handled++; }

LONG_ROWS("123,179,199", "restart: with SA_RESTART each signal ends semop, msgsnd and msgrcv with EINTR", 60)
{
	enum { N = 60 };
	int set = new_set(1), empty = new_queue(), full = new_queue();
	struct msqid_ds d = queue_stat(full);
	d.msg_qbytes = 1;
	MUST(msgctl(full, IPC_SET, &d));
	MUST(send_text(full, 1, "x", 0));
	pid_t p;
	CHILD(p) {
		struct message m;
		on_signal(SIGUSR1, count_handled, SA_RESTART);
		for (int i = 0; i < N; i++) {
			EXPECT_ERR(op1(set, 0, -1, 0), EINTR);
			EXPECT_EQ(handled, ++board->n[0]);
		}
		for (int i = 0; i < 5; i++) {
			ready(MSG, empty);
			EXPECT_ERR(receive(empty, &m, 0, 0), EINTR);
			EXPECT_EQ(handled, ++board->n[0]);
			ready(MSG, full);
			EXPECT_ERR(send_text(full, 1, "x", 0), EINTR);
			EXPECT_EQ(handled, ++board->n[0]);
		}
	}
	for (int i = 0; i < N; i++) {
		UNTIL_COUNT(set, 0, GETNCNT, 1);
		kill(p, SIGUSR1);
		UNTIL(board->n[0] == i + 1);
	}
	for (int i = 0; i < 10; i++) {
		UNTIL_ASLEEP(p);
		kill(p, SIGUSR1);
		UNTIL(board->n[0] == N + i + 1);
	}
	JOIN(p);
}

LONG_ROWS("123", "restart-storm: a signal at any instant around the beginning of the sleep is not lost", 60)
{
	int set = new_set(1);
	pid_t p;
	CHILD(p) {
		on_signal(SIGUSR1, count_handled, SA_RESTART);
		for (;;) {
			board->n[0]++;
			EXPECT_ERR(op1(set, 0, -1, 0), EINTR);
			board->n[1]++;
		}
	}
	TRIALS(i, 2000, 2) {
		int before = board->n[1];
		UNTIL(board->n[0] > before);
		for (volatile int spin = 0; spin < i % 100 * 20; spin++)
			;
		/* A handler that runs before the call begins does not count: signal until one does. */
		double end = now() + WAIT_SECONDS;
		while (board->n[1] == before) {
			kill(p, SIGUSR1);
			nap_();
			if (now() > end)
				FAIL("signals for %d s did not end semop", WAIT_SECONDS);
		}
	}
	kill(p, SIGKILL);
	MUST(waitpid(p, NULL, 0));
	EXPECT_EQ(semctl(set, 0, GETNCNT), 0);
}
