/* Processes that sleep, or were stopped, in an operation on the victim's object. */
#include "failpoints.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

pid_t helper;

bool asleep(pid_t pid)
{
	char path[40], text[300] = "";

	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	FILE *f = fopen(path, "r");
	if (f == NULL)
		return false;
	size_t n = fread(text, 1, sizeof text - 1, f);
	fclose(f);
	text[n] = 0;
	char *end = strrchr(text, ')');
	return end && end[1] && (end[2] == 'S' || end[2] == 'T' || end[2] == 'Z');
}

pid_t start_helper(const struct scenario *s)
{
	pid_t pid = fork();

	if (pid == 0) {
		shared->helped = 1 + s->help();
		_exit(0);
	}
	return pid;
}

int two(int (*operation)(void))
{
	pid_t other = fork();

	if (other == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	int r = operation();
	__sync_fetch_and_add(&shared->went_on, 1);
	if (other == 0)
		_exit(r);
	int status = 0;
	waitpid(other, &status, 0);
	return r ? r : status;
}

void both_go_on(void)
{
	for (int i = 0; i < 25 && !shared->went_on; i++)
		nap(200);
	if (shared->went_on)
		SOON("the second", shared->went_on == 2);
}
