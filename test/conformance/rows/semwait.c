/* Rows 122 to 124, 130 to 136 and 138: who sleeps in semop, who is woken, in which order. */
#include "case.h"

ROW(122, "removal while asleep is EIDRM, for every kind of sleeper")
{
	int set = new_set(2);
	pid_t p[4];
	MUST(op1(set, 1, 1, 0));
	CHILD(p[0])
		EXPECT_ERR(op1(set, 0, -1, 0), EIDRM);
	CHILD(p[1])
		EXPECT_ERR(op1(set, 1, 0, 0), EIDRM);
	CHILD(p[2])
		EXPECT_ERR(SEMOP(set, { 1, -1, SEM_UNDO }, { 0, -1, 0 }), EIDRM);
	CHILD(p[3]) {
		struct sembuf op = { 0, -1, 0 };
		struct timespec t = { 3600, 0 };
		EXPECT_ERR(semtimedop(set, &op, 1, &t), EIDRM);
	}
	UNTIL_COUNT(set, 0, GETNCNT, 3);
	UNTIL_COUNT(set, 1, GETZCNT, 1);
	EXPECT_OK(semctl(set, 0, IPC_RMID));
	for (int i = 0; i < 4; i++)
		JOIN(p[i]);
}

static void sleep_and_expect_eintr(int set, int flags)
{
	on_signal(SIGUSR1, no_op, flags);
	EXPECT_ERR(SEMOP(set, { 1, 1, SEM_UNDO }, { 0, -1, 0 }), EINTR);
	EXPECT_EQ(value(set, 1), 0);
	EXPECT_EQ(semctl(set, 0, GETNCNT), 0);
}

ROW(123, "a handler ends the sleep with EINTR, SA_RESTART or not, and nothing was done")
{
	int set = new_set(2);
	static const int flags[] = { 0, SA_RESTART, SA_RESTART | SA_NODEFER };
	for (int i = 0; i < 3; i++) {
		pid_t p;
		CHILD(p)
			sleep_and_expect_eintr(set, flags[i]);
		UNTIL_COUNT(set, 0, GETNCNT, 1);
		kill(p, SIGUSR1);
		JOIN(p);
	}
	EXPECT_OK(op1(set, 0, 1, 0));
	EXPECT_EQ(value(set, 0), 1);
}

ROW(123, "semtimedop too, and a wait for zero")
{
	int set = new_set(1);
	set_value(set, 0, 1);
	pid_t p;
	CHILD(p) {
		struct sembuf op = { 0, 0, 0 };
		struct timespec t = { 3600, 0 };
		on_signal(SIGUSR1, no_op, SA_RESTART);
		EXPECT_ERR(semtimedop(set, &op, 1, &t), EINTR);
	}
	UNTIL_COUNT(set, 0, GETZCNT, 1);
	kill(p, SIGUSR1);
	JOIN(p);
	EXPECT_EQ(semctl(set, 0, GETZCNT), 0);
}

ROW(123, "an ignored signal does not end it")
{
	int set = new_set(1);
	pid_t p;
	CHILD(p) {
		on_signal(SIGUSR1, SIG_IGN, 0);
		EXPECT_OK(op1(set, 0, -1, 0));
	}
	UNTIL_COUNT(set, 0, GETNCNT, 1);
	kill(p, SIGUSR1);
	EXPECT_STILL_ASLEEP(p);
	EXPECT_OK(op1(set, 0, 1, 0));
	JOIN(p);
}

