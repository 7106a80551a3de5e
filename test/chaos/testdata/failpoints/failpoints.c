/*
 * failpoints [NAME]: for every operation, each step of it and each way of being interrupted there,
 * a process comes to that step; others must go on, and the object must be whole. One line a case.
 *
 * The steps are those where libipcspace-fail.so calls its hook. Each operation is made of calls that
 * either happened or did not: what may be there after it follows from that.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum action { KILL, STOP, JUMP, NESTED, ACTIONS };
static const char *const action_names[] = {"kill", "stop", "longjmp", "nested"};

/* What victim and referee share. */
static struct shared {
	volatile int step;	   /* passes seen by the victim in its operation */
	volatile int reached;	   /* it came to the step */
	volatile int result;	   /* of its operation: 0 or errno, -1: not over */
	volatile int got;	   /* messages that it received whole */
	volatile int helped;	   /* the helper's operation is over: errno + 1 */
	volatile int helper_got;
	volatile int went_on;	   /* of two helpers */
	volatile int64_t beat;	   /* of the metronome: now_us */
	volatile int64_t late;	   /* how late one of its wake-ups came in this case */
	char name[64];		   /* of the step */
} *shared;

static enum action action;
static int target; /* the step at which it happens */
static int set, queue, segment;
static int failed; /* cases */
static pid_t helper;
static sigjmp_buf away;
static bool armed; /* this process counts its passes: the victim, and its child */

#define SEMS 4
#define BIG 64 /* semaphores whose changes take several log cells */
#define LONG 3000
#define QBYTES 4000
#define HUGE 120000 /* more chunks than one cell names */

struct message {
	long type;
	uint8_t text[HUGE];
};

/* --- time and failures ----------------------------------------------------- */

static char problem[200];
static int64_t worst; /* longest call of others in this case, in us */

__attribute__((format(printf, 1, 2))) static void wrong(const char *format, ...)
{
	va_list ap;

	if (problem[0])
		return;
	va_start(ap, format);
	vsnprintf(problem, sizeof problem, format, ap);
	va_end(ap);
}

static int64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000000) + ts.tv_nsec / 1000;
}

static void nap(long us)
{
	struct timespec ts = {0, us * 1000};

	nanosleep(&ts, NULL);
}

/*
 * How long others may wait: 100 ms, where a process that is to run does run. The metronome wakes up
 * every millisecond, and tells how late that is here and now; in a call of others three such
 * wake-ups follow each other (the victim's or a helper's, that of whom it wakes, the referee's).
 */
#define PATIENCE 100000
#define WAKE_UPS 3

static void metronome(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		shared->beat = now_us();
		nap(1000);
		int64_t late = now_us() - shared->beat - 1000;
		if (late > shared->late)
			shared->late = late;
	}
}

static int64_t lateness(void)
{
	int64_t now = now_us() - shared->beat - 1000;

	return now > shared->late ? now : shared->late;
}

#define TIMED(call)                                                                                \
	({                                                                                         \
		int64_t begun_ = now_us();                                                         \
		long r_ = (call);                                                                  \
		if (now_us() - begun_ > worst)                                                     \
			worst = now_us() - begun_;                                                 \
		r_;                                                                                \
	})

/* Waits up to a second for what must come true by itself. */
#define SOON(what, condition)                                                                      \
	do {                                                                                       \
		int64_t begun_ = now_us();                                                         \
		while (!(condition) && now_us() - begun_ < 3000000)                                \
			nap(200);                                                                  \
		if (!(condition))                                                                  \
			wrong("%s: not in 3 s", what);                                             \
		else if (now_us() - begun_ > worst)                                                \
			worst = now_us() - begun_;                                                 \
	} while (0)

/* --- the victim ------------------------------------------------------------ */

static void fill(struct message *m, size_t size)
{
	for (size_t i = 0; i < size; i++)
		m->text[i] = (uint8_t)(m->type * 17 + (long)size + (long)i * 3);
}

static bool whole(const struct message *m, long size)
{
	for (long i = 0; i < size; i++)
		if (m->text[i] != (uint8_t)(m->type * 17 + size + i * 3))
			return false;
	return true;
}

static int send(long type, size_t size, int flags)
{
	struct message m = {.type = type};

	fill(&m, size);
	return msgsnd(queue, &m, size, flags) < 0 ? errno : 0;
}

/* Size of the message, or -errno; -1000: it is damaged. */
static long receive(long type, size_t room, int flags)
{
	struct message m;
	long n = msgrcv(queue, &m, room, type, flags);

	return n < 0 ? -errno : whole(&m, n) ? n : -1000;
}

static int op(int a, int n, int flags)
{
	struct sembuf o = {(unsigned short)a, (short)n, (short)flags};

	return semop(set, &o, 1) < 0 ? errno : 0;
}

