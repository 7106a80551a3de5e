/* Rows 144 to 151: what the adjustments of SEM_UNDO come to. */
#include "case.h"

/* A child that did op with SEM_UNDO on all `n` and ends when told. */
static pid_t holder(int set, int n, int op)
{
	pid_t p;
	board->n[0] = board->n[1] = 0;
	CHILD(p) {
		for (int i = 0; i < n; i++)
			EXPECT_OK(op1(set, i, op, SEM_UNDO));
		board->n[0] = 1;
		until_flag(1);
	}
	until_flag(0);
	return p;
}
static void end_holder(pid_t p)
{
	board->n[1] = 1;
	JOIN(p);
}

ROW(144, "SETVAL clears that semaphore's undo in every process")
{
	int set = new_set(2);
	pid_t a = holder(set, 2, 3), b = holder(set, 2, 5);
	set_value(set, 0, 20);
	board->n[1] = 1;
	JOIN(a);
	JOIN(b);
	EXPECT_EQ(value(set, 0), 20);
	EXPECT_EQ(value(set, 1), 0);
}

ROW(144, "SETALL clears the whole set's")
{
	int set = new_set(3);
	unsigned short v[3] = { 7, 8, 9 };
	pid_t a = holder(set, 3, 3);
	EXPECT_OK(semctl(set, 0, SETALL, (union semun){ .array = v }));
	end_holder(a);
	for (int i = 0; i < 3; i++)
		EXPECT_EQ(value(set, i), v[i]);
}

ROW(144, "operations after it count again")
{
	int set = new_set(1);
	pid_t p;
	CHILD(p) {
		EXPECT_OK(op1(set, 0, 3, SEM_UNDO));
		set_value(set, 0, 10);
		EXPECT_OK(op1(set, 0, -2, SEM_UNDO));
	}
	JOIN(p);
	EXPECT_EQ(value(set, 0), 10);
}

ROW(145, "undo stops at 0 and never blocks")
{
	int set = new_set(1);
	pid_t p = holder(set, 1, 5);
	EXPECT_OK(op1(set, 0, -3, 0));
	end_holder(p);
	EXPECT_EQ(value(set, 0), 0);
}

ROW(145, "undo stops at 32767")
{
	int set = new_set(1);
	MUST(op1(set, 0, 5, 0));
	pid_t p = holder(set, 1, -5);
	EXPECT_OK(op1(set, 0, 32765, 0));
	end_holder(p);
	EXPECT_EQ(value(set, 0), 32767);
}

ROW(146, "an undo sum that would pass the limit is ERANGE, and nothing changes")
{
	int set = new_set(2);
	pid_t p;
	CHILD(p) {
		for (int i = 0; i < 2; i++) {
			EXPECT_OK(op1(set, 0, 32767 - i * 32766, SEM_UNDO));	/* the sum: -32767, -32768 */
			EXPECT_OK(op1(set, 0, -32767 + i * 32766, 0));
		}
		EXPECT_ERR(op1(set, 0, 1, SEM_UNDO), ERANGE);
		EXPECT_ERR(SEMOP(set, { 1, 4, 0 }, { 0, 1, SEM_UNDO }), ERANGE);
		EXPECT_EQ(value(set, 0), 0);
		EXPECT_EQ(value(set, 1), 0);
		EXPECT_OK(op1(set, 0, 1, 0));
		EXPECT_OK(op1(set, 0, -1, SEM_UNDO));
	}
	JOIN(p);
}

ROW(146, "and the other way")
{
	int set = new_set(1);
	pid_t p;
	CHILD(p) {
		EXPECT_OK(op1(set, 0, 32767, 0));
		EXPECT_OK(op1(set, 0, -32767, SEM_UNDO));
		EXPECT_OK(op1(set, 0, 1, 0));
		EXPECT_ERR(op1(set, 0, -1, SEM_UNDO), ERANGE);
		EXPECT_EQ(value(set, 0), 1);
	}
	JOIN(p);
	EXPECT_EQ(value(set, 0), 32767);
}

ROWS("109,117,147", "whose operations with SEM_UNDO were refused for want of rights sets otime when it ends")
{
	NEED_ROOT();
	for (int mode = 02; mode <= 04; mode += 02) {
		struct sembuf wrong = { 0, mode == 02 ? 0 : 1, SEM_UNDO | IPC_NOWAIT }, absent = { 9, 1, SEM_UNDO };
		for (int far = 0; far < 2; far++) {
			int set = keep(SEM, MUST(semget(IPC_PRIVATE, 1, 0600 | mode)));
			pid_t p;
			CHILD(p) {
				become(STRANGER, STRANGER);
				EXPECT_ERR(semop(set, far ? &absent : &wrong, 1), far ? EFBIG : EACCES);
				EXPECT_EQ(mode == 02 ? 0 : set_stat(set).sem_otime, 0);
			}
			JOIN(p);
			EXPECT(set_stat(set).sem_otime != 0);
			EXPECT_EQ(value(set, 0), 0);
		}
	}
}

ROW(147, "undo wakes sleepers, and sets sempid and otime")
{
	int set = new_set(1);
	MUST(op1(set, 0, 1, 0));
	pid_t p = holder(set, 1, -1), s;
	time_t before = set_stat(set).sem_otime;
	CHILD(s)
		EXPECT_OK(op1(set, 0, -1, 0));
	UNTIL_COUNT(set, 0, GETNCNT, 1);
	pause_ms(1100);
	kill(p, SIGKILL);
	MUST(waitpid(p, NULL, 0));
	EXPECT_EQ(semctl(set, 0, GETNCNT), 0);
	EXPECT_EQ(semctl(set, 0, GETPID), s);
	EXPECT(set_stat(set).sem_otime > before);
	JOIN(s);
}

