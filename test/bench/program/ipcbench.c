/*
 * One unmodified program that times the System V IPC calls. The same binary
 * runs on the kernel and in a space; each row is printed as "name ns", the
 * time of one round. Usage: ipcbench [-s SCALE] [ROW...]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
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

static double scale = 1;

static void die(const char *what)
{
	fprintf(stderr, "ipcbench: %s: %s\n", what, strerror(errno));
	exit(1);
}
#define MUST(x)                                                                \
	do {                                                                   \
		if ((x) < 0)                                                   \
			die(#x);                                               \
	} while (0)

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static long rounds(long n)
{
	n = (long)((double)n * scale);
	return n < 10 ? 10 : n;
}

union semun {
	int val;
	struct semid_ds *buf;
};

struct text {
	long type;
	char text[8192];
};

static int new_set(int n)
{
	int id = semget(IPC_PRIVATE, n, 0600);

	MUST(id);
	return id;
}

static int new_queue(void)
{
	int id = msgget(IPC_PRIVATE, 0600);

	MUST(id);
	return id;
}

#define TIMED(n, body)                                                         \
	({                                                                     \
		long n_ = rounds(n);                                           \
		double begun = now();                                          \
		for (long i_ = 0; i_ < n_; i_++) {                             \
			body;                                                  \
		}                                                              \
		(now() - begun) / (double)n_;                                  \
	})

static double semop_pair(void)
{
	int id = new_set(1);
	struct sembuf v = {0, 1, 0}, p = {0, -1, 0};
	double ns = TIMED(2000000, MUST(semop(id, &v, 1)); MUST(semop(id, &p, 1)));

	semctl(id, 0, IPC_RMID);
	return ns;
}

static double semop_undo_pair(void)
{
	int id = new_set(1);
	struct sembuf v = {0, 1, SEM_UNDO}, p = {0, -1, SEM_UNDO};
	double ns = TIMED(1000000, MUST(semop(id, &v, 1)); MUST(semop(id, &p, 1)));

	semctl(id, 0, IPC_RMID);
	return ns;
}

static double semop_two_pair(void)
{
	int id = new_set(2);
	struct sembuf v[2] = {{0, 1, 0}, {1, 1, 0}}, p[2] = {{0, -1, 0}, {1, -1, 0}};
	double ns = TIMED(1000000, MUST(semop(id, v, 2)); MUST(semop(id, p, 2)));

	semctl(id, 0, IPC_RMID);
	return ns;
}

static double getval(void)
{
	int id = new_set(1);
	double ns = TIMED(2000000, MUST(semctl(id, 0, GETVAL)));

	semctl(id, 0, IPC_RMID);
	return ns;
}

static double shmget_existing(void)
{
	int key = 0x62650000 + getpid() % 0xffff, id = shmget(key, 4096, IPC_CREAT | 0600);
	MUST(id);
	double ns = TIMED(2000000, MUST(shmget(key, 4096, 0600)));

	shmctl(id, IPC_RMID, NULL);
	return ns;
}

static double stat_set(void)
{
	int id = new_set(1);
	struct semid_ds ds;
	union semun arg = {.buf = &ds};
	semctl(id, 0, GETVAL);
	double ns = TIMED(2000000, MUST(semctl(id, 0, IPC_STAT, arg)));

	semctl(id, 0, IPC_RMID);
	return ns;
}

static double stat_queue(void)
{
	int id = new_queue();
	struct msqid_ds ds;
	struct text m = {1, ""};
	MUST(msgsnd(id, &m, 1, 0));
	double ns = TIMED(2000000, MUST(msgctl(id, IPC_STAT, &ds)));

	msgctl(id, IPC_RMID, NULL);
	return ns;
}

static double message_pair(size_t size, long n)
{
	int id = new_queue();
	struct text m = {1, ""};
	double ns = TIMED(n, MUST(msgsnd(id, &m, size, 0));
			  MUST(msgrcv(id, &m, sizeof m.text, 0, 0)));

	msgctl(id, IPC_RMID, NULL);
	return ns;
}
static double message_64(void)
{
	return message_pair(64, 1000000);
}
static double message_8k(void)
{
	return message_pair(8192, 300000);
}

static void child_of(void (*body)(void *), void *arg)
{
	pid_t k = fork();

	MUST(k);
	if (k == 0) {
		body(arg);
		_exit(0);
	}
}

static void reap_all(void)
{
	int status;

	while (wait(&status) > 0)
		if (status != 0)
			die("a process failed");
}

static long stream_n;
static void stream_producer(void *arg)
{
	struct text m = {1, ""};

	for (long i = 0; i < stream_n; i++)
		MUST(msgsnd(*(int *)arg, &m, 64, 0));
}
static double stream(void)
{
	int id = new_queue();
	struct text m;

	stream_n = rounds(500000);
	double begun = now();
	child_of(stream_producer, &id);
	for (long i = 0; i < stream_n; i++)
		MUST(msgrcv(id, &m, sizeof m.text, 0, 0));
	double ns = (now() - begun) / (double)stream_n;

	reap_all();
	msgctl(id, IPC_RMID, NULL);
	return ns;
}

static void sem_pong(void *arg)
{
	struct sembuf p = {0, -1, 0}, v = {1, 1, 0};

	for (long i = 0; i < stream_n; i++) {
		MUST(semop(*(int *)arg, &p, 1));
		MUST(semop(*(int *)arg, &v, 1));
	}
}
static double sem_ping_pong(void)
{
	int id = new_set(2);
	struct sembuf v = {0, 1, 0}, p = {1, -1, 0};

	stream_n = rounds(200000);
	double begun = now();
	child_of(sem_pong, &id);
	for (long i = 0; i < stream_n; i++) {
		MUST(semop(id, &v, 1));
		MUST(semop(id, &p, 1));
	}
	double ns = (now() - begun) / (double)stream_n;

	reap_all();
	semctl(id, 0, IPC_RMID);
	return ns;
}

static void msg_pong(void *arg)
{
	struct text m = {2, ""};

	for (long i = 0; i < stream_n; i++) {
		MUST(msgrcv(*(int *)arg, &m, sizeof m.text, 1, 0));
		m.type = 2;
		MUST(msgsnd(*(int *)arg, &m, 64, 0));
	}
}
static double msg_ping_pong(void)
{
	int id = new_queue();
	struct text m = {1, ""};

	stream_n = rounds(200000);
	double begun = now();
	child_of(msg_pong, &id);
	for (long i = 0; i < stream_n; i++) {
		m.type = 1;
		MUST(msgsnd(id, &m, 64, 0));
		MUST(msgrcv(id, &m, sizeof m.text, 2, 0));
	}
	double ns = (now() - begun) / (double)stream_n;

	reap_all();
	msgctl(id, IPC_RMID, NULL);
	return ns;
}

static volatile int *stop;
static void burn(void *arg)
{
	(void)arg;
	while (!*stop)
		for (volatile int i = 0; i < 10000; i++)
			;
}
static double busy(double (*row)(void))
{
	double kept = scale;

	stop = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t k[2];
	for (int i = 0; i < 2; i++) {
		k[i] = fork();
		MUST(k[i]);
		if (k[i] == 0) {
			burn(NULL);
			_exit(0);
		}
	}
	scale /= 20;
	double *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	/* The row waits for all its children; the burners must not be among
	 * them, so it runs in a process of its own. */
	pid_t worker = fork();
	MUST(worker);
	if (worker == 0) {
		*shared = row();
		_exit(0);
	}
	waitpid(worker, NULL, 0);
	*stop = 1;
	for (int i = 0; i < 2; i++)
		waitpid(k[i], NULL, 0);
	scale = kept;
	return *shared;
}
static double sem_ping_pong_busy(void)
{
	return busy(sem_ping_pong);
}
static double msg_ping_pong_busy(void)
{
	return busy(msg_ping_pong);
}

