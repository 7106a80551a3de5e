/*
 * full ROW: fills one limit of its space by the calls that any program makes, until one is refused
 * with the errno that the man pages name; touches all that it was given; frees, and has the same
 * again. Prints how much there was. A stuck call ends by SIGALRM, a promise that is not kept by SIGBUS.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST 5000

static int ids[MOST], n;
static const char *then = ""; /* the errno of what was too much */

static void fail(const char *what)
{
	printf("%s: %s (after %d)\n", what, strerrorname_np(errno), n);
	exit(1);
}

static void refused(const char *what, int r, int errno_)
{
	if (r >= 0 || errno != errno_)
		fail(what);
	then = strerrorname_np(errno_);
}

static struct {
	long type;
	char text[4097];
} m = {.type = 1};

/* --- objects --------------------------------------------------------------- */

static int new_segment(int size) { return shmget(IPC_PRIVATE, (size_t)size, 0600); }
static int new_set(int size) { return semget(IPC_PRIVATE, size, 0600); }
static int new_queue(int unused) { return (void)unused, msgget(IPC_PRIVATE, 0600); }
static int remove_segment(int id) { return shmctl(id, IPC_RMID, NULL); }
static int remove_set(int id) { return semctl(id, 0, IPC_RMID); }
static int remove_queue(int id) { return msgctl(id, IPC_RMID, NULL); }

static int touch(int id, int size)
{
	char *p = shmat(id, NULL, 0);

	if (p == (char *)-1)
		return -1;
	memset(p, 1, (size_t)size);
	return shmdt(p);
}

static void as_many_as(int first)
{
	if (n == first)
		return;
	printf("%d at first, %d after IPC_RMID\n", first, n);
	exit(1);
}

/* As many as there are to be had, twice. */
static void objects(int (*make)(int), int size, int (*use)(int, int), int (*away)(int), int errno_)
{
	int first = -1;

	for (int round = 0; round < 2; round++) {
		/* The first change of many values takes room, too. */
		for (n = 0; n < MOST && (ids[n] = make(size)) >= 0; n++)
			if (use && use(ids[n], size) < 0) {
				refused("use", errno_ == ENOMEM ? -1 : 0, errno_);
				if (away(ids[n]) < 0)
					fail("IPC_RMID");
				break;
			}
		refused("one more", n == MOST ? 0 : -1, errno_);
		for (int i = 0; i < n; i++)
			if (away(ids[i]) < 0)
				fail("IPC_RMID");
		if (round == 1)
			as_many_as(first);
		first = n;
	}
	if (n == 0)
		fail("the first");
}

static void shmmni(void) { objects(new_segment, 4096, touch, remove_segment, ENOSPC); }
static void shmall(void) { objects(new_segment, 1 << 20, touch, remove_segment, ENOSPC); }
static void semmni(void) { objects(new_set, 1, NULL, remove_set, ENOSPC); }
static void semmns(void) { objects(new_set, 9, NULL, remove_set, ENOSPC); }
static void msgmni(void) { objects(new_queue, 0, NULL, remove_queue, ENOSPC); }
static void bytes_of_segments(void) { objects(new_segment, 200000, touch, remove_segment, ENOSPC); }

static int set_all(int id, int size)
{
	unsigned short all[1000];

	for (int i = 0; i < size; i++)
		all[i] = 7;
	return semctl(id, 0, SETALL, all);
}
static void bytes_of_sets(void) { objects(new_set, 1000, set_all, remove_set, ENOMEM); }

/* Files are made at an object's first use. They are gone when no process has them mapped any more:
 * for the second time the test starts another. */
static void inodes(void)
{
	for (n = 0; n < MOST && (ids[n] = new_queue(0)) >= 0; n++)
		if (msgsnd(ids[n], &m, 1, IPC_NOWAIT) < 0)
			break;
	refused("one more", -1, ENOMEM);
	for (int i = 0; i <= n; i++)
		if (remove_queue(ids[i]) < 0)
			fail("IPC_RMID");
	if (n == 0)
		fail("the first");
}

static void shmmax(void)
{
	refused("shmmax + 1", new_segment((1 << 20) + 1), EINVAL);
	objects(new_segment, 1 << 20, touch, remove_segment, ENOSPC);
}
static void semmsl(void)
{
	refused("semmsl + 1", new_set(11), EINVAL);
	if (remove_set(new_set(10)) < 0)
		fail("semmsl");
	n = 10;
}

/* --- semaphores ------------------------------------------------------------ */

static void semopm(void)
{
	struct sembuf ops[9] = {{0, 1, 0}};
	int set = new_set(1);

	for (int i = 0; i < 9; i++)
		ops[i] = (struct sembuf){0, 1, 0};
	refused("semopm + 1", semop(set, ops, 9), E2BIG);
	if (semop(set, ops, 8) < 0 || semctl(set, 0, GETVAL) != 8 || remove_set(set) < 0)
		fail("semopm");
	n = 8;
}

static void semvmx(void)
{
	struct sembuf up = {0, 1, 0}, down = {0, -1, 0};
	int set = new_set(1);

	if (semctl(set, 0, SETVAL, 32767) < 0)
		fail("SETVAL");
	refused("V", semop(set, &up, 1), ERANGE);
	refused("SETVAL", semctl(set, 0, SETVAL, 32768), ERANGE);
	if (semop(set, &down, 1) < 0 || semop(set, &up, 1) < 0 || remove_set(set) < 0)
		fail("P and V");
	n = 32767;
}

