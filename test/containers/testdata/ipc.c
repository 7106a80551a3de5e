/* What the containers of these tests run: System V IPC by libc's own calls, built for glibc, for musl
 * and static. It prints what came of each call, and ends with 1 after "VERB: errno". */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

union semun {
	int val;
};

static volatile sig_atomic_t ended;
static void end(int s) { ended = s; }

static int fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	return 1;
}

/* A mutex: one semaphore, made with 1. */
static int mutex(key_t key)
{
	int id = semget(key, 1, IPC_CREAT | IPC_EXCL | 0666);

	if (id >= 0)
		return semctl(id, 0, SETVAL, (union semun){.val = 1}) < 0 ? -1 : id;
	return errno == EEXIST ? semget(key, 1, 0) : -1;
}

/* P and V of the mutex, until a signal; a counter that only its holder changes shows any unit too many. */
static int storm(key_t key, const char *name)
{
	struct sembuf p = {0, -1, SEM_UNDO}, v = {0, 1, SEM_UNDO};
	int set = mutex(key), shm = shmget(key, 4096, IPC_CREAT | 0666);
	volatile long *inside;
	long done = 0;
	time_t shown = time(NULL);

	if (set < 0 || shm < 0 || (inside = shmat(shm, NULL, 0)) == (void *)-1)
		return fail("storm");
	while (!ended) {
		if (semop(set, &p, 1) < 0) {
			if (errno == EINTR)
				continue;
			return fail("semop");
		}
		inside[1] = inside[0] + 1; /* whoever dies in between only leaves inside[0] */
		inside[0] = inside[1];
		if (semop(set, &v, 1) < 0)
			return fail("semop");
		done++;
		if (time(NULL) != shown) {
			shown = time(NULL);
			printf("%s %ld\n", name, done);
			fflush(stdout);
		}
	}
	printf("%s ended %ld\n", name, done);
	return 0;
}

static int touch(key_t key, size_t bytes)
{
	int id = shmget(key, bytes, IPC_CREAT | 0666);
	char *p;

	if (id < 0 || (p = shmat(id, NULL, 0)) == (void *)-1)
		return fail("touch");
	memset(p, 1, bytes);
	printf("touched %zu\n", bytes);
	fflush(stdout);
	while (!ended)
		pause();
	return 0;
}

/* By the instruction itself: libc's syscall() is served by the library, too. */
static int raw(const char *call, long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	if (result < 0) {
		errno = (int)-result;
		fprintf(stderr, "raw ");
		return fail(call);
	}
	printf("raw %s %ld\n", call, result);
	return 0;
}

struct message {
	long type;
	char text[256];
};

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";
	key_t key = argc > 2 ? (key_t)strtol(argv[2], NULL, 0) : 0;
	const char *text = argc > 3 ? argv[3] : "";

	signal(SIGTERM, end);
	signal(SIGINT, end);
	if (!strcmp(verb, "put") || !strcmp(verb, "get")) {
		int put = *verb == 'p';
		int id = shmget(key, put ? 4096 : 0, put ? IPC_CREAT | 0666 : 0);
		char *p;

		if (id < 0)
			return fail("shmget");
		if ((p = shmat(id, NULL, 0)) == (void *)-1)
			return fail("shmat");
		if (put)
			snprintf(p, 4096, "%s", text);
		puts(p);
		return 0;
	}
	if (!strcmp(verb, "send") || !strcmp(verb, "receive")) {
		struct message m = {.type = 1};
		int id = msgget(key, IPC_CREAT | 0666);

		if (id < 0)
			return fail("msgget");
		snprintf(m.text, sizeof m.text, "%s", text);
		if (*verb == 's')
			return msgsnd(id, &m, strlen(m.text) + 1, 0) < 0 ? fail("msgsnd") : 0;
		if (msgrcv(id, &m, sizeof m.text, 0, 0) < 0)
			return fail("msgrcv");
		puts(m.text);
		return 0;
	}
	if (!strcmp(verb, "lock")) { /* holds the mutex to its end */
		struct sembuf p = {0, -1, SEM_UNDO};
		int id = mutex(key);

		if (id < 0 || semop(id, &p, 1) < 0)
			return fail("lock");
		puts("locked");
		fflush(stdout);
		while (!ended)
			pause();
		return 0;
	}
	if (!strcmp(verb, "value")) {
		int id = semget(key, 1, 0), value = id < 0 ? -1 : semctl(id, 0, GETVAL);

		if (value < 0)
			return fail("value");
		printf("%d\n", value);
		return 0;
	}
	if (!strcmp(verb, "storm"))
		return storm(key, text);
	if (!strcmp(verb, "touch"))
		return touch(key, (size_t)strtol(text, NULL, 0) << 20);
	if (!strcmp(verb, "leave")) { /* sets and queues of its own, left behind */
		for (int i = 0; i < key; i++)
			if (semget(IPC_PRIVATE, 4, 0600) < 0 || msgget(IPC_PRIVATE, 0600) < 0)
				return fail("leave");
		return 0;
	}
	if (!strcmp(verb, "raw"))
		return raw("shmget", SYS_shmget, 77, 4096, IPC_CREAT | 0666) |
		       raw("semget", SYS_semget, 77, 1, IPC_CREAT | 0666) |
		       raw("msgget", SYS_msgget, 77, IPC_CREAT | 0666, 0);
	if (!strcmp(verb, "sleep")) {
		while (!ended)
			pause();
		return 0;
	}
	fprintf(stderr, "ipc: no verb %s\n", verb);
	return 2;
}