static void contend(void *arg)
{
	struct sembuf p = {0, -1, 0}, v = {0, 1, 0};

	for (long i = 0; i < stream_n; i++) {
		MUST(semop(*(int *)arg, &p, 1));
		MUST(semop(*(int *)arg, &v, 1));
	}
}
static double sem_contended(void)
{
	int id = new_set(1);
	struct sembuf v = {0, 1, 0};

	stream_n = rounds(40000);
	double begun = now();
	for (int i = 0; i < 8; i++)
		child_of(contend, &id);
	MUST(semop(id, &v, 1));
	reap_all();
	double ns = (now() - begun) / (double)(8 * stream_n);

	semctl(id, 0, IPC_RMID);
	return ns;
}

static void many_send(void *arg)
{
	struct text m = {1, ""};

	for (long i = 0; i < stream_n; i++)
		MUST(msgsnd(*(int *)arg, &m, 64, 0));
}
static void many_receive(void *arg)
{
	struct text m;

	for (long i = 0; i < stream_n; i++)
		MUST(msgrcv(*(int *)arg, &m, sizeof m.text, 0, 0));
}
static double msg_many(void)
{
	int id = new_queue();

	stream_n = rounds(60000);
	double begun = now();
	for (int i = 0; i < 4; i++) {
		child_of(many_send, &id);
		child_of(many_receive, &id);
	}
	reap_all();
	double ns = (now() - begun) / (double)(4 * stream_n);

	msgctl(id, IPC_RMID, NULL);
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
static double sem_create(void)
{
	return TIMED(50000, int id = semget(IPC_PRIVATE, 1, 0600); MUST(id);
		     MUST(semctl(id, 0, IPC_RMID)));
}
static double msg_create(void)
{
	return TIMED(50000, int id = msgget(IPC_PRIVATE, 0600); MUST(id);
		     MUST(msgctl(id, IPC_RMID, NULL)));
}

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
	return touch ? first : reads + (double)(sum & 0) ;
}
static double random_reads(void)
{
	return big(0);
}
static double first_touch(void)
{
	return big(1);
}