/* --- messages -------------------------------------------------------------- */

static void msgmax(void)
{
	int queue = new_queue(0);

	refused("msgmax + 1", msgsnd(queue, &m, 4097, IPC_NOWAIT), EINVAL);
	if (msgsnd(queue, &m, 4096, IPC_NOWAIT) < 0 || remove_queue(queue) < 0)
		fail("msgmax");
	n = 4096;
}

static int fill(int queue, size_t size)
{
	int sent = 0;

	while (sent < MOST && msgsnd(queue, &m, size, IPC_NOWAIT) == 0)
		sent++;
	return sent;
}

static void msgmnb(void)
{
	int queue = new_queue(0);

	n = fill(queue, 100);
	refused("one more", -1, EAGAIN);
	if (n != 16384 / 100)
		fail("msg_qbytes");
	for (int i = 0; i < n; i++)
		if (msgrcv(queue, &m, 100, 0, IPC_NOWAIT) != 100)
			fail("msgrcv");
	if (fill(queue, 100) != n || remove_queue(queue) < 0)
		fail("again");
}

/* Queues, each as full as it may be, until the space has no room for messages or another queue. */
static void bytes_of_messages(void)
{
	int first = -1, queues;

	for (int round = 0; round < 2; round++) {
		n = 0;
		for (queues = 0; queues < MOST && (ids[queues] = new_queue(0)) >= 0; queues++) {
			n += fill(ids[queues], 1000);
			if (errno == ENOMEM) {
				queues++;
				break;
			}
			refused("a full queue", -1, EAGAIN);
		}
		refused("one more", -1, errno == ENOSPC ? ENOSPC : ENOMEM);
		/* What was sent is there. */
		for (int i = 0, left = n; i < queues; i++) {
			while (msgrcv(ids[i], &m, 1000, 0, IPC_NOWAIT) == 1000)
				left--;
			if (errno != ENOMSG || (i == queues - 1 && left != 0))
				fail("messages are lost");
			if (remove_queue(ids[i]) < 0)
				fail("IPC_RMID");
		}
		if (round == 1)
			as_many_as(first);
		first = n;
	}
	if (n == 0)
		fail("the first");
}

/* --- what a process has ---------------------------------------------------- */

/* Every number taken: what it opened before and what it opens now works. */
static void descriptors(void)
{
	struct rlimit few = {40, 40};
	int queue = new_queue(0);

	setrlimit(RLIMIT_NOFILE, &few);
	while (open("/dev/null", O_RDONLY) >= 0)
		n++;
	refused("open", -1, EMFILE);
	int segment = new_segment(8192);
	if (touch(segment, 8192) < 0 || fill(queue, 100) != 163)
		fail("without a descriptor");
	if (remove_segment(segment) < 0 || remove_queue(queue) < 0)
		fail("IPC_RMID");
}

/* A child for each session; the library says ENOSYS where a program has none. */
static void sessions(void)
{
	int go[2], tell[2], first = -1;

	for (int round = 0; round < 2; round++) {
		char answer = 0;

		if (pipe(go) < 0 || pipe(tell) < 0)
			fail("pipe");
		for (n = 0; n < 200 && answer != 'n'; n += answer == 'y') {
			if (fork() == 0) {
				int id = new_queue(0);
				char c = id >= 0 ? 'y' : errno == ENOSYS ? 'n' : '?';

				if (id >= 0)
					remove_queue(id);
				close(go[1]);
				if (write(tell[1], &c, 1) == 1 && read(go[0], &c, 1) == 0)
					_exit(0);
				_exit(1);
			}
			if (read(tell[0], &answer, 1) != 1 || answer == '?')
				fail("a child");
		}
		close(go[1]);
		for (int status; wait(&status) > 0;)
			if (status != 0)
				fail("a child's end");
		if (answer != 'n' || n == 0 || (first >= 0 && n != first)) {
			printf("%d sessions, %d before\n", n, first);
			exit(1);
		}
		first = n;
	}
	then = "ENOSYS";
}

static const struct row {
	const char *name;
	void (*run)(void);
} rows[] = {
	{"shmmni", shmmni}, {"shmmax", shmmax}, {"shmall", shmall},
	{"semmni", semmni}, {"semmns", semmns}, {"semmsl", semmsl},
	{"semopm", semopm}, {"semvmx", semvmx}, {"msgmni", msgmni},
	{"msgmax", msgmax}, {"msgmnb", msgmnb}, {"bytes, by segments", bytes_of_segments},
	{"bytes, by sets", bytes_of_sets}, {"bytes, by messages", bytes_of_messages},
	{"inodes", inodes}, {"descriptors", descriptors}, {"sessions", sessions},
};

int main(int argc, char **argv)
{
	alarm(120);
	for (size_t i = 0; argc == 2 && i < sizeof rows / sizeof *rows; i++)
		if (strcmp(argv[1], rows[i].name) == 0) {
			rows[i].run();
			printf("%d, %s\n", n, then);
			return 0;
		}
	fprintf(stderr, "full ROW\n");
	return 2;
}