ROW(124, "SIGSTOP and SIGCONT end the sleep with EINTR, without any handler")
{
	int set = new_set(1), status;
	pid_t p;
	CHILD(p)
		EXPECT_ERR(op1(set, 0, -1, 0), EINTR);
	UNTIL_COUNT(set, 0, GETNCNT, 1);
	kill(p, SIGSTOP);
	MUST(waitpid(p, &status, WUNTRACED));
	EXPECT(WIFSTOPPED(status));
	kill(p, SIGCONT);
	for (int i = 0; i < 200 && waitpid(p, &status, WNOHANG) == 0; i++)
		pause_ms(10);
	if (WIFSTOPPED(status))
		FAIL("expected EINTR, the sleeper sleeps on");
	EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* A child that takes `delta` of semaphore 0 and leaves its number in the order of finishing. */
static pid_t sleeper(int set, int delta, int number)
{
	pid_t p;
	int before = semctl(set, 0, GETNCNT);
	CHILD(p) {
		EXPECT_OK(op1(set, 0, -delta, 0));
		board->n[1 + atomic_fetch_add(&board->n[0], 1)] = number;
	}
	UNTIL_COUNT(set, 0, GETNCNT, before + 1);
	return p;
}

ROW(130, "sleepers are served in the order in which they came")
{
	enum { N = 8 };
	int set = new_set(1);
	pid_t p[N];
	for (int i = 0; i < N; i++)
		p[i] = sleeper(set, 1, i);
	for (int i = 0; i < N; i++) {
		EXPECT_OK(op1(set, 0, 1, 0));
		EXPECT_EQ(value(set, 0), 0);
		EXPECT_EQ(semctl(set, 0, GETPID), p[i]);
		EXPECT_EQ(semctl(set, 0, GETNCNT), N - 1 - i);
		JOIN(p[i]);
		EXPECT_EQ(board->n[1 + i], i);
	}
}

ROW(130, "one that cannot go on does not hold up those behind it")
{
	int set = new_set(1);
	pid_t big = sleeper(set, 3, 0), small = sleeper(set, 1, 1), next = sleeper(set, 1, 2);
	EXPECT_OK(op1(set, 0, 1, 0));
	JOIN(small);
	EXPECT_EQ(semctl(set, 0, GETNCNT), 2);
	EXPECT_OK(op1(set, 0, 3, 0));
	JOIN(big);
	EXPECT_EQ(semctl(set, 0, GETNCNT), 1);
	EXPECT_OK(op1(set, 0, 1, 0));
	JOIN(next);
}

ROWS("30,130", "sleepers outlive an IPC_SET that takes rights away: one without them sleeps on")
{
	NEED_ROOT();
	int set = new_set(1);
	struct semid_ds d = set_stat(set);
	d.sem_perm.mode = 0666;
	EXPECT_OK(semctl(set, 0, IPC_SET, (union semun){ .buf = &d }));
	pid_t p;
	CHILD(p) {
		become(STRANGER, STRANGER);
		EXPECT_OK(op1(set, 0, -1, 0));
	}
	UNTIL_COUNT(set, 0, GETNCNT, 1);
	d.sem_perm.mode = 0600;
	EXPECT_OK(semctl(set, 0, IPC_SET, (union semun){ .buf = &d }));
	EXPECT_STILL_ASLEEP(p);
	EXPECT_OK(op1(set, 0, 1, 0));
	JOIN(p);
}

ROWS("30,130", "sleepers outlive an IPC_SET that takes rights away: others keep their order")
{
	NEED_ROOT();
	for (int round = 0; round < 8; round++) {
		int set = new_set(1);
		struct semid_ds d = set_stat(set);
		d.sem_perm.mode = 0666;
		EXPECT_OK(semctl(set, 0, IPC_SET, (union semun){ .buf = &d }));
		pid_t first = sleeper(set, 1, 0), second = sleeper(set, 1, 1);
		d.sem_perm.mode = 0600;
		EXPECT_OK(semctl(set, 0, IPC_SET, (union semun){ .buf = &d }));
		UNTIL_COUNT(set, 0, GETNCNT, 2);
		EXPECT_OK(op1(set, 0, 1, 0));
		UNTIL(atomic_load(&board->n[0]) == 1);
		EXPECT_OK(op1(set, 0, 1, 0));
		JOIN(first);
		JOIN(second);
		EXPECT_EQ(board->n[1], 0);
		atomic_store(&board->n[0], 0);
	}
}

ROW(131, "a new caller that can go on overtakes sleepers")
{
	int set = new_set(1);
	pid_t p = sleeper(set, 3, 0);
	EXPECT_OK(op1(set, 0, 2, 0));
	EXPECT_OK(op1(set, 0, -1, IPC_NOWAIT));
	EXPECT_OK(op1(set, 0, -1, IPC_NOWAIT));
	EXPECT_EQ(semctl(set, 0, GETNCNT), 1);
	EXPECT_OK(op1(set, 0, 3, 0));
	JOIN(p);
}

ROW(132, "those who only wait for zero are tried before those who change something")
{
	int set = new_set(1);
	pid_t change, zero;
	set_value(set, 0, 1);
	CHILD(change)
		EXPECT_OK(SEMOP(set, { 0, 0, 0 }, { 0, 1, 0 }));
	UNTIL_COUNT(set, 0, GETZCNT, 1);
	CHILD(zero)
		EXPECT_OK(op1(set, 0, 0, 0));
	UNTIL_COUNT(set, 0, GETZCNT, 2);
	EXPECT_OK(op1(set, 0, -1, 0));
	EXPECT_EQ(semctl(set, 0, GETZCNT), 0);
	JOIN(zero);
	JOIN(change);
	EXPECT_EQ(value(set, 0), 1);
}

ROW(133, "one increment wakes as many as it has units for, each in turn")
{
	int set = new_set(1);
	pid_t a = sleeper(set, 1, 0), b = sleeper(set, 2, 1), c = sleeper(set, 1, 2), d = sleeper(set, 1, 3);
	EXPECT_OK(op1(set, 0, 2, 0));
	EXPECT_EQ(value(set, 0), 0);
	EXPECT_EQ(semctl(set, 0, GETNCNT), 2);
	JOIN(a);
	EXPECT_EQ(waitpid(b, NULL, WNOHANG), 0);
	JOIN(c);
	EXPECT_OK(op1(set, 0, 5, 0));
	EXPECT_EQ(value(set, 0), 2);
	EXPECT_EQ(semctl(set, 0, GETNCNT), 0);
	JOIN(b);
	JOIN(d);
}

ROW(134, "what a woken sleeper adds wakes further ones")
{
	int set = new_set(4);
	pid_t p[3];
	for (unsigned short i = 3; i-- > 0;) {
		CHILD(p[i])
			EXPECT_OK(SEMOP(set, { i, -1, 0 }, { (unsigned short)(i + 1), 1, 0 }));
		UNTIL_COUNT(set, i, GETNCNT, 1);
	}
	EXPECT_OK(op1(set, 0, 1, 0));
	EXPECT_EQ(value(set, 3), 1);	/* all of the chain, before semop returned */
	for (int i = 0; i < 3; i++) {
		EXPECT_EQ(semctl(set, i, GETPID), p[i]);
		EXPECT_EQ(value(set, i), 0);
		JOIN(p[i]);
	}
}

ROWS("107,113,133", "a sleeper of 500 operations is served by others like any other")
{
	enum { SEMS = 250 };
	struct sembuf ops[2 * SEMS];
	for (int undo = 0; undo < 2; undo++) {
		int set = new_set(SEMS);
		pid_t p;
		for (int i = 0; i < SEMS; i++) {
			ops[i] = (struct sembuf){ i, -1, undo ? SEM_UNDO : 0 };
			ops[SEMS + i] = (struct sembuf){ i, 0, 0 };
		}
		CHILD(p)
			EXPECT_OK(semop(set, ops, 2 * SEMS));
		for (int i = 0; i < SEMS; i++) {
			UNTIL_COUNT(set, i, GETNCNT, 1);
			EXPECT_OK(op1(set, i, 1, 0));
		}
		JOIN(p);
		for (int i = 0; i < SEMS; i++)
			EXPECT_EQ(value(set, i), undo);
	}
}

ROW(135, "sempid of every semaphore named is the caller, of operation 0 too")
{
	int set = new_set(3);
	pid_t p;
	CHILD(p)
		EXPECT_OK(SEMOP(set, { 0, 1, 0 }, { 1, 0, 0 }));
	JOIN(p);
	EXPECT_EQ(semctl(set, 0, GETPID), p);
	EXPECT_EQ(semctl(set, 1, GETPID), p);
	EXPECT_EQ(semctl(set, 2, GETPID), 0);
	EXPECT_ERR(op1(set, 0, -2, IPC_NOWAIT), EAGAIN);
	EXPECT_EQ(semctl(set, 0, GETPID), p);
	EXPECT_OK(op1(set, 0, -1, 0));
	EXPECT_EQ(semctl(set, 0, GETPID), getpid());
}

ROW(135, "of a woken sleeper's semaphores, the sleeper")
{
	int set = new_set(2);
	pid_t p;
	CHILD(p)
		EXPECT_OK(SEMOP(set, { 0, -1, 0 }, { 1, 0, 0 }));
	UNTIL_COUNT(set, 0, GETNCNT, 1);
	EXPECT_EQ(semctl(set, 0, GETPID), 0);
	EXPECT_OK(op1(set, 0, 1, 0));
	EXPECT_EQ(semctl(set, 0, GETPID), p);
	EXPECT_EQ(semctl(set, 1, GETPID), p);
	JOIN(p);
	EXPECT_EQ(semctl(set, 0, GETPID), p);
}

ROWS("77,135,184", "of a child that inherited attaches and ends at once, its pid")
{
	int set = new_set(1), q = new_queue();
	char *memory = MUST(shmat(new_segment(4096), NULL, 0));
	for (int i = 0; i < 200; i++) {
		pid_t p;
		CHILD(p) {
			EXPECT_OK(op1(set, 0, 1, i % 2 ? SEM_UNDO : 0));
			EXPECT_OK(send_text(q, 1, "hello", 0));
			if (i % 3 == 0)
				raise(SIGKILL);
		}
		MUST(waitpid(p, NULL, 0));
		if (i % 4 < 2)
			EXPECT_EQ(semctl(set, 0, GETPID), p);
		EXPECT_EQ(queue_stat(q).msg_lspid, p);
		EXPECT_EQ(semctl(set, 0, GETPID), p);
		struct message m;
		EXPECT_EQ(receive(q, &m, 0, 0), 5);
		EXPECT_EQ(queue_stat(q).msg_lrpid, getpid());
	}
	MUST(shmdt(memory));
}

ROW(136, "otime is set by each success, by no failure")
{
	int set = new_set(2);
	time_t start = time(NULL);
	EXPECT_ERR(op1(set, 0, -1, IPC_NOWAIT), EAGAIN);
	EXPECT_ERR(op1(set, 9, 1, 0), EFBIG);
	EXPECT_EQ(set_stat(set).sem_otime, 0);
	EXPECT_OK(op1(set, 0, 0, 0));
	EXPECT_RECENT(set_stat(set).sem_otime, start);
	pause_ms(1100);
	time_t before = set_stat(set).sem_otime;
	EXPECT_OK(op1(set, 1, 1, 0));
	EXPECT(set_stat(set).sem_otime > before);
	EXPECT(set_stat(set).sem_ctime <= before);
}

static void *take_own(void *arg)
{
	int *set = arg;
	int number = atomic_fetch_add(&board->n[0], 1);
	EXPECT_OK(op1(*set, number, -1, 0));
	return NULL;
}

ROW(138, "threads of one process sleep independently")
{
	enum { N = 4 };
	int set = new_set(N);
	pthread_t t[N];
	for (int i = 0; i < N; i++)
		EXPECT_OK(pthread_create(&t[i], NULL, take_own, &set));
	for (int i = 0; i < N; i++)
		UNTIL_COUNT(set, i, GETNCNT, 1);
	for (int i = N; i-- > 0;) {
		EXPECT_OK(op1(set, i, 1, 0));
		EXPECT_EQ(semctl(set, i, GETNCNT), 0);
		EXPECT_EQ(semctl(set, i, GETPID), getpid());
	}
	for (int i = 0; i < N; i++)
		EXPECT_OK(pthread_join(t[i], NULL));
}

static void *take_shared(void *arg)
{
	EXPECT_OK(op1(*(int *)arg, 0, -1, 0));
	atomic_fetch_add(&board->n[1], 1);
	return NULL;
}

static void *calls_once(void *set)
{
	value(*(int *)set, 0);
	return NULL;
}
static void *many_threads(void *set)
{
	UNTIL_COUNT(*(int *)set, 1, GETNCNT, 1);
	for (int i = 0; i < 300; i++) {
		in_thread(calls_once, set);
	}
	EXPECT_EQ(semctl(*(int *)set, 1, GETNCNT), 1);
	EXPECT_OK(op1(*(int *)set, 1, 1, 0));
	return NULL;
}

ROW(138, "no thread disturbs one in whose place a vfork child has called first")
{
	int s = new_set(2);
	pid_t p;
	CHILD(p) {
		pthread_t t;
		pid_t v = vfork();
		if (v == 0) {
			semctl(s, 0, GETVAL);
			_exit(0);
		}
		EXPECT_EQ(waitpid(v, NULL, 0), v);
		EXPECT_EQ(pthread_create(&t, NULL, many_threads, &s), 0);
		EXPECT_OK(op1(s, 1, -1, 0));
		EXPECT_EQ(pthread_join(t, NULL), 0);
	}
	JOIN(p);
}

ROW(138, "and on one semaphore each takes one unit")
{
	enum { N = 6 };
	int set = new_set(1);
	pthread_t t[N];
	for (int i = 0; i < N; i++)
		EXPECT_OK(pthread_create(&t[i], NULL, take_shared, &set));
	UNTIL_COUNT(set, 0, GETNCNT, N);
	EXPECT_OK(op1(set, 0, 2, 0));
	EXPECT_EQ(semctl(set, 0, GETNCNT), N - 2);
	UNTIL(board->n[1] == 2);
	EXPECT_OK(op1(set, 0, N - 2, 0));
	for (int i = 0; i < N; i++)
		EXPECT_OK(pthread_join(t[i], NULL));
	EXPECT_EQ(value(set, 0), 0);
}
