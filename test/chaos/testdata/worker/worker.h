/* What the files of this program share: one life, its objects, and what it may not go wrong in. */
#ifndef WORKER_H
#define WORKER_H

#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "ledger.h"

enum role { UNDO, LOCK, COUNT, SENDER, RECEIVER, SEGMENT, CHURN, SIGNALS };

/* --- worker.c: a life ------------------------------------------------------ */

extern struct ledger *ledger;
extern struct life *self;
extern uint32_t number; /* of this life */
extern uint64_t seed;
extern char **arguments;

uint32_t random_below(uint32_t n);
__attribute__((format(printf, 1, 2), noreturn)) void fail(const char *format, ...);
bool stopping(void);
void pause_for(uint32_t us);
void block_signals(bool block);
/* A child is a life of its own: the test may kill it, too. */
pid_t fork_life(void);
void await(pid_t pid, const char *what);

/* Signals interrupt calls here; the test sends them to end the run. */
#define AGAIN(r, call)                                                                             \
	do                                                                                         \
		r = call;                                                                          \
	while (r < 0 && errno == EINTR && !ledger->stop)

/* --- run.c: the objects that live as long as the run ----------------------- */

extern int undo_set, count_set, lock_set, loose_set, queue, section_id, picture_id;
void find_objects(int flags);
void begin_run(void);
/* After all others ended: what is there now. chaos_test.go compares. */
void end_run(void);

/* --- sets.c ---------------------------------------------------------------- */

#define UNDO_SEMS 4
#define UNDO_START 10
#define COUNT_SEMS 3
#define LOCK_SEMS 4
#define LOOSE_SEMS 20

void undo_round(void);
void count_round(void);
void loose_round(void);
/* With handlers that call semop too, or leave. */
void signals_life(void);

/* --- sections.c ------------------------------------------------------------ */

/* What the segment of critical sections has. */
struct section {
	_Atomic uint64_t owner; /* life + 1 */
	uint64_t count;
	uint64_t pad[6];
};
extern struct section *sections;
void lock_round(void);
void leave_section(uint32_t k);

/* --- messages.c ------------------------------------------------------------ */

#define LONGEST 7000

struct message {
	long type;
	struct {
		uint32_t sender, sequence, size, sum;
		uint8_t text[LONGEST];
	} body;
};
void send_round(void);
void receive_round(void);
/* Notes a message; also the checker's way of emptying the queue. */
void receive(const struct message *m, long n, long type);

/* --- segments.c ------------------------------------------------------------ */

#define PICTURE_SIZE (3 * 65536)

void *attach(int id, int flags);
void paint_picture(uint8_t *p);
void check_picture(const uint8_t *p);
void segment_round(void);

/* --- churn.c --------------------------------------------------------------- */

/* Objects that come and go. */
void churn_round(void);

#endif
