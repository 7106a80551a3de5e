/* How long others wait, and what went wrong. */
#include "failpoints.h"
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <time.h>

char problem[200];
struct wait worst;

void wrong(const char *format, ...)
{
	va_list ap;

	if (problem[0])
		return;
	va_start(ap, format);
	vsnprintf(problem, sizeof problem, format, ap);
	va_end(ap);
}

int64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000000) + ts.tv_nsec / 1000;
}

/* How long this process was ready to run and did not. */
static int64_t ready_us(void)
{
	char text[80] = "";
	long long ran, waited = 0;
	FILE *f = fopen("/proc/self/schedstat", "r");

	if (f != NULL) {
		if (fgets(text, sizeof text, f) == NULL || sscanf(text, "%lld %lld", &ran, &waited) != 2)
			waited = 0;
		fclose(f);
	}
	return waited / 1000;
}

struct moment begin(void)
{
	int64_t ready = ready_us();

	return (struct moment){now_us(), ready};
}

void end(const char *what, struct moment begun)
{
	int64_t all = now_us() - begun.us, ready = ready_us() - begun.ready;

	if (all - ready > worst.us)
		worst = (struct wait){all - ready, ready, what};
}

void nap(long us)
{
	struct timespec ts = {0, us * 1000};

	nanosleep(&ts, NULL);
}

/* Uses so much time of a CPU. */
static void work(int64_t us)
{
	struct timespec ts;
	int64_t begun = -1, now;

	do {
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
		now = ts.tv_sec * INT64_C(1000000) + ts.tv_nsec / 1000;
		if (begun < 0)
			begun = now;
	} while (now - begun < us);
}

#define PAUSE 20000
#define WORK 2000

void metronome(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		shared->beat = now_us();
		nap(PAUSE);
		work(WORK);
		int64_t late = now_us() - shared->beat - PAUSE - WORK;
		if (late > shared->late)
			shared->late = late;
	}
}

int64_t lateness(void)
{
	int64_t now = now_us() - shared->beat - PAUSE - WORK;

	return now > shared->late ? now : shared->late;
}
