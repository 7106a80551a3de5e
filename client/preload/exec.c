/*
 * exec: the attaches are gone with it, and whoever asks afterwards who detached
 * last, and when, asks the manager, which can see that it happened, but not
 * when. So a process writes down the moment before.
 *
 * The calls are libc's, for what they share, execve(), is a call that libc
 * makes within itself.
 */
#include "session.h"

#define AT_EMPTY_PATH 0x1000
#define PATH_MAX 4096
#define NAME_MAX 255

extern char **environ __attribute__((weak));

/* The number of a call that succeeds without a return, or fails. (A child of
 * vfork writes into its parent's page, whose exec comes later, if ever.) */
static long execute(long number, int dir, const char *path, char *const argv[], char *const envp[],
		    int flags)
{
	struct abi_session_page *page = session_here() ? session.page : NULL;
	uint64_t claimed = page ? load64(&page->claimed) : 0;
	long r;

	if (page != NULL)
		store64(&page->claimed, (uint64_t)now_boot() | ABI_CLAIMED_EXEC);
	if (number == __NR_execve)
		r = SYS3(__NR_execve, path, argv, envp);
	else
		r = SYS5(__NR_execveat, dir, path, argv, envp, flags);
	if (page != NULL)
		store64(&page->claimed, claimed);
	return r;
}

/* With what the environment lacks for the space to be had, or to be left alone. */
static long execute_with(long number, int dir, const char *path, char *const argv[],
			 char *const envp[], size_t count, uint64_t left, int flags)
{
	struct environment e;
	char *with[count + ENVIRONMENT_MOST + 1];
	size_t n = left ? environment_add_home(&e, with, envp, count, left) : environment_add(&e, with);

	if (count != 0)
		memcpy(with + n, envp, count * sizeof *with);
	with[n + count] = NULL;
	return execute(number, dir, path, argv, n == 0 ? envp : with, flags);
}

static long exec_at(long number, int dir, const char *path, char *const argv[], char *const envp[],
		    int flags)
{
	uint64_t left = session_left();
	size_t count;

	/* Away from the space's namespace, what does not know of the space is right as it is. */
	if (session.mode == MODE_KERNEL || !environment_count(envp, &count) ||
	    environment_is_new(envp, count) == (left != 0))
		return execute(number, dir, path, argv, envp, flags);
	return execute_with(number, dir, path, argv, envp, count, left, flags);
}

static long exec_path(const char *path, char *const argv[], char *const envp[])
{
	return exec_at(__NR_execve, 0, path, argv, envp, 0);
}

static char **environment(void)
{
	return &environ != NULL ? environ : NULL;
}

static size_t length(const char *s, char end)
{
	size_t n = 0;

	while (s[n] != '\0' && s[n] != end)
		n++;
	return n;
}

static size_t count(char *const argv[])
{
	size_t n = 0;

	while (argv[n] != NULL)
		n++;
	return n;
}

/* A file without a first line that says whose it is: the shell's, says glibc. */
static long exec_script(const char *path, char *const argv[], char *const envp[])
{
	size_t n = count(argv);
	const char *shell[n + 3];

	shell[0] = "/bin/sh";
	shell[1] = path;
	for (size_t i = 1; i < n; i++)
		shell[i + 1] = argv[i];
	shell[n > 0 ? n + 1 : 2] = NULL;
	return exec_path(shell[0], (char *const *)shell, envp);
}

static long exec_or_script(const char *path, char *const argv[], char *const envp[])
{
	long r = exec_path(path, argv, envp);

	return r == -ENOEXEC && gnu_get_libc_version != NULL ? exec_script(path, argv, envp) : r;
}

/* execvp(3), in the order and with the errnos of libc's. */
static long exec_file(const char *file, char *const argv[], char *const envp[])
{
	char path[PATH_MAX + NAME_MAX + 2];
	const char *dirs = environment_value("PATH");
	size_t n = length(file, '\0');
	bool denied = false;
	long r = -ENOENT;

	if (n == 0)
		return -ENOENT;
	if (length(file, '/') < n)
		return exec_or_script(file, argv, envp);
	if (n > NAME_MAX)
		n = NAME_MAX + 1; /* still too long: let the kernel say so */
	if (dirs == NULL)
		dirs = gnu_get_libc_version ? "/bin:/usr/bin" : "/usr/local/bin:/bin:/usr/bin";
	for (;; dirs++) {
		size_t dir = length(dirs, ':');

		if (dir < PATH_MAX) {
			memcpy(path, dirs, dir);
			path[dir] = '/';
			memcpy(path + dir + (dir > 0), file, n);
			path[dir + (dir > 0) + n] = '\0';
			r = exec_or_script(path, argv, envp);
			switch (r) {
			case -EACCES:
				denied = true; /* fall through */
			case -ENOENT:
			case -ESTALE:
			case -ENOTDIR:
			case -ENODEV:
			case -ETIMEDOUT:
				break;
			default:
				return r;
			}
		}
		dirs += dir;
		if (*dirs == '\0')
			return denied ? -EACCES : r;
	}
}

EXPORT int execve(const char *path, char *const argv[], char *const envp[])
{
	return (int)finish(exec_path(path, argv, envp));
}

EXPORT int execv(const char *path, char *const argv[])
{
	return execve(path, argv, environment());
}

EXPORT int execveat(int dir, const char *path, char *const argv[], char *const envp[], int flags)
{
	return (int)finish(exec_at(__NR_execveat, dir, path, argv, envp, flags));
}

EXPORT int fexecve(int fd, char *const argv[], char *const envp[])
{
	if (fd < 0 || argv == NULL || envp == NULL)
		return (int)finish(-EINVAL);
	return execveat(fd, "", argv, envp, AT_EMPTY_PATH);
}

EXPORT int execvpe(const char *file, char *const argv[], char *const envp[])
{
	return (int)finish(exec_file(file, argv, envp));
}

EXPORT int execvp(const char *file, char *const argv[])
{
	return execvpe(file, argv, environment());
}

/* Makes argv of the arguments from arg to NULL, and of what follows envp. */
#define LISTED(first, call)                                                    \
	{                                                                      \
		__builtin_va_list ap;                                          \
		size_t n = 1;                                                  \
                                                                               \
		__builtin_va_start(ap, first);                                 \
		for (const char *a = first; a != NULL; n++)                    \
			a = __builtin_va_arg(ap, const char *);                \
		__builtin_va_end(ap);                                          \
                                                                               \
		char *argv[n];                                                 \
                                                                               \
		__builtin_va_start(ap, first);                                 \
		argv[0] = (char *)first;                                       \
		for (size_t i = 1; i < n; i++)                                 \
			argv[i] = __builtin_va_arg(ap, char *);                \
		int r = call;                                                  \
		__builtin_va_end(ap);                                          \
		return r;                                                      \
	}

EXPORT int execl(const char *path, const char *arg, ...)
LISTED(arg, execv(path, argv))

EXPORT int execlp(const char *file, const char *arg, ...)
LISTED(arg, execvp(file, argv))

EXPORT int execle(const char *path, const char *arg, ...)
LISTED(arg, execve(path, argv, __builtin_va_arg(ap, char *const *)))
