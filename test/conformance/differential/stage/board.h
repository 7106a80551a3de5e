/* What the stage and its actors share. Stage and actors are one program: the stage reads programs
 * of operations, has the actors do them one at a time, and writes down what every process could
 * see. It makes no System V call itself, so that actors begin without any. (../goactor is an actor
 * in Go. It has this board, too.) */
#ifndef BOARD_H
#define BOARD_H
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stddef.h>
#include <sys/types.h>
#include <time.h>

#define ACTORS 6	/* places for processes */
#define SLOTS 3		/* objects of a family that a program names */
#define ATTACHES 6	/* attaches that an actor remembers */
#define TEXT 2048	/* of one line, either way */
#define PIDS 256
#define IDS 1024

enum family { SHM, SEM, MSG };

struct board {
	int socket[ACTORS][2];		/* the stage's end, the actor's end */
	atomic_int id[3][SLOTS];	/* -1: none yet */
	atomic_int pids;		/* processes of this program, in order of birth */
	atomic_int pid[PIDS];
	atomic_int place[ACTORS];	/* thread id of who is in that place, 0: free */
	atomic_int process[ACTORS];	/* and its pid */
	atomic_int ids;			/* every object made, to be removed at the end */
	struct { int family, id, size; } made[IDS];
	atomic_int common;		/* the program keeps to what Go programs can do, too */
	atomic_int go;			/* places whose processes are Go programs, a bit each */
	atomic_int starting[ACTORS];	/* a program is, which is not to be taken for blocked */
	atomic_int interrupted[ACTORS];	/* a signal is under way to it */
	atomic_long begun;		/* second at which the program began */
};
extern struct board *board;
extern int board_fd;

/* Becomes the actor of a place for good, a process or a thread: announces itself and does what
 * comes. */
void act(int place, const char *greeting) __attribute__((noreturn));
/* The same by an exec, of a program in the language of another place. */
void execute(int place, int as, const char *greeting);

#endif
