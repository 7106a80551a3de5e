/*
 * control LEDGER CALL: makes one call of a manager again and again, until the ledger says stop, and
 * compares what comes of it with a model. Each must happen once, whatever becomes of the manager: an
 * IPC_CREAT|IPC_EXCL carried out twice gives EEXIST, an IPC_RMID carried out twice EINVAL.
 *
 * The space is all its own: nothing is in it before and after each round.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
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

#define KEY 0x70756c6c
#define CREATE (IPC_CREAT | IPC_EXCL | 0600)
#define SEMS 3

struct ledger {
	_Atomic unsigned long rounds;
	_Atomic unsigned stop;
};

static struct ledger *ledger;
static const char *name;

static void failed(const char *what, long got, long want)
{
	printf("%s, round %lu: %s: %ld, not %ld (%s)\n", name, ledger->rounds, what, got, want, strerror(errno));
	exit(1);
}

#define IS(call, want)                                                                             \
	({                                                                                         \
		long got_ = (call), want_ = (want);                                                \
		if (got_ != want_)                                                                 \
			failed(#call, got_, want_);                                                \
		got_;                                                                              \
	})
#define MUST(call)                                                                                 \
	({                                                                                         \
		long got_ = (call);                                                                \
		if (got_ < 0)                                                                      \
			failed(#call, got_, 0);                                                    \
		got_;                                                                              \
	})
#define FAILS(call, error)                                                                         \
	do {                                                                                       \
		errno = 0;                                                                         \
		IS(call, -1);                                                                      \
		IS(errno, error);                                                                  \
	} while (0)

union semun {
	int val;
	struct semid_ds *buf;
	unsigned short *array;
	struct seminfo *info;
};

/* How many objects there are. */
static int segments(void)
{
	struct shm_info info;

	MUST(shmctl(0, SHM_INFO, (struct shmid_ds *)&info));
	return info.used_ids;
}

static int sets(void)
{
	struct seminfo info;

	MUST(semctl(0, 0, SEM_INFO, (union semun){.info = &info}));
	return info.semusz;
}

static int queues(void)
{
	struct msginfo info;

	MUST(msgctl(0, MSG_INFO, (struct msqid_ds *)&info));
	return info.msgpool;
}

static void round_shmget(unsigned long i)
{
	int id = MUST(shmget(KEY, 1 + i % 9000, CREATE)), other;

	IS(shmget(KEY, 0, 0), id);
	IS(segments(), 1);
	other = MUST(shmget(IPC_PRIVATE, i % 2 ? 100 : 2 << 20, 0600));
	IS(segments(), 2);
	MUST(shmctl(id, IPC_RMID, NULL));
	FAILS(shmget(KEY, 0, 0), ENOENT);
	MUST(shmctl(other, IPC_RMID, NULL));
	IS(segments(), 0);
}

static void round_semget(unsigned long i)
{
	int id = MUST(semget(KEY, 1 + i % SEMS, CREATE)), other;

	IS(semget(KEY, 0, 0), id);
	other = MUST(semget(IPC_PRIVATE, 1, 0600));
	IS(sets(), 2);
	IS(semctl(other, 0, GETVAL), 0);
	MUST(semctl(other, 0, IPC_RMID));
	MUST(semctl(id, 0, IPC_RMID));
	FAILS(semget(KEY, 0, 0), ENOENT);
	IS(sets(), 0);
}

static void round_msgget(unsigned long i)
{
	int id = MUST(msgget(KEY, CREATE)), other;

	IS(msgget(KEY, 0), id);
	other = MUST(msgget(IPC_PRIVATE, 0600));
	IS(queues(), 2);
	MUST(msgsnd(other, &(long){1 + i}, 0, 0));
	MUST(msgctl(other, IPC_RMID, NULL));
	MUST(msgctl(id, IPC_RMID, NULL));
	FAILS(msgget(KEY, 0), ENOENT);
	IS(queues(), 0);
}

