/* What a process that is in some unusual state is asked for: all twelve calls, on objects made by another. */
#ifndef USE_H
#define USE_H

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

#endif
