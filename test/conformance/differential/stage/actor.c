/* The actor: a process that does one operation at a time and answers with all that it saw. */
#include "actor.h"
#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

long arg[ARGS];
int args;

static int me;
static char answer[TEXT];

void say(const char *format, ...)
{
	size_t n = strlen(answer);
	va_list ap;
	va_start(ap, format);
	vsnprintf(answer + n, sizeof answer - n, format, ap);
	va_end(ap);
}

int result(long r)
{
	int e = errno;
	if (r == -1)
		say(" %s", strerrorname_np(e));
	else
		say(" %ld", r);
	return r != -1;
}

/* ---- processes ---- */

/* place raw */
static void do_fork(void)
{
	int place = (int)arg[0];
	if (atomic_load(&board->place[place]) || atomic_load(&board->pids) >= PIDS) {
		say(" no");
		return;
	}
	long pid = arg[1] ? syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) : fork();
	if (pid == 0)
		act(place, " born");	/* it outlives this actor, and ends with the stage */
	while (pid > 0 && !atomic_load(&board->place[place]))
		usleep(100);
	result(pid > 0 ? 0 : -1);
}

static void do_exec(void)
{
	char place[12], fd[12];
	if (geteuid() != getuid() || getegid() != getgid()) {
		/* As of a set-user-id program: the loader drops LD_PRELOAD. */
		say(" no");
		return;
	}
	snprintf(place, sizeof place, "%d", me);
	snprintf(fd, sizeof fd, "%d", board_fd);
	execl("/proc/self/exe", "actor", place, fd, (char *)0);
	result(-1);
}

/* uid gid group(0: none): the effective ids */
static void do_become(void)
{
	if (geteuid() != 0)
		result(seteuid(0));
	gid_t group = (gid_t)arg[2];
	result(setgroups(group != 0, &group));
	result(setegid((gid_t)arg[1]));
	result(seteuid((uid_t)arg[0]));
}

/* uid gid: all ids, for good */
static void do_adopt(void)
{
	gid_t gid = (gid_t)arg[1];
	uid_t uid = (uid_t)arg[0];
	result(setgroups(0, NULL));
	result(setresgid(gid, gid, gid));
	result(setresuid(uid, uid, uid));
}

/* capability(-1: all) on */
static void do_capability(void)
{
	struct { uint32_t version; int pid; } h = { 0x20080522, 0 };
	struct { uint32_t effective, permitted, inheritable; } d[2];
	if (syscall(SYS_capget, &h, d) == 0) {
		for (int c = 0; c < 41; c++) {
			if (arg[0] >= 0 && arg[0] != c)
				continue;
			d[c / 32].effective &= ~(1u << c % 32);
			if (arg[1])
				d[c / 32].effective |= d[c / 32].permitted & 1u << c % 32;
		}
	}
	result(syscall(SYS_capset, &h, d));
}

static void perform(const char *name)
{
	static const struct { const char *name; void (*run)(void); } all[] = {
		{ "fork", do_fork }, { "exec", do_exec }, { "become", do_become },
		{ "adopt", do_adopt }, { "capability", do_capability },
	};
	if (strcmp(name, "exit") == 0)
		_exit(0);
	if (perform_call(name))
		return;
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		if (strcmp(name, all[i].name) == 0)
			return all[i].run();
	say(" unknown %s", name);
}

static void no_op(int sig) { (void)sig; }

void act(int place, const char *greeting)
{
	int n = atomic_fetch_add(&board->pids, 1);
	struct sigaction handled = { .sa_handler = no_op, .sa_flags = SA_RESTART };
	char line[TEXT];

	me = place;
	prctl(PR_SET_NAME, "actor");
	sigaction(SIGUSR1, &handled, NULL);
	signal(SIGUSR2, SIG_IGN);
	signal(SIGCHLD, SIG_IGN);
	/* An exec keeps the pid. */
	for (int i = 0; i < n; i++)
		if (atomic_load(&board->pid[i]) == getpid()) {
			atomic_fetch_sub(&board->pids, 1);
			n = i;
			break;
		}
	atomic_store(&board->pid[n], getpid());
	snprintf(answer, sizeof answer, "%s", greeting);
	if (*greeting)
		send(board->socket[me][1], answer, strlen(answer), MSG_NOSIGNAL);
	atomic_store(&board->place[me], getpid());
	for (;;) {
		ssize_t got = recv(board->socket[me][1], line, sizeof line - 1, 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			_exit(0);
		line[got] = 0;
		char *rest = line, *name = strsep(&rest, " ");
		memset(arg, 0, sizeof arg);
		for (args = 0; rest && *rest && args < ARGS; args++)
			arg[args] = strtol(strsep(&rest, " "), NULL, 0);
		answer[0] = 0;
		perform(name);
		send(board->socket[me][1], answer, strlen(answer) + !*answer, MSG_NOSIGNAL);
	}
}
