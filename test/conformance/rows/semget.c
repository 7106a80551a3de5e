/* Rows 100 to 106: making sets. */
#include "case.h"

static struct seminfo info(int cmd)
{
	struct seminfo i;
	MUST(semctl(0, 0, cmd, (union semun){ .buf = &i }));
	return i;
}

ROW(100, "fewer than 0 or more than semmsl semaphores are EINVAL, also on an existing key")
{
	key_t key = free_key();
	int max = info(IPC_INFO).semmsl;
	keep(SEM, MUST(semget(key, 1, IPC_CREAT | 0600)));
	EXPECT_ERR(semget(IPC_PRIVATE, -1, 0600), EINVAL);
	EXPECT_ERR(semget(key, -1, 0600), EINVAL);
	EXPECT_ERR(semget(free_key(), -1, 0), EINVAL);
	if (max < INT_MAX) {
		EXPECT_ERR(semget(IPC_PRIVATE, max + 1, 0600), EINVAL);
		EXPECT_ERR(semget(key, max + 1, 0600), EINVAL);
		EXPECT_ERR(semget(free_key(), max + 1, 0), EINVAL);
	}
	EXPECT_ERR(semget(IPC_PRIVATE, INT_MAX, 0600), EINVAL);
}

ROW(100, "semmsl semaphores are allowed, and all of them work")
{
	struct seminfo i = info(IPC_INFO);
	if (i.semmsl > 100000 || i.semmns < i.semmsl)
		SKIP("semmsl is too large");
	int set = new_set(i.semmsl), last = i.semmsl - 1;
	EXPECT_EQ(set_stat(set).sem_nsems, i.semmsl);
	EXPECT_OK(SEMOP(set, { 0, 3, 0 }, { (unsigned short)last, 4, 0 }));
	EXPECT_EQ(value(set, 0), 3);
	EXPECT_EQ(value(set, last), 4);
	EXPECT_EQ(value(set, last / 2), 0);
}

ROW(101, "a new set needs semaphores")
{
	EXPECT_ERR(semget(IPC_PRIVATE, 0, 0600), EINVAL);
	EXPECT_ERR(semget(free_key(), 0, IPC_CREAT | 0600), EINVAL);
	EXPECT_ERR(semget(free_key(), 0, 0), ENOENT);
}

ROWS("102,103", "on an existing key none or fewer is fine, more is EINVAL")
{
	key_t key = free_key();
	int set = keep(SEM, MUST(semget(key, 5, IPC_CREAT | 0600)));
	EXPECT_EQ(semget(key, 0, 0), set);
	EXPECT_EQ(semget(key, 0, IPC_CREAT | 0600), set);
	EXPECT_EQ(semget(key, 4, 0600), set);
	EXPECT_EQ(semget(key, 5, 0600), set);
	EXPECT_ERR(semget(key, 6, 0600), EINVAL);
	EXPECT_ERR(semget(key, 6, IPC_CREAT | 0600), EINVAL);
}

ROW(104, "more semaphores than semmns are ENOSPC, and come back with IPC_RMID")
{
	if (may_set_limits())
		MUST(set_limit("sem", "60 100 500 128"));
	struct seminfo i = info(IPC_INFO), used = info(SEM_INFO);
	if (i.semmns > 100000 || i.semmns / i.semmsl + 2 > i.semmni)
		SKIP("semmns is too large to be filled");
	int room = i.semmns - used.semaem, first = 0;
	while (room > 0) {
		int n = room < i.semmsl ? room : i.semmsl;
		if (!first && n > 10)
			n = 10;
		int set = new_set(n);
		first = first ? first : set;
		room -= n;
	}
	EXPECT_EQ(info(SEM_INFO).semaem, i.semmns);
	EXPECT_ERR(semget(IPC_PRIVATE, 1, 0600), ENOSPC);
	EXPECT_ERR(semget(free_key(), 1, IPC_CREAT | 0600), ENOSPC);
	int freed = (int)set_stat(first).sem_nsems;
	MUST(semctl(first, 0, IPC_RMID));
	if (freed < i.semmsl)
		EXPECT_ERR(semget(IPC_PRIVATE, freed + 1, 0600), ENOSPC);
	new_set(freed);
}

ROW(105, "more sets than semmni are ENOSPC, and come back with IPC_RMID")
{
	if (may_set_limits())
		MUST(set_limit("sem", "250 32000 500 8"));
	int max = info(IPC_INFO).semmni, used = info(SEM_INFO).semusz, last = -1;
	if (max > 40000 || info(IPC_INFO).semmns < max)
		SKIP("semmni is too large to be filled");
	for (int i = used; i < max; i++)
		last = new_set(1);
	EXPECT_EQ(info(SEM_INFO).semusz, max);
	EXPECT_ERR(semget(IPC_PRIVATE, 1, 0600), ENOSPC);
	EXPECT_ERR(semget(free_key(), 1, IPC_CREAT | 0600), ENOSPC);
	MUST(semctl(last, 0, IPC_RMID));
	new_set(1);
	EXPECT_ERR(semget(IPC_PRIVATE, 1, 0600), ENOSPC);
}

ROW(106, "a new set: values, sempid and otime are 0, ctime is now")
{
	time_t start = time(NULL);
	int set = new_set(70);
	struct semid_ds d = set_stat(set);
	EXPECT_EQ(d.sem_otime, 0);
	EXPECT_RECENT(d.sem_ctime, start);
	EXPECT_EQ(d.sem_nsems, 70);
	for (int i = 0; i < 70; i++) {
		EXPECT_EQ(value(set, i), 0);
		EXPECT_EQ(semctl(set, i, GETPID), 0);
		EXPECT_EQ(semctl(set, i, GETNCNT), 0);
		EXPECT_EQ(semctl(set, i, GETZCNT), 0);
	}
}

ROW(106, "also where a removed set was")
{
	for (int i = 0; i < 200; i++) {
		int set = new_set(3);
		EXPECT_EQ(value(set, 0) + value(set, 1) + value(set, 2), 0);
		EXPECT_EQ(semctl(set, 2, GETPID), 0);
		MUST(SEMOP(set, { 0, 5, 0 }, { 1, 6, SEM_UNDO }, { 2, 7, 0 }));
		MUST(semctl(set, 0, IPC_RMID));
	}
}
