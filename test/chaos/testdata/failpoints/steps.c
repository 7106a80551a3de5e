/*
 * The victim's end at any instruction that it runs in the library: it is led there by single steps. Where
 * it is not in the library, it runs.
 */
#include "failpoints.h"
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

/* Where programs enter the library. */
static const char *const names[] = {"semop", "semtimedop", "semctl", "semget", "msgsnd", "msgrcv",
				    "msgctl", "msgget", "shmat", "shmdt", "shmctl", "shmget"};
#define ENTRIES (sizeof names / sizeof *names)

_Noreturn void led_victim(const struct family *f, const struct scenario *s)
{
	/* Its session, handle and log cell are made before. */
	f->nested ? f->nested() : f->again();
	ptrace(PTRACE_TRACEME, 0, NULL, NULL);
	raise(SIGSTOP);
	shared->result = s->operate();
	_exit(0);
}

#ifdef __x86_64__

static struct {
	uintptr_t start, end; /* of the library's code */
	uintptr_t at[ENTRIES];
	long text[ENTRIES];
} library;

static bool find_library(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512], mode[5];
	Dl_info info;
	uintptr_t from, to;

	for (size_t i = 0; i < ENTRIES; i++) {
		library.at[i] = (uintptr_t)dlsym(RTLD_DEFAULT, names[i]);
		memcpy(&library.text[i], (void *)library.at[i], sizeof library.text[i]);
	}
	if (maps == NULL || dladdr((void *)library.at[0], &info) == 0)
		return false;
	while (fgets(line, sizeof line, maps))
		if (sscanf(line, "%lx-%lx %4s", &from, &to, mode) == 3 && mode[2] == 'x' && library.at[0] >= from &&
		    library.at[0] < to) {
			library.start = from;
			library.end = to;
		}
	fclose(maps);
	return strstr(info.dli_fname, "libipcspace") && library.start != 0;
}

static bool in_library(uintptr_t pc)
{
	return pc >= library.start && pc < library.end;
}

static void traps(pid_t pid, bool set)
{
	for (size_t i = 0; i < ENTRIES; i++)
		ptrace(PTRACE_POKETEXT, pid, library.at[i], set ? (library.text[i] & ~0xffL) | 0xcc : library.text[i]);
}

/* The next stop, or the end, of the victim. In a sleep it may need what the referee does meanwhile. */
static int next_stop(pid_t pid, bool sleeps, const struct scenario *s, bool *met)
{
	int status = 0, looks = 0;

	if (!sleeps || *met || s->meanwhile == NULL) {
		waitpid(pid, &status, 0);
		return status;
	}
	while (waitpid(pid, &status, WNOHANG) == 0) {
		looks = asleep(pid) ? looks + 1 : 0;
		if (looks > 5 && !*met) {
			*met = true;
			s->meanwhile();
		}
		nap(100);
	}
	return status;
}

static void name_step(uintptr_t entry, uintptr_t pc)
{
	size_t i = 0;

	while (i < ENTRIES - 1 && library.at[i] != entry)
		i++;
	if (in_library(pc))
		snprintf(shared->name, sizeof shared->name, "%s, code + %#lx", names[i], pc - library.start);
	else
		snprintf(shared->name, sizeof shared->name, "%s, in libc", names[i]);
	shared->reached = 1;
}

int lead(pid_t pid, long target, const struct scenario *s, bool *met)
{
	struct user_regs_struct regs;
	uintptr_t entry = 0, back = 0; /* of the call that it is in */
	uintptr_t last = 0;	       /* instruction; one that repeats itself counts once */
	bool inside = false;
	int status;

	if ((library.start == 0 && !find_library()) || waitpid(pid, &status, 0) != pid)
		return -1;
	ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_EXITKILL);
	traps(pid, true);
	ptrace(PTRACE_CONT, pid, NULL, NULL);
	status = next_stop(pid, false, s, met);
	while (WIFSTOPPED(status)) {
		int sig = WSTOPSIG(status);
		bool sleeps = false;

		ptrace(PTRACE_GETREGS, pid, NULL, &regs);
		if (!inside && sig == SIGTRAP) {
			regs.rip -= 1; /* the trap */
			ptrace(PTRACE_SETREGS, pid, NULL, &regs);
			traps(pid, false);
			entry = regs.rip;
			back = (uintptr_t)ptrace(PTRACE_PEEKDATA, pid, regs.rsp, NULL);
			inside = true;
		} else if (inside && regs.rip == back) {
			traps(pid, true);
			inside = false;
		}
		if (sig == SIGTRAP)
			sig = 0;
		if (inside && regs.rip != last && shared->step++ == target) {
			name_step(entry, regs.rip);
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			return status;
		}
		last = regs.rip;
		if (inside && in_library(regs.rip))
			sleeps = *(const uint16_t *)regs.rip == 0x050f && regs.rax == SYS_futex;
		ptrace(inside ? PTRACE_SINGLESTEP : PTRACE_CONT, pid, NULL, sig);
		status = next_stop(pid, sleeps, s, met);
	}
	return status;
}

#else

int lead(pid_t pid, long target, const struct scenario *s, bool *met)
{
	(void)target, (void)s, (void)met;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return -1;
}

#endif