static int op2(int a, int n, int b, int m, int flags)
{
	struct sembuf o[] = {{(unsigned short)a, (short)n, (short)flags}, {(unsigned short)b, (short)m, (short)flags}};

	return semop(set, o, 2) < 0 ? errno : 0;
}

static void on_jump(int sig)
{
	(void)sig;
	siglongjmp(away, 1);
}

/* A program's own handler, with calls on the same objects that leave them as they were. */
static void on_nested(int sig)
{
	int saved = errno, r = 0;

	(void)sig;
	if (set >= 0) {
		r = op(3, 1, IPC_NOWAIT | SEM_UNDO);
		r = r ? r : op(3, -1, IPC_NOWAIT | SEM_UNDO);
		r = r ? r : op2(3, 1, 2, 0, IPC_NOWAIT) == EAGAIN ? 0 : op(3, -1, IPC_NOWAIT);
	} else if (queue >= 0) {
		long n = 0;

		r = send(99, 30, IPC_NOWAIT);
		if (r == 0)
			n = receive(99, 100, IPC_NOWAIT);
		if (r == EAGAIN || n == 30) /* a full queue may be */
			r = 0;
		else if (r == 0)
			r = (int)-n;
	}
	if (r != 0)
		shared->helper_got = 1000 + r;
	errno = saved;
}

static pid_t self; /* the victim, where a child of it may pass the hook, too */
static const char *stop_at; /* a helper's: the step at which it stops */

static void on_wake(int sig)
{
	(void)sig;
}

static void hook(const char *step)
{
	if (stop_at != NULL && strcmp(step, stop_at) == 0) {
		stop_at = NULL;
		raise(SIGSTOP);
	}
	if (!armed || shared->step++ != target)
		return;
	armed = 0;
	strncpy(shared->name, step, sizeof shared->name - 1);
	shared->reached = 1;
	switch (action) {
	case KILL:
		kill(getpid(), SIGKILL);
		break;
	case STOP:
		if (self != 0 && getpid() != self)
			nap(2000); /* nobody would see to it that it goes on */
		else
			raise(SIGSTOP);
		break;
	case JUMP:
		raise(SIGUSR1);
		break;
	default:
		raise(SIGUSR2);
	}
}

/* --- operations ------------------------------------------------------------ */

struct scenario {
	const char *name;
	int family;		 /* 0 set, 1 queue, 2 segment */
	void (*before)(void);	 /* by the referee */
	int (*help)(void);	 /* by a helper that is asleep in it when the victim begins */
	int (*operate)(void);	 /* by the victim: 0 or errno */
	void (*meanwhile)(void); /* by the referee once the victim is dead, stopped, asleep or over */
	void (*after)(bool happened, bool certain); /* by the referee at the end */
};

static int value(int i)
{
	return (int)TIMED(semctl(set, i, GETVAL));
}

/* Units of 0 and 1 without undo: both changed or none. */
static void after_pair(int change0, int change1, bool happened, bool certain)
{
	int a = value(0), b = value(1);
	bool is = a == 5 + change0 && b == 5 + change1, was = a == 5 && b == 5;

	if (certain ? !(happened ? is : was) : !is && !was)
		wrong("values %d %d (happened %d, certain %d)", a, b, happened, certain);
}

static int do_multi(void) { return op2(0, -2, 1, 1, 0); }
static void after_multi(bool h, bool c) { after_pair(-2, 1, h, c); }

static int do_undo(void) { return op(0, -2, SEM_UNDO); }
static int do_multi_undo(void) { return op2(0, -2, 1, 1, SEM_UNDO); }
static int do_undo_pair(void)
{
	int r = op2(0, -2, 1, -1, SEM_UNDO);

	return r ? r : op2(1, 1, 0, 2, SEM_UNDO);
}
/* The victim is gone: its end undid all. */
static void after_undo(bool h, bool c)
{
	(void)h, (void)c;
	SOON("undo", value(0) == 5 && value(1) == 5);
}

static int do_fast(void) { return op(0, -1, 0); }
static void after_fast(bool h, bool c) { after_pair(-1, 0, h, c); }

/* The victim sleeps for a unit of 2; the referee gives one. */
static int do_block(void) { return op(2, -1, 0); }
static int do_block_undo(void) { return op2(2, -1, 0, -1, SEM_UNDO); }
static void give_unit(void)
{
	if (TIMED(op(2, 1, 0)) != 0)
		wrong("V: %m");
}
static void after_block(bool h, bool c)
{
	int v = value(2);

	if (v < 0 || v > 1 || (c && v != !h))
		wrong("value %d, happened %d, certain %d", v, h, c);
	if (v == 1 && TIMED(op(2, -1, IPC_NOWAIT)) != 0)
		wrong("the unit cannot be had: %m");
}
static void after_block_undo(bool h, bool c)
{
	(void)h, (void)c;
	SOON("undo", value(2) == 1 && value(0) == 5);
	op(2, -1, IPC_NOWAIT);
}

