/* Shared memory. */
#include "bench.h"

double shmget_existing(void)
{
	int key = 0x62650000 + getpid() % 0xffff, id = shmget(key, 4096, IPC_CREAT | 0600);
	MUST(id);
	double ns = TIMED(2000000, MUST(shmget(key, 4096, 0600)));

	shmctl(id, IPC_RMID, NULL);
	return ns;
}

static double attach(void)
{
	int id = shmget(IPC_PRIVATE, 4096, 0600);

	MUST(id);
	double ns = TIMED(200000, void *p = shmat(id, NULL, 0); if (p == (void *)-1) die("shmat");
			  MUST(shmdt(p)));
	shmctl(id, IPC_RMID, NULL);
	return ns;
}

static double shm_create(void)
{
	return TIMED(50000, int id = shmget(IPC_PRIVATE, 4096, 0600); MUST(id);
		     MUST(shmctl(id, IPC_RMID, NULL)));
}

/* touch: the first touch of a segment of 1 GiB; else reads all over it. */
static double big(int touch)
{
	size_t size = (size_t)1 << 30;
	int id = shmget(IPC_PRIVATE, size, 0600);

	MUST(id);
	char *p = shmat(id, NULL, 0);
	if (p == (void *)-1)
		die("shmat");
	shmctl(id, IPC_RMID, NULL);
	double begun = now();
	for (size_t i = 0; i < size; i += 4096)
		p[i] = 1;
	double first = (now() - begun) / (double)(size / 4096);
	uint64_t x = 88172645463325252u, sum = 0;
	long n = rounds(20000000);
	begun = now();
	for (long i = 0; i < n; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		sum += *(volatile uint64_t *)(p + (x % size & ~7ul));
	}
	double reads = (now() - begun) / (double)n;
	shmdt(p);
	return touch ? first : reads + (double)(sum & 0);
}
static double random_reads(void)
{
	return big(0);
}
static double first_touch(void)
{
	return big(1);
}

const struct row shm_rows[] = {
	{"shmget_existing", shmget_existing},
	{"attach_pair", attach},
	{"shm_create_remove", shm_create},
	{"random_reads_1g", random_reads},
	{"first_touch_1g", first_touch},
	{NULL, NULL},
};
