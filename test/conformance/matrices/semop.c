/* semop, semtimedop, semctl and semget: operations, counts, times and values at and beyond their bounds. */
#include "matrix.h"
#include <time.h>

#define VALUE(n) ((union semun){ .val = (n) })
union semun { int val; unsigned short *array; void *buf; };

static int set;
static struct sembuf up = { 0, 1, 0 }, down = { 1, -1, 0 }, zero = { 1, 0, 0 }, no_such = { 7, 1, 0 };

static void times(void)
{
	static const struct timespec all[] = {
		{ 0, 0 }, { 0, 1 }, { 0, 1000 }, { 0, 1000000000 }, { 0, -1 }, { 0, LONG_MAX }, { -1, 0 },
		{ -1, 999999999 }, { LONG_MIN, 0 }, { LONG_MAX, 0 }, { LONG_MAX, 999999999 },
	};
	for (size_t i = 0; i < COUNT(all); i++) {
		const struct timespec *t = &all[i];
		printf("a timeout of %ld s, %ld ns:\n", t->tv_sec, t->tv_nsec);
		TRY(semtimedop(set, &up, 1, t));
		if (t->tv_sec < LONG_MAX)
			TRY(semtimedop(set, &down, 1, t));
		TRY(semtimedop(set, &no_such, 1, t));
		TRY(semtimedop(-1, &up, 1, t));
		TRY(semtimedop(set, NULL, 0, t));
		TRY(semtimedop(set, NULL, 1, t));
		TRY(semtimedop(set, NULL, 100000, t));
	}
}

static void pointers(void)
{
	TRY(semtimedop(set, &up, 1, (void *)nowhere));
	TRY(semtimedop(set, &up, 0, (void *)nowhere));
	TRY(semtimedop(set, &up, 1000, (void *)nowhere));
	TRY(semtimedop(-1, NULL, 0, (void *)nowhere));
	TRY(semtimedop(set, &up, 1, (void *)(edge - 8)));
	const struct sembuf two[2] = { { 0, 1, 0 }, { 0, 1, 0 } };
	memcpy(edge - 12, two, sizeof two);
	TRY(semop(set, (void *)(edge - 6), 1));
	TRY(semop(set, (void *)(edge - 5), 1));
	TRY(semop(set, (void *)(edge - 12), 2));
	TRY(semop(set, (void *)(edge - 12), 3));
	TRY(semop(set, &zero, 1));
	TRY(semctl(set, 0, GETVAL));
}

static void counts(void)
{
	for (size_t n = 498; n <= 502; n++) {
		struct sembuf *ops = calloc(n, sizeof *ops);
		for (size_t i = 0; i < n; i++)
			ops[i] = (struct sembuf){ 2, i % 2 ? -1 : 1, 0 };
		printf("%zu operations:\n", n);
		TRY(semop(set, ops, n));
		TRY(semop(-5, ops, n));
		ops[n - 1].sem_num = 9;
		TRY(semop(set, ops, n));
		free(ops);
	}
	TRY(semop(set, &up, (size_t)-1));
	TRY(semop(set, &up, 0x100000000UL));
	TRY(semop(set, &up, 0x100000001UL));
	TRY(semctl(set, 2, GETVAL));
}

static void bounds(void)
{
	enum { NOW = IPC_NOWAIT };
	struct sembuf cases[][3] = {
		{ { 2, 32767, 0 }, { 2, 1, 0 } },
		{ { 2, 32767, 0 }, { 2, -32767, 0 }, { 2, -1, NOW } },
		{ { 2, -32768, NOW } },
		{ { 2, -32768, NOW | SEM_UNDO } },
		{ { 2, 32767, SEM_UNDO }, { 2, -32767, 0 }, { 2, 1, SEM_UNDO } },
		{ { 2, 32767, SEM_UNDO }, { 2, -32767, 0 }, { 2, 2, SEM_UNDO } },
		{ { 2, 32767, SEM_UNDO } },
		{ { 0, 1, (short)0x8000 } },
		{ { 0, -1, 0x7fff & ~SEM_UNDO } },
		{ { 0, 0, NOW }, { 0, 1, NOW } },
		{ { 0, 1, NOW }, { 0, 0, NOW } },
		{ { 0, 1, NOW }, { 65535, 1, NOW } },
	};
	for (size_t i = 0; i < COUNT(cases); i++) {
		size_t n = cases[i][2].sem_op ? 3 : cases[i][1].sem_op || cases[i][1].sem_flg ? 2 : 1;
		printf("case %zu, %zu operations:\n", i, n);
		TRY(semop(set, cases[i], n));
		for (int s = 0; s < 3; s++)
			TRY(semctl(set, s, GETVAL));
	}
}

static void values(void)
{
	unsigned short v[3] = { 1, 2, 40000 };
	TRY(semctl(set, 0, SETALL, v));
	v[2] = 32768;
	TRY(semctl(set, 0, SETALL, v));
	v[2] = 32767;
	TRY(semctl(set, 99, SETALL, v));
	TRY(semctl(set, -9, GETALL, v));
	TRY(semctl(set, 0, GETALL, edge - 4));
	TRY(semctl(set, 0, SETALL, edge - 4));
	TRY(semctl(set, 0, GETALL, read_only));
	TRY(semctl(set, 0, SETALL, read_only));
	static const int numbers[] = { 0, 2, 3, 9, -1, INT_MIN, INT_MAX };
	static const int all[] = { 0, 1, 32767, 32768, 40000, 65536, 0x10001, -1, INT_MIN, INT_MAX };
	for (size_t n = 0; n < COUNT(numbers); n++) {
		printf("semaphore %d:\n", numbers[n]);
		TRY(semctl(set, numbers[n], GETVAL));
		TRY(semctl(set, numbers[n], GETNCNT));
		TRY(semctl(set, numbers[n], GETZCNT));
		TRY(semctl(set, numbers[n], GETPID) == getpid());
		for (size_t i = 0; i < COUNT(all); i++) {
			printf("%d: ", all[i]);
			TRY(semctl(set, numbers[n], SETVAL, VALUE(all[i])));
		}
		TRY(semctl(set + 1000, numbers[n], SETVAL, VALUE(40000)));
		TRY(semctl(-1, numbers[n], SETVAL, VALUE(40000)));
	}
	TRY(semctl(set, 5, IPC_RMID));
	TRY(semctl(set, 0, IPC_RMID));
	TRY(semop(set, &up, 1));
}

static void sizes(void)
{
	static const int all[] = { INT_MIN, -1, 0, 1, 2, 31999, 32000, 32001, INT_MAX };
	for (size_t i = 0; i < COUNT(all); i++) {
		printf("%d semaphores:\n", all[i]);
		int made = (int)TRY(semget(IPC_PRIVATE, all[i], 0600));
		TRY(semget(77, all[i], 0600));
		int named = (int)TRY(semget(77, all[i], IPC_CREAT | 0600));
		TRY(semget(77, all[i], IPC_CREAT | IPC_EXCL | 0600));
		TRY(semget(77, all[i], IPC_EXCL));
		if (made >= 0)
			TRY(semctl(made, all[i] - 1, GETVAL));
		if (made >= 0)
			semctl(made, 0, IPC_RMID);
		if (named >= 0)
			semctl(named, 0, IPC_RMID);
	}
}

int main(void)
{
	map_pages();
	set = make(SEM, IPC_PRIVATE, 3, 0600);
	times();
	pointers();
	counts();
	bounds();
	values();
	sizes();
	return 0;
}
