/*
 * A member that means well, and says how it fares while others attack.
 *
 *   witness private FILE        uses objects of its own; all must be right
 *   witness shared FILE SET Q   uses the objects under attack; must not hang
 *   witness once                registers, uses a set and a queue, ends
 *
 * FILE is a struct report, shared with who started it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct report {
	uint64_t rounds;
	uint64_t began;    /* CLOCK_MONOTONIC ns: the call under way */
	uint64_t longest;  /* ns of a call, reset by the reader */
	uint64_t failures;
	uint64_t frugal;   /* not zero: make no new objects */
	char first[216];   /* failure */
};

static struct report *report;

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void fail(const char *what, long got)
{
	if (report == NULL) {
		fprintf(stderr, "witness: %s: %ld, %s\n", what, got, strerror(errno));
		exit(1);
	}
	if (__atomic_fetch_add(&report->failures, 1, __ATOMIC_SEQ_CST) == 0)
		snprintf(report->first, sizeof report->first, "%s: %ld, %s", what, got,
			 strerror(errno));
}

/* Times a call. */
#define TIMED(call)                                                                                \
	({                                                                                         \
		uint64_t begun = now();                                                            \
		if (report)                                                                        \
			__atomic_store_n(&report->began, begun, __ATOMIC_SEQ_CST);                 \
		long r = (long)(call);                                                             \
		if (report && now() - begun > report->longest)                                     \
			report->longest = now() - begun;                                           \
		r;                                                                                 \
	})
#define WANT(call, want)                                                                           \
	do {                                                                                       \
		long got = TIMED(call);                                                            \
		if (got != (want))                                                                 \
			fail(#call, got);                                                          \
	} while (0)

struct message {
	long type;
	char text[100];
};

static int op(int set, int by, int flags)
{
	struct sembuf o = {0, (short)by, (short)flags};

	return semop(set, &o, 1);
}

static void use(int set, int queue)
{
	struct message out = {7, "what was sent"}, in = {0};

	WANT(op(set, 1, 0), 0);
	WANT(semctl(set, 0, GETVAL), 1);
	WANT(op(set, -1, 0), 0);
	WANT(msgsnd(queue, &out, sizeof out.text, 0), 0);
	WANT(msgrcv(queue, &in, sizeof in.text, 0, 0), (long)sizeof in.text);
	if (in.type != out.type || memcmp(in.text, out.text, sizeof in.text))
		fail("the message", in.type);
}

static void make_and_remove(void)
{
	enum { SIZE = 64 << 10 };
	int id = (int)TIMED(shmget(IPC_PRIVATE, SIZE, 0600));

	if (id < 0) {
		fail("shmget", id);
		return;
	}
	char *p = shmat(id, NULL, 0);
	if (p == (void *)-1) {
		fail("shmat", -1);
	} else {
		memset(p, 0x5a, SIZE); /* what was promised can be touched */
		for (int i = 0; i < SIZE; i += 512)
			if (p[i] != 0x5a)
				fail("the segment", i);
		WANT(shmdt(p), 0);
	}
	WANT(shmctl(id, IPC_RMID, NULL), 0);
	int set = (int)TIMED(semget(IPC_PRIVATE, 3, 0600));
	if (set < 0)
		fail("semget", set);
	else
		WANT(semctl(set, 0, IPC_RMID), 0);
}

/* A child's undo is done when wait() returns. */
static void undo(int set)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		op(set, 3, SEM_UNDO);
		_exit(0);
	}
	waitpid(child, &status, 0);
	WANT(semctl(set, 0, GETVAL), 0);
}

static void newcomer(const char *self)
{
	int status = -1;
	uint64_t begun = now();
	pid_t child = fork();

	__atomic_store_n(&report->began, begun, __ATOMIC_SEQ_CST);
	if (child == 0) {
		execl(self, self, "once", NULL);
		_exit(127);
	}
	waitpid(child, &status, 0);
	if (status != 0)
		fail("a newcomer", status);
	if (now() - begun > report->longest)
		report->longest = now() - begun;
}

static void shared(int set, int queue)
{
	struct message m = {3, ""};
	struct timespec moment = {0, 5000000};
	struct sembuf o = {0, -1, 0};
	union {
		struct semid_ds *set;
	} arg;
	struct semid_ds ds;
	struct msqid_ds qs;

	arg.set = &ds;
	TIMED(op(set, 1, IPC_NOWAIT));
	TIMED(op(set, -1, IPC_NOWAIT));
	TIMED(op(set, 1, IPC_NOWAIT | SEM_UNDO));
	TIMED(op(set, -1, IPC_NOWAIT | SEM_UNDO));
	TIMED(semtimedop(set, &o, 1, &moment));
	TIMED(semctl(set, 0, GETVAL));
	TIMED(semctl(set, 0, GETNCNT));
	TIMED(semctl(set, 0, IPC_STAT, arg));
	TIMED(msgsnd(queue, &m, sizeof m.text, IPC_NOWAIT));
	TIMED(msgrcv(queue, &m, sizeof m.text, 0, IPC_NOWAIT | MSG_NOERROR));
	TIMED(msgctl(queue, IPC_STAT, &qs));
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "once")) {
		int set = semget(IPC_PRIVATE, 1, 0600), queue = msgget(IPC_PRIVATE, 0600);

		if (set < 0 || queue < 0)
			fail("a new object", set < queue ? set : queue);
		use(set, queue);
		return semctl(set, 0, IPC_RMID) || msgctl(queue, IPC_RMID, NULL);
	}
	int fd = argc > 2 ? open(argv[2], O_RDWR) : -1;

	if (fd < 0)
		return 2;
	report = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (!strcmp(argv[1], "shared")) {
		for (;; report->rounds++)
			shared(atoi(argv[3]), atoi(argv[4]));
	}
	int set = semget(IPC_PRIVATE, 1, 0600), queue = msgget(IPC_PRIVATE, 0600);

	for (uint64_t n = 0;; n++, report->rounds++) {
		use(set, queue);
		if (n % 16 == 0 && !report->frugal)
			make_and_remove();
		if (n % 64 == 0)
			undo(set);
		if (n % 256 == 0 && !report->frugal)
			newcomer(argv[0]);
		usleep(200);
	}
}
