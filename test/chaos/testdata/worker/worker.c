/*
 * One process of a chaos run: worker LEDGER SPACE LIFE ROLE SEED [HELD]. It does what its role says
 * until it is told to stop, is killed, or finds that something is wrong (status 3). HELD: it was
 * executed while it held that critical section.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "ledger.h"

/* Keys of the objects that live as long as the run. */
enum { KEY_UNDO = 0x100, KEY_COUNT, KEY_LOCK, KEY_LOOSE, KEY_QUEUE, KEY_SECTION, KEY_PICTURE };

#define UNDO_SEMS 4
#define UNDO_START 10
#define COUNT_SEMS 3
#define LOOSE_SEMS 20
#define PICTURE_SIZE (3 * 65536)
#define LONGEST 7000

enum role { UNDO, LOCK, COUNT, SENDER, RECEIVER, SEGMENT, CHURN, SIGNALS, ROLES };

static struct ledger *ledger;
static struct life *self;
static uint32_t number; /* of this life */
static uint64_t seed;
static char **arguments;
static int undo_set, count_set, lock_set, loose_set, queue, section_id, picture_id;

/* What KEY_SECTION's segment has. */
struct section {
	_Atomic uint64_t owner; /* life + 1 */
	uint64_t count;
	uint64_t pad[6];
};
static struct section *sections;

struct message {
	long type;
	struct {
		uint32_t sender, sequence, size, sum;
		uint8_t text[LONGEST];
	} body;
};

static uint32_t random_below(uint32_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 32) % n;
}

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
	char text[400];
	va_list ap;
	int n = snprintf(text, 100, "life %u, role %u, space %u, pid %d: ", number, self->role,
			 self->space, getpid());

	va_start(ap, format);
	n += vsnprintf(text + n, sizeof text - (size_t)n - 1, format, ap);
	va_end(ap);
	text[n++] = '\n';
	ledger->failures++;
	if (write(2, text, (size_t)n) < 0)
		_exit(4);
	_exit(3);
}

static bool stopping(void)
{
	self->progress++;
	return ledger->stop;
}

static void pause_for(uint32_t us)
{
	struct timespec ts = {0, (long)us * 1000};

	nanosleep(&ts, NULL);
}

/* Signals interrupt calls here; the test sends them to end the run. */
#define AGAIN(r, call)                                                                             \
	do                                                                                         \
		r = call;                                                                          \
	while (r < 0 && errno == EINTR && !ledger->stop)

/* --- semaphores ------------------------------------------------------------ */

static void undo_round(bool must)
{
	uint16_t a = (uint16_t)random_below(UNDO_SEMS), b = (uint16_t)random_below(UNDO_SEMS);
	uint16_t c = (uint16_t)random_below(UNDO_SEMS);
	short n = (short)(1 + random_below(UNDO_START / 2));
	struct sembuf down[] = {{a, -n, SEM_UNDO}, {b, -1, SEM_UNDO}, {c, -1, SEM_UNDO}};
	struct sembuf up[] = {{c, 1, SEM_UNDO}, {b, 1, SEM_UNDO}, {a, n, SEM_UNDO}};
	size_t count = 1 + random_below(3);
	int r;

	AGAIN(r, semop(undo_set, down, count));
	if (r < 0 && errno == EINTR)
		return;
	if (r < 0)
		fail("semop of %zu: %m", count);
	if (random_below(4) == 0)
		pause_for(random_below(300));
	if (must || random_below(64) != 0) { /* else its end gives them back */
		AGAIN(r, semop(undo_set, up + 3 - count, count));
		if (r < 0 && errno != EINTR)
			fail("semop up of %zu: %m", count);
	} else {
		_exit(0);
	}
	int v = semctl(undo_set, a, GETVAL);
	if (v < 0 || v > UNDO_START)
		fail("GETVAL of %u is %d: %m", a, v);
	if (random_below(16) == 0) {
		unsigned short all[UNDO_SEMS];

		if (semctl(undo_set, 0, GETALL, all) < 0)
			fail("GETALL: %m");
		for (int i = 0; i < UNDO_SEMS; i++)
			if (all[i] > UNDO_START)
				fail("GETALL: %d is %u", i, all[i]);
		if (semctl(undo_set, a, GETNCNT) < 0)
			fail("GETNCNT: %m");
	}
}