static int do_timeout(void)
{
	struct sembuf o = {2, -1, SEM_UNDO};
	struct timespec ts = {0, 1000000};

	return semtimedop(set, &o, 1, &ts) < 0 ? errno : 0;
}
static void after_nothing(bool h, bool c)
{
	(void)c;
	if (h || value(2) != 0 || value(0) != 5)
		wrong("happened %d, value %d", h, value(2));
}

/* A helper sleeps for a unit of 2, with undo of nothing; the victim gives it. */
static int help_unit(void) { return op(2, -1, 0); }
static int help_multi_unit(void) { return op2(2, -1, 0, -1, 0); }
static int do_give(void) { return op(2, 1, 0); }
static int do_give_two(void) { return op(2, 2, 0); }
/* Two helpers sleep in the same operation. */
static int two(int (*operation)(void))
{
	pid_t other = fork();

	if (other == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	int r = operation();
	__sync_fetch_and_add(&shared->went_on, 1);
	if (other == 0)
		_exit(r);
	int status = 0;
	waitpid(other, &status, 0);
	return r ? r : status;
}
static int help_two_units(void) { return two(help_unit); }
/* Where one could go on, so can the other, whatever became of who let them. */
static void both_go_on(void)
{
	for (int i = 0; i < 25 && !shared->went_on; i++)
		nap(200);
	if (shared->went_on)
		SOON("the second", shared->went_on == 2);
}
static int do_setval(void) { return semctl(set, 2, SETVAL, 1) < 0 ? errno : 0; }
static int do_setall(void)
{
	unsigned short all[BIG] = {5, 5, 1, 0};

	return semctl(set, 0, SETALL, all) < 0 ? errno : 0;
}
static int do_getall(void)
{
	unsigned short all[SEMS];

	return semctl(set, 0, GETALL, all) < 0 ? errno : all[0] != 5 || all[1] != 5 ? ERANGE : 0;
}
static int do_ncnt(void) { return semctl(set, 2, GETNCNT) < 0 ? errno : 0; }
/* Has the helper its unit? If the victim did not give it, the referee does. */
static void after_give(bool h, bool c)
{
	bool given = false;

	if (c && h)
		SOON("wake-up", shared->helped != 0);
	for (int i = 0; i < 25 && !shared->helped; i++)
		nap(200);
	if (!shared->helped) {
		given = true;
		give_unit();
	}
	SOON("wake-up by another", shared->helped != 0);
	int v = value(2);
	if (shared->helped != 1 || (v != 0 && !(given && !c && v == 1)))
		wrong("helper %d, value %d, happened %d, given %d", shared->helped - 1, v, h, given);
}
/* The helper was stopped in its sleep. */
static int help_stopped(void) { return op(2, -1, 0); }
static void after_stopped(bool h, bool c)
{
	kill(helper, SIGCONT);
	after_give(h, c);
}
static void after_give_two(bool h, bool c)
{
	bool given = !(c && h) && !shared->went_on;

	if (given && TIMED(op(2, 2, 0)) != 0)
		wrong("semop: %m");
	SOON("wake-up of both", shared->helped != 0);
	int v = value(2);
	/* They may have been about to go on, on a busy machine. */
	if (shared->helped != 1 || (v != 0 && !(given && !c && v == 2)))
		wrong("helper %d, value %d, given %d", shared->helped - 1, v, given);
}
static void after_give_look(bool h, bool c)
{
	(void)h, (void)c;
	after_give(false, false);
}

static void remove_set(void)
{
	if (TIMED(semctl(set, 0, IPC_RMID)) < 0)
		wrong("IPC_RMID: %m");
	set = -1;
}
static void remove_queue(void)
{
	if (TIMED(msgctl(queue, IPC_RMID, NULL)) < 0)
		wrong("IPC_RMID: %m");
	queue = -1;
}
static void after_removal(bool h, bool c)
{
	if (c && h)
		wrong("it happened");
}

/* A helper is stopped after its commit: the victim carries it out. */
static int help_committed(void)
{
	stop_at = "apply: next entry";
	return op2(0, 1, 1, 1, 0);
}
static int help_locked(void)
{
	stop_at = "commit: log written";
	return op2(0, 1, 1, 1, 0);
}
static void after_help(bool h, bool c)
{
	int a = value(0), b = value(1);

	if (c && h)
		SOON("the commit", (a = value(0)) == 4 && (b = value(1)) == 7);
	else if ((a != 6 || b != 6) && (a != 4 || b != 7))
		wrong("values %d %d", a, b);
}
static void after_revoke(bool h, bool c)
{
	(void)c;
	int a = value(0), b = value(1);

	if (h ? a != 3 || b != 6 : !((a == 3 && b == 6) || (a == 5 && b == 5)))
		wrong("values %d %d", a, b);
}

static void make_big(void)
{
	unsigned short all[BIG] = {5, 5};

	semctl(set, 0, IPC_RMID);
	set = semget(IPC_PRIVATE, BIG, 0600);
	semctl(set, 0, SETALL, all);
}
static int do_setall_big(void)
{
	unsigned short all[BIG];

	for (int i = 0; i < BIG; i++)
		all[i] = (unsigned short)(i + 2);
	return semctl(set, 0, SETALL, all) < 0 ? errno : 0;
}
static void after_big(bool h, bool c)
{
	unsigned short all[BIG];
	int n = 0;

	if (TIMED(semctl(set, 0, GETALL, all)) < 0)
		wrong("GETALL: %m");
	for (int i = 0; i < BIG; i++)
		n += all[i] == i + 2;
	if ((n != BIG && n != 0) || (c && n != (h ? BIG : 0)))
		wrong("%d of %d values", n, BIG);
}

/* Messages: the victim's has type 1, the referee's 2. */
static int count(long type, long size)
{
	int n = 0;
	long r;

	while ((r = TIMED(receive(type, HUGE, IPC_NOWAIT))) >= 0) {
		if (r != size)
			wrong("a message of %ld bytes for %ld", r, size);
		n++;
	}
	if (r != -ENOMSG)
		wrong("receive: %ld", r);
	return n;
}
static void drained(int n, bool h, bool c)
{
	if (n > 1 || (c && n != h))
		wrong("%d messages, happened %d, certain %d", n, h, c);
}
static int do_send(void) { return send(1, 40, 0); }
static void after_send(bool h, bool c) { drained(count(1, 40), h, c); }
static int do_send_long(void) { return send(1, LONG, 0); }
static void after_send_long(bool h, bool c) { drained(count(1, LONG), h, c); }

static void make_huge(void)
{
	struct msqid_ds ds;

	msgctl(queue, IPC_STAT, &ds);
	ds.msg_qbytes = 2 * HUGE;
	if (msgctl(queue, IPC_SET, &ds) < 0)
		wrong("IPC_SET: %m");
}
static void put_huge(void)
{
	make_huge();
	send(2, HUGE, 0);
}
static int do_send_huge(void) { return send(1, HUGE, 0); }

static int take(long type, size_t room, int flags)
{
	long n = receive(type, room, flags);

	if (n == -1000)
		return EBADMSG;
	if (n >= 0)
		shared->got = shared->got + 1;
	return n < 0 ? (int)-n : 0;
}
static int help_receive(void) { return take(1, QBYTES, 0); }
static int help_receive_small(void) { return take(1, 10, 0); }
/* A helper waits for the victim's message. */
static void after_hand_over(bool h, bool c)
{
	int n = 0;

	for (int i = 0; i < 25 && !shared->helped; i++)
		nap(200);
	if (c && h)
		SOON("hand-over", shared->helped != 0);
	if (!shared->helped) {
		n = -1; /* the referee's own */
		if (TIMED(send(1, 40, 0)) != 0)
			wrong("send: %m");
	}
	SOON("hand-over by another", shared->helped != 0);
	n += count(1, 40) + shared->got;
	if (shared->helped != 1 || n < 0 || n > 1 || (c && n != h))
		wrong("helper %d, %d messages, happened %d, certain %d", shared->helped - 1, n, h, c);
}
static void after_too_big(bool h, bool c)
{
	for (int i = 0; i < 25 && !shared->helped; i++)
		nap(200);
	int n = count(1, LONG);

	if (!shared->helped && TIMED(send(1, LONG, 0)) != 0)
		wrong("send: %m");
	SOON("E2BIG", shared->helped != 0);
	if (shared->helped != E2BIG + 1)
		wrong("helper %d", shared->helped - 1);
	drained(n, h, c);
	count(1, LONG);
}

static void put_short(void) { send(2, 40, 0); }
static void put_long(void) { send(2, LONG, 0); }
static int do_receive(void) { return take(2, QBYTES, 0); }
static int do_receive_nowait(void) { return take(0, QBYTES, IPC_NOWAIT); }
static int do_receive_big(void) { return take(2, 10, 0) == E2BIG ? 0 : EINVAL; }
static int do_copy(void) { return take(0, QBYTES, IPC_NOWAIT | MSG_COPY); }
/* The victim has it, or it is there; only who died with it may have taken it along. */
static void after_receive_size(long size, bool c)
{
	int n = count(2, size) + shared->got;

	if (n > 1 || (c && n != 1))
		wrong("%d messages, of these the victim's %d", n, shared->got);
}
static void after_receive(bool h, bool c) { (void)h, after_receive_size(40, c); }
static void after_receive_long(bool h, bool c) { (void)h, after_receive_size(LONG, c); }
static int do_receive_huge(void) { return take(2, HUGE, 0); }
static void after_receive_huge(bool h, bool c) { (void)h, after_receive_size(HUGE, c); }
static void after_send_huge(bool h, bool c) { drained(count(1, HUGE), h, c); }
static void after_look(bool h, bool c)
{
	(void)h, (void)c;
	int n = count(2, LONG);

	if (n != 1)
		wrong("%d messages", n);
}
static void give_short(void)
{
	if (TIMED(send(2, 40, 0)) != 0)
		wrong("send: %m");
}
static void put_full(void)
{
	send(2, LONG, 0);
}
/* The victim's message waits for room, which the referee makes. */
static int do_send_block(void) { return send(1, LONG, 0); }
static void make_room(void)
{
	if (TIMED(receive(2, QBYTES, IPC_NOWAIT)) != LONG)
		wrong("receive: %m");
}
/* A helper's message waits for the room that the victim makes. */
static int help_send(void) { return send(1, LONG, 0); }
static void after_room(bool h, bool c)
{
	(void)h;
	int n = count(2, LONG) + shared->got;

	if (n > 1 || (c && n != 1))
		wrong("%d messages, of these the victim's %d", n, shared->got);
	SOON("room", shared->helped != 0);
	if (shared->helped != 1 || count(1, LONG) != 1)
		wrong("helper %d, or its message is not there", shared->helped - 1);
}

#define HALF 1500
static int help_half(void) { return send(1, HALF, 0); }
static int help_two_send(void) { return two(help_half); }
static void after_room_for_two(bool h, bool c)
{
	(void)h;
	int n = count(2, LONG) + shared->got;

	if (n > 1 || (c && n != 1))
		wrong("%d messages, of these the victim's %d", n, shared->got);
	SOON("room", shared->helped != 0);
	if (shared->helped != 1 || count(1, HALF) != 2)
		wrong("helper %d, or its messages are not there", shared->helped - 1);
}

static long attaches(void)
{
	struct shmid_ds ds;

	return TIMED(shmctl(segment, IPC_STAT, &ds)) < 0 ? -1 : (long)ds.shm_nattch;
}
static int do_attach(void)
{
	uint8_t *p = shmat(segment, NULL, 0);

	if (p == (void *)-1)
		return errno;
	p[5] = 7;
	return shmdt(p) < 0 ? errno : 0;
}
static int do_fork(void)
{
	uint8_t *p = shmat(segment, NULL, 0);
	int status, r;

	if (p == (void *)-1)
		return errno;
	pid_t pid = fork();
	if (pid == 0)
		_exit(p[0] == 9 && shmdt(p) == 0 ? 0 : 1);
	while ((r = waitpid(pid, &status, WUNTRACED)) < 0 || WIFSTOPPED(status))
		if (r > 0)
			kill(pid, SIGCONT);
		else if (errno != EINTR)
			return errno;
	if (status != 0 && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) && status != (33 << 8))
		return EIO;
	return shmdt(p) < 0 ? errno : 0;
}
/* With no descriptor to spare: a child that borrows the memory opens it. It dies at
 * some steps, alone: then the call fails, and the next one is as any other. */
