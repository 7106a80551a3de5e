/* stray FAMILY MANAGER: a vfork child is killed as it waits for an answer of the
 * manager, which is stopped meanwhile. Its parent has the same connection, and
 * gets the answers to its own requests. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FIRST 0x5741
#define SECOND 0x5742

static volatile pid_t *child;
static volatile sig_atomic_t signals;

static void nap(long ms)
{
	struct timespec ts = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&ts, NULL);
}

static void fail(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	exit(1);
}

static void on_signal(int sig)
{
	(void)sig;
	signals = signals + 1;
}

/* Kills the child in its call, and has the manager go on when the parent is in its own. */
static void kill_child(pid_t manager)
{
	while (*child == 0)
		nap(1);
	nap(500);
	kill(*child, SIGKILL);
	nap(500);
	kill(manager, SIGCONT);
	_exit(0);
}

static int get(int segments, key_t key)
{
	return segments ? shmget(key, 8192, IPC_CREAT | 0600) : msgget(key, IPC_CREAT | 0600);
}

static void check(int segments, int id, key_t key)
{
	struct shmid_ds shm;
	struct msqid_ds msg;

	if ((segments ? shmctl(id, IPC_STAT, &shm) : msgctl(id, IPC_STAT, &msg)) < 0)
		fail("IPC_STAT");
	if ((segments ? shm.shm_perm.__key : msg.msg_perm.__key) != key) {
		printf("id %d is another object's\n", id);
		exit(1);
	}
}

/* Its first use of an object is answered with a descriptor. */
static void *use(void *arg)
{
	int segments = arg != NULL, id = get(segments, SECOND);

	check(segments, id, SECOND);
	if (segments) {
		char *p = shmat(id, NULL, 0);

		if (p == (void *)-1)
			fail("shmat");
		p[8191] = 1;
		shmdt(p);
	} else {
		struct {
			long type;
			char text[8];
		} m = {1, "hello"};

		if (msgsnd(id, &m, 8, 0) < 0 || msgrcv(id, &m, 8, 1, IPC_NOWAIT) != 8)
			fail("message");
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int segments = argc == 3 && strcmp(argv[1], "shm") == 0, status;
	pid_t manager = argc == 3 ? atoi(argv[2]) : 0;
	struct sigaction action = {.sa_handler = on_signal};
	pthread_t thread;

	child = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	sigaction(SIGUSR1, &action, NULL);
	if (manager <= 0 || get(segments, SECOND) < 0)
		fail("begin");
	use(segments ? "" : NULL);
	if ((segments ? shmctl(get(segments, SECOND), IPC_RMID, NULL) : msgctl(get(segments, SECOND), IPC_RMID, NULL)) < 0)
		fail("IPC_RMID");
	pid_t killer = fork();
	if (killer == 0)
		kill_child(manager);
	kill(manager, SIGSTOP);
	nap(100); /* its other threads stop a moment later */
	pid_t pid = vfork();
	if (pid == 0) {
		*child = getpid();
		get(segments, FIRST);
		_exit(1);
	}
	int id = get(segments, SECOND);
	if (id < 0)
		fail("get");
	if (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status))
		fail("the child was not killed");
	waitpid(killer, NULL, 0);
	check(segments, id, SECOND);
	check(segments, get(segments, FIRST), FIRST);
	use(segments ? "" : NULL);
	/* The lock is free, and signals come through. */
	alarm(20);
	pthread_create(&thread, NULL, use, segments ? "" : NULL);
	pthread_join(thread, NULL);
	alarm(0);
	raise(SIGUSR1);
	if (signals != 1) {
		printf("%d signals\n", (int)signals);
		return 1;
	}
	for (key_t key = FIRST; key <= SECOND; key++)
		if ((segments ? shmctl(get(segments, key), IPC_RMID, NULL) : msgctl(get(segments, key), IPC_RMID, NULL)) < 0)
			fail("IPC_RMID");
	return 0;
}