static void count_round(void)
{
	struct sembuf op = {(uint16_t)random_below(COUNT_SEMS), 1, 0};
	struct timespec ts = {0, 20000000};
	int r;

	if (random_below(2)) {
		self->up_begun++;
		AGAIN(r, semop(count_set, &op, 1));
		if (r < 0 && errno != EINTR)
			fail("V: %m");
		if (r < 0)
			self->up_begun--;
		else
			self->up_done++;
		return;
	}
	op.sem_op = -1;
	self->down_begun++;
	AGAIN(r, semtimedop(count_set, &op, 1, &ts));
	if (r < 0 && errno != EAGAIN && errno != EINTR)
		fail("P: %m");
	if (r < 0)
		self->down_begun--;
	else
		self->down_done++;
}

static void block_signals(bool block)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(block ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
}

static void leave_section(uint32_t k)
{
	struct section *s = &sections[k];
	struct sembuf out = {(uint16_t)k, k == 0 ? -1 : 1, SEM_UNDO};
	uint64_t owner = atomic_exchange(&s->owner, 0);
	int r;

	if (owner != number + 1)
		fail("section %u is life %lu's now", k, owner - 1);
	do
		r = semop(lock_set, &out, 1);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		fail("unlock %u: %m", k);
}

/* Three forms of a lock: wait for zero and increment, decrement, and
 * decrement with another operation beside it. */
static void lock_round(void)
{
	uint32_t k = random_below(SECTIONS);
	struct section *s = &sections[k];
	struct sembuf zero[] = {{0, 0, 0}, {0, 1, SEM_UNDO}};
	struct sembuf down[] = {{(uint16_t)k, -1, SEM_UNDO}, {0, 0, 0}};
	int r;

	if (k == 0)
		AGAIN(r, semop(lock_set, zero, 2));
	else if (k == 1)
		AGAIN(r, semop(lock_set, down, 1));
	else {
		down[1] = (struct sembuf){3, 0, 0};
		AGAIN(r, semop(lock_set, down, 2));
	}
	if (r < 0 && errno == EINTR)
		return;
	if (r < 0)
		fail("lock %u: %m", k);
	uint64_t owner = atomic_exchange(&s->owner, number + 1);
	if (owner != 0 && !ledger->life[owner - 1].killed)
		fail("life %lu is in section %u too", owner - 1, k);
	self->section_begun[k]++;
	uint64_t before = s->count;
	if (random_below(4) == 0)
		pause_for(random_below(500));
	s->count = before + 1;
	self->section_done++;
	if (random_below(100) == 0) {
		char held[2] = {(char)('0' + k), 0}, random[24], life[12];

		block_signals(true); /* until there is a handler again */
		snprintf(random, sizeof random, "%lu", seed);
		snprintf(life, sizeof life, "%u", number);
		execl(arguments[0], arguments[0], arguments[1], arguments[2], life, arguments[4],
		      random, held, NULL);
		fail("exec: %m");
	}
	leave_section(k);
}

static void loose_round(void)
{
	uint16_t a = (uint16_t)random_below(LOOSE_SEMS);
	struct sembuf ops[] = {{a, 2, SEM_UNDO}, {(uint16_t)random_below(LOOSE_SEMS), 1, 0}};
	unsigned short all[LOOSE_SEMS];

	switch (random_below(4)) {
	case 0:
		if (semctl(loose_set, a, SETVAL, 100) < 0)
			fail("SETVAL: %m");
		break;
	case 1:
		for (int i = 0; i < LOOSE_SEMS; i++)
			all[i] = 200;
		if (semctl(loose_set, 0, SETALL, all) < 0)
			fail("SETALL: %m");
		break;
	default:
		if (semop(loose_set, ops, 2) < 0 && errno != EINTR && errno != ERANGE)
			fail("semop: %m");
	}
}