static int do_attach_borrowed(void)
{
	struct rlimit few, before;
	sigset_t mask;

	self = getpid();
	int id = shmget(IPC_PRIVATE, 4096, 0600);
	getrlimit(RLIMIT_NOFILE, &before);
	few = before;
	few.rlim_cur = 0;
	setrlimit(RLIMIT_NOFILE, &few);
	uint8_t *p = shmat(id, NULL, 0);
	int error = p == (void *)-1 ? errno : 0;

	setrlimit(RLIMIT_NOFILE, &before);
	sigprocmask(SIG_BLOCK, NULL, &mask);
	if (sigismember(&mask, SIGUSR1))
		return EDEADLK; /* it has the library's lock still */
	if (error != 0 && error != EMFILE)
		return error;
	if ((p != (void *)-1 && shmdt(p) < 0) || shmctl(id, IPC_RMID, NULL) < 0)
		return errno;
	return do_attach();
}
static void after_segment(bool h, bool c)
{
	(void)h, (void)c;
	SOON("nattch 0", attaches() == 0);
}

static const struct scenario scenarios[] = {
	{"semop, fast", 0, NULL, NULL, do_fast, NULL, after_fast},
	{"semop of two", 0, NULL, NULL, do_multi, NULL, after_multi},
	{"semop, undo", 0, NULL, NULL, do_undo, NULL, after_undo},
	{"semop of two, undo", 0, NULL, NULL, do_multi_undo, NULL, after_undo},
	{"semop down and up, undo", 0, NULL, NULL, do_undo_pair, NULL, after_undo},
	{"semop sleeps", 0, NULL, NULL, do_block, give_unit, after_block},
	{"semop sleeps, undo", 0, NULL, NULL, do_block_undo, give_unit, after_block_undo},
	{"semtimedop, undo", 0, NULL, NULL, do_timeout, NULL, after_nothing},
	{"semop wakes", 0, NULL, help_unit, do_give, NULL, after_give},
	{"semop wakes one of two", 0, NULL, help_multi_unit, do_give, NULL, after_give},
	{"semop wakes two", 0, NULL, help_two_units, do_give_two, both_go_on, after_give_two},
	{"SETVAL wakes", 0, NULL, help_unit, do_setval, NULL, after_give},
	{"SETALL wakes", 0, NULL, help_unit, do_setall, NULL, after_give},
	{"semop wakes a stopped one", 0, NULL, help_stopped, do_give, NULL, after_stopped},
	{"semop, another committed", 0, NULL, help_committed, do_multi, NULL, after_help},
	{"semop, another has locked", 0, NULL, help_locked, do_multi, NULL, after_revoke},
	{"SETALL of many", 0, make_big, NULL, do_setall_big, NULL, after_big},
	{"GETALL", 0, NULL, NULL, do_getall, NULL, after_undo},
	{"GETNCNT of a sleeper", 0, NULL, help_unit, do_ncnt, NULL, after_give_look},
	{"semop, removed", 0, NULL, NULL, do_block, remove_set, after_removal},
	{"msgsnd", 1, NULL, NULL, do_send, NULL, after_send},
	{"msgsnd, long", 1, NULL, NULL, do_send_long, NULL, after_send_long},
	{"msgsnd, huge", 1, make_huge, NULL, do_send_huge, NULL, after_send_huge},
	{"msgsnd to a receiver", 1, NULL, help_receive, do_send, NULL, after_hand_over},
	{"msgsnd, E2BIG there", 1, NULL, help_receive_small, do_send_long, NULL, after_too_big},
	{"msgsnd sleeps", 1, put_full, NULL, do_send_block, make_room, after_send_long},
	{"msgsnd, removed", 1, put_full, NULL, do_send_block, remove_queue, after_removal},
	{"msgrcv", 1, put_short, NULL, do_receive, NULL, after_receive},
	{"msgrcv, long", 1, put_long, NULL, do_receive_nowait, NULL, after_receive_long},
	{"msgrcv, huge", 1, put_huge, NULL, do_receive_huge, NULL, after_receive_huge},
	{"msgrcv, E2BIG", 1, put_long, NULL, do_receive_big, NULL, after_look},
	{"msgrcv, MSG_COPY", 1, put_long, NULL, do_copy, NULL, after_look},
	{"msgrcv sleeps", 1, NULL, NULL, do_receive, give_short, after_receive},
	{"msgrcv makes room", 1, put_full, help_send, do_receive, NULL, after_room},
	{"msgrcv makes room for two", 1, put_full, help_two_send, do_receive, both_go_on, after_room_for_two},
	{"msgrcv, removed", 1, NULL, NULL, do_receive, remove_queue, after_removal},
	{"shmat, shmdt", 2, NULL, NULL, do_attach, NULL, after_segment},
	{"shmat, no descriptors", 2, NULL, NULL, do_attach_borrowed, NULL, after_segment},
	{"fork with a segment", 2, NULL, NULL, do_fork, NULL, after_segment},
};

