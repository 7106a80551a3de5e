/* What an actor's files share. */
#ifndef ACTOR_H
#define ACTOR_H
#include "board.h"

#define ARGS 16

/* The numbers of the present operation, and how many there are. */
extern long arg[ARGS];
extern int args;

/* Adds to the answer. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Adds the result of a call: true if it succeeded. */
int result(long r);

/* Does the operation if it is a call of System V IPC, or on what it attached. */
int perform_call(const char *name);

#endif