static const struct row {
	const char *name;
	double (*run)(void);
} table[] = {
	{"semop_pair", semop_pair},
	{"semop_undo_pair", semop_undo_pair},
	{"semop_two_pair", semop_two_pair},
	{"getval", getval},
	{"shmget_existing", shmget_existing},
	{"stat_set", stat_set},
	{"stat_queue", stat_queue},
	{"message_64", message_64},
	{"message_8k", message_8k},
	{"stream_64", stream},
	{"sem_ping_pong", sem_ping_pong},
	{"msg_ping_pong", msg_ping_pong},
	{"sem_ping_pong_busy", sem_ping_pong_busy},
	{"msg_ping_pong_busy", msg_ping_pong_busy},
	{"sem_contended_8", sem_contended},
	{"msg_4_to_4", msg_many},
	{"attach_pair", attach},
	{"shm_create_remove", shm_create},
	{"sem_create_remove", sem_create},
	{"msg_create_remove", msg_create},
	{"fork_attached", fork_attached},
	{"random_reads_1g", random_reads},
	{"first_touch_1g", first_touch},
};

int main(int argc, char **argv)
{
	int first = 1;

	if (argc > 2 && strcmp(argv[1], "-s") == 0) {
		scale = atof(argv[2]);
		first = 3;
	}
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		int wanted = first >= argc;

		for (int k = first; k < argc; k++)
			wanted |= strcmp(argv[k], table[i].name) == 0;
		if (wanted) {
			printf("%s %.2f\n", table[i].name, table[i].run());
			fflush(stdout);
		}
	}
	return 0;
}
