/* Semaphores. */
#include "bench.h"

static long n; /* rounds of each process */

double semop_pair(void)
{
	int id = new_set(1);
	struct sembuf v = {0, 1, 0}, p = {0, -1, 0};
	double ns = TIMED(2000000, MUST(semop(id, &v, 1)); MUST(semop(id, &p, 1)));

	semctl(id, 0, IPC_RMID);
	return ns;
}

static double semop_undo_pair(void)
{
	int id = new_set(1);
	struct sembuf v = {0, 1, SEM_UNDO}, p = {0, -1, SEM_UNDO};
	double ns = TIMED(1000000, MUST(semop(id, &v, 1)); MUST(semop(id, &p, 1)));

	semctl(id, 0, IPC_RMID);
	return ns;
}

static double semop_two_pair(void)
{
	int id = new_set(2);
	struct sembuf v[2] = {{0, 1, 0}, {1, 1, 0}}, p[2] = {{0, -1, 0}, {1, -1, 0}};
	double ns = TIMED(1000000, MUST(semop(id, v, 2)); MUST(semop(id, p, 2)));

	semctl(id, 0, IPC_RMID);
	return ns;
}

static double getval(void)
{
	int id = new_set(1);
	double ns = TIMED(2000000, MUST(semctl(id, 0, GETVAL)));

	semctl(id, 0, IPC_RMID);
	return ns;
}

static double stat_set(void)
{
	int id = new_set(1);
	struct semid_ds ds;
	union semun arg = {.buf = &ds};
	semctl(id, 0, GETVAL);
	double ns = TIMED(2000000, MUST(semctl(id, 0, IPC_STAT, arg)));

	semctl(id, 0, IPC_RMID);
	return ns;
}

static void sem_pong(void *arg)
{
	struct sembuf p = {0, -1, 0}, v = {1, 1, 0};

	for (long i = 0; i < n; i++) {
		MUST(semop(*(int *)arg, &p, 1));
		MUST(semop(*(int *)arg, &v, 1));
	}
}
static double sem_ping_pong(void)
{
	int id = new_set(2);
	struct sembuf v = {0, 1, 0}, p = {1, -1, 0};

	n = rounds(200000);
	double begun = now();
	child_of(sem_pong, &id);
	for (long i = 0; i < n; i++) {
		MUST(semop(id, &v, 1));
		MUST(semop(id, &p, 1));
	}
	double ns = (now() - begun) / (double)n;

	reap_all();
	semctl(id, 0, IPC_RMID);
	return ns;
}

static double sem_ping_pong_busy(void)
{
	return busy(sem_ping_pong);
}

/* How long after the semop of one process the semop of another that sleeps in
 * it returns. The sleeper gets time to fall asleep first. */
static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}
static double sem_wake(void)
{
	struct sembuf v = {0, 1, 0}, p = {0, -1, 0}, back = {1, 1, 0}, wait = {1, -1, 0};
	int id = new_set(2);
	long count = rounds(20000);
	double *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	double *took = malloc((size_t)count * sizeof *took);
	pid_t k = fork();

	MUST(k);
	if (k == 0) {
		for (long i = 0; i < count; i++) {
			MUST(semop(id, &p, 1));
			at[1] = now();
			MUST(semop(id, &back, 1));
		}
		_exit(0);
	}
	for (long i = 0; i < count; i++) {
		usleep(100);
		at[0] = now();
		MUST(semop(id, &v, 1));
		MUST(semop(id, &wait, 1));
		took[i] = at[1] - at[0];
	}
	reap_all();
	semctl(id, 0, IPC_RMID);
	qsort(took, (size_t)count, sizeof *took, compare);
	result("sem_wake", "_p50", took[count / 2]);
	result("sem_wake", "_p99", took[count * 99 / 100]);
	result("sem_wake", "_p999", took[count * 999 / 1000]);
	free(took);
	return -1;
}

static void contend(void *arg)
{
	struct sembuf p = {0, -1, 0}, v = {0, 1, 0};

	for (long i = 0; i < n; i++) {
		MUST(semop(*(int *)arg, &p, 1));
		MUST(semop(*(int *)arg, &v, 1));
	}
}
double contended(int processes)
{
	int id = new_set(1);
	struct sembuf v = {0, 1, 0};

	n = rounds(40000);
	double begun = now();
	for (int i = 0; i < processes; i++)
		child_of(contend, &id);
	MUST(semop(id, &v, 1));
	reap_all();
	double ns = (now() - begun) / (double)(processes * n);

	semctl(id, 0, IPC_RMID);
	return ns;
}

static double sem_contended_8(void)
{
	return contended(8);
}

static double sem_create(void)
{
	return TIMED(50000, int id = semget(IPC_PRIVATE, 1, 0600); MUST(id);
		     MUST(semctl(id, 0, IPC_RMID)));
}

const struct row sem_rows[] = {
	{"semop_pair", semop_pair},
	{"semop_undo_pair", semop_undo_pair},
	{"semop_two_pair", semop_two_pair},
	{"getval", getval},
	{"stat_set", stat_set},
	{"sem_ping_pong", sem_ping_pong},
	{"sem_ping_pong_busy", sem_ping_pong_busy},
	{"sem_wake", sem_wake},
	{"sem_contended_8", sem_contended_8},
	{"sem_create_remove", sem_create},
	{NULL, NULL},
};