/* --- the referee ----------------------------------------------------------- */

static void make_objects(int family)
{
	unsigned short all[SEMS] = {5, 5, 0, 0};
	struct msqid_ds ds;

	set = queue = segment = -1;
	if (family == 0) {
		set = semget(IPC_PRIVATE, SEMS, 0600);
		semctl(set, 0, SETALL, all);
	} else if (family == 1) {
		queue = msgget(IPC_PRIVATE, 0600);
		if (msgctl(queue, IPC_STAT, &ds) < 0)
			wrong("IPC_STAT: %m");
		ds.msg_qbytes = QBYTES;
		if (msgctl(queue, IPC_SET, &ds) < 0)
			wrong("IPC_SET: %m");
	} else {
		segment = shmget(IPC_PRIVATE, 8192, 0600);
		uint8_t *p = shmat(segment, NULL, 0);
		p[0] = 9;
		shmdt(p);
	}
	if (set < 0 && queue < 0 && segment < 0)
		wrong("object: %m");
}

/* Sleepers, locks and half messages that are left would show here. */
static void check_objects(void)
{
	struct msqid_ds ds;

	if (set >= 0) {
		for (int i = 0; i < SEMS; i++)
			if (TIMED(semctl(set, i, GETNCNT)) != 0 || semctl(set, i, GETZCNT) != 0)
				wrong("sleepers are left on %d", i);
		if (TIMED(op2(0, -1, 1, -1, SEM_UNDO)) != 0 || TIMED(op2(0, 1, 1, 1, SEM_UNDO)) != 0)
			wrong("semop: %m");
	}
	if (queue >= 0) {
		if (msgctl(queue, IPC_STAT, &ds) < 0 || ds.msg_qnum != 0 || ds.__msg_cbytes != 0)
			wrong("%lu messages, %lu bytes", ds.msg_qnum, ds.__msg_cbytes);
		if (TIMED(send(5, LONG, IPC_NOWAIT)) != 0 || TIMED(receive(5, QBYTES, IPC_NOWAIT)) != LONG)
			wrong("queue: %m");
	}
}