/* --- messages -------------------------------------------------------------- */

static uint32_t sum_of(const uint8_t *p, uint32_t n)
{
	uint32_t sum = n;

	for (uint32_t i = 0; i < n; i++)
		sum = (sum << 5 | sum >> 27) ^ p[i];
	return sum;
}

static void send_round(void)
{
	static struct message m;
	uint64_t sequence = self->sent_begun;
	uint32_t size = random_below(4) ? random_below(200) : random_below(LONGEST);
	int r;

	if (sequence == MESSAGES)
		_exit(0);
	m.type = 1 + random_below(4);
	m.body.sender = number;
	m.body.sequence = (uint32_t)sequence;
	m.body.size = size;
	for (uint32_t i = 0; i < size; i++)
		m.body.text[i] = (uint8_t)(sequence + i * 7);
	m.body.sum = sum_of(m.body.text, size);
	self->sent_begun++;
	AGAIN(r, msgsnd(queue, &m, 16 + size, random_below(8) ? 0 : IPC_NOWAIT));
	if (r < 0 && errno != EAGAIN && errno != EINTR)
		fail("msgsnd: %m");
	if (r < 0)
		self->sent_begun--;
	else
		self->sent_done++;
}

/* Notes a message; also the checker's way of emptying the queue. */
static void receive(const struct message *m, long n, long type)
{
	static uint32_t last[MAX_LIVES][4];
	uint32_t sender = m->body.sender, sequence = m->body.sequence;

	if (n < 16 || sender >= ledger->lives || m->body.size != n - 16 || sequence >= MESSAGES)
		fail("message of %ld bytes, sender %u, sequence %u, size %u", n, sender, sequence,
		     m->body.size);
	if (m->type < 1 || m->type > 4 || (type > 0 && m->type != type) || (type < 0 && m->type > -type))
		fail("message of type %ld for %ld", m->type, type);
	if (sum_of(m->body.text, m->body.size) != m->body.sum)
		fail("message %u of life %u is damaged", sequence, sender);
	if (ledger->life[sender].sent_begun <= sequence)
		fail("message %u of life %u was not sent", sequence, sender);
	if (last[sender][m->type - 1] > sequence)
		fail("message %u of life %u after a later one", sequence, sender);
	last[sender][m->type - 1] = sequence + 1;
	uint8_t bit = (uint8_t)(1 << sequence % 8);
	if (atomic_fetch_or(&ledger->received[sender][sequence / 8], bit) & bit)
		fail("message %u of life %u came twice", sequence, sender);
}

static void receive_round(void)
{
	static struct message m;
	long types[] = {0, 0, 0, 1, 2, 3, 4, -2, -3, -4};
	long type = types[random_below(10)];
	size_t room = random_below(8) ? sizeof m.body : 100;
	/* A call for one type or with little room may wait for a long time. */
	int flags = type == 0 && room > 100 ? 0 : IPC_NOWAIT;
	long n;

	self->receiving = 1;
	AGAIN(n, msgrcv(queue, &m, room, type, flags));
	if (n >= 0)
		receive(&m, n, type);
	else if (errno != ENOMSG && errno != E2BIG && errno != EINTR)
		fail("msgrcv: %m");
	self->receiving = 0;
	if (n < 0 && flags)
		sched_yield();
}

/* --- segments -------------------------------------------------------------- */

static void check_picture(const uint8_t *p)
{
	for (uint32_t i = 0; i < PICTURE_SIZE; i += 61)
		if (p[i] != (uint8_t)(i * 31 >> 4))
			fail("byte %u of the picture is %u", i, p[i]);
}

static void *attach(int id, int flags)
{
	void *p = shmat(id, NULL, flags);

	if (p == (void *)-1)
		fail("shmat: %m");
	return p;
}

static pid_t fork_life(void);
static void await(pid_t pid, const char *what);

