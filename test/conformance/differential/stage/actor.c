/* The actor: a process that does one operation at a time and answers with all that it saw. */
#include "actor.h"
#include <errno.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

__thread long arg[ARGS];
__thread int args;
__thread sigjmp_buf way_out;
__thread volatile int in_call;

static __thread int me;
static __thread char answer[TEXT];
static atomic_int threads = 1;

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

static void *begin_thread(void *place)
{
	act((int)(intptr_t)place, " began");
}

/* place */
static void do_thread(void)
{
	int place = (int)arg[0];
	pthread_attr_t detached;
	pthread_t t;
	if (atomic_load(&board->place[place])) {
		say(" no");
		return;
	}
	atomic_fetch_add(&threads, 1);
	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	int e = pthread_create(&t, &detached, begin_thread, (void *)(intptr_t)place);
	while (e == 0 && !atomic_load(&board->place[place]))
		usleep(100);
	say(" %d", e);
}

/* Ends this thread: the process goes with its last one. */
static void do_leave(void)
{
	if (atomic_fetch_sub(&threads, 1) == 1)
		_exit(0);
	syscall(SYS_exit, 0);
}

/* As of a set-user-id program: the loader drops LD_PRELOAD. */
static bool secure(void) { return geteuid() != getuid() || getegid() != getgid(); }

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
		atomic_store(&threads, 1);
	if (pid == 0)
		act(place, " born");	/* it outlives this actor, and ends with the stage */
	while (pid > 0 && !atomic_load(&board->place[place]))
		usleep(100);
	result(pid > 0 ? 0 : -1);
}

void execute(int place, int as, const char *greeting)
{
	char where[12], fd[12];
	const char *go = getenv("GO_ACTOR"), *program = "/proc/self/exe";
	if (go && atomic_load(&board->go) & 1 << as)
		program = go;
	atomic_store(&board->starting[place], 1);
	snprintf(where, sizeof where, "%d", place);
	snprintf(fd, sizeof fd, "%d", board_fd);
	execl(program, "actor", where, fd, greeting, (char *)0);
	atomic_store(&board->starting[place], 0);
}

/* place: another program there, which inherits nothing. Made as Go makes it: without a copy of the
 * memory, and so of the attaches. */
static void do_spawn(void)
{
	int place = (int)arg[0];
	if (atomic_load(&board->place[place]) || atomic_load(&board->pids) >= PIDS || secure()) {
		say(" no");
		return;
	}
	pid_t pid = vfork();
	if (pid == 0) {
		execute(place, place, " born");
		_exit(127);
	}
	while (pid > 0 && !atomic_load(&board->place[place]))
		usleep(100);
	result(pid > 0 ? 0 : -1);
}

/* as: in the language of that place */
static void do_exec(void)
{
	if (atomic_load(&threads) > 1 || gettid() != getpid() || secure()) {
		say(" no");
		return;
	}
	execute(me, (int)arg[0], " executed");
	result(-1);
}

/* Whether this is one thread of several, whose credentials Go programs do not have apart. */
static bool shared(void)
{
	if (!atomic_load(&board->common) || atomic_load(&threads) == 1)
		return false;
	say(" no");
	return true;
}

/* uid gid group(0: none): the effective ids */
static void do_become(void)
{
	if (shared())
		return;
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
	if (shared())
		return;
	result(setgroups(0, NULL));
	result(setresgid(gid, gid, gid));
	result(setresuid(uid, uid, uid));
}

/* capability(-1: all) on */
static void do_capability(void)
{
	struct { uint32_t version; int pid; } h = { 0x20080522, 0 };
	struct { uint32_t effective, permitted, inheritable; } d[2];
	if (shared())
		return;
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

/* Closes every descriptor that the program knows of, or does not. */
static void do_close_all(void)
{
	for (unsigned fd = 3; fd < 1024; fd++) {
		bool needed = fd == (unsigned)board_fd;
		for (int i = 0; i < ACTORS; i++)
			needed = needed || fd == (unsigned)board->socket[i][0] || fd == (unsigned)board->socket[i][1];
		if (!needed)
			close((int)fd);
	}
	result(close_range(1024, ~0U, 0));
}

static void perform(const char *name)
{
	static const struct { const char *name; void (*run)(void); } all[] = {
		{ "fork", do_fork }, { "spawn", do_spawn }, { "exec", do_exec }, { "become", do_become },
		{ "adopt", do_adopt }, { "capability", do_capability },
		{ "thread", do_thread }, { "leave", do_leave }, { "closeall", do_close_all },
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

static void interrupted(int sig)
{
	(void)sig;
	atomic_store(&board->interrupted[me], 0);
}

static void jump(int sig)
{
	(void)sig;
	if (in_call)
		siglongjmp(way_out, 1);
}

/* Calls from a handler, perhaps on the very object whose call it interrupted. */
static void nest(int sig)
{
	int saved = errno;
	(void)sig;
	if (in_call)
		handler_calls();
	errno = saved;
}

void act(int place, const char *greeting)
{
	bool first = gettid() == getpid();
	int n = first ? atomic_fetch_add(&board->pids, 1) : 0;
	struct sigaction handled = { .sa_handler = interrupted, .sa_flags = SA_RESTART };
	char line[TEXT];

	me = place;
	prctl(PR_SET_NAME, "actor");
	sigaction(SIGUSR1, &handled, NULL);
	signal(SIGUSR2, SIG_IGN);
	handled.sa_handler = jump;
	sigaction(SIGHUP, &handled, NULL);
	handled.sa_handler = nest;
	sigaction(SIGURG, &handled, NULL);
	signal(SIGCHLD, SIG_IGN);
	/* An exec keeps the pid. */
	for (int i = 0; first && i < n; i++)
		if (atomic_load(&board->pid[i]) == getpid()) {
			atomic_fetch_sub(&board->pids, 1);
			n = i;
			break;
		}
	if (first)
		atomic_store(&board->pid[n], getpid());
	snprintf(answer, sizeof answer, "%s", greeting);
	if (*greeting)
		send(board->socket[me][1], answer, strlen(answer), MSG_NOSIGNAL);
	atomic_store(&board->process[me], getpid());
	atomic_store(&board->place[me], gettid());
	atomic_store(&board->starting[me], 0);
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