/* In a sleep, stopped, or at its end. */
static bool asleep(pid_t pid)
{
	char path[40], text[300] = "";

	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	FILE *f = fopen(path, "r");
	if (f == NULL)
		return false;
	size_t n = fread(text, 1, sizeof text - 1, f);
	fclose(f);
	text[n] = 0;
	char *end = strrchr(text, ')');
	return end && end[1] && (end[2] == 'S' || end[2] == 'T' || end[2] == 'Z');
}

static pid_t start_helper(const struct scenario *s)
{
	pid_t pid = fork();

	if (pid == 0) {
		shared->helped = 1 + s->help();
		_exit(0);
	}
	return pid;
}

static void victim(const struct scenario *s)
{
	struct sigaction jump = {.sa_handler = on_jump}, nested = {.sa_handler = on_nested};
	struct sigaction wake = {.sa_handler = on_wake};

	sigaction(SIGUSR1, &jump, NULL);
	sigaction(SIGUSR2, &nested, NULL);
	sigaction(SIGTERM, &wake, NULL);
	/* Sessions, handles and undo words are made in the first calls, and are steps, too. */
	int r = 0;
	if (sigsetjmp(away, 1) == 0) {
		armed = 1;
		r = s->operate();
		armed = 0;
		shared->result = r;
		_exit(0);
	}
	/* Left: it calls again, as if nothing had been. */
	if (set >= 0)
		r = op2(0, -1, 1, -1, SEM_UNDO) || op2(0, 1, 1, 1, SEM_UNDO) || op(3, 1, SEM_UNDO) ? errno : 0;
	else if (queue >= 0 && (r = send(7, 20, IPC_NOWAIT)) == 0)
		r = receive(7, 100, IPC_NOWAIT) == 20 ? 0 : EBADMSG;
	else if (segment >= 0)
		r = do_attach();
	_exit(r == 0 || r == EAGAIN || r == EIDRM || r == EINVAL ? 33 : 34);
}

