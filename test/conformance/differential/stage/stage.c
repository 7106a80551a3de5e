/* The stage: reads programs, one step a line, ended by "end", and answers each with a transcript,
 * ended by "end".
 *
 *     settle MS         how long a process must sleep to count as blocked
 *     go PLACES         a bit for each place whose processes are Go programs. Without $GO_ACTOR, on
 *                       the kernel, there are none, but all keep to what Go programs can do, too
 *     A NAME ARGS...    actor A does it
 *     kill|stop|cont|signal|ignored A
 *
 * A step for an actor that is blocked, stopped or not there is skipped, and the transcript says
 * so. After each step the answers of the actors that it woke are written in the order of places. */
#include "board.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/prctl.h>
#include <unistd.h>

#define SOCKET_SETTLE 0.3
#define LIMIT 20.0	/* seconds in which every process is either done or asleep */

struct board *board;
int board_fd;

static struct {
	pid_t pid;
	bool busy, stopped, in_semop;
	long asleep;	/* its count of sleeps when it was found blocked on a socket */
} actor[ACTORS];
static double settle = 0.003;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void nap(void)
{
	struct timespec t = { 0, 150000 };
	nanosleep(&t, NULL);
}

/* The state of a process as ps shows it, 0 when it is gone, and how often it went to sleep. */
static char state_of(pid_t pid, long *sleeps)
{
	char path[64], line[64], state = 0;
	snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
	FILE *f = fopen(path, "re");
	if (!f)
		return 0;
	while (fgets(line, sizeof line, f)) {
		sscanf(line, "State: %c", &state);
		sscanf(line, "voluntary_ctxt_switches: %ld", sleeps);
	}
	fclose(f);
	return state == 'Z' || state == 'X' ? 0 : state;
}

/* Whether a sleeping process waits for an answer on a socket. A space's manager may need a while,
 * and some calls sleep nowhere else: such a one is blocked only after SOCKET_SETTLE. A thread of a
 * Go program waits on a futex for the goroutine that has the socket; for a call, with a time-out. */
static bool on_socket(pid_t pid)
{
	char path[64];
	long number = -1;
	unsigned long futex[4];
	snprintf(path, sizeof path, "/proc/%d/syscall", (int)pid);
	FILE *f = fopen(path, "re");
	if (!f)
		return false;
	if (fscanf(f, "%ld %lx %lx %lx %lx", &number, &futex[0], &futex[1], &futex[2], &futex[3]) != 5)
		number = -1;
	fclose(f);
	if (number == SYS_futex)
		return futex[3] == 0;
	return number == SYS_recvmsg || number == SYS_sendmsg || number == SYS_connect;
}

/* Whether a process has no thread left that lives. */
static bool over(pid_t process)
{
	char path[64];
	long sleeps;
	int threads = 0;
	snprintf(path, sizeof path, "/proc/%d/task", (int)process);
	DIR *d = opendir(path);
	for (struct dirent *e; d && (e = readdir(d));)
		threads += e->d_name[0] != '.';
	if (d)
		closedir(d);
	return threads <= 1 && state_of(process, &sleeps) == 0;
}

/* A thread ended: with the last of a process that plays, all others of it do, and what it had of
 * System V IPC is given back by the last. */
static void gone(int a)
{
	double end = now() + LIMIT;
	bool last = actor[a].pid != 0;
	for (int b = 0; b < ACTORS; b++)
		last = last && (b == a || actor[b].pid == 0 || atomic_load(&board->process[b]) != atomic_load(&board->process[a]));
	while (last && !over(atomic_load(&board->process[a])) && now() < end)
		nap();
	actor[a].pid = 0;
	actor[a].asleep = -1;
	actor[a].busy = actor[a].stopped = false;
	atomic_store(&board->place[a], 0);
}

static void start(int a)
{
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		if (atomic_load(&board->go) & 1 << a)
			execute(a, a, "");
		act(a, "");
	}
	/* Stopped while it still counts as starting, it would never come to rest. */
	while ((actor[a].pid = atomic_load(&board->place[a])) == 0 || atomic_load(&board->starting[a])) {
		if (kill(pid, 0) < 0) {
			fprintf(stderr, "stage: actor %d did not start\n", a);
			exit(2);
		}
		nap();
	}
}

/* Whether an actor's thread is gone, and not by an exec, which may leave it in another. */
static bool died(int a)
{
	long sleeps;
	return state_of(actor[a].pid, &sleeps) == 0 && !atomic_load(&board->starting[a]) &&
	       atomic_load(&board->place[a]) == actor[a].pid;
}

/* Takes the answer of a busy actor, or finds that it died. False: neither yet. */
static bool answered(int a)
{
	char text[TEXT];
	ssize_t n = recv(board->socket[a][0], text, sizeof text - 1, MSG_DONTWAIT);
	if (n >= 0) {
		text[n] = 0;
		printf("  %d:%s\n", a, text);
		actor[a].busy = false;
		return true;
	}
	if (!died(a))
		return false;
	printf("  %d: died\n", a);
	gone(a);
	return true;
}

