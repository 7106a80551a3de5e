/*
 * Every call that reads or writes the program's memory, in ways that a tool watching that memory
 * has nothing to say about: room to receive that nobody has written to, arrays that end where
 * their block ends. Then pointers to nothing, which the tool may not hide.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <time.h>

enum { SEMS = 3, TEXT = 3000 };

struct message {
	long type;
	char text[TEXT];
};

#define CHECK(what)                                                                                \
	do {                                                                                       \
		if (!(what)) {                                                                     \
			printf("line %d: %s, errno %d\n", __LINE__, #what, errno);                 \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static void sets(int set)
{
	unsigned short *values = malloc(SEMS * sizeof *values);
	struct sembuf *one = malloc(sizeof *one);
	struct semid_ds state;

	for (int i = 0; i < SEMS; i++)
		values[i] = i + 1;
	CHECK(semctl(set, 0, SETALL, values) == 0);
	free(values);
	values = malloc(SEMS * sizeof *values);
	CHECK(semctl(set, 0, GETALL, values) == 0 && values[SEMS - 1] == SEMS);
	free(values);
	*one = (struct sembuf){.sem_num = 2, .sem_op = -1, .sem_flg = SEM_UNDO};
	CHECK(semop(set, one, 1) == 0);
	*one = (struct sembuf){.sem_num = 0, .sem_op = -2};
	CHECK(semtimedop(set, one, 1, &(struct timespec){.tv_nsec = 1000000}) == -1 && errno == EAGAIN);
	free(one);
	CHECK(semctl(set, 0, IPC_STAT, &state) == 0 && state.sem_nsems == SEMS);
	CHECK(semctl(set, 0, IPC_SET, &state) == 0);
}

static void queues(int queue)
{
	struct message *sent = calloc(1, sizeof *sent), *got = malloc(sizeof *got), small;
	struct msqid_ds state;

	sent->type = 1;
	strcpy(sent->text, "a message");
	CHECK(msgsnd(queue, sent, TEXT, 0) == 0 && msgsnd(queue, sent, 10, 0) == 0);
	CHECK(msgrcv(queue, got, TEXT, 0, 0) == TEXT && strcmp(got->text, "a message") == 0);
	CHECK(msgrcv(queue, &small, 10, 1, MSG_NOERROR) == 10 && strcmp(small.text, "a message") == 0);
	CHECK(msgctl(queue, IPC_STAT, &state) == 0 && state.msg_qnum == 0);
	CHECK(msgctl(queue, IPC_SET, &state) == 0);
	free(sent);
	free(got);
}

static void segments(int segment)
{
	struct shmid_ds state;
	int *p = shmat(segment, NULL, 0);

	CHECK(p != (void *)-1);
	*p = 42;
	CHECK(shmctl(segment, IPC_STAT, &state) == 0 && state.shm_nattch == 1);
	CHECK(shmctl(segment, IPC_SET, &state) == 0);
	CHECK(shmdt(p) == 0);
}

static void nowhere(int set, int queue, int segment)
{
	char *closed = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *constant = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *gone = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(closed != MAP_FAILED && constant != MAP_FAILED && munmap(gone, 4096) == 0);
	CHECK(semop(set, (void *)closed, 1) == -1 && errno == EFAULT);
	CHECK(semop(set, (void *)gone, 1) == -1 && errno == EFAULT);
	CHECK(semctl(set, 0, GETALL, constant) == -1 && errno == EFAULT);
	CHECK(semctl(set, 0, GETALL, gone) == -1 && errno == EFAULT);
	CHECK(msgsnd(queue, closed, 1, 0) == -1 && errno == EFAULT);
	CHECK(msgctl(queue, IPC_STAT, (void *)constant) == -1 && errno == EFAULT);
	CHECK(shmctl(segment, IPC_SET, (void *)gone) == -1 && errno == EFAULT);
}

int main(int argc, char **argv)
{
	int set = semget(IPC_PRIVATE, SEMS, 0600), queue = msgget(IPC_PRIVATE, 0600);
	int segment = shmget(IPC_PRIVATE, 10000, 0600);

	CHECK(set != -1 && queue != -1 && segment != -1);
	sets(set);
	queues(queue);
	segments(segment);
	if (argc > 1 && strcmp(argv[1], "nowhere") == 0)
		nowhere(set, queue, segment);
	CHECK(semctl(set, 0, IPC_RMID) == 0 && msgctl(queue, IPC_RMID, NULL) == 0);
	CHECK(shmctl(segment, IPC_RMID, NULL) == 0);
	puts("done");
	return 0;
}
