/* Rows 152 to 167: semctl. */
#include "case.h"

static int set_all(int set, unsigned short *v) { return semctl(set, 0, SETALL, (union semun){ .array = v }); }
static int get_all(int set, unsigned short *v) { return semctl(set, 0, GETALL, (union semun){ .array = v }); }

ROW(152, "the fourth argument is a union by value, absent for commands without one")
{
	int set = new_set(2);
	unsigned short v[2] = { 1, 2 };
	EXPECT_OK(semctl(set, 0, SETALL, v));	/* a pointer alone, as much old code does */
	EXPECT_OK(semctl(set, 1, SETVAL, 5));	/* and a bare int */
	EXPECT_OK(semctl(set, 0, SETVAL, (union semun){ .val = 3 }));
	EXPECT_EQ(semctl(set, 0, GETVAL), 3);
	EXPECT_EQ(semctl(set, 1, GETVAL, (union semun){ .val = 77 }), 5);
	EXPECT_EQ(semctl(set, 0, GETPID), getpid());
	EXPECT_EQ(semctl(set, 0, GETNCNT), 0);
	EXPECT_EQ(semctl(set, 0, GETZCNT), 0);
	EXPECT_OK(semctl(set, 0, IPC_RMID));
}

ROW(153, "getting needs read permission, setting write permission")
{
	NEED_ROOT();
	int r = keep(SEM, MUST(semget(IPC_PRIVATE, 2, 0644)));
	int w = keep(SEM, MUST(semget(IPC_PRIVATE, 2, 0622)));
	static const int gets[] = { GETVAL, GETPID, GETNCNT, GETZCNT };
	pid_t p;
	CHILD(p) {
		unsigned short v[2] = { 0, 0 };
		become(STRANGER, STRANGER);
		for (int i = 0; i < 4; i++) {
			EXPECT_EQ_OR_ERRNO(semctl(r, 0, gets[i]), 0);
			EXPECT_ERR(semctl(w, 0, gets[i]), EACCES);
		}
		EXPECT_OK(get_all(r, v));
		EXPECT_ERR(get_all(w, v), EACCES);
		EXPECT_ERR(semctl(r, 0, SETVAL, (union semun){ .val = 1 }), EACCES);
		EXPECT_ERR(set_all(r, v), EACCES);
		EXPECT_OK(semctl(w, 0, SETVAL, (union semun){ .val = 1 }));
		EXPECT_OK(set_all(w, v));
	}
	JOIN(p);
}

ROWS("154,155", "a semaphore number outside the set is EINVAL where it counts, ignored elsewhere")
{
	static const int counts[] = { GETVAL, GETPID, GETNCNT, GETZCNT };
	static const int bad[] = { -1, 2, 65536, INT_MAX, INT_MIN };
	int set = new_set(2);
	unsigned short v[2] = { 4, 5 };
	struct semid_ds d;
	for (int b = 0; b < 5; b++) {
		for (int i = 0; i < 4; i++)
			EXPECT_ERR(semctl(set, bad[b], counts[i]), EINVAL);
		EXPECT_ERR(semctl(set, bad[b], SETVAL, (union semun){ .val = 1 }), EINVAL);
		EXPECT_OK(semctl(set, bad[b], SETALL, (union semun){ .array = v }));
		EXPECT_OK(semctl(set, bad[b], GETALL, (union semun){ .array = v }));
		EXPECT_OK(semctl(set, bad[b], IPC_STAT, (union semun){ .buf = &d }));
		EXPECT_OK(semctl(set, bad[b], IPC_SET, (union semun){ .buf = &d }));
	}
	EXPECT_EQ(value(set, 1), 5);
	EXPECT_OK(semctl(set, -7, IPC_RMID));
}

ROW(156, "GETVAL checks permission before the number, SETVAL the number first")
{
	NEED_ROOT();
	int set = new_set(2);
	static const int gets[] = { GETVAL, GETPID, GETNCNT, GETZCNT };
	pid_t p;
	CHILD(p) {
		become(STRANGER, STRANGER);
		for (int i = 0; i < 4; i++)
			EXPECT_ERR(semctl(set, 9, gets[i]), EACCES);
		EXPECT_ERR(semctl(set, 9, SETVAL, (union semun){ .val = 1 }), EINVAL);
		EXPECT_ERR(semctl(set, 1, SETVAL, (union semun){ .val = 1 }), EACCES);
	}
	JOIN(p);
}