ROW(147, "an undo that was asked for and never came about sets otime, also after an IPC_SET")
{
	for (int changed = 0; changed < 2; changed++) {
		int set = new_set(1), ends[2];
		struct semid_ds d = set_stat(set);
		pid_t p;
		MUST(pipe(ends));
		CHILD(p) {
			EXPECT_ERR(op1(set, 0, -1, SEM_UNDO | IPC_NOWAIT), EAGAIN);
			MUST(write(ends[1], "", 1));
			pause();
		}
		char c;
		MUST(read(ends[0], &c, 1));
		d.sem_perm.mode = 0400;	/* less than before */
		if (changed)
			EXPECT_OK(semctl(set, 0, IPC_SET, (union semun){ .buf = &d }));
		EXPECT_EQ(set_stat(set).sem_otime, 0);
		kill(p, SIGKILL);
		wait_for(p);
		UNTIL(set_stat(set).sem_otime != 0);
	}
}

ROW(147, "sempid is the dead process")
{
	int set = new_set(2);
	pid_t p = holder(set, 1, 2);
	EXPECT_OK(op1(set, 0, 1, 0));
	EXPECT_EQ(semctl(set, 0, GETPID), getpid());
	end_holder(p);
	EXPECT_EQ(semctl(set, 0, GETPID), p);
	EXPECT_EQ(semctl(set, 1, GETPID), 0);
	EXPECT_EQ(value(set, 0), 1);
}

ROW(147, "a wait for zero is woken by an undo too")
{
	int set = new_set(1);
	pid_t p = holder(set, 1, 2), s;
	CHILD(s)
		EXPECT_OK(op1(set, 0, 0, 0));
	UNTIL_COUNT(set, 0, GETZCNT, 1);
	end_holder(p);
	EXPECT_EQ(semctl(set, 0, GETZCNT), 0);
	JOIN(s);
}

ROWS("116,136,147", "a SEM_UNDO that fails with EFBIG still has the process's end set otime")
{
	int set = new_set(2);
	pid_t p;
	CHILD(p)
		EXPECT_ERR(SEMOP(set, { 2, -1, SEM_UNDO | IPC_NOWAIT }), EFBIG);
	JOIN(p);
	EXPECT_RECENT(set_stat(set).sem_otime, time(NULL));
	EXPECT_EQ(semctl(set, 0, GETVAL), 0);
}

ROW(148, "removal forgets undo: a set with the same key or index is not touched")
{
	key_t key = free_key();
	int set = keep(SEM, MUST(semget(key, 1, IPC_CREAT | 0600))), again = -1;
	pid_t p = holder(set, 1, 5);
	MUST(semctl(set, 0, IPC_RMID));
	for (int i = 0; i < 40000; i++) {
		again = keep(SEM, MUST(semget(key, 1, IPC_CREAT | 0600)));
		if ((again & 0x7fff) == (set & 0x7fff))
			break;
		MUST(semctl(again, 0, IPC_RMID));
	}
	EXPECT_OK(op1(again, 0, 3, 0));
	end_holder(p);
	EXPECT_EQ(value(again, 0), 3);
	EXPECT_EQ(semctl(again, 0, GETPID), getpid());
}

static void leaving_undoes(int flag)
{
	int set = new_set(1);
	int ns = open("/proc/self/ns/ipc", O_RDONLY | O_CLOEXEC);
	pid_t p;
	CHILD(p) {
		EXPECT_OK(op1(set, 0, 5, SEM_UNDO));
		int rc = flag ? unshare(flag) : setns(ns, CLONE_NEWIPC);
		if (rc < 0)
			SKIP("cannot leave: %s", errno_name(errno));
		board->n[0] = 1;
		until_flag(1);
	}
	UNTIL(board->n[0] || board->verdict);
	EXPECT_EQ(value(set, 0), 0);
	EXPECT_OK(op1(set, 0, 1, 0));
	end_holder(p);
	EXPECT_EQ(value(set, 0), 1);
}

ROW(149, "unshare(CLONE_SYSVSEM) undoes at once")
{
	leaving_undoes(CLONE_SYSVSEM);
}

ROW(149, "unshare(CLONE_NEWIPC) undoes at once")
{
	NEED_ROOT();
	leaving_undoes(CLONE_NEWIPC);
}

ROW(149, "setns to an IPC namespace undoes at once, even to its own")
{
	NEED_ROOT();
	leaving_undoes(0);
}

ROW(150, "pairs of +1 and -1 leave nothing to undo")
{
	int set = new_set(1);
	pid_t p;
	CHILD(p) {
		for (int i = 0; i < 1000; i++) {
			EXPECT_OK(op1(set, 0, 1, SEM_UNDO));
			EXPECT_OK(op1(set, 0, -1, SEM_UNDO));
		}
		EXPECT_OK(op1(set, 0, 4, 0));
	}
	JOIN(p);
	EXPECT_EQ(value(set, 0), 4);
}

ROW(151, "a process may have any number of them")
{
	enum { SETS = 600, N = 2000 };
	int big = new_set(N), set[SETS];
	for (int i = 0; i < SETS; i++)
		set[i] = new_set(1);
	pid_t p;
	CHILD(p) {
		for (int i = 0; i < SETS; i++)
			EXPECT_OK(op1(set[i], 0, 1, SEM_UNDO));
		for (int i = 0; i < N; i++)
			EXPECT_OK(op1(big, i, 1, SEM_UNDO));
	}
	JOIN(p);
	unsigned short v[N];
	MUST(semctl(big, 0, GETALL, (union semun){ .array = v }));
	for (int i = 0; i < N; i++)
		EXPECT_EQ(v[i], 0);
	for (int i = 0; i < SETS; i++)
		EXPECT_EQ(value(set[i], 0), 0);
}
