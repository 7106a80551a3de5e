/*
 * What the processes of a chaos run did, in a file mapped by all of them and by the checker. It is
 * written around each call, so that it is true to one call for a process killed at any instruction.
 */
#ifndef LEDGER_H
#define LEDGER_H

#include <stdatomic.h>
#include <stdint.h>

#define MAX_LIVES 65536
#define MESSAGES 2048 /* most that one life sends */
#define SECTIONS 3    /* critical sections of a space */

/* One process from its start to its end; exec keeps it. chaos_test.go has the same offsets. */
struct life {
	_Atomic uint32_t pid;
	uint32_t role, space;
	_Atomic uint32_t killed; /* set before the signal is sent */
	_Atomic uint32_t ended;	 /* it came to its end by itself */
	_Atomic uint32_t slept;	 /* stopped by the test at this moment */
	_Atomic uint64_t progress;
	_Atomic uint64_t sent_begun, sent_done;
	_Atomic uint64_t receiving; /* between the call and the mark of what came */
	_Atomic uint64_t up_begun, up_done, down_begun, down_done;
	_Atomic uint64_t section_begun[SECTIONS], section_done;
	uint64_t spare;
};
_Static_assert(sizeof(struct life) == 128, "chaos_test.go knows the layout");

struct ledger {
	_Atomic uint64_t lives;
	_Atomic uint32_t stop;
	_Atomic uint32_t failures;
	uint8_t rest[4080];
	struct life life[MAX_LIVES];
	/* A bit for each message that somebody received. */
	_Atomic uint8_t received[MAX_LIVES][MESSAGES / 8];
};

#endif
