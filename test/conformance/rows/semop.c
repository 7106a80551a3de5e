/* Rows 107 to 129 and 137: what one semop does, and how it fails. Who sleeps and wakes is in semwait.c. */
#include "case.h"

static void expect_values(int set, int a, int b, int c)
{
	EXPECT_EQ(value(set, 0), a);
	EXPECT_EQ(value(set, 1), b);
	EXPECT_EQ(value(set, 2), c);
}

ROW(107, "all operations of a call happen, or none")
{
	int set = new_set(3);
	EXPECT_OK(SEMOP(set, { 0, 5, 0 }, { 1, 1, 0 }));
	EXPECT_ERR(SEMOP(set, { 0, -5, 0 }, { 1, -2, IPC_NOWAIT }), EAGAIN);
	expect_values(set, 5, 1, 0);
	EXPECT_ERR(SEMOP(set, { 2, 7, 0 }, { 0, -5, 0 }, { 1, 0, IPC_NOWAIT }), EAGAIN);
	expect_values(set, 5, 1, 0);
	EXPECT_OK(SEMOP(set, { 0, -5, 0 }, { 1, -1, IPC_NOWAIT }, { 2, 9, 0 }));
	expect_values(set, 0, 0, 9);
}

ROW(107, "nobody sees a half of it")
{
	int set = new_set(2);
	set_value(set, 0, 100);
	pid_t p;
	CHILD(p)
		for (int i = 0; i < 20000 && !board->n[0]; i++) {
			MUST(SEMOP(set, { 0, -1, 0 }, { 1, 1, 0 }));
			MUST(SEMOP(set, { 1, -1, 0 }, { 0, 1, 0 }));
		}
	for (int i = 0; i < 5000; i++) {
		unsigned short v[2];
		MUST(semctl(set, 0, GETALL, (union semun){ .array = v }));
		EXPECT_EQ(v[0] + v[1], 100);
	}
	board->n[0] = 1;
	JOIN(p);
}

ROW(108, "operations are applied in array order, the same semaphore as often as one likes")
{
	int set = new_set(3);
	EXPECT_OK(SEMOP(set, { 0, 1, IPC_NOWAIT }, { 0, -1, IPC_NOWAIT }, { 0, 0, IPC_NOWAIT }, { 0, 3, IPC_NOWAIT }));
	EXPECT_EQ(value(set, 0), 3);
	EXPECT_ERR(SEMOP(set, { 1, -1, IPC_NOWAIT }, { 1, 1, IPC_NOWAIT }), EAGAIN);
	EXPECT_ERR(SEMOP(set, { 0, -3, IPC_NOWAIT }, { 0, 1, IPC_NOWAIT }, { 0, 0, IPC_NOWAIT }), EAGAIN);
	expect_values(set, 3, 0, 0);
	EXPECT_OK(SEMOP(set, { 0, -3, 0 }, { 0, 0, 0 }, { 0, 32767, 0 }, { 0, -32767, 0 }, { 0, 2, 0 }));
	EXPECT_EQ(value(set, 0), 2);
}

ROWS("109,110", "changing needs write permission, waiting for zero alone read permission")
{
	NEED_ROOT();
	int r = keep(SEM, MUST(semget(IPC_PRIVATE, 2, 0644)));
	int w = keep(SEM, MUST(semget(IPC_PRIVATE, 2, 0622)));
	pid_t p;
	CHILD(p) {
		become(STRANGER, STRANGER);
		EXPECT_OK(op1(r, 0, 0, 0));
		EXPECT_OK(SEMOP(r, { 0, 0, 0 }, { 1, 0, 0 }));
		EXPECT_ERR(op1(r, 0, 1, 0), EACCES);
		EXPECT_ERR(op1(r, 0, -1, IPC_NOWAIT), EACCES);
		EXPECT_ERR(SEMOP(r, { 0, 0, 0 }, { 1, 1, 0 }), EACCES);
		EXPECT_OK(op1(w, 0, 1, 0));
		EXPECT_OK(op1(w, 0, -1, 0));
		EXPECT_ERR(op1(w, 0, 0, 0), EACCES);
		EXPECT_OK(SEMOP(w, { 0, 0, 0 }, { 1, 1, 0 }));
	}
	JOIN(p);
}

ROW(109, "a positive operation never blocks")
{
	int set = new_set(1);
	for (int i = 0; i < 32767; i += 4681)
		EXPECT_OK(op1(set, 0, 4681, i % 2 ? IPC_NOWAIT : 0));
	EXPECT_EQ(value(set, 0), 32767);
}

