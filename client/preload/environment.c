/*
 * The environment of what is executed. A program may make one anew (su -, env -i), and
 * what it executes has its IPC namespace all the same: so it gets this library, and is
 * told of the space. An environment that says anything of LD_PRELOAD, or of the space, is
 * left alone, but for what is executed in another IPC namespace than the space's: there
 * the kernel's calls are right, and it has to know.
 */
#include "session.h"

#define OWN_NAME "/libipcspace.so"
#define TEXT(s) (s), sizeof(s) - 1

/* Whether s begins so; -1: it cannot be read. known is the last page that could. */
static int begins(const char *s, const char *with, size_t n, uintptr_t *known)
{
	for (size_t i = 0; i < n; i++) {
		if (*known != (uintptr_t)(s + i) >> 12 && !user_try(s + i))
			return -1;
		*known = (uintptr_t)(s + i) >> 12;
		if (s[i] != with[i])
			return 0;
	}
	return 1;
}

bool environment_count(char *const envp[], size_t *count)
{
	size_t n = 0;

	for (; envp != NULL; n++) {
		uintptr_t at = (uintptr_t)(envp + n);

		if (at % sizeof *envp != 0 || ((n == 0 || at % PAGE == 0) && !user_try(envp + n)))
			return false; /* the kernel may say what it thinks of it */
		if (envp[n] == NULL)
			break;
	}
	*count = n;
	return true;
}

/* Whether an entry begins so, or cannot be read. */
static bool has(char *const envp[], size_t count, const char *with, size_t length)
{
	uintptr_t known = 0;

	for (size_t n = 0; n < count; n++)
		if (begins(envp[n], with, length, &known))
			return true;
	return false;
}

bool environment_is_new(char *const envp[], size_t count)
{
	return !has(envp, count, TEXT("LD_PRELOAD=")) && !has(envp, count, TEXT("IPCSPACE_"));
}

/* Where this library is, in a list for LD_PRELOAD. */
static const char *own_path(const char *list, size_t *length)
{
	const size_t name = sizeof OWN_NAME - 1;

	for (const char *end; list != NULL && *list != '\0'; list = *end ? end + 1 : end) {
		for (end = list; *end != '\0' && *end != ':' && *end != ' '; end++)
			;
		size_t n = (size_t)(end - list);

		if (n > name && n < ENVIRONMENT_PATH && memcmp(end - name, OWN_NAME, name) == 0) {
			*length = n;
			return list;
		}
	}
	return NULL;
}

static char *add(char *to, const char *name, size_t n, const char *value, size_t length)
{
	memcpy(to, name, n);
	memcpy(to + n, value, length);
	to[n + length] = '\0';
	return to;
}

size_t environment_add(struct environment *e, char *kept[])
{
	size_t n, length = 0;
	const char *own = own_path(environment_of(configured.environment, "LD_PRELOAD"), &n);
	uint64_t st[18];

	if (own == NULL)
		return 0;
	kept[0] = add(e->preload, TEXT("LD_PRELOAD="), own, n);
	if (SYS4(__NR_newfstatat, AT_FDCWD, e->preload + sizeof("LD_PRELOAD=") - 1, st, 0) < 0)
		return 0; /* the dynamic linker would say so on stderr */
	n = 1;
	while (control.dir[length] != '\0')
		length++;
	if (configured.dir_named)
		kept[n++] = add(e->dir, TEXT("IPCSPACE_DIR="), control.dir, length);
	if (configured.required)
		kept[n++] = (char *)"IPCSPACE_REQUIRED=1";
	if (configured.writable_ok)
		kept[n++] = (char *)"IPCSPACE_DIR_WRITABLE=ok";
	return n;
}

size_t environment_add_home(struct environment *e, char *kept[], char *const envp[], size_t count,
			    uint64_t home)
{
	char digits[20], *first = digits + sizeof digits;

	if (has(envp, count, TEXT("IPCSPACE_HOME=")))
		return 0;
	do
		*--first = (char)('0' + home % 10);
	while ((home /= 10) != 0);
	kept[0] = add(e->home, TEXT("IPCSPACE_HOME="), first, (size_t)(digits + sizeof digits - first));
	return 1;
}