ROW(157, "SETVAL of less than 0 or more than 32767 is ERANGE, even for an unused id")
{
	int set = new_set(1);
	EXPECT_ERR(semctl(set, 0, SETVAL, (union semun){ .val = -1 }), ERANGE);
	EXPECT_ERR(semctl(set, 0, SETVAL, (union semun){ .val = 32768 }), ERANGE);
	EXPECT_ERR(semctl(set, 0, SETVAL, (union semun){ .val = INT_MIN }), ERANGE);
	EXPECT_ERR(semctl(set, 5, SETVAL, (union semun){ .val = 32768 }), ERANGE);
	EXPECT_OK(semctl(set, 0, SETVAL, (union semun){ .val = 32767 }));
	EXPECT_EQ(value(set, 0), 32767);
	MUST(semctl(set, 0, IPC_RMID));
	EXPECT_ERR(semctl(set, 0, SETVAL, (union semun){ .val = 32768 }), ERANGE);
	EXPECT_ERR(semctl(set, 0, SETVAL, (union semun){ .val = 1 }), EINVAL);
	EXPECT_ERR(semctl(-1, 0, SETVAL, (union semun){ .val = 32768 }), EINVAL);
}

ROW(158, "SETALL with one value over 32767 is ERANGE and changes none")
{
	int set = new_set(3);
	unsigned short v[3] = { 1, 2, 3 }, bad[3] = { 7, 8, 32768 }, now_[3];
	EXPECT_OK(set_all(set, v));
	EXPECT_ERR(set_all(set, bad), ERANGE);
	bad[2] = 65535;
	EXPECT_ERR(set_all(set, bad), ERANGE);
	EXPECT_OK(get_all(set, now_));
	EXPECT_EQ(memcmp(v, now_, sizeof v), 0);
	bad[2] = 32767;
	EXPECT_OK(set_all(set, bad));
	EXPECT_EQ(value(set, 2), 32767);
}

ROW(159, "GETALL and SETALL copy one unsigned short a semaphore, and no more")
{
	enum { N = 300 };
	int set = new_set(N);
	unsigned short v[N + 2], w[N + 2];
	for (int i = 0; i < N + 2; i++) {
		v[i] = (unsigned short)(i * 7);
		w[i] = 0xdead;
	}
	EXPECT_OK(set_all(set, v));
	EXPECT_OK(get_all(set, w));
	EXPECT_EQ(memcmp(v, w, N * sizeof v[0]), 0);
	EXPECT_EQ(w[N], 0xdead);
	EXPECT_EQ(value(set, N - 1), (N - 1) * 7);
}

