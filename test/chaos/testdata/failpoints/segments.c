/* Operations on a segment: whatever comes of them, nobody has it attached after. */
#include "failpoints.h"
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/ipc.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

static void make_segment(void)
{
	object = shmget(IPC_PRIVATE, 8192, 0600);
	uint8_t *p = shmat(object, NULL, 0);
	p[0] = 9;
	shmdt(p);
}
static void remove_segment(void)
{
	shmctl(object, IPC_RMID, NULL);
	object = -1;
}

static long attaches(void)
{
	struct shmid_ds ds;

	return TIMED(shmctl(object, IPC_STAT, &ds)) < 0 ? -1 : (long)ds.shm_nattch;
}
static int do_attach(void)
{
	uint8_t *p = shmat(object, NULL, 0);

	if (p == (void *)-1)
		return errno;
	p[5] = 7;
	return shmdt(p) < 0 ? errno : 0;
}
static int do_fork(void)
{
	uint8_t *p = shmat(object, NULL, 0);
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
	if (status != 0 && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) && status != LEFT << 8)
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
	{"shmat, shmdt", .operate = do_attach, .after = after_segment},
	{"shmat, no descriptors", .cannot_be_led = true, .operate = do_attach_borrowed, .after = after_segment},
	{"fork with a segment", .cannot_be_led = true, .operate = do_fork, .after = after_segment},
};

static void beside(void)
{
	if (attaches() < 0)
		wrong("IPC_STAT beside a stopped process: %m");
}

const struct family segments = {
	.scenarios = scenarios, .count = sizeof scenarios / sizeof *scenarios, .make = make_segment,
	.remove = remove_segment, .again = do_attach, .beside = beside,
};
