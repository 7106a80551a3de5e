/* What lock.c, log.c and transaction.c share. */
#ifndef IPCSPACE_TRANSACTION_H
#define IPCSPACE_TRANSACTION_H

#include "object.h"

static inline uint64_t lock_word(uint64_t epoch, uint32_t cell, uint32_t state)
{
	return epoch << ABI_LOCK_EPOCH_SHIFT | (uint64_t)cell << ABI_LOCK_CELL_SHIFT | state;
}
static inline uint32_t lock_state(uint64_t w)
{
	return w & ABI_LOCK_STATE_MASK;
}
static inline uint32_t lock_cell(uint64_t w)
{
	return w >> ABI_LOCK_CELL_SHIFT & ABI_LOCK_CELL_MASK;
}
static inline uint64_t lock_epoch(uint64_t w)
{
	return w >> ABI_LOCK_EPOCH_SHIFT;
}
/* The lock word of somebody's transaction, t's, in that state. */
static inline uint64_t lock_of(const struct txn *t, uint32_t state)
{
	return lock_word(t->epoch, t->log, state);
}

static inline uint64_t outcome_word(uint64_t epoch, uint32_t outcome)
{
	return ABI_OUTCOME_MARK | epoch << ABI_OUTCOME_SHIFT | outcome;
}

/* --- lock.c ------------------------------------------------------------ */

/* Makes each word new that is still old, in order. */
void entries_apply(struct handle *h, const struct abi_log_entry *e, uint32_t n);
/* Whether the word at off is a cell's state. */
bool is_cell_state(const struct handle *h, uint64_t off);

/* --- log.c ------------------------------------------------------------- */

/* The log cell that the thread keeps for this object, index + 1, 0: none. */
uint32_t log_kept(const struct thread *t, const struct handle *h);
/* Takes a log cell and keeps it between calls. */
uint32_t log_keep(struct thread *t, struct handle *h);
/* Writes the entries into the log cell and as many more as it takes. The first
 * of those is returned in *chain, to be freed after the release. False: there
 * are not as many. */
bool log_write(struct txn *t, uint32_t *chain);
void log_free_chain(struct handle *h, uint32_t chain);

#endif