ROW(159, "a bad pointer is EFAULT and changes nothing")
{
	int set = new_set(4);
	set_value(set, 0, 6);
	EXPECT_ERR(get_all(set, BAD_POINTER), EFAULT);
	EXPECT_ERR(set_all(set, BAD_POINTER), EFAULT);
	EXPECT_ERR(set_all(set, NULL), EFAULT);
	char *m = MUST(mmap(NULL, 2 * page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	MUST(munmap(m + page_size(), page_size()));
	unsigned short *end = (unsigned short *)(m + page_size());
	EXPECT_ERR(get_all(set, end - 2), EFAULT);
	EXPECT_ERR(set_all(set, end - 2), EFAULT);
	EXPECT_OK(get_all(set, end - 4));
	EXPECT_EQ(end[-4], 6);
}

ROW(160, "a sleeper that SETALL lets fail leaves otime alone")
{
	int set = new_set(2);
	unsigned short one[] = { 1, 1 };
	pid_t p;
	CHILD(p)
		EXPECT_ERR(SEMOP(set, { 1, -1, 0 }, { 0, 32767, 0 }), ERANGE);
	UNTIL_COUNT(set, 1, GETNCNT, 1);
	EXPECT_OK(semctl(set, 0, SETALL, (union semun){ .array = one }));
	JOIN(p);
	EXPECT_EQ(set_stat(set).sem_otime, 0);
}

ROW(160, "SETVAL and SETALL set ctime and sempid, otime only if a sleeper went on")
{
	int set = new_set(3);
	unsigned short v[3] = { 1, 1, 1 };
	time_t made = set_stat(set).sem_ctime;
	pause_ms(1100);
	set_value(set, 0, 1);
	struct semid_ds d = set_stat(set);
	EXPECT(d.sem_ctime > made);
	EXPECT_EQ(d.sem_otime, 0);
	EXPECT_EQ(semctl(set, 0, GETPID), getpid());
	EXPECT_EQ(semctl(set, 1, GETPID), 0);
	EXPECT_OK(set_all(set, v));
	EXPECT_EQ(semctl(set, 2, GETPID), getpid());
	EXPECT_EQ(set_stat(set).sem_otime, 0);
}

ROW(160, "they wake the sleepers that can go on")
{
	int set = new_set(2);
	unsigned short v[2] = { 0, 0 };
	pid_t a, b, z;
	CHILD(a)
		EXPECT_OK(op1(set, 0, -2, 0));
	UNTIL_COUNT(set, 0, GETNCNT, 1);
	CHILD(b)
		EXPECT_OK(op1(set, 0, -1, 0));
	UNTIL_COUNT(set, 0, GETNCNT, 2);
	set_value(set, 0, 1);
	EXPECT_EQ(semctl(set, 0, GETNCNT), 1);
	EXPECT_EQ(value(set, 0), 0);
	EXPECT(set_stat(set).sem_otime > 0);
	JOIN(b);
	set_value(set, 0, 7);
	EXPECT_EQ(value(set, 0), 5);
	JOIN(a);
	CHILD(z)
		EXPECT_OK(SEMOP(set, { 0, 0, 0 }, { 1, 3, 0 }));
	UNTIL_COUNT(set, 0, GETZCNT, 1);
	EXPECT_OK(set_all(set, v));
	EXPECT_EQ(value(set, 1), 3);
	EXPECT_EQ(semctl(set, 1, GETPID), z);
	JOIN(z);
}

ROW(161, "a sleeper is counted at its first operation that blocks, nowhere else")
{
	int set = new_set(4);
	pid_t p;
	MUST(op1(set, 0, 1, 0));
	MUST(op1(set, 3, 1, 0));
	CHILD(p)
		EXPECT_OK(SEMOP(set, { 0, -1, 0 }, { 1, -1, 0 }, { 2, -1, 0 }, { 3, 0, 0 }));
	UNTIL_COUNT(set, 1, GETNCNT, 1);
	EXPECT_EQ(semctl(set, 0, GETNCNT), 0);
	EXPECT_EQ(semctl(set, 2, GETNCNT), 0);
	EXPECT_EQ(semctl(set, 3, GETZCNT), 0);
	MUST(op1(set, 1, 1, 0));
	EXPECT_EQ(semctl(set, 1, GETNCNT), 0);
	EXPECT_EQ(semctl(set, 2, GETNCNT), 1);
	MUST(op1(set, 2, 1, 0));
	EXPECT_EQ(semctl(set, 2, GETNCNT), 0);
	EXPECT_EQ(semctl(set, 3, GETZCNT), 1);
	MUST(op1(set, 1, -1, 0));
	EXPECT_EQ(semctl(set, 1, GETNCNT), 1);
	EXPECT_EQ(semctl(set, 3, GETZCNT), 0);
	MUST(SEMOP(set, { 1, 1, 0 }, { 3, -1, 0 }));
	JOIN(p);
}

ROW(162, "the counts fall at once when a sleeper is woken")
{
	int set = new_set(1);
	for (int i = 0; i < 20; i++) {
		pid_t p, q;
		CHILD(p)
			EXPECT_OK(op1(set, 0, -1, 0));
		CHILD(q)
			EXPECT_OK(op1(set, 0, -1, 0));
		UNTIL_COUNT(set, 0, GETNCNT, 2);
		EXPECT_OK(op1(set, 0, 1, 0));
		EXPECT_EQ(semctl(set, 0, GETNCNT), 1);
		EXPECT_OK(op1(set, 0, 1, 0));
		EXPECT_EQ(semctl(set, 0, GETNCNT), 0);
		JOIN(p);
		JOIN(q);
	}
}

ROW(162, "and when it was interrupted, or its time was over")
{
	int set = new_set(1);
	pid_t p;
	CHILD(p) {
		struct sembuf down = { 0, -1, 0 };
		struct timespec t = { 0, 100000000 };
		on_signal(SIGUSR1, no_op, 0);
		EXPECT_ERR(op1(set, 0, -1, 0), EINTR);
		EXPECT_EQ(semctl(set, 0, GETNCNT), 0);
		EXPECT_ERR(semtimedop(set, &down, 1, &t), EAGAIN);
		EXPECT_EQ(semctl(set, 0, GETNCNT), 0);
	}
	UNTIL_COUNT(set, 0, GETNCNT, 1);
	kill(p, SIGUSR1);
	JOIN(p);
	EXPECT_OK(op1(set, 0, 1, 0));
	EXPECT_EQ(value(set, 0), 1);
}

ROW(163, "IPC_RMID wakes all with EIDRM, and the id is gone when it returns")
{
	enum { N = 10 };
	int set = new_set(1);
	pid_t p[N];
	for (int i = 0; i < N; i++)
		CHILD(p[i])
			EXPECT_ERR(op1(set, 0, -1 - i, i % 2 ? SEM_UNDO : 0), EIDRM);
	UNTIL_COUNT(set, 0, GETNCNT, N);
	EXPECT_OK(semctl(set, 0, IPC_RMID));
	EXPECT_ERR(semctl(set, 0, GETVAL), EINVAL);
	for (int i = 0; i < N; i++)
		JOIN(p[i]);
}

ROW(164, "IPC_STAT fills permissions, times and the number of semaphores")
{
	key_t key = free_key();
	time_t start = time(NULL);
	int set = keep(SEM, MUST(semget(key, 33, IPC_CREAT | 0640)));
	MUST(op1(set, 32, 1, 0));
	struct semid_ds d;
	memset(&d, 0xff, sizeof d);
	EXPECT_OK(semctl(set, 0, IPC_STAT, (union semun){ .buf = &d }));
	EXPECT_EQ(d.sem_perm.__key, key);
	EXPECT_EQ(d.sem_perm.mode, 0640);
	EXPECT_EQ(d.sem_perm.uid, geteuid());
	EXPECT_EQ(d.sem_perm.cgid, getegid());
	EXPECT_EQ(d.sem_nsems, 33);
	EXPECT_RECENT(d.sem_otime, start);
	EXPECT_RECENT(d.sem_ctime, start);
}

ROW(165, "IPC_INFO tells the limits, and constants where there are none")
{
	struct seminfo i;
	memset(&i, 0xff, sizeof i);
	MUST(semctl(0, 0, IPC_INFO, (union semun){ .buf = &i }));
	EXPECT(i.semmsl > 0 && i.semmns > 0 && i.semopm > 0 && i.semmni > 0);
	EXPECT_EQ(i.semvmx, 32767);
	EXPECT_EQ(i.semaem, 32767);
	EXPECT_EQ(i.semume, 500);
	EXPECT_EQ(i.semusz, 20);
	EXPECT_EQ(i.semmap, 1024000000);
	EXPECT_EQ(i.semmnu, 1024000000);
	EXPECT_ERR(semctl(0, 0, IPC_INFO, (union semun){ .buf = BAD_POINTER }), EFAULT);
}

ROW(166, "SEM_INFO counts the sets and the semaphores in use")
{
	struct seminfo before, after;
	MUST(semctl(0, 0, SEM_INFO, (union semun){ .buf = &before }));
	int set = new_set(10);
	new_set(3);
	MUST(semctl(0, 0, SEM_INFO, (union semun){ .buf = &after }));
	EXPECT_EQ(after.semusz, before.semusz + 2);
	EXPECT_EQ(after.semaem, before.semaem + 13);
	EXPECT_EQ(after.semmsl, before.semmsl);
	MUST(semctl(set, 0, IPC_RMID));
	MUST(semctl(0, 0, SEM_INFO, (union semun){ .buf = &after }));
	EXPECT_EQ(after.semusz, before.semusz + 1);
	EXPECT_EQ(after.semaem, before.semaem + 3);
}

ROW(167, "an unknown command is EINVAL")
{
	static const int bad[] = { -1, 4, 10, 21, 99, INT_MAX, INT_MIN };
	int set = new_set(1);
	for (int i = 0; i < 7; i++)
		EXPECT_ERR(semctl(set, 0, bad[i], (union semun){ .val = 0 }), EINVAL);
}
