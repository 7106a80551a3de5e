/* What the rows share. The same program runs on the kernel and in a space. */
#ifndef BENCH_H
#define BENCH_H

#define _GNU_SOURCE
#include <errno.h>
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
#include <time.h>
#include <unistd.h>

/* A row of the table: its time of one round in ns, or rows that print theirs. */
struct row {
	const char *name;
	double (*run)(void);
};
extern const struct row sem_rows[], msg_rows[], shm_rows[], process_rows[], growth_rows[];

extern double scale; /* of the number of rounds */
extern int size;     /* contenders, objects, sessions: -n */

void die(const char *what);
#define MUST(x)                                                                \
	do {                                                                   \
		if ((x) < 0)                                                   \
			die(#x);                                               \
	} while (0)

double now(void);
long rounds(long n);
/* A further result of a row. */
void result(const char *row, const char *of, double value);

#define TIMED(n, body)                                                         \
	({                                                                     \
		long n_ = rounds(n);                                           \
		double begun = now();                                          \
		for (long i_ = 0; i_ < n_; i_++) {                             \
			body;                                                  \
		}                                                              \
		(now() - begun) / (double)n_;                                  \
	})

union semun {
	int val;
	struct semid_ds *buf;
};
struct text {
	long type;
	char text[8192];
};
int new_set(int n);
int new_queue(void);

void child_of(void (*body)(void *), void *arg);
void reap_all(void);
/* The row with both CPUs kept busy by others. */
double busy(double (*row)(void));

double semop_pair(void);
double message_64(void);
double shmget_existing(void);
double contended(int processes);

#endif