/* Waits until a process sleeps in msgrcv: on a futex, or, where this runs on the kernel's IPC, there. */
static void await_sleep(pid_t pid)
{
	char path[64], text[16] = "";

	snprintf(path, sizeof path, "/proc/%d/wchan", (int)pid);
	while (strncmp(text, "futex", 5) && strncmp(text, "do_msgrcv", 9)) {
		int fd = MUST(open(path, O_RDONLY));

		memset(text, 0, sizeof text);
		MUST(read(fd, text, sizeof text - 1));
		close(fd);
		usleep(200);
	}
}

/* Who sleeps in what is removed gets EIDRM. */
static void round_rmid(unsigned long i)
{
	int set = MUST(semget(IPC_PRIVATE, 1, 0600)), queue = MUST(msgget(IPC_PRIVATE, 0600)), status;
	_Atomic int *opened = mmap(NULL, sizeof *opened, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t child = MUST(fork());

	if (child == 0) {
		struct sembuf p = {0, -1, 0};
		struct {
			long type;
			char text[8];
		} m;

		FAILS(msgrcv(queue, &m, sizeof m.text, 0, IPC_NOWAIT), ENOMSG);
		*opened = 1;
		FAILS(i % 2 ? semop(set, &p, 1) : msgrcv(queue, &m, sizeof m.text, 0, 0), EIDRM);
		_exit(0);
	}
	while (i % 2 ? semctl(set, 0, GETNCNT) != 1 : !*opened)
		usleep(200);
	if (i % 2 == 0)
		await_sleep(child);
	MUST(i % 2 ? semctl(set, 0, IPC_RMID) : msgctl(queue, IPC_RMID, NULL));
	IS(waitpid(child, &status, 0), child);
	IS(status, 0);
	MUST(munmap((void *)opened, sizeof *opened));
	MUST(i % 2 ? msgctl(queue, IPC_RMID, NULL) : semctl(set, 0, IPC_RMID));
	IS(sets(), 0);
	IS(queues(), 0);
}

static int set, queue, segment; /* of those that follow, from round to round */

/* Narrowing moves an object, with what is in it, to another file. */
static void round_ipc_set(unsigned long i)
{
	static const int modes[] = {0600, 0666, 0640, 0660};
	int mode = modes[i % 4];
	struct semid_ds sem;
	struct msqid_ds msg;
	struct shmid_ds shm;
	struct sembuf v = {1, 1, 0};
	struct {
		long type;
		unsigned long number;
	} m = {1, i};

	if (i == 0) {
		set = MUST(semget(IPC_PRIVATE, SEMS, 0600));
		queue = MUST(msgget(IPC_PRIVATE, 0600));
		segment = MUST(shmget(IPC_PRIVATE, 4096, 0600));
	}
	MUST(semctl(set, 0, IPC_STAT, (union semun){.buf = &sem}));
	sem.sem_perm.mode = mode;
	MUST(semctl(set, 0, IPC_SET, (union semun){.buf = &sem}));
	MUST(semctl(set, 0, IPC_STAT, (union semun){.buf = &sem}));
	IS(sem.sem_perm.mode, mode);
	MUST(semop(set, &v, 1));
	IS(semctl(set, 1, GETVAL), i % 1000 + 1);
	if (i % 1000 == 999)
		MUST(semctl(set, 1, SETVAL, (union semun){.val = 0}));

	MUST(msgsnd(queue, &m, sizeof m.number, 0));
	MUST(msgctl(queue, IPC_STAT, &msg));
	msg.msg_perm.mode = mode;
	msg.msg_qbytes = 1000 + i % 1000;
	MUST(msgctl(queue, IPC_SET, &msg));
	MUST(msgctl(queue, IPC_STAT, &msg));
	IS(msg.msg_perm.mode, mode);
	IS(msg.msg_qbytes, 1000 + i % 1000);
	IS(msg.msg_qnum, i ? 2 : 1);
	if (i) {
		MUST(msgrcv(queue, &m, sizeof m.number, 0, 0));
		IS(m.number, i - 1);
	}

	MUST(shmctl(segment, IPC_STAT, &shm));
	shm.shm_perm.mode = mode;
	MUST(shmctl(segment, IPC_SET, &shm));
	MUST(shmctl(segment, IPC_STAT, &shm));
	IS(shm.shm_perm.mode & 0777, mode);
}

static void round_shm_lock(unsigned long i)
{
	struct shmid_ds ds;

	if (i == 0)
		segment = MUST(shmget(IPC_PRIVATE, 4096, 0600));
	MUST(shmctl(segment, i % 2 ? SHM_UNLOCK : SHM_LOCK, NULL));
	MUST(shmctl(segment, IPC_STAT, &ds));
	IS(!!(ds.shm_perm.mode & SHM_LOCKED), i % 2 == 0);
}

static void round_stat(unsigned long i)
{
	struct semid_ds sem;
	struct msqid_ds msg;
	struct shmid_ds shm;

	if (i == 0) {
		set = MUST(semget(KEY, SEMS, CREATE));
		queue = MUST(msgget(KEY, CREATE));
		segment = MUST(shmget(KEY, 12345, CREATE));
	}
	MUST(semctl(set, 0, IPC_STAT, (union semun){.buf = &sem}));
	IS(sem.sem_nsems, SEMS);
	IS(semctl(set & 32767, 0, SEM_STAT, (union semun){.buf = &sem}), set);
	MUST(msgctl(queue, IPC_STAT, &msg));
	IS(msg.msg_perm.__key, KEY);
	IS(msgctl(queue & 32767, MSG_STAT, &msg), queue);
	MUST(shmctl(segment, IPC_STAT, &shm));
	IS(shm.shm_segsz, 12345);
	IS(shmctl(segment & 32767, SHM_STAT, &shm), segment);
	IS(shm.shm_nattch, 0);
	IS(shm.shm_cpid, getpid());
}

/* A segment of which nobody knows yet, and one of which all do. */
static void round_attach(unsigned long i)
{
	int fresh = MUST(shmget(IPC_PRIVATE, i % 2 ? 100 : 2 << 20, 0600));
	struct shmid_ds ds;

	if (i == 0)
		segment = MUST(shmget(IPC_PRIVATE, 4096, 0600));
	unsigned long *old = shmat(segment, NULL, 0), *p = shmat(fresh, NULL, 0);
	IS(old == (void *)-1, 0);
	IS(p == (void *)-1, 0);
	IS((*old)++, i);
	IS(*p, 0);
	*p = i;
	MUST(shmctl(segment, IPC_STAT, &ds));
	IS(ds.shm_nattch, 1);
	MUST(shmctl(fresh, IPC_RMID, NULL));
	MUST(shmctl(fresh, IPC_STAT, &ds));
	IS(ds.shm_nattch, 1);
	IS(!!(ds.shm_perm.mode & SHM_DEST), 1);
	IS(*p, i);
	MUST(shmdt(p));
	FAILS(shmctl(fresh, IPC_STAT, &ds), EINVAL);
	MUST(shmdt(old));
	MUST(shmctl(segment, IPC_STAT, &ds));
	IS(ds.shm_nattch, 0);
	IS(segments(), 1);
}

/* A process that ends has its attach and its undo ended, whoever is the manager then. */
static void round_death(unsigned long i)
{
	struct sembuf v = {0, 1, SEM_UNDO}, p = {0, -1, 0};
	struct shmid_ds ds;
	int status;

	if (i == 0) {
		set = MUST(semget(IPC_PRIVATE, 1, 0600));
		segment = MUST(shmget(IPC_PRIVATE, 4096, 0600));
	}
	pid_t child = MUST(fork());
	if (child == 0) {
		IS(shmat(segment, NULL, 0) == (void *)-1, 0);
		MUST(semop(set, &v, 1));
		if (i % 2)
			raise(SIGKILL);
		_exit(0);
	}
	IS(waitpid(child, &status, 0), child);
	IS(status, i % 2 ? SIGKILL : 0);
	IS(semctl(set, 0, GETVAL), 0);
	MUST(shmctl(segment, IPC_STAT, &ds));
	IS(ds.shm_nattch, 0);
	p.sem_flg = IPC_NOWAIT;
	FAILS(semop(set, &p, 1), EAGAIN);
}

/* Where the space is brokered, the manager does all of these; else none. */
static void round_setall(unsigned long i)
{
	unsigned short all[SEMS] = {i % 7, i % 11, i % 13}, back[SEMS];

	if (i == 0)
		set = MUST(semget(IPC_PRIVATE, SEMS, 0600));
	MUST(semctl(set, 0, SETALL, (union semun){.array = all}));
	MUST(semctl(set, 0, GETALL, (union semun){.array = back}));
	IS(memcmp(all, back, sizeof all), 0);
	MUST(semctl(set, 1, SETVAL, (union semun){.val = i % 999}));
	IS(semctl(set, 1, GETVAL), i % 999);
	IS(semctl(set, 2, GETVAL), i % 13);
	IS(semctl(set, 1, GETPID), getpid());
	IS(semctl(set, 1, GETNCNT), 0);
	IS(semctl(set, 1, GETZCNT), 0);
}

static void round_semop(unsigned long i)
{
	struct sembuf both[] = {{0, 1, 0}, {1, 2, SEM_UNDO}}, back = {1, -2, SEM_UNDO};
	struct sembuf never[] = {{0, 5, 0}, {2, -1, 0}};
	struct timespec soon = {0, 2000000};

	if (i == 0)
		set = MUST(semget(IPC_PRIVATE, SEMS, 0600));
	MUST(semop(set, both, 2));
	IS(semctl(set, 0, GETVAL), i % 30000 + 1);
	IS(semctl(set, 1, GETVAL), 2);
	MUST(semop(set, &back, 1));
	IS(semctl(set, 1, GETVAL), 0);
	FAILS(semtimedop(set, never, 2, &soon), EAGAIN);
	IS(semctl(set, 0, GETVAL), i % 30000 + 1);
	if (i % 30000 == 29999)
		MUST(semctl(set, 0, SETVAL, (union semun){.val = 0}));
}

static void round_message(unsigned long i)
{
	struct {
		long type;
		unsigned long number;
		char rest[700];
	} m = {1 + i % 5, i, ""}, got;
	int length = sizeof m.number + i % sizeof m.rest;
	struct msqid_ds ds;

	if (i == 0)
		queue = MUST(msgget(IPC_PRIVATE, 0600));
	memset(m.rest, 'a' + i % 26, sizeof m.rest);
	MUST(msgsnd(queue, &m, length, 0));
	MUST(msgctl(queue, IPC_STAT, &ds));
	IS(ds.msg_qnum, 1);
	IS(ds.msg_cbytes, length);
	FAILS(msgrcv(queue, &got, sizeof got - sizeof got.type, 9, IPC_NOWAIT), ENOMSG);
	IS(msgrcv(queue, &got, sizeof got - sizeof got.type, m.type, 0), length);
	IS(memcmp(&m, &got, sizeof got.type + length), 0);
	FAILS(msgrcv(queue, &got, sizeof got - sizeof got.type, 0, IPC_NOWAIT), ENOMSG);
}

static const struct {
	const char *name;
	void (*round)(unsigned long);
} calls[] = {
	{"shmget", round_shmget}, {"semget", round_semget}, {"msgget", round_msgget},
	{"rmid", round_rmid}, {"ipc_set", round_ipc_set}, {"shm_lock", round_shm_lock},
	{"stat", round_stat}, {"attach", round_attach}, {"death", round_death},
	{"setall", round_setall}, {"semop", round_semop}, {"message", round_message},
};

int main(int argc, char **argv)
{
	int fd = argc == 3 ? open(argv[1], O_RDWR) : -1;
	size_t n = 0;

	if (fd < 0)
		return 2;
	ledger = mmap(NULL, sizeof *ledger, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ledger == MAP_FAILED)
		return 2;
	name = argv[2];
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (n < sizeof calls / sizeof *calls && strcmp(calls[n].name, name))
		n++;
	if (n == sizeof calls / sizeof *calls)
		return 2;
	while (!ledger->stop) {
		calls[n].round(ledger->rounds);
		ledger->rounds++;
	}
	return 0;
}
