/* What the matrices are made of. A matrix makes each call of its kind with every argument that could
 * matter, and prints a line for each: what was asked, and what came of it. Nothing that it prints may
 * differ from run to run, so no pid, address or time; ids may stand there, for they are those of a
 * table that was empty. */
#ifndef MATRIX_H
#define MATRIX_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Runs a call and prints its text and its outcome. */
#define TRY(...) TRY_IN("", __VA_ARGS__)
#define TRY_IN(row, ...) ({ \
	errno = 0; \
	long result_ = (long)(__VA_ARGS__); \
	int error_ = errno; \
	printf("%s%s = %s\n", row, #__VA_ARGS__, outcome(result_, error_)); \
	result_; })

/* A failure is its errno. A success leaves errno alone. */
static inline const char *outcome(long result, int error)
{
	static char text[64];
	if (result == -1)
		return strerrorname_np(error);
	snprintf(text, sizeof text, "%ld%s", result, error ? ", and errno touched" : "");
	return text;
}

/* Two pages, of which the second one cannot be touched, and one that cannot be written; where they lie is
 * always the same, for SETVAL takes a pointer for a value. */
static char *edge, *read_only;
static char *const nowhere = (char *)16;

static inline void map_pages(void)
{
	char *at = (char *)0x5a5a5a000000;
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
	if (mmap(at, 4096, PROT_READ | PROT_WRITE, flags, -1, 0) != at ||
	    mmap(at + 4096, 4096, PROT_NONE, flags, -1, 0) != at + 4096 ||
	    mmap(at + 8192, 4096, PROT_READ, flags, -1, 0) != at + 8192) {
		perror("mmap");
		exit(2);
	}
	edge = at + 4096;
	read_only = at + 8192;
}

/* The three families by one name. */
enum family { SHM, SEM, MSG };
#define EACH_FAMILY(f) for (enum family f = SHM; f <= MSG; f++)
static const char *const family_names[] = { "shm", "sem", "msg" };

union any_ds { struct shmid_ds shm; struct semid_ds sem; struct msqid_ds msg; char room[512]; };

static inline int get(enum family f, key_t key, int size, int flags)
{
	return f == SHM ? shmget(key, (size_t)size, flags) : f == SEM ? semget(key, size, flags) : msgget(key, flags);
}
static inline int ctl(enum family f, int id, int cmd, void *buf)
{
	return f == SHM ? shmctl(id, cmd, buf) : f == SEM ? semctl(id, 0, cmd, buf) : msgctl(id, cmd, buf);
}
static inline struct ipc_perm *perm_of(enum family f, union any_ds *ds)
{
	return f == SHM ? &ds->shm.shm_perm : f == SEM ? &ds->sem.sem_perm : &ds->msg.msg_perm;
}
static inline int stat_cmd(enum family f) { return f == SHM ? SHM_STAT : f == SEM ? SEM_STAT : MSG_STAT; }
static inline int stat_any_cmd(enum family f) { return f == SHM ? SHM_STAT_ANY : f == SEM ? SEM_STAT_ANY : MSG_STAT_ANY; }

/* Makes an object that the matrix cannot do without. */
static inline int make(enum family f, key_t key, int size, int flags)
{
	int id = get(f, key, size, flags);
	if (id < 0) {
		printf("%sget: %s\n", family_names[f], strerrorname_np(errno));
		exit(2);
	}
	return id;
}
#endif
