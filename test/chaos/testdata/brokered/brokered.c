/*
 * brokered N: one process gives and three take, N times each, by a set and by two queues, all calls
 * brokered. Each call must happen once, whatever becomes of the manager meanwhile.
 *
 * brokered --alone: one process does all that in turn, until it is killed.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LONG 1500 /* bytes: a queue holds a few, so that senders sleep, too */

struct message {
	long type;
	int number;
	char rest[LONG];
};

static int set, queue, back;

#define MUST(call)                                                                                 \
	do {                                                                                       \
		if ((call) < 0) {                                                                  \
			printf("%s: %s\n", #call, strerror(errno));                                \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

/* Sometimes the others have to wait for it. */
static void pause_at(int i)
{
	struct timespec ts = {0, 300000};

	if (i % 16 == 0)
		nanosleep(&ts, NULL);
}

static void give(int n)
{
	struct sembuf v = {0, 1, 0};

	for (int i = 0; i < n; i++, pause_at(i))
		MUST(semop(set, &v, 1));
}

static void take(int n)
{
	struct sembuf p[] = {{0, -1, 0}, {1, 1, 0}};

	for (int i = 0; i < n; i++)
		MUST(semop(set, p, 2));
}

static void send(int n)
{
	struct message m = {.type = 1};

	for (m.number = 0; m.number < n; m.number++, pause_at(m.number))
		MUST(msgsnd(queue, &m, sizeof m - sizeof m.type, 0));
}

/* Gets what send sent, in that order, and passes the numbers on. */
static void receive(int n)
{
	struct message m;

	for (int i = 0; i < n; i++) {
		MUST(msgrcv(queue, &m, sizeof m - sizeof m.type, 0, 0));
		if (m.number != i) {
			printf("message %d for %d\n", m.number, i);
			exit(1);
		}
		MUST(msgsnd(back, &m, sizeof m.number, 0));
	}
}

static void count(int n)
{
	struct message m;

	for (int i = 0; i < n; i++) {
		MUST(msgrcv(back, &m, sizeof m.number, 1, 0));
		if (m.number != i) {
			printf("number %d came back for %d\n", m.number, i);
			exit(1);
		}
	}
}

static void alone(void)
{
	struct sembuf ops[] = {{0, 1, 0}, {0, -1, 0}};
	struct message m = {.type = 1};

	for (;;) {
		MUST(semop(set, &ops[0], 1));
		MUST(msgsnd(queue, &m, sizeof m - sizeof m.type, 0));
		MUST(msgrcv(queue, &m, sizeof m - sizeof m.type, 0, 0));
		MUST(semop(set, &ops[1], 1));
	}
}

int main(int argc, char **argv)
{
	void (*const roles[])(int) = {give, take, send, receive, count};
	int n = argc > 1 ? atoi(argv[1]) : 1000, failed = 0, status;
	struct msqid_ds ds;

	MUST(set = semget(IPC_PRIVATE, 2, 0600));
	MUST(queue = msgget(IPC_PRIVATE, 0600));
	MUST(back = msgget(IPC_PRIVATE, 0600));
	MUST(msgctl(queue, IPC_STAT, &ds));
	ds.msg_qbytes = 3 * LONG;
	MUST(msgctl(queue, IPC_SET, &ds));
	if (argc > 1 && strcmp(argv[1], "--alone") == 0)
		alone();
	for (int i = 0; i < 5; i++)
		if (fork() == 0) {
			roles[i](n);
			exit(0);
		}
	for (int i = 0; i < 5; i++) {
		MUST(wait(&status));
		failed += status != 0;
	}
	int left = semctl(set, 0, GETVAL), taken = semctl(set, 1, GETVAL);
	MUST(msgctl(queue, IPC_STAT, &ds));
	printf("left %d, taken %d, messages %lu, failed %d\n", left, taken, ds.msg_qnum, failed);
	return failed || left != 0 || taken != n || ds.msg_qnum != 0;
}
