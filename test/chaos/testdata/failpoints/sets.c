/* Operations on a semaphore set, and what may be there after each. */
#include "failpoints.h"
#include <errno.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <time.h>

#define SEMS 4
#define BIG 64 /* semaphores whose changes take several log cells */

static int op(int a, int n, int flags)
{
	struct sembuf o = {(unsigned short)a, (short)n, (short)flags};

	return semop(object, &o, 1) < 0 ? errno : 0;
}

static int op2(int a, int n, int b, int m, int flags)
{
	struct sembuf o[] = {{(unsigned short)a, (short)n, (short)flags}, {(unsigned short)b, (short)m, (short)flags}};

	return semop(object, o, 2) < 0 ? errno : 0;
}

static void make_set(void)
{
	unsigned short all[SEMS] = {5, 5, 0, 0};

	object = semget(IPC_PRIVATE, SEMS, 0600);
	semctl(object, 0, SETALL, all);
}
static void make_big(void)
{
	unsigned short all[BIG] = {5, 5};

	semctl(object, 0, IPC_RMID);
	object = semget(IPC_PRIVATE, BIG, 0600);
	semctl(object, 0, SETALL, all);
}
static void remove_set(void)
{
	if (TIMED(semctl(object, 0, IPC_RMID)) < 0)
		wrong("IPC_RMID: %m");
	object = -1;
}

static int value(int i)
{
	return (int)TIMED(semctl(object, i, GETVAL));
}

/* Units of 0 and 1 without undo: both changed or none. */
static void after_pair(int change0, int change1, bool happened, bool certain)
{
	int a = value(0), b = value(1);
	bool is = a == 5 + change0 && b == 5 + change1, was = a == 5 && b == 5;

	if (certain ? !(happened ? is : was) : !is && !was)
		wrong("values %d %d (happened %d, certain %d)", a, b, happened, certain);
}

static int do_pair(void) { return op2(0, -2, 1, 1, 0); }
static int do_multi(void)
{
	struct sembuf o[] = {{0, -2, 0}, {1, 1, 0}, {2, 0, 0}}; /* not in one word of 16 bytes */

	return semop(object, o, 3) < 0 ? errno : 0;
}
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

	return semtimedop(object, &o, 1, &ts) < 0 ? errno : 0;
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
static int help_two_units(void) { return two(help_unit); }
static int do_setval(void) { return semctl(object, 2, SETVAL, 1) < 0 ? errno : 0; }
static int do_setall(void)
{
	unsigned short all[BIG] = {5, 5, 1, 0};

	return semctl(object, 0, SETALL, all) < 0 ? errno : 0;
}
static int do_getall(void)
{
	unsigned short all[SEMS];

	return semctl(object, 0, GETALL, all) < 0 ? errno : all[0] != 5 || all[1] != 5 ? ERANGE : 0;
}
static int do_ncnt(void) { return semctl(object, 2, GETNCNT) < 0 ? errno : 0; }
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

static int do_setall_big(void)
{
	unsigned short all[BIG];

	for (int i = 0; i < BIG; i++)
		all[i] = (unsigned short)(i + 2);
	return semctl(object, 0, SETALL, all) < 0 ? errno : 0;
}
static void after_big(bool h, bool c)
{
	unsigned short all[BIG];
	int n = 0;

	if (TIMED(semctl(object, 0, GETALL, all)) < 0)
		wrong("GETALL: %m");
	for (int i = 0; i < BIG; i++)
		n += all[i] == i + 2;
	if ((n != BIG && n != 0) || (c && n != (h ? BIG : 0)))
		wrong("%d of %d values", n, BIG);
}

static const struct scenario scenarios[] = {
	{"semop, fast", .operate = do_fast, .after = after_fast},
	{"semop of neighbours", .operate = do_pair, .after = after_multi},
	{"semop of several", .operate = do_multi, .after = after_multi},
	{"semop, undo", .operate = do_undo, .after = after_undo},
	{"semop of two, undo", .operate = do_multi_undo, .after = after_undo},
	{"semop down and up, undo", .operate = do_undo_pair, .after = after_undo},
	{"semop sleeps", .operate = do_block, .meanwhile = give_unit, .after = after_block},
	{"semop sleeps, undo", .operate = do_block_undo, .meanwhile = give_unit, .after = after_block_undo},
	{"semtimedop, undo", .operate = do_timeout, .error = EAGAIN, .after = after_nothing},
	{"semop wakes", .help = help_unit, .sleepers = 1, .operate = do_give, .after = after_give},
	{"semop wakes one of two", .help = help_multi_unit, .sleepers = 1, .operate = do_give, .after = after_give},
	{"semop wakes two", .help = help_two_units, .sleepers = 2, .operate = do_give_two, .meanwhile = both_go_on,
	 .after = after_give_two},
	{"SETVAL wakes", .help = help_unit, .sleepers = 1, .operate = do_setval, .after = after_give},
	{"SETALL wakes", .help = help_unit, .sleepers = 1, .operate = do_setall, .after = after_give},
	{"semop wakes a stopped one", .help = help_unit, .sleepers = 1, .stopped = true, .operate = do_give,
	 .after = after_stopped},
	{"semop, another committed", .cannot_be_led = true, .help = help_committed, .operate = do_multi, .after = after_help},
	{"semop, another has locked", .cannot_be_led = true, .help = help_locked, .operate = do_multi, .after = after_revoke},
	{"SETALL of many", .cannot_be_led = true, .before = make_big, .operate = do_setall_big, .after = after_big},
	{"GETALL", .operate = do_getall, .after = after_undo},
	{"GETNCNT of a sleeper", .help = help_unit, .sleepers = 1, .operate = do_ncnt, .after = after_give_look},
	{"semop, removed", .operate = do_block, .error = EIDRM, .meanwhile = remove_set, .after = after_removal},
};

static int nested(void)
{
	int r = op(3, 1, IPC_NOWAIT | SEM_UNDO);

	r = r ? r : op(3, -1, IPC_NOWAIT | SEM_UNDO);
	return r ? r : op2(3, 1, 2, 0, IPC_NOWAIT) == EAGAIN ? 0 : op(3, -1, IPC_NOWAIT);
}

static int again(void)
{
	return op2(0, -1, 1, -1, SEM_UNDO) || op2(0, 1, 1, 1, SEM_UNDO) || op(3, 1, SEM_UNDO) ? errno : 0;
}

static void beside(void)
{
	if (TIMED(op2(0, -1, 1, -1, SEM_UNDO | IPC_NOWAIT)) != 0 ||
	    TIMED(op2(0, 1, 1, 1, SEM_UNDO)) != 0 || TIMED(op(0, 0, IPC_NOWAIT)) != EAGAIN)
		wrong("beside a stopped process: %m");
}

static void check(void)
{
	for (int i = 0; i < SEMS; i++)
		if (TIMED(semctl(object, i, GETNCNT)) != 0 || semctl(object, i, GETZCNT) != 0)
			wrong("sleepers are left on %d", i);
	if (TIMED(op2(0, -1, 1, -1, SEM_UNDO)) != 0 || TIMED(op2(0, 1, 1, 1, SEM_UNDO)) != 0)
		wrong("semop: %m");
}

static int sleepers(void)
{
	return semctl(object, 2, GETNCNT);
}

const struct family sets = {
	.scenarios = scenarios, .count = sizeof scenarios / sizeof *scenarios, .make = make_set, .remove = remove_set,
	.sleepers = sleepers, .nested = nested, .again = again, .beside = beside, .check = check,
};
