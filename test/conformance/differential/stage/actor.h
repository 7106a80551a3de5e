/* What an actor's files share. */
#ifndef ACTOR_H
#define ACTOR_H
#include "board.h"

#define ARGS 16

/* The numbers of the present operation, and how many there are. */
extern __thread long arg[ARGS];
extern __thread int args;

/* Adds to the answer. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Adds the result of a call: true if it succeeded. */
int result(long r);

/* Around a call that may sleep: a signal may leave it by siglongjmp (jump), or make calls of its
 * own (nest). False: it jumped. */
#include <setjmp.h>
extern __thread sigjmp_buf way_out;
extern __thread volatile int in_call;
#define SLEEPS(call) \
	(sigsetjmp(way_out, 1) == 0 ? (in_call = 1, (call), in_call = 0, 1) : (in_call = 0, say(" jumped"), 0))

/* The id in the slot that the operation names first. */
int id_of(int family);

/* Does the operation if it is a call of System V IPC, or on what it attached. */
int perform_call(const char *name);
int perform_attach(const char *name);
/* What a handler calls: on the first set and the first queue. */
void handler_calls(void);

#endif
