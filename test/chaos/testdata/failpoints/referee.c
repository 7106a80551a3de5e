/*
 * failpoints [NAME [ACTION]]: for every operation, each step of it and each way of being interrupted
 * there, a process comes to that step; others must go on, and the object must be whole. One line a case.
 *
 * The steps are those where libipcspace-fail.so calls its hook. Each operation is made of calls that
 * either happened or did not: what may be there after it follows from that.
 *
 * failpoints --led CASES SEED [NAME]: the victim of any library dies at CASES of the instructions that it
 * runs in it, spread over the operation from SEED on; 0: at each.
 */
#include "failpoints.h"
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/wait.h>
#include <unistd.h>

struct shared *shared;
int object;

static const char *const action_names[] = {"kill", "stop", "longjmp", "nested", "led"};
static int failed; /* cases */

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

void after_removal(bool happened, bool certain)
{
	if (certain && happened)
		wrong("it happened");
}

static void start_help(const struct family *f, const struct scenario *s)
{
	helper = start_helper(s);
	for (int i = 0, n = 0; i < 20000 && n < 3; i++, nap(50))
		n = asleep(helper) ? n + 1 : 0;
	if (s->sleepers)
		SOON("helper's sleep", f->sleepers() == s->sleepers);
	if (s->stopped) {
		kill(helper, SIGSTOP);
		for (int i = 0; i < 20000 && !asleep(helper); i++)
			nap(50);
	}
}

static void end_help(void)
{
	kill(helper, SIGCONT);
	for (int i = 0; i < 1000 && waitpid(helper, NULL, WNOHANG) == 0; i++)
		nap(1000);
	kill(helper, SIGKILL);
	waitpid(helper, NULL, 0);
}

/* The victim from its beginning to its end, and what others do beside it: its status. */
static int watch(const struct family *f, const struct scenario *s, enum action a, int step)
{
	pid_t pid = fork();

	if (pid == 0)
		victim(f, s, a, step);
	int status = await(pid, s->meanwhile != NULL);
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
		if (object >= 0)
			f->beside();
		kill(pid, SIGCONT);
		status = await(pid, false);
		ended = status != -1;
	}
	if (!ended) {
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
	}
	return status;
}

/* The same for a victim that is led to an instruction. */
static int watch_led(const struct family *f, const struct scenario *s, int step)
{
	bool met = false;
	pid_t pid = fork();

	if (pid == 0)
		led_victim(f, s);
	int status = lead(pid, step, s, &met);
	if (s->meanwhile && !met)
		s->meanwhile();
	return status;
}

/* Is what the victim says of itself what may be? */
static void judge(const struct scenario *s, enum action a, int status)
{
	bool left = WIFEXITED(status) && WEXITSTATUS(status) == LEFT;
	bool certain = WIFEXITED(status) && !left;
	int result = shared->result, nested = shared->nested;

	if (WIFEXITED(status) ? WEXITSTATUS(status) != 0 && !left : (a != KILL && a != LED) || WTERMSIG(status) != SIGKILL)
		wrong("the victim's status is %#x", status);
	if (certain && result != 0 && result != s->error && result != EINTR &&
	    !(s->error == EIDRM && result == EINVAL))
		wrong("its result is %s", strerror(result));
	/* Its object may be gone by then. */
	if (nested != 0 && !(s->error == EIDRM && (nested == EIDRM || nested == EINVAL)))
		wrong("nested call: %s", strerror(nested));
	if (!problem[0])
		s->after(certain && result == 0, certain);
}

