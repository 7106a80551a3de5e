/* main() of every conformance program. No argument runs all cases; arguments choose rows by
 * number, or cases by the name before the colon of their title; -l lists. */
#ifndef RUNNER_H
#define RUNNER_H

/* Removes what the case left, in a child: the runner stays without a System V call. */
static void sweep(void)
{
	int n = atomic_load(&board->kept);
	if (n == 0)
		return;
	pid_t p = fork();
	if (p == 0) {
		alarm(60);
		for (int i = 0; i < n; i++)
			ctl(board->object[i].family, board->object[i].id, IPC_RMID, NULL);
		_exit(0);
	}
	waitpid(p, NULL, 0);
}

/* Ends the case's process group, and whoever of it became an orphan of ours (see the subreaper). */
static void end_group(pid_t leader)
{
	kill(-leader, SIGKILL);
	for (double end = now() + 20; now() < end;) {
		pid_t p = waitpid(-1, NULL, WNOHANG);
		if (p < 0)
			return;
		if (p == 0) {
			kill(-leader, SIGKILL);
			pause_ms(2);
		}
	}
}

static bool run_case(const struct case_entry *entry)
{
	memset(board, 0, offsetof(struct board, object));
	pid_t p = fork();
	if (p == 0) {
		setpgid(0, 0);
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		entry->run();
		_exit(0);
	}
	setpgid(p, p);
	double end = now() + entry->seconds;
	siginfo_t info = { 0 };
	bool late = false;
	int fd = (int)syscall(SYS_pidfd_open, p, 0);
	struct pollfd f = { fd, POLLIN, 0 };
	while (poll(&f, 1, 1000) <= 0)
		if (now() > end) {
			late = true;
			break;
		}
	close(fd);
	if (late)
		kill(p, SIGKILL);
	/* Not reaped before its group is dead: its number must not go to another group meanwhile. */
	waitid(P_PID, p, &info, WEXITED | WNOWAIT);
	end_group(p);
	for (int i = 0; board->limit[i].name[0]; i++)
		set_limit(board->limit[i].name, board->limit[i].text);
	sweep();

	int verdict = atomic_load(&board->verdict);
	char text[sizeof board->text + 64];
	snprintf(text, sizeof text, "%s", board->text);
	for (char *c = text; *c; c++)	/* one line a case */
		if (*c == '\n')
			*c = ' ';
	if (verdict == 0 && late) {
		verdict = 1;
		snprintf(text, sizeof text, "%s:%d: no progress within %d s", entry->file,
			 atomic_load(&board->line), entry->seconds);
	} else if (verdict == 0 && !(info.si_code == CLD_EXITED && info.si_status == 0)) {
		verdict = 1;
		snprintf(text, sizeof text, "%s:%d: case ended with %s %d", entry->file,
			 atomic_load(&board->line),
			 info.si_code == CLD_EXITED ? "status" : "signal", info.si_status);
	}
	if (verdict == 0)
		printf("ok   %s %s\n", entry->label, entry->title);
	else
		printf("%s %s %s: %s\n", verdict == 1 ? "FAIL" : "skip", entry->label, entry->title, text);
	fflush(stdout);
	return verdict != 1;
}

static bool named_by(const struct case_entry *c, const char *arg)
{
	size_t len = strlen(arg);
	for (const char *p = c->label; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
		if (strncmp(p, arg, len) == 0 && (p[len] == ',' || p[len] == 0))
			return true;
	return strncmp(c->title, arg, len) == 0 && c->title[len] == ':';
}

int main(int argc, char **argv)
{
	ssize_t n = readlink("/proc/self/exe", self_path, sizeof self_path - 1);
	if (n < 0) {
		perror("/proc/self/exe");
		return 2;
	}
	if (argc > 2 && strcmp(argv[1], "--act") == 0) {
		for (int i = 0; i < n_acts; i++)
			if (strcmp(acts[i].name, argv[2]) == 0)
				return acts[i].run(argc - 3, argv + 3);
		return 2;
	}
	if (argc == 2 && strcmp(argv[1], "-l") == 0) {
		for (int i = 0; i < n_cases; i++)
			printf("%s %s\n", cases[i].label, cases[i].title);
		return 0;
	}
	board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (board == MAP_FAILED) {
		perror("mmap");
		return 2;
	}
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	int ran = 0, failed = 0;
	for (int i = 0; i < n_cases; i++) {
		bool chosen = argc == 1;
		for (int a = 1; a < argc; a++)
			chosen = chosen || named_by(&cases[i], argv[a]);
		if (!chosen)
			continue;
		ran++;
		failed += !run_case(&cases[i]);
	}
	if (ran == 0)
		fprintf(stderr, "no such case\n");
	return ran == 0 ? 2 : failed ? 1 : 0;
}
#endif
