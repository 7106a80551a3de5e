/* What the files of message queues share. */
#ifndef IPCSPACE_QUEUE_H
#define IPCSPACE_QUEUE_H

#include "object.h"

#define MSG_NOERROR 010000
#define MSG_EXCEPT 020000
#define MSG_COPY 040000

extern void pthread_testcancel(void) __attribute__((weak));
static inline void cancellation_point(void)
{
	if (pthread_testcancel != NULL)
		pthread_testcancel();
}

static inline void streak_goes_on(struct thread *t, bool sends)
{
	t->streak = t->sends == sends ? t->streak + 1 : 0;
	t->sends = sends;
}

/* Counter words: bytes 40 | messages 24. */
static inline uint64_t counter_add(uint64_t w, uint64_t bytes)
{
	return ((w >> ABI_COUNTER_COUNT_SHIFT) + 1) << ABI_COUNTER_COUNT_SHIFT |
	       ((w + bytes) & ABI_COUNTER_BYTES_MASK);
}
static inline uint64_t queue_bytes(uint64_t sent, uint64_t taken)
{
	return (sent - taken) & ABI_COUNTER_BYTES_MASK;
}
static inline uint64_t queue_count(uint64_t sent, uint64_t taken)
{
	return ((sent >> ABI_COUNTER_COUNT_SHIFT) - (taken >> ABI_COUNTER_COUNT_SHIFT)) & 0xffffff;
}

/* Whether size more bytes have room (msg_fits_inqueue). */
static inline bool counters_fit(uint64_t sent, uint64_t taken, uint64_t size, uint64_t limit)
{
	return queue_bytes(sent, taken) + size <= limit && queue_count(sent, taken) + 1 <= limit;
}

static inline int64_t last_time(uint64_t w)
{
	return (int64_t)(w >> ABI_LAST_TIME_SHIFT);
}
static inline uint32_t last_session(uint64_t w)
{
	return (uint32_t)w & ABI_LAST_SESSION_MASK;
}
/* The thread that last_recv tells of, in its own pid namespace; 0: none. */
static inline uint32_t last_thread(const struct abi_control_header *head, uint64_t w)
{
	uint64_t thread = w & ABI_LAST_THREAD ? load64(&head->recv_thread) : 0;

	return last_session(thread) == last_session(w) ? (uint32_t)(thread >> ABI_LAST_TIME_SHIFT) : 0;
}
/* Notes that number sent or received just now. A compare-and-swap, so that
 * one who was stopped does not put back an older time later. */
void last_touch(uint64_t *word, uint64_t seen, uint32_t number);
/* The same of a receiver; thread: which slept, if it is not the process's first. */
void last_received(struct abi_control_header *head, uint64_t seen, uint32_t number, uint32_t thread);

/* Makes a message of this session: index + 1, or 0 and *error. */
uint32_t message_make(struct handle *h, int64_t type, const void *text, size_t size, int *error);
/* Copies up to size bytes of its text. */
void message_copy(struct handle *h, uint32_t cell, void *to, size_t size);

static inline struct abi_message_cell *message_at(struct handle *h, uint32_t cell)
{
	return cell ? cell_at(h, cell - 1) : NULL;
}
static inline bool message_queued(const struct abi_message_cell *m)
{
	uint64_t w = load64(&m->state);

	return cell_kind(w) == ABI_KIND_MESSAGE && cell_state(w) == ABI_CELL_QUEUED;
}

/* The same as t sees the counters. */
bool queue_fits(struct txn *t, uint64_t size);
/* Puts a message that fits to the first receiver that wants it, or at the end
 * of the queue. number: who sent it. */
void queue_put(struct txn *t, uint32_t message, uint32_t number);
/* The message that a receiver of that mode and type wants, index + 1, and the
 * one before it; 0: none. For the holder of the lock, who has not changed the
 * list in its transaction. */
uint32_t queue_search(struct handle *h, uint32_t mode, int64_t type, uint32_t *prev);
/* The same, with no call where it is the first. */
static inline uint32_t queue_find(struct handle *h, uint32_t mode, int64_t type, uint32_t *prev)
{
	uint32_t first = link_cell(load64(&header_of(h)->msg_head));
	const struct abi_message_cell *m = message_at(h, first);

	*prev = 0;
	if (likely(m != NULL && message_queued(m) &&
		   (mode == ABI_RECEIVE_ANY || (mode == ABI_RECEIVE_EQUAL && m->type == type))))
		return first;
	return queue_search(h, mode, type, prev);
}
/* The message at a position, index + 1; 0: none. */
uint32_t queue_at(struct handle *h, int64_t position);
/* Takes a message out of the queue for the session of that number. thread: as in
 * last_received. */
void queue_take(struct txn *t, uint32_t prev, uint32_t message, uint32_t number, uint32_t thread);
/* Lets sleeping senders go as far as there is room. */
void queue_serve_senders(struct txn *t);
/* Takes the lock with nothing left to do for others. 0; -EIDRM: gone, or
 * moved; or why this process may not use the queue any more. */
int queue_lock(struct txn *t);
/* Commits, and notes who sent and received last. */
int queue_commit(struct txn *t);
/* Goes on with what is Pending, for one that has committed, or was served: who
 * served it may be stopped since. */
void queue_rest(struct txn *t);

#endif