/* Waits until every busy actor has answered or sleeps, all of them for as long as settle says;
 * timed is an actor whose sleep has an end of its own, -1: none. */
static void quiet(int timed)
{
	long sleeps[ACTORS] = { 0 };
	double end = now() + LIMIT, since = now();
	bool done[ACTORS] = { false };
	double enough = settle;

	while (now() < end) {
		bool still = true, busy = false;
		for (int a = 0; a < ACTORS; a++) {
			long n = 0;
			if (atomic_load(&board->starting[a])) {
				still = false;
				busy = true;
				continue;
			}
			if (!actor[a].busy || actor[a].stopped)
				continue;
			actor[a].pid = atomic_load(&board->place[a]);	/* an exec may have changed it */
			char text[1];
			if (recv(board->socket[a][0], text, 1, MSG_DONTWAIT | MSG_PEEK) >= 0) {
				done[a] = true;	/* written down below, in the order of places */
				continue;
			}
			char state = state_of(actor[a].pid, &n);
			if (died(a)) {
				done[a] = true;
				continue;
			}
			busy = true;
			if (state != 'S' || n != sleeps[a] || a == timed) {
				still = false;
				sleeps[a] = n;
			} else if (n != actor[a].asleep && on_socket(actor[a].pid)) {
				enough = SOCKET_SETTLE;
			}
		}
		if (!still) {
			since = now();
			enough = settle;
		}
		if (!busy || now() - since > enough)
			break;
		nap();
	}
	for (int a = 0; a < ACTORS; a++)
		if (actor[a].busy && !actor[a].stopped && !answered(a)) {
			actor[a].asleep = sleeps[a];
			if (done[a])
				printf("  %d: lost\n", a);
		}
	for (int a = 0; a < ACTORS; a++) {	/* who was born in this step */
		pid_t pid = atomic_load(&board->place[a]);
		if (pid != 0 && actor[a].pid == 0) {
			actor[a].pid = pid;
			actor[a].busy = true;
			while (!answered(a))
				nap();
		}
	}
	if (now() >= end)
		printf("  neither done nor asleep\n");
}

static void until_gone(int a)
{
	long sleeps;
	double end = now() + LIMIT;
	while (state_of(actor[a].pid, &sleeps) != 0 && now() < end)
		nap();
	/* An answer that it still gave. */
	char text[TEXT];
	recv(board->socket[a][0], text, sizeof text, MSG_DONTWAIT);
	gone(a);
}

static void until_state(int a, bool stopped)
{
	long sleeps;
	double end = now() + LIMIT;
	while ((state_of(actor[a].pid, &sleeps) == 'T') != stopped && now() < end)
		nap();
	actor[a].stopped = stopped;
}

/* Whether any thread of an actor's process is in a call. */
static bool sleeps_in_part(int a)
{
	for (int b = 0; b < ACTORS; b++)
		if (actor[b].pid != 0 && actor[b].busy &&
		    atomic_load(&board->process[b]) == atomic_load(&board->process[a]))
			return true;
	return false;
}

/* What is done to an actor, not by it. */
static bool done_to(const char *name, int a)
{
	static const struct { const char *name; int sig; } signals[] = {
		{ "kill", SIGKILL }, { "stop", SIGSTOP }, { "cont", SIGCONT }, { "signal", SIGUSR1 }, { "ignored", SIGUSR2 },
		{ "jump", SIGHUP }, { "nest", SIGURG },
	};
	for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
		int sig = signals[i].sig;
		if (strcmp(name, signals[i].name) != 0)
			continue;
		/* A stopped sleeper is a known difference (rows 124 and 238). */
		if (actor[a].pid == 0 || (sig == SIGSTOP && sleeps_in_part(a)) || (sig == SIGCONT) != actor[a].stopped) {
			if (sig != SIGKILL || actor[a].pid == 0) {
				printf("  skipped\n");
				return true;
			}
		}
		pid_t process = atomic_load(&board->process[a]);
		atomic_store(&board->interrupted[a], sig == SIGUSR1);
		syscall(SYS_tgkill, process, actor[a].pid, sig);
		for (double end = now() + LIMIT; sig == SIGUSR1 && !actor[a].stopped && atomic_load(&board->interrupted[a]) && now() < end;)
			nap();
		for (int b = 0; b < ACTORS; b++) {	/* these reach all threads of a process */
			if (actor[b].pid == 0 || atomic_load(&board->process[b]) != process)
				continue;
			if (sig == SIGKILL)
				until_gone(b);
			if (sig == SIGSTOP || sig == SIGCONT)
				until_state(b, sig == SIGSTOP);
		}
		quiet(-1);
		return true;
	}
	return false;
}

