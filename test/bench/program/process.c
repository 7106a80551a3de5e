/* Processes: what the library costs them. */
#include <spawn.h>

#include "bench.h"

static double fork_attached(void)
{
	int id[4];

	for (int i = 0; i < 4; i++) {
		id[i] = shmget(IPC_PRIVATE, 4096, 0600);
		MUST(id[i]);
		if (shmat(id[i], NULL, 0) == (void *)-1)
			die("shmat");
	}
	double ns = TIMED(5000, pid_t k = fork(); MUST(k); if (k == 0) _exit(0);
			  waitpid(k, NULL, 0));
	for (int i = 0; i < 4; i++)
		shmctl(id[i], IPC_RMID, NULL);
	return ns;
}

/* With the library in its environment, or without. */
static double start_true(void)
{
	char *argv[] = {"/bin/true", NULL};
	extern char **environ;

	return TIMED(1000, pid_t k; int status;
		     if (posix_spawn(&k, argv[0], NULL, NULL, argv, environ) != 0) die("posix_spawn");
		     MUST(waitpid(k, &status, 0)));
}

/* The first call of a process, in which it registers with the space. */
static double first_call(void)
{
	int key = 0x66690000 + getpid() % 0xffff;
	double *took = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	double sum = 0;
	long n = rounds(1000);

	for (long i = 0; i < n; i++) {
		pid_t k = fork();

		MUST(k);
		if (k == 0) {
			double begun = now();

			MUST(semget(key, 1, IPC_CREAT | 0600));
			*took = now() - begun;
			_exit(0);
		}
		waitpid(k, NULL, 0);
		sum += *took;
	}
	semctl(semget(key, 1, 0600), 0, IPC_RMID);
	return sum / (double)n;
}

const struct row process_rows[] = {
	{"fork_attached", fork_attached},
	{"start_true", start_true},
	{"first_call", first_call},
	{NULL, NULL},
};