static void segment_round(void)
{
	const uint8_t *p = attach(picture_id, random_below(2) ? SHM_RDONLY : 0);
	const uint8_t *q = attach(picture_id, SHM_RDONLY);
	pid_t pid = random_below(4) ? -1 : fork_life();

	check_picture(p);
	if (pid == 0) {
		check_picture(q);
		if (random_below(2) && shmdt(p) < 0)
			fail("shmdt in a child: %m");
		_exit(0);
	}
	if (shmdt(p) < 0 || shmdt(q) < 0)
		fail("shmdt: %m");
	struct shmid_ds ds;
	if (shmctl(picture_id, IPC_STAT, &ds) < 0 || ds.shm_segsz != PICTURE_SIZE)
		fail("IPC_STAT: size %zu: %m", ds.shm_segsz);
	if (pid > 0)
		await(pid, "a child with segments");
}

/* --- objects that come and go ---------------------------------------------- */

static void await(pid_t pid, const char *what)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			fail("wait: %m");
	if (status != 0 && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL))
		fail("%s: child's status %#x", what, status);
}

/* What nobody's process does to an object until it may not any more: a unit comes and goes. */
static void use_as_nobody(int kind, int id)
{
	struct message m = {.type = 1};
	struct sembuf op = {0, 1, 0};
	long r;

	if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0)
		fail("setresuid: %m");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int there = 0; !ledger->stop; there ^= r >= 0) {
		op.sem_op = there ? -1 : 1;
		if (kind == 0)
			r = semop(id, &op, 1);
		else
			r = there ? msgrcv(id, &m, 16, 0, 0) : msgsnd(id, &m, 16, 0);
		if (r < 0 && (errno == EACCES || errno == EIDRM || errno == EINVAL))
			_exit(0);
		if (r < 0 && errno != EINTR)
			fail("kind %d as nobody: %m", kind);
	}
	_exit(0);
}

static int units(int kind, int id)
{
	struct msqid_ds ds;
	int n = kind == 0 ? semctl(id, 0, GETVAL) : msgctl(id, IPC_STAT, &ds) < 0 ? -1 : (int)ds.msg_qnum;

	if (n < 0 || n > 1)
		fail("%d units of kind %d: %m", n, kind);
	return n;
}

/* IPC_SET takes nobody's right away, and what nobody did is there. */
static void narrow_round(void)
{
	int kind = (int)random_below(2);
	int id = kind == 0 ? semget(IPC_PRIVATE, 2, 0666) : msgget(IPC_PRIVATE, 0666);

	if (id < 0)
		fail("get %d: %m", kind);
	pid_t pid = fork_life();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		use_as_nobody(kind, id);
	}
	pause_for(random_below(3000));
	struct semid_ds set = {.sem_perm = {.mode = 0600}};
	struct msqid_ds queue_ = {.msg_perm = {.mode = 0600}, .msg_qbytes = 16384};
	if ((kind == 0 ? semctl(id, 0, IPC_SET, &set) : msgctl(id, IPC_SET, &queue_)) < 0)
		fail("IPC_SET of kind %d: %m", kind);
	int n = units(kind, id);
	pause_for(random_below(500));
	if (units(kind, id) != n)
		fail("kind %d changes after its user lost the right", kind);
	if ((kind == 0 ? semctl(id, 0, IPC_RMID) : msgctl(id, IPC_RMID, NULL)) < 0)
		fail("IPC_RMID of kind %d: %m", kind);
	await(pid, "nobody");
}

