/* The process that comes to a step of its operation. */
#include "failpoints.h"
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

const char *stop_at;
pid_t self;

static const struct family *family;
static enum action action;
static int target; /* the step at which it happens */
static bool armed; /* this process counts its passes: the victim, and its child */
static sigjmp_buf away;

static void on_jump(int sig)
{
	(void)sig;
	siglongjmp(away, 1);
}

/* A program's own handler, with calls on the same object that leave it as it was. */
static void on_nested(int sig)
{
	int saved = errno;

	(void)sig;
	if (family->nested)
		shared->nested = family->nested();
	errno = saved;
}

static void on_wake(int sig)
{
	(void)sig;
}

void hook(const char *step)
{
	if (stop_at != NULL && strcmp(step, stop_at) == 0) {
		stop_at = NULL;
		raise(SIGSTOP);
	}
	if (!armed || shared->step++ != target)
		return;
	armed = false;
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

_Noreturn void victim(const struct family *f, const struct scenario *s, enum action a, int step)
{
	struct sigaction jump = {.sa_handler = on_jump}, nested = {.sa_handler = on_nested};
	struct sigaction wake = {.sa_handler = on_wake};

	family = f;
	action = a;
	target = step;
	sigaction(SIGUSR1, &jump, NULL);
	sigaction(SIGUSR2, &nested, NULL);
	sigaction(SIGTERM, &wake, NULL);
	/* Sessions, handles and undo words are made in the first calls, and are steps, too. */
	if (sigsetjmp(away, 1) == 0) {
		armed = true;
		int r = s->operate();
		armed = false;
		shared->result = r;
		_exit(0);
	}
	int r = family->again();
	_exit(r == 0 || r == EAGAIN || r == EIDRM || r == EINVAL ? LEFT : LEFT + 1);
}