/* false: the operation was over before that step. */
static bool one(const struct family *f, const struct scenario *s, enum action a, int step)
{
	helper = 0;
	problem[0] = 0;
	worst = (struct wait){0};
	memset(shared, 0, offsetof(struct shared, beat));
	memset(shared->name, 0, sizeof shared->name);
	shared->late = 0;
	shared->result = -1;
	f->make();
	if (object < 0)
		wrong("object: %m");
	if (s->before)
		s->before();
	if (s->help)
		start_help(f, s);
	worst = (struct wait){0};
	int kept = object;
	int status = a == LED ? watch_led(f, s, step) : watch(f, s, a, step);
	judge(s, a, status);
	if (helper)
		end_help();
	if (!problem[0] && object >= 0 && f->check)
		f->check();
	int64_t late = lateness();
	if (!problem[0] && worst.us > PATIENCE + WAKE_UPS * late)
		wrong("%s took %ld ms, and %ld more without a CPU, others waited %ld for one", worst.what, (long)(worst.us / 1000),
		      (long)(worst.ready / 1000), (long)(late / 1000));
	bool fails = problem[0] != 0;
	if (shared->reached || fails)
		printf("%-26s %-8s %3d %-28s %6.1f ms  %s\n", s->name, action_names[a], step,
		       shared->reached ? shared->name : "(not reached)", (double)worst.us / 1000,
		       fails ? problem : "ok");
	if (fails)
		printf("FAILED object %d\n", kept);
	failed += fails;
	fflush(stdout);
	/* Sets and queues with something wrong stay for the verifier, and so do a few others. */
	if (object >= 0 && (f == &segments || (!fails && step % (a == LED ? 64 : 4) != 0)))
		f->remove();
	return shared->reached;
}

/* All cases of a scenario, or those of one action. */
static int run(const struct family *f, const struct scenario *s, const char *only)
{
	int cases = 0;

	for (enum action a = 0; a < ACTIONS; a++) {
		if (only && strcmp(only, action_names[a]) != 0)
			continue;
		int begun = failed;
		for (int k = 0; k < 300 && failed < begun + 5 && one(f, s, a, k); k += k < 40 ? 1 : 7)
			cases++;
	}
	return cases;
}

/* The victim dies at instructions of the library; the first time it only counts them. */
static int run_led(const struct family *f, const struct scenario *s, int wanted, unsigned *seed)
{
	int cases = 0, begun = failed;

	one(f, s, LED, INT_MAX);
	int all = shared->step, stride = wanted > 0 && all > wanted ? all / wanted : 1;
	for (int k = (int)(rand_r(seed) % (unsigned)stride); k < all && failed < begun + 5; k += stride)
		cases += one(f, s, LED, k);
	printf("%s: %d instructions\n", s->name, all);
	return cases;
}

int main(int argc, char **argv)
{
	static const struct family *const families[] = {&sets, &queues, &segments};
	void (**point)(const char *) = dlsym(RTLD_DEFAULT, "ipcspace_fail_hook");
	struct msginfo limits = {0};
	int cases = 0, wanted = -1;
	unsigned seed = 0;

	if (argc > 3 && strcmp(argv[1], "--led") == 0) {
		wanted = atoi(argv[2]);
		seed = (unsigned)strtoul(argv[3], NULL, 10);
		argc -= 3;
		argv += 3;
	} else if (point == NULL) {
		fprintf(stderr, "the library has no fail points\n");
		return 2;
	}
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	msgctl(0, IPC_INFO, (struct msqid_ds *)&limits);
	shared->beat = now_us();
	if (fork() == 0)
		metronome();
	if (point != NULL)
		*point = hook;
	for (size_t i = 0; i < sizeof families / sizeof *families; i++)
		for (size_t k = 0; k < families[i]->count; k++) {
			const struct scenario *s = &families[i]->scenarios[k];

			if ((size_t)limits.msgmax < s->msgmax || (argc > 1 && strcmp(argv[1], s->name) != 0))
				continue;
			if (wanted >= 0)
				cases += s->cannot_be_led ? 0 : run_led(families[i], s, wanted, &seed);
			else
				cases += run(families[i], s, argc > 2 ? argv[2] : NULL);
		}
	printf("%d cases\n", cases);
	return 0;
}