ROWS("110,111", "zero waits for zero, a negative one for its amount")
{
	int set = new_set(1);
	pid_t z, d;
	EXPECT_OK(op1(set, 0, 0, 0));
	set_value(set, 0, 2);
	EXPECT_ERR(op1(set, 0, 0, IPC_NOWAIT), EAGAIN);
	EXPECT_ERR(op1(set, 0, -3, IPC_NOWAIT), EAGAIN);
	CHILD(z)
		EXPECT_OK(op1(set, 0, 0, 0));
	UNTIL_COUNT(set, 0, GETZCNT, 1);
	CHILD(d)
		EXPECT_OK(op1(set, 0, -3, 0));
	UNTIL_COUNT(set, 0, GETNCNT, 1);
	EXPECT_OK(op1(set, 0, 1, 0));
	JOIN(d);
	JOIN(z);
	EXPECT_EQ(value(set, 0), 0);
}

ROW(112, "no operations are EINVAL")
{
	struct sembuf op = { 0, 1, 0 };
	EXPECT_ERR(semop(new_set(1), &op, 0), EINVAL);
	EXPECT_ERR(semop(-1, &op, 0), EINVAL);
}

ROW(113, "more than semopm operations are E2BIG, semopm work")
{
	struct seminfo i;
	MUST(semctl(0, 0, IPC_INFO, (union semun){ .buf = &i }));
	int set = new_set(2), max = i.semopm;
	if (max > 10000)
		SKIP("semopm is too large");
	struct sembuf *ops = calloc((size_t)max + 1, sizeof *ops);
	for (int n = 0; n <= max; n++)
		ops[n] = (struct sembuf){ 0, 1, 0 };
	EXPECT_ERR(semop(set, ops, (size_t)max + 1), E2BIG);
	EXPECT_EQ(value(set, 0), 0);
	EXPECT_OK(semop(set, ops, (size_t)max));
	EXPECT_EQ(value(set, 0), max);
	EXPECT_ERR(semop(set, ops, 1 << 30), E2BIG);
}

ROW(113, "the number of operations is an unsigned int: what is above it does not count")
{
	int set = new_set(1);
	struct sembuf op = { 0, 1, 0 };
	EXPECT_OK(semop(set, &op, 1 + ((size_t)1 << 32)));
	EXPECT_EQ(value(set, 0), 1);
	EXPECT_ERR(semop(set, &op, (size_t)1 << 32), EINVAL);
}

ROW(114, "the number of operations is checked before the pointer, the pointer before the id")
{
	int set = new_set(1);
	EXPECT_ERR(semop(set, BAD_POINTER, 100000), E2BIG);
	EXPECT_ERR(semop(-1, BAD_POINTER, 100000), E2BIG);
	EXPECT_ERR(semop(set, BAD_POINTER, 0), EINVAL);
	MUST(semctl(set, 0, IPC_RMID));
	EXPECT_ERR(semop(set, BAD_POINTER, 1), EFAULT);
	EXPECT_ERR(op1(set, 99, 1, 0), EINVAL);
}

