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

/* Makes a word new that is still old; each of n, in order. */
void entry_apply(struct handle *h, struct abi_log_entry e);
void entries_apply(struct handle *h, const struct abi_log_entry *e, uint32_t n);
/* Whether the word at off is a cell's state. */
bool is_cell_state(const struct handle *h, uint64_t off);

/* --- log.c ------------------------------------------------------------- */

static inline unsigned log_slot(const struct handle *h)
{
	return (h->id ^ h->id >> 2) % LOG_CACHE;
}

/* The log cell that the thread keeps for this object, index + 1, 0: none. */
static inline uint32_t log_kept(const struct thread *t, const struct handle *h)
{
	unsigned slot = log_slot(h);

	if (likely(t->session == session.number && t->log[slot].handle == h &&
		   t->log[slot].serial == h->serial))
		return t->log[slot].cell;
	return 0;
}

/* Word by word: helpers read it, and what was just written in words would be
 * waited for if it were copied in other pieces. */
static inline void log_put(struct abi_log_entry *to, const struct abi_log_entry *e)
{
	store64(&to->off, e->off);
	store64(&to->old, e->old);
	store64(&to->new, e->new);
}

/* The second word of every cell is a link in one of its lives: its version
 * never goes back. */
static inline void log_set_next(struct abi_log_cell *log, uint32_t cell)
{
	uint64_t w = load64(&log->next);

	if (link_cell(w) != cell)
		store64(&log->next, link_next(w, cell));
}

/* Takes a log cell and keeps it between calls. */
uint32_t log_keep(struct thread *t, struct handle *h);
/* Writes the entries into the log cell and as many more as it takes. The first
 * of those is returned in *chain, to be freed after the release. False: there
 * are not as many. */
bool log_write(struct txn *t, uint32_t *chain);
void log_free_chain(struct handle *h, uint32_t chain);

#endif