/* Waits for the victim to be dead, stopped, asleep or done: -1, or its status. */
static int await(pid_t pid, bool sleeps)
{
	int64_t begun = now_us(), slept = 0;
	int status;

	while (now_us() - begun < 3000000) {
		pid_t r = waitpid(pid, &status, WNOHANG | WUNTRACED);

		if (r == pid)
			return status;
		slept = asleep(pid) ? slept + 1 : 0;
		if (sleeps && slept > 5)
			return -1;
		nap(100);
	}
	if (!sleeps)
		wrong("the victim does not end");
	return -1;
}

/* false: the operation was over before step k. */
static bool one(const struct scenario *s, enum action a, int k)
{
	int status = -1;

	helper = 0;
	problem[0] = 0;
	worst = 0;
	memset(shared, 0, offsetof(struct shared, beat));
	memset(shared->name, 0, sizeof shared->name);
	shared->late = 0;
	shared->result = -1;
	action = a;
	target = k;
	make_objects(s->family);
	if (s->before)
		s->before();
	if (s->help) {
		helper = start_helper(s);
		for (int i = 0, n = 0; i < 20000 && n < 3; i++, nap(50))
			n = asleep(helper) ? n + 1 : 0;
		if (set >= 0 && s->help != help_committed && s->help != help_locked)
			SOON("helper's sleep", semctl(set, 2, GETNCNT) == 1 + (s->help == help_two_units));
		if (s->help == help_stopped) {
			kill(helper, SIGSTOP);
			for (int i = 0; i < 20000 && !asleep(helper); i++)
				nap(50);
		}
	}
	worst = 0;
	int kept_set = set, kept_queue = queue;
	pid_t pid = fork();
	if (pid == 0)
		victim(s);
	status = await(pid, s->meanwhile != NULL);
	bool ended = status != -1 && !WIFSTOPPED(status);
	if (s->meanwhile)
		s->meanwhile();
	if (!ended && s->meanwhile && !(status != -1 && WIFSTOPPED(status))) {
		/* It slept; now it goes on, perhaps to its step. */
		status = await(pid, false);
		ended = status != -1 && !WIFSTOPPED(status);
	}
	if (!ended && status != -1) {
		/* Stopped: others go on, and then so does it. */
		if (set >= 0) {
			if (TIMED(op2(0, -1, 1, -1, SEM_UNDO | IPC_NOWAIT)) != 0 ||
			    TIMED(op2(0, 1, 1, 1, SEM_UNDO)) != 0 || TIMED(op(0, 0, IPC_NOWAIT)) != EAGAIN)
				wrong("beside a stopped process: %m");
		} else if (queue >= 0) {
			int r = (int)TIMED(send(6, 30, IPC_NOWAIT));
			if (r != 0 && r != EAGAIN)
				wrong("msgsnd beside a stopped process: %s", strerror(r));
			else if (r == 0 && TIMED(receive(6, 30, IPC_NOWAIT)) != 30)
				wrong("msgrcv beside a stopped process: %m");
		} else if (segment >= 0 && attaches() < 0) {
			wrong("IPC_STAT beside a stopped process: %m");
		}
		kill(pid, SIGCONT);
		status = await(pid, false);
		ended = status != -1;
	}
	if (!ended) {
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
	}
	bool jumped = WIFEXITED(status) && WEXITSTATUS(status) == 33;
	if (WIFEXITED(status) ? WEXITSTATUS(status) != 0 && !jumped : a != KILL || WTERMSIG(status) != SIGKILL)
		wrong("the victim's status is %#x", status);
	bool certain = WIFEXITED(status) && !jumped;
	int allowed = s->meanwhile == remove_set || s->meanwhile == remove_queue ? EIDRM
		      : s->operate == do_timeout			     ? EAGAIN
										     : 0;
	if (certain && shared->result != 0 && shared->result != allowed && shared->result != EINTR &&
	    !(allowed == EIDRM && shared->result == EINVAL))
		wrong("its result is %s", strerror(shared->result));
	int nested = shared->helper_got - 1000;
	/* Its object may be gone by then. */
	if (nested > 0 && !(allowed == EIDRM && (nested == EIDRM || nested == EINVAL)))
		wrong("nested call: %s", strerror(nested));
	if (!problem[0])
		s->after(certain && shared->result == 0, certain);
	if (helper) {
		kill(helper, SIGCONT);
		for (int i = 0; i < 1000 && waitpid(helper, NULL, WNOHANG) == 0; i++)
			nap(1000);
		kill(helper, SIGKILL);
		waitpid(helper, NULL, 0);
	}
	if (!problem[0])
		check_objects();
	int64_t late = lateness();
	if (!problem[0] && worst > PATIENCE + WAKE_UPS * late)
		wrong("others waited for %ld ms, a wake-up took %ld", (long)(worst / 1000), (long)(late / 1000));
	if (shared->reached || problem[0])
		printf("%-26s %-8s %3d %-28s %6.1f ms  %s\n", s->name, action_names[a], k,
		       shared->reached ? shared->name : "(not reached)", (double)worst / 1000,
		       problem[0] ? problem : "ok");
	if (problem[0])
		printf("FAILED object %d %d\n", kept_set, kept_queue);
	failed += problem[0] != 0;
	fflush(stdout);
	/* Objects with something wrong stay for the verifier, and so do a few others. */
	if (!problem[0] && k % 4 != 0) {
		if (set >= 0)
			semctl(set, 0, IPC_RMID);
		if (queue >= 0)
			msgctl(queue, IPC_RMID, NULL);
	}
	if (segment >= 0)
		shmctl(segment, IPC_RMID, NULL);
	return shared->reached;
}

int main(int argc, char **argv)
{
	void (**point)(const char *) = dlsym(RTLD_DEFAULT, "ipcspace_fail_hook");
	int cases = 0;

	if (point == NULL) {
		fprintf(stderr, "the library has no fail points\n");
		return 2;
	}
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct msginfo limits = {0};
	msgctl(0, IPC_INFO, (struct msqid_ds *)&limits);
	shared->beat = now_us();
	if (fork() == 0)
		metronome();
	*point = hook;
	for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
		/* They need a space with a larger msgmax. */
		bool huge = scenarios[i].before == make_huge || scenarios[i].before == put_huge;
		if (huge && limits.msgmax < HUGE)
			continue;
		if (argc > 1 && strcmp(argv[1], scenarios[i].name) != 0)
			continue;
		for (enum action a = 0; a < ACTIONS; a++) {
			if (argc > 2 && strcmp(argv[2], action_names[a]) != 0)
				continue;
			int begun = failed;
			for (int k = 0; k < 300 && failed < begun + 5 && one(&scenarios[i], a, k); k += k < 40 ? 1 : 7)
				cases++;
		}
	}
	printf("%d cases\n", cases);
	return 0;
}
