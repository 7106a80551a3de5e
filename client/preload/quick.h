/*
 * Transactions of one compare-and-swap: of a set or queue in which nobody
 * sleeps, and nobody is at work.
 *
 * The lock is not taken. It is seen FREE(e), the words are read and the log is
 * written, and FREE(e) becomes COMMITTED(e,c) at once. Why that is as good as
 * LOCKED(e,c) in between:
 *
 * - An epoch never comes again, and every transaction takes one. So if the lock
 *   still is FREE(e) at the compare-and-swap, nobody committed since it was seen
 *   so: what only transactions change (lists, counters, states of queued
 *   messages, Pending, words that are SLOW, adjustments) was read as of one
 *   moment, which is this one.
 * - Who marks the object first and takes the lock then (a mover, IPC_SET of
 *   msg_qbytes) either took it, and the compare-and-swap fails, or finds this
 *   transaction committed, as if it had been locked.
 * - The thread's log cell is nobody's before the compare-and-swap: the last
 *   transaction that used it was released before the lock could be FREE again,
 *   and a helper of that one, still copying, finds the lock changed.
 * - Nothing is claimed, for nobody sleeps; so there is nothing to revoke.
 *
 * A thread that is stopped, killed or called away before the compare-and-swap
 * leaves nothing behind, and keeps nobody waiting.
 */
#ifndef IPCSPACE_QUICK_H
#define IPCSPACE_QUICK_H

#include "transaction.h"

/* What came of one. Each is tried this often before the lock is taken. */
enum { QUICK_DONE, QUICK_LOCK, QUICK_LOST };
#define QUICK_TRIES 8

struct quick {
	struct handle *handle;
	uint64_t lock; /* FREE: all that was read since holds while it stands */
	uint32_t log;  /* index + 1 of the thread's log cell */
	uint32_t n;
	struct abi_log_entry entries[ABI_LOG_ENTRIES];
};

/* For a call that is not nested. False: somebody is at work there, or sleeps or
 * waits to be served: take the lock. */
static inline bool quick_begin(struct quick *q, struct handle *h, const struct thread *t)
{
	struct abi_control_header *head = header_of(h);

	q->handle = h;
	q->n = 0;
	q->lock = load64(&head->lock);
	q->log = log_kept(t, h);
	if (unlikely(lock_state(q->lock) != ABI_LOCK_FREE || q->log == 0))
		return false;
	handle_room(h);
	return likely(load64(&head->state) == 0 && !(load64(&head->pending) & 1) &&
		      link_cell(load64(&head->wait_head)) == 0);
}

/* After quick_begin was false: whether because another is at work. */
static inline int quick_not_begun(const struct quick *q)
{
	return lock_state(q->lock) == ABI_LOCK_FREE ? QUICK_LOCK : QUICK_LOST;
}

/* So many messages that a thread sent, or received, in a row are a stream, in
 * which one message more or less at once does not matter to anybody: no answer
 * is waited for. */
#define STREAM 4

/* Steps aside for so long that the other end of a stream sends or takes some
 * tens of messages alone, some microseconds: two that race for each hand the
 * object's cache lines to and fro with each. */
static inline void quick_step_aside(const struct thread *t)
{
	for (int i = t->streak >= STREAM ? 150 : 8; i > 0; i--)
		cpu_relax();
}

/* Whether to try once more, after a while. */
static inline bool quick_again(const struct thread *t, int outcome, unsigned tries)
{
	if (outcome != QUICK_LOST || tries >= QUICK_TRIES || session.cpus < 2)
		return false;
	quick_step_aside(t);
	return true;
}

/* Whether what was read was so at one moment. */
static inline bool quick_holds(const struct quick *q)
{
	return load64(&header_of(q->handle)->lock) == q->lock;
}

/* An entry for a word that has none, where there is room. */
static inline struct abi_log_entry *quick_put(struct quick *q, uint64_t off, uint64_t old,
					      uint64_t new)
{
	struct abi_log_entry *e = &q->entries[q->n++];

	*e = (struct abi_log_entry){off, old, new};
	return e;
}

/* The same for a link, which leads to cell (index + 1) then. */
static inline void quick_put_next(struct quick *q, uint64_t off, uint32_t cell)
{
	uint64_t w = load64((uint64_t *)(q->handle->mem + off));

	quick_put(q, off, w, link_next(w, cell));
}

/* False: nothing happened, and what was read may be of several moments. n: how
 * many entries there are, for a caller that knows. */
static inline __attribute__((always_inline)) bool quick_commit(struct quick *q, uint32_t n)
{
	struct handle *h = q->handle;
	uint64_t *lock = &header_of(h)->lock;
	struct abi_log_cell *log = cell_at(h, q->log - 1);
	uint64_t epoch = lock_epoch(q->lock);
	uint64_t committed = lock_word(epoch, q->log, ABI_LOCK_COMMITTED);

	if (log == NULL)
		return false;
#pragma GCC unroll 8
	for (uint32_t i = 0; i < n; i++)
		log_put(&log->entries[i], &q->entries[i]);
	store64(&log->count, n);
	log_set_next(log, 0);
	FAIL_POINT("quick: log written");
	if (!cas64(lock, q->lock, committed))
		return false;
	FAIL_POINT("quick: committed");
#pragma GCC unroll 8
	for (uint32_t i = 0; i < n; i++) {
		uint64_t off = q->entries[i].off, old = q->entries[i].old, new = q->entries[i].new;

		if (unlikely(!cas64((uint64_t *)(h->mem + off), old, new)))
			/* It is DEAD, or a helper was here. */
			entry_apply(h, (struct abi_log_entry){off, old, new});
	}
	VERIFY(h, committed);
	FAIL_POINT("quick: applied");
	cas64(lock, committed, lock_word(epoch + 1, 0, ABI_LOCK_FREE));
	FAIL_POINT("quick: released");
	return true;
}

#endif
