/*
 * One process of a chaos run: worker LEDGER SPACE LIFE ROLE SEED [HELD]. It does what its role says
 * until it is told to stop, is killed, or finds that something is wrong (status 3). HELD: it was
 * executed while it held that critical section.
 */
#include "worker.h"
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

struct ledger *ledger;
struct life *self;
uint32_t number;
uint64_t seed;
char **arguments;

uint32_t random_below(uint32_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 32) % n;
}

void fail(const char *format, ...)
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

bool stopping(void)
{
	self->progress++;
	return ledger->stop;
}

void pause_for(uint32_t us)
{
	struct timespec ts = {0, (long)us * 1000};

	nanosleep(&ts, NULL);
}

void block_signals(bool block)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(block ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
}

pid_t fork_life(void)
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

void await(pid_t pid, const char *what)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			fail("wait: %m");
	if (status != 0 && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL))
		fail("%s: child's status %#x", what, status);
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
			undo_round();
		else
			lock_round();
	_exit(0);
}

static void live(void)
{
	while (!stopping()) {
		switch (self->role) {
		case UNDO:
			undo_round();
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
		begin_run();
	} else if (strcmp(argv[4], "end") == 0) {
		end_run();
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
