/* Semaphores: units with undo, units that come and go, values that are set, and handlers. */
#include "worker.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

void undo_round(void)
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
	if (random_below(64) != 0) { /* else its end gives them back */
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

void count_round(void)
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

void loose_round(void)
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
void signals_life(void)
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