ROW(115, "a bad pointer is EFAULT, also when only the end is bad")
{
	int set = new_set(1);
	EXPECT_ERR(semop(set, BAD_POINTER, 1), EFAULT);
	EXPECT_ERR(semop(set, NULL, 1), EFAULT);
	char *m = MUST(mmap(NULL, 2 * page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	MUST(munmap(m + page_size(), page_size()));
	struct sembuf *last = (struct sembuf *)(m + page_size()) - 1;
	*last = (struct sembuf){ 0, 1, 0 };
	EXPECT_OK(semop(set, last, 1));
	EXPECT_ERR(semop(set, last, 2), EFAULT);
	EXPECT_EQ(value(set, 0), 1);
}

ROW(116, "a semaphore number past the set is EFBIG, even behind one that would block")
{
	int set = new_set(2);
	EXPECT_ERR(op1(set, 2, 1, 0), EFBIG);
	EXPECT_ERR(op1(set, 65535, 1, 0), EFBIG);
	EXPECT_ERR(SEMOP(set, { 0, -1, 0 }, { 2, 1, 0 }), EFBIG);
	EXPECT_ERR(SEMOP(set, { 0, 1, 0 }, { 2, 1, IPC_NOWAIT }), EFBIG);
	EXPECT_EQ(value(set, 0), 0);
}

ROW(117, "EFBIG comes before EACCES")
{
	NEED_ROOT();
	int set = new_set(2);
	pid_t p;
	CHILD(p) {
		become(STRANGER, STRANGER);
		EXPECT_ERR(op1(set, 2, 1, 0), EFBIG);
		EXPECT_ERR(op1(set, 1, 1, 0), EACCES);
	}
	JOIN(p);
}

ROW(118, "a value over 32767 is ERANGE, and nothing changes")
{
	int set = new_set(3);
	set_value(set, 0, 32767);
	EXPECT_ERR(op1(set, 0, 1, 0), ERANGE);
	EXPECT_ERR(op1(set, 0, 1, IPC_NOWAIT | SEM_UNDO), ERANGE);
	EXPECT_ERR(SEMOP(set, { 1, 5, 0 }, { 0, 1, 0 }), ERANGE);
	expect_values(set, 32767, 0, 0);
	EXPECT_ERR(SEMOP(set, { 1, 32767, 0 }, { 1, 1, 0 }), ERANGE);
	EXPECT_ERR(SEMOP(set, { 0, 1, 0 }, { 0, -1, 0 }), ERANGE);	/* in between counts */
	EXPECT_OK(SEMOP(set, { 0, -1, 0 }, { 0, 1, 0 }));
	expect_values(set, 32767, 0, 0);
}

ROW(119, "IPC_NOWAIT is EAGAIN where the call would sleep")
{
	int set = new_set(2);
	EXPECT_ERR(op1(set, 0, -1, IPC_NOWAIT), EAGAIN);
	EXPECT_ERR(op1(set, 0, SHRT_MIN, IPC_NOWAIT), EAGAIN);
	set_value(set, 0, 1);
	EXPECT_ERR(op1(set, 0, 0, IPC_NOWAIT), EAGAIN);
	EXPECT_ERR(op1(set, 0, -2, IPC_NOWAIT | SEM_UNDO), EAGAIN);
	EXPECT_EQ(value(set, 0), 1);
	EXPECT_EQ(semctl(set, 0, GETNCNT), 0);
}

ROW(120, "the flag of the operation that blocks counts, not the others'")
{
	int set = new_set(3);
	set_value(set, 0, 1);
	EXPECT_ERR(SEMOP(set, { 0, -1, 0 }, { 1, -1, IPC_NOWAIT }), EAGAIN);
	pid_t p;
	CHILD(p)
		EXPECT_OK(SEMOP(set, { 0, -1, IPC_NOWAIT }, { 1, -1, 0 }, { 2, 1, IPC_NOWAIT }));
	UNTIL_COUNT(set, 1, GETNCNT, 1);
	EXPECT_OK(op1(set, 1, 1, 0));
	JOIN(p);
	expect_values(set, 0, 0, 1);
}

ROW(121, "a sleeper that comes to block at an operation with IPC_NOWAIT is woken with EAGAIN")
{
	int set = new_set(3);
	pid_t p;
	CHILD(p)
		EXPECT_ERR(SEMOP(set, { 0, -1, 0 }, { 1, -1, IPC_NOWAIT }), EAGAIN);
	UNTIL_COUNT(set, 0, GETNCNT, 1);
	EXPECT_OK(op1(set, 0, 1, 0));
	JOIN(p);
	expect_values(set, 1, 0, 0);
	EXPECT_EQ(semctl(set, 0, GETNCNT) + semctl(set, 1, GETNCNT), 0);
}

ROW(121, "one that waits for zeros alone is looked at only when a semaphore has become 0")
{
	int set = new_set(3);
	pid_t p, q;
	set_value(set, 0, 3);
	CHILD(p)
		EXPECT_ERR(SEMOP(set, { 1, 0, IPC_NOWAIT }, { 0, 0, 0 }), EAGAIN);
	CHILD(q)
		EXPECT_ERR(SEMOP(set, { 1, 0, IPC_NOWAIT }, { 0, 0, 0 }), EAGAIN);
	UNTIL_COUNT(set, 0, GETZCNT, 2);
	EXPECT_OK(op1(set, 1, 5, 0));
	EXPECT_STILL_ASLEEP(p);
	EXPECT_STILL_ASLEEP(q);
	EXPECT_OK(op1(set, 0, -1, 0));
	EXPECT_STILL_ASLEEP(p);
	EXPECT_OK(op1(set, 2, 0, 0));
	EXPECT_STILL_ASLEEP(q);
	EXPECT_OK(SEMOP(set, { 2, 1, 0 }, { 2, -1, 0 }));
	JOIN(p);
	JOIN(q);
	expect_values(set, 2, 5, 0);
}

ROW(121, "so it is when one that it does not name has become 0 by a single operation")
{
	int set = new_set(3);
	pid_t p;
	set_value(set, 0, 3);
	set_value(set, 2, 1);
	CHILD(p)
		EXPECT_ERR(SEMOP(set, { 1, 0, IPC_NOWAIT }, { 0, 0, 0 }), EAGAIN);
	UNTIL_COUNT(set, 0, GETZCNT, 1);
	EXPECT_OK(op1(set, 2, 1, 0));
	EXPECT_OK(op1(set, 1, 5, 0));
	EXPECT_OK(op1(set, 2, -1, 0));
	EXPECT_STILL_ASLEEP(p);
	EXPECT_OK(op1(set, 2, -1, 0));
	JOIN(p);
	expect_values(set, 3, 5, 0);
}

ROWS("121,160", "a SETVAL has them looked at if any semaphore is 0")
{
	int set = new_set(3);
	pid_t p;
	for (int i = 0; i < 2; i++) {
		set_value(set, 0, 3);
		set_value(set, 1, 0);
		set_value(set, 2, !i);
		CHILD(p)
			EXPECT_ERR(SEMOP(set, { 1, 0, IPC_NOWAIT }, { 0, 0, 0 }), EAGAIN);
		UNTIL_COUNT(set, 0, GETZCNT, 1);
		set_value(set, 1, 5);
		if (i == 0) {
			EXPECT_STILL_ASLEEP(p);
			set_value(set, 2, 0);
		}
		JOIN(p);
	}
}

static int timed(int set, int delta, long sec, long nsec)
{
	struct sembuf op = { 0, (short)delta, 0 };
	struct timespec t = { sec, nsec };
	int rc = semtimedop(set, &op, 1, &t);
	int e = errno;
	EXPECT(t.tv_sec == sec && t.tv_nsec == nsec);	/* not written back */
	errno = e;
	return rc;
}

ROW(125, "a time-out is relative and ends in EAGAIN")
{
	int set = new_set(1);
	double start = now();
	EXPECT_ERR(timed(set, -1, 0, 200000000), EAGAIN);
	EXPECT(now() - start >= 0.199);
	start = now();
	EXPECT_ERR(timed(set, -1, 1, 1000), EAGAIN);
	EXPECT(now() - start >= 0.999);
	EXPECT_EQ(semctl(set, 0, GETNCNT), 0);
	set_value(set, 0, 1);
	EXPECT_ERR(timed(set, 0, 0, 1), EAGAIN);
	EXPECT_OK(timed(set, -1, 0, 1));
}

ROW(125, "who is woken before it is over succeeds")
{
	int set = new_set(1);
	pid_t p;
	CHILD(p)
		EXPECT_OK(timed(set, -1, 3600, 0));
	UNTIL_COUNT(set, 0, GETNCNT, 1);
	EXPECT_OK(op1(set, 0, 1, 0));
	JOIN(p);
	CHILD(p)
		EXPECT_OK(timed(set, -1, (long)(LONG_MAX / 2), 999999999));
	UNTIL_COUNT(set, 0, GETNCNT, 1);
	EXPECT_OK(op1(set, 0, 1, 0));
	JOIN(p);
}

ROW(126, "a time-out of nothing is one try")
{
	int set = new_set(1);
	EXPECT_ERR(timed(set, -1, 0, 0), EAGAIN);
	EXPECT_OK(timed(set, 1, 0, 0));
	EXPECT_OK(timed(set, -1, 0, 0));
}

ROW(127, "an invalid time-out is EINVAL, even where nothing would block")
{
	int set = new_set(1);
	EXPECT_ERR(timed(set, 1, -1, 0), EINVAL);
	EXPECT_ERR(timed(set, 1, 0, -1), EINVAL);
	EXPECT_ERR(timed(set, 1, 0, 1000000000), EINVAL);
	EXPECT_ERR(timed(set, -1, 1, 1000000000), EINVAL);
	EXPECT_EQ(value(set, 0), 0);
}

ROW(128, "a bad time-out pointer is EFAULT before everything else")
{
	int set = new_set(1);
	struct sembuf op = { 0, 1, 0 };
	EXPECT_ERR(semtimedop(set, &op, 1, BAD_POINTER), EFAULT);
	EXPECT_ERR(semtimedop(set, &op, 0, BAD_POINTER), EFAULT);
	EXPECT_ERR(semtimedop(set, &op, 100000, BAD_POINTER), EFAULT);
	EXPECT_ERR(semtimedop(-1, &op, 1, BAD_POINTER), EFAULT);
	EXPECT_EQ(value(set, 0), 0);
}

ROW(129, "no time-out waits as semop does")
{
	int set = new_set(1);
	struct sembuf down = { 0, -1, 0 };
	pid_t p;
	CHILD(p)
		EXPECT_OK(semtimedop(set, &down, 1, NULL));
	UNTIL_COUNT(set, 0, GETNCNT, 1);
	EXPECT_OK(op1(set, 0, 1, 0));
	JOIN(p);
}

ROW(137, "other flags are ignored")
{
	int set = new_set(1);
	short odd = (short)~(IPC_NOWAIT | SEM_UNDO);
	EXPECT_OK(op1(set, 0, 5, odd));
	EXPECT_OK(op1(set, 0, -2, odd));
	EXPECT_ERR(op1(set, 0, -4, (short)(odd | IPC_NOWAIT)), EAGAIN);
	EXPECT_EQ(value(set, 0), 3);
}