/* What is said of a program before its first step. */
static bool setting(const char *line)
{
	int n;
	if (sscanf(line, "settle %d", &n) == 1) {
		settle = n / 1000.0;
		return true;
	}
	if (sscanf(line, "go %d", &n) == 1) {
		atomic_store(&board->common, 1);
		atomic_store(&board->go, getenv("GO_ACTOR") ? n : 0);
		printf("%s\n", line);
		return true;
	}
	return false;
}

static void step(char *line)
{
	char name[32] = "";
	int a = 0, at = 0, timeout = -1;

	printf("%s\n", line);
	if (sscanf(line, "%31s %d", name, &a) == 2 && a >= 0 && a < ACTORS && done_to(name, a))
		return;
	if (sscanf(line, "%d %31s%n", &a, name, &at) < 2 || a < 0 || a >= ACTORS) {
		printf("  not understood\n");
		return;
	}
	if (actor[a].pid == 0 || actor[a].busy || actor[a].stopped) {
		printf("  skipped\n");
		return;
	}
	/* What takes rights away makes sleepers in semop begin again: a known difference (rows 30, 130). */
	for (int other = 0; other < ACTORS && strcmp(name, "semset") == 0; other++)
		if (actor[other].busy && actor[other].in_semop) {
			printf("  skipped\n");
			return;
		}
	const char *text = strchr(line, ' ') + 1;
	actor[a].in_semop = strcmp(name, "semop") == 0;
	if (actor[a].in_semop)
		sscanf(line + at, "%*d %d", &timeout);
	actor[a].busy = true;
	send(board->socket[a][0], text, strlen(text), MSG_NOSIGNAL);
	quiet(timeout >= 0 ? a : -1);
}

/* Ends who is no actor any more, or not yet: he would answer in the next program. */
static void end_strays(void)
{
	pid_t pid;
	int found;

	do {
		FILE *children = fopen("/proc/thread-self/children", "r");
		for (found = 0; children && fscanf(children, "%d", &pid) == 1; found++)
			kill(pid, SIGKILL);
		if (children)
			fclose(children);
		if (found)
			nap();
	} while (found);
}

/* Ends all actors and removes what they made. */
static void clear(void)
{
	for (int a = 0; a < ACTORS; a++)
		if (actor[a].pid != 0) {
			kill(actor[a].pid, SIGKILL);
			until_gone(a);
		}
	end_strays();
	for (int a = 0; a < ACTORS; a++) {
		char text[TEXT];
		while (recv(board->socket[a][1], text, sizeof text, MSG_DONTWAIT) >= 0)
			;
		while (recv(board->socket[a][0], text, sizeof text, MSG_DONTWAIT) >= 0)
			;
	}
	int n = atomic_load(&board->ids);
	pid_t janitor = n ? fork() : 0;
	if (n && janitor == 0) {
		for (int i = 0; i < n; i++)
			switch (board->made[i].family) {
			case SHM: shmctl(board->made[i].id, IPC_RMID, NULL); break;
			case SEM: semctl(board->made[i].id, 0, IPC_RMID); break;
			case MSG: msgctl(board->made[i].id, IPC_RMID, NULL); break;
			}
		_exit(0);
	}
	long sleeps;
	while (janitor > 0 && state_of(janitor, &sleeps) != 0)
		nap();
	atomic_store(&board->ids, 0);
	atomic_store(&board->pids, 0);
	atomic_store(&board->common, 0);
	atomic_store(&board->go, 0);
	for (int a = 0; a < ACTORS; a++)
		atomic_store(&board->starting[a], 0);
	for (int f = 0; f < 3; f++)
		for (int i = 0; i < SLOTS; i++)
			atomic_store(&board->id[f][i], -1);
}

static void open_board(int fd)
{
	board_fd = fd;
	board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (board == MAP_FAILED) {
		perror("actor: the board");
		exit(2);
	}
}

int main(int argc, char **argv)
{
	char line[TEXT];
	bool playing = false;

	if (argc == 4) {	/* an actor after its exec */
		open_board(atoi(argv[2]));
		act(atoi(argv[1]), argv[3]);
	}
	int fd = memfd_create("board", 0);
	if (fd < 0 || ftruncate(fd, sizeof *board) < 0) {
		perror("stage: memfd");
		return 2;
	}
	open_board(fd);
	for (int a = 0; a < ACTORS; a++)
		if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, board->socket[a]) < 0) {
			perror("stage: socketpair");
			return 2;
		}
	signal(SIGCHLD, SIG_IGN);
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);	/* orphans are the stage's, for end_strays */
	clear();
	while (fgets(line, sizeof line, stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (setting(line))
			continue;
		if (!playing) {
			atomic_store(&board->begun, time(NULL));
			for (int a = 0; a < ACTORS / 2; a++)
				start(a);
			playing = true;
		}
		if (strcmp(line, "end") == 0) {
			clear();
			printf("end\n");
			fflush(stdout);
			playing = false;
		} else {
			step(line);
		}
	}
	clear();
	return 0;
}
