/*
 * One of two peers, built against different C libraries, that share a queue, a semaphore set and a
 * segment: peer {first|second} ROUNDS.
 *
 * Each round, first sends a number, second answers it, and both add one to a counter in the segment
 * that only the semaphore protects. The adding is a plain load and store with a pause between, so a
 * lost exclusion shows as a lost count. Each prints "done" and the counter as it saw it at the end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { KEY = 0x1b0c, TO_SECOND = 1, TO_FIRST = 2, MUTEX = 0, FINISHED = 1 };

struct shared {
	volatile long counter;
	char greeting[2][32];
};
struct message {
	long type;
	struct { long round; char text[100]; } body;
};
union semun { int val; struct semid_ds *buf; unsigned short *array; };

static void die(const char *what)
{
	fprintf(stderr, "peer %d: %s: %s\n", (int)getpid(), what, strerror(errno));
	exit(1);
}

static void op(int set, unsigned short sem, short by, short flags)
{
	struct sembuf ops = { sem, by, flags };
	struct timespec limit = { 30, 0 };

	if (semtimedop(set, &ops, 1, &limit))
		die("semtimedop");
}

static void add(int set, struct shared *shared)
{
	op(set, MUTEX, -1, SEM_UNDO);
	long seen = shared->counter;
	if (seen % 64 == 0)
		sched_yield();
	shared->counter = seen + 1;
	op(set, MUTEX, 1, SEM_UNDO);
}

/* A child takes the mutex and dies with it: the other peer must get it back by undo. */
static void die_holding(int set)
{
	pid_t child = fork();
	int status;

	if (child < 0)
		die("fork");
	if (child == 0) {
		op(set, MUTEX, -1, SEM_UNDO);
		_exit(0);
	}
	if (waitpid(child, &status, 0) != child)
		die("waitpid");
	if (status != 0) {
		fprintf(stderr, "peer %d: its child %d failed\n", (int)getpid(), (int)child);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	int first = argc > 2 && strcmp(argv[1], "first") == 0;
	long rounds = argc > 2 ? atol(argv[2]) : 0;
	struct message message;

	if (rounds <= 0) {
		fprintf(stderr, "usage: peer {first|second} ROUNDS\n");
		return 2;
	}
	alarm(60);

	int queue = msgget(KEY, IPC_CREAT | 0600);
	int shm = shmget(KEY, sizeof(struct shared), IPC_CREAT | 0600);
	int set = semget(KEY, 2, IPC_CREAT | 0600);
	if (queue < 0 || shm < 0 || set < 0)
		die("msgget, shmget, semget");
	struct shared *shared = shmat(shm, NULL, 0);
	if (shared == (void *)-1)
		die("shmat");

	if (first) {
		if (semctl(set, MUTEX, SETVAL, (union semun){ .val = 1 }))
			die("SETVAL");
		strcpy(shared->greeting[0], "from the first");
	} else {
		strcpy(shared->greeting[1], "from the second");
	}

	for (long round = 1; round <= rounds; round++) {
		if (first) {
			message.type = TO_SECOND;
			message.body.round = round;
			/* lengths vary: what follows the text's end must not arrive */
			size_t length = sizeof message.body - (size_t)(round % 64);
			if (msgsnd(queue, &message, length, 0))
				die("msgsnd");
			if (msgrcv(queue, &message, sizeof message.body, TO_FIRST, 0) != (ssize_t)sizeof(long))
				die("msgrcv");
			if (message.body.round != -round) {
				fprintf(stderr, "peer: got %ld in round %ld\n", message.body.round, round);
				return 1;
			}
		} else {
			ssize_t want = (ssize_t)sizeof message.body - round % 64;
			if (msgrcv(queue, &message, sizeof message.body, TO_SECOND, 0) != want || message.body.round != round)
				die("msgrcv of another length or number");
			message.type = TO_FIRST;
			message.body.round = -round;
			if (msgsnd(queue, &message, sizeof(long), 0))
				die("msgsnd");
		}
		add(set, shared);
		if (round % 250 == 0)
			die_holding(set);
	}

	/* Both wait until both are ready: first for the other's mark, then each sees the whole count. */
	op(set, FINISHED, 1, 0);
	op(set, FINISHED, -2, 0);
	op(set, FINISHED, 2, 0);
	if (strcmp(shared->greeting[first], first ? "from the second" : "from the first")) {
		fprintf(stderr, "peer: the other's greeting reads '%s'\n", shared->greeting[first]);
		return 1;
	}
	printf("done %ld\n", shared->counter);
	return shmdt((void *)shared) ? 1 : 0;
}