/* A sleeper learns of the removal of what it sleeps on. */
static void churn_round(void)
{
	static struct message m;
	struct sembuf ops[] = {{1, -1, SEM_UNDO}, {0, 1, 0}};
	int kind = (int)random_below(3);
	int id = kind == 0 ? semget(IPC_PRIVATE, 2, 0600)
		 : kind == 1 ? msgget(IPC_PRIVATE, 0600)
			     : shmget(IPC_PRIVATE, 100000, 0600);

	if (id < 0)
		fail("get %d: %m", kind);
	uint8_t *p = kind == 2 ? attach(id, 0) : NULL;
	pid_t pid = fork_life();
	if (pid == 0) {
		long r = -1;

		/* Nobody else removes the object. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);

		if (kind == 2) {
			for (int i = 0; p[0] == 0 && i < 200000; i++)
				pause_for(100);
			_exit(p[0] == 1 || ledger->stop ? 0 : 5);
		}
		if (kind == 0)
			AGAIN(r, semop(id, ops, 1 + random_below(2)));
		else
			AGAIN(r, msgrcv(id, &m, sizeof m.body, 0, 0));
		if (r >= 0 || (errno != EIDRM && errno != EINVAL && errno != EINTR))
			fail("sleep of kind %d on what is removed: %ld, %m", kind, r);
		_exit(0);
	}
	if (random_below(2))
		pause_for(random_below(3000));
	int r = kind == 0 ? semctl(id, 0, IPC_RMID)
		: kind == 1 ? msgctl(id, IPC_RMID, NULL)
			    : shmctl(id, IPC_RMID, NULL);
	if (r < 0)
		fail("IPC_RMID of kind %d: %m", kind);
	if (p != NULL)
		p[0] = 1;
	if (pid > 0)
		await(pid, "removal");
	if (p != NULL && shmdt(p) < 0)
		fail("shmdt: %m");
	for (int i = 0; i < 4; i++)
		loose_round();
	if (random_below(2) == 0)
		narrow_round();
}

/* --- handlers -------------------------------------------------------------- */

static sigjmp_buf away;
static volatile sig_atomic_t may_jump;

static void on_timer(int sig)
{
	int saved = errno;
	struct sembuf ops[] = {{0, -1, SEM_UNDO | IPC_NOWAIT}, {1, -1, SEM_UNDO | IPC_NOWAIT}};

	(void)sig;
	if (may_jump && random_below(2))
		siglongjmp(away, 1);
	if (semop(undo_set, ops, 1 + random_below(2)) < 0 && errno != EAGAIN)
		fail("semop in a handler: %m");
	errno = saved;
}

/* A life of semop calls with handlers that call semop too, or leave. Nobody
 * knows then what it has of the set; its end gives all back. */
static void signals_life(void)
{
	struct sigaction sa = {.sa_handler = on_timer, .sa_flags = random_below(2) ? SA_RESTART : 0};

	sigaction(SIGALRM, &sa, NULL);
	for (volatile int i = 0; i < 40 && !stopping(); i++) {
		struct itimerval once = {{0, 0}, {0, 1 + random_below(400)}};
		uint16_t a = (uint16_t)random_below(UNDO_SEMS);
		struct sembuf ops[] = {{a, -1, SEM_UNDO}, {(uint16_t)((a + 1) % UNDO_SEMS), -1, SEM_UNDO}};
		struct sembuf back[] = {{a, 1, SEM_UNDO}, {(uint16_t)((a + 1) % UNDO_SEMS), 1, SEM_UNDO}};
		struct timespec ts = {0, 3000000};
		size_t n = 1 + random_below(2);

		setitimer(ITIMER_REAL, &once, NULL);
		if (sigsetjmp(away, 1) == 0) {
			may_jump = 1;
			if (semtimedop(undo_set, ops, n, &ts) == 0)
				semop(undo_set, back, n);
		}
		may_jump = 0;
	}
	struct itimerval never = {0};
	setitimer(ITIMER_REAL, &never, NULL);
	signal(SIGALRM, SIG_IGN);
	_exit(0);
}

/* --- lives ----------------------------------------------------------------- */

/* A child is a life of its own: the test may kill it, too. -1: no room. */
static pid_t fork_life(void)
{
	uint64_t n = atomic_fetch_add(&ledger->lives, 1);

	if (n >= MAX_LIVES)
		fail("too many lives");
	ledger->life[n].role = self->role;
	ledger->life[n].space = self->space;
	pid_t pid = fork();
	if (pid < 0)
		fail("fork: %m");
	if (pid == 0) {
		number = (uint32_t)n;
		self = &ledger->life[n];
		seed ^= n * 0x9e3779b97f4a7c15;
		self->pid = (uint32_t)getpid();
	}
	return pid;
}

/* A child does some rounds of its parent's, and ends. */
static void branch(void)
{
	pid_t pid = fork_life();

	if (pid > 0) {
		await(pid, "a branch");
		return;
	}
	for (int i = 0; i < 5 && !stopping(); i++)
		if (self->role == UNDO)
			undo_round(false);
		else
			lock_round();
	_exit(0);
}

static void live(void)
{
	for (uint32_t i = 1; !stopping(); i++) {
		switch (self->role) {
		case UNDO:
			undo_round(false);
			break;
		case LOCK:
			lock_round();
			break;
		case COUNT:
			count_round();
			break;
		case SENDER:
			send_round();
			break;
		case RECEIVER:
			receive_round();
			break;
		case SEGMENT:
			segment_round();
			break;
		case CHURN:
			churn_round();
			break;
		case SIGNALS:
			signals_life();
		}
		if (self->role <= LOCK && random_below(100) == 0)
			branch();
	}
}

/* --- the beginning and the end of a run ------------------------------------ */

static void find_objects(int flags)
{
	undo_set = semget(KEY_UNDO, UNDO_SEMS, flags);
	count_set = semget(KEY_COUNT, COUNT_SEMS, flags);
	lock_set = semget(KEY_LOCK, 4, flags);
	loose_set = semget(KEY_LOOSE, LOOSE_SEMS, flags);
	queue = msgget(KEY_QUEUE, flags);
	section_id = shmget(KEY_SECTION, SECTIONS * sizeof(struct section), flags);
	picture_id = shmget(KEY_PICTURE, PICTURE_SIZE, flags);
	if (undo_set < 0 || count_set < 0 || lock_set < 0 || loose_set < 0 || queue < 0 ||
	    section_id < 0 || picture_id < 0)
		fail("objects %d %d %d %d, %d, %d %d: %m", undo_set, count_set, lock_set, loose_set,
		     queue, section_id, picture_id);
}

static void print_ids(void)
{
	printf("ids %d %d %d %d %d %d %d\n", undo_set, count_set, lock_set, loose_set, queue,
	       section_id, picture_id);
}

static void begin(void)
{
	unsigned short all[] = {UNDO_START, UNDO_START, UNDO_START, UNDO_START};
	unsigned short locks[] = {0, 1, 1, 0};

	find_objects(IPC_CREAT | IPC_EXCL | 0600);
	if (semctl(undo_set, 0, SETALL, all) < 0 || semctl(lock_set, 0, SETALL, locks) < 0)
		fail("SETALL: %m");
	uint8_t *p = attach(picture_id, 0);
	for (uint32_t i = 0; i < PICTURE_SIZE; i++)
		p[i] = (uint8_t)(i * 31 >> 4);
	print_ids();
}

static void print_set(const char *name, int id, int n)
{
	printf("%s", name);
	for (int i = 0; i < n; i++) {
		int v = semctl(id, i, GETVAL), more = semctl(id, i, GETNCNT), zero = semctl(id, i, GETZCNT);

		if (v < 0 || more != 0 || zero != 0)
			fail("%s %d: value %d, ncnt %d, zcnt %d: %m", name, i, v, more, zero);
		printf(" %d", v);
	}
	printf("\n");
}

static long attaches(int id)
{
	struct shmid_ds ds;

	if (shmctl(id, IPC_STAT, &ds) < 0)
		fail("IPC_STAT: %m");
	return (long)ds.shm_nattch;
}

/* Segments of those killed are there, but nobody has them attached. */
static void print_leftovers(void)
{
	struct shminfo info;
	struct shmid_ds ds;
	int most = shmctl(0, IPC_INFO, (struct shmid_ds *)&info), left = 0;

	for (int i = 0; i <= most; i++) {
		int id = shmctl(i, SHM_STAT, &ds);

		if (id < 0)
			continue;
		left++;
		for (int k = 0; k < 500 && ds.shm_nattch != 0; k++) {
			pause_for(10000);
			shmctl(i, SHM_STAT, &ds);
		}
		if (ds.shm_nattch != 0 || (ds.shm_perm.mode & SHM_DEST))
			fail("segment %d: nattch %lu, mode %o", id, ds.shm_nattch, ds.shm_perm.mode);
	}
	printf("segments %d\n", left);
}

/* After all others ended: what is there now. chaos_test.go compares. */
static void end(void)
{
	static struct message m;
	struct msqid_ds ds;
	long n, count = 0;

	find_objects(0);
	print_ids();
	print_leftovers();
	printf("nattch %ld %ld\n", attaches(section_id), attaches(picture_id));
	sections = attach(section_id, 0);
	check_picture(attach(picture_id, SHM_RDONLY));
	print_set("undo", undo_set, UNDO_SEMS);
	print_set("count", count_set, COUNT_SEMS);
	print_set("lock", lock_set, 4);
	print_set("loose", loose_set, LOOSE_SEMS);
	printf("sections");
	for (int i = 0; i < SECTIONS; i++)
		printf(" %lu", sections[i].count);
	if (msgctl(queue, IPC_STAT, &ds) < 0)
		fail("IPC_STAT: %m");
	while ((n = msgrcv(queue, &m, sizeof m.body, 0, IPC_NOWAIT)) >= 0) {
		receive(&m, n, 0);
		count++;
	}
	if (errno != ENOMSG || (unsigned long)count != ds.msg_qnum)
		fail("emptying the queue: %ld of %lu: %m", count, ds.msg_qnum);
	if (msgctl(queue, IPC_STAT, &ds) < 0 || ds.msg_qnum != 0 || ds.__msg_cbytes != 0)
		fail("the queue has %lu messages, %lu bytes", ds.msg_qnum, ds.__msg_cbytes);
	printf("\nqueue %ld\n", count);
}

/* Says where it is that the library went wrong. */
static void on_fault(int sig, siginfo_t *info, void *context)
{
	const ucontext_t *u = context;
	uintptr_t at = (uintptr_t)u->uc_mcontext.gregs[REG_RIP];
	FILE *maps = fopen("/proc/self/maps", "r");
	char text[300] = "";
	unsigned long from = 0, to, offset = 0;

	while (maps && fgets(text, sizeof text, maps))
		if (sscanf(text, "%lx-%lx %*s %lx", &from, &to, &offset) == 3 && at >= from && at < to)
			break;
	fail("signal %d at %#lx of %s, address %p", sig, at - from + offset, text, info->si_addr);
}

static void on_signal(int sig)
{
	(void)sig;
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_handler = on_signal};
	struct sigaction fault = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};

	if (argc < 6)
		return 2;
	arguments = argv;
	int fd = open(argv[1], O_RDWR | O_CLOEXEC);
	ledger = mmap(NULL, sizeof *ledger, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ledger == MAP_FAILED)
		return 2;
	close(fd);
	number = (uint32_t)atoi(argv[3]);
	self = &ledger->life[number];
	self->space = (uint32_t)atoi(argv[2]);
	seed = strtoull(argv[5], NULL, 10) | 1;
	sigaction(SIGTERM, &sa, NULL);
	block_signals(false);
	sigaction(SIGSEGV, &fault, NULL);
	sigaction(SIGBUS, &fault, NULL);
	if (strcmp(argv[4], "begin") == 0) {
		begin();
	} else if (strcmp(argv[4], "end") == 0) {
		end();
	} else {
		self->role = (uint32_t)atoi(argv[4]);
		self->pid = (uint32_t)getpid();
		find_objects(0);
		if (self->role == LOCK)
			sections = attach(section_id, 0);
		if (argc > 6)
			leave_section((uint32_t)(argv[6][0] - '0'));
		live();
	}
	self->ended = 1;
	return 0;
}
