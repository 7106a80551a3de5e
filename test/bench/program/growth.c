/* How the calls grow with what else is there: -n contenders, objects, sessions. */
#include <signal.h>

#include "bench.h"

static double grow_contenders(void)
{
	return contended(size);
}

static void pairs(const char *row)
{
	result(row, "_semop", semop_pair());
	result(row, "_message", message_64());
	result(row, "_get", shmget_existing());
}

static double grow_objects(void)
{
	int *ids = malloc((size_t)size * sizeof *ids);

	for (int i = 0; i < size; i++)
		ids[i] = new_set(1);
	pairs("grow_objects");
	for (int i = 0; i < size; i++)
		MUST(semctl(ids[i], 0, IPC_RMID));
	free(ids);
	return -1;
}

/* Processes that use one set, then sleep; all at once, as they would start. */
static double grow_sessions(void)
{
	int key = 0x67730000 + getpid() % 0xffff, gate[2], up[2];
	pid_t *pids = malloc((size_t)size * sizeof *pids);
	char c;

	MUST(pipe(gate));
	MUST(pipe(up));
	for (int i = 0; i < size; i++) {
		pids[i] = fork();
		MUST(pids[i]);
		if (pids[i] == 0) {
			close(gate[1]);
			MUST(read(gate[0], &c, 1)); /* its end: all are there */
			int id = semget(key, 1, IPC_CREAT | 0600);
			MUST(id);
			MUST(semctl(id, 0, GETVAL));
			MUST(write(up[1], "", 1));
			pause();
		}
	}
	double begun = now();
	close(gate[1]);
	for (int i = 0; i < size; i++)
		MUST(read(up[0], &c, 1));
	result("grow_sessions", "_register", (now() - begun) / size);
	pairs("grow_sessions");
	/* For whoever looks at the manager now. */
	result("grow_sessions", "_ready", 0);
	MUST(read(0, &c, 1));
	for (int i = 0; i < size; i++)
		kill(pids[i], SIGKILL);
	while (wait(NULL) > 0)
		;
	semctl(semget(key, 1, 0600), 0, IPC_RMID);
	free(pids);
	return -1;
}

/* Makes -n of a kind, used once, and waits: for whoever looks at the memory. */
static double hold_sets(void)
{
	for (int i = 0; i < size; i++)
		MUST(semctl(new_set(1), 0, GETVAL));
	result("hold", "_ready", 0);
	MUST(read(0, &(char){0}, 1));
	return -1;
}
static double hold_queues(void)
{
	struct text m = {1, ""};

	for (int i = 0; i < size; i++) {
		int id = new_queue();

		MUST(msgsnd(id, &m, 8, 0));
		MUST(msgrcv(id, &m, 8, 0, 0));
	}
	result("hold", "_ready", 0);
	MUST(read(0, &(char){0}, 1));
	return -1;
}

const struct row growth_rows[] = {
	{"grow_contenders", grow_contenders},
	{"grow_objects", grow_objects},
	{"grow_sessions", grow_sessions},
	{"hold_sets", hold_sets},
	{"hold_queues", hold_queues},
	{NULL, NULL},
};
