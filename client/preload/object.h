/*
 * Words, cells and transactions of sets and queues. See abi.h for the layouts
 * and ARCHITECTURE.md for the protocol.
 */
#ifndef IPCSPACE_OBJECT_H
#define IPCSPACE_OBJECT_H

#include "ipcspace.h"
#include "verify.h"

/* linux/ipc.h, linux/sem.h */
#define IPC_CREAT 01000
#define IPC_EXCL 02000
#define IPC_NOWAIT 04000
#define SEM_UNDO 0x1000

/* --- words ------------------------------------------------------------- */

static inline uint32_t sem_value(uint64_t w)
{
	return (uint32_t)(w & ABI_SEM_VALUE_MASK);
}
static inline uint32_t sem_session(uint64_t w)
{
	return (uint32_t)(w >> ABI_SEM_SESSION_SHIFT) & (ABI_SESSION_MASK);
}
/* The word after a change by a session: same flags, next version. */
static inline uint64_t sem_next(uint64_t w, uint32_t value, uint32_t number)
{
	return ((w >> ABI_SEM_VERSION_SHIFT) + 1) << ABI_SEM_VERSION_SHIFT |
	       (uint64_t)number << ABI_SEM_SESSION_SHIFT |
	       (w & (ABI_SEM_SLOW | ABI_SEM_DEAD)) | value;
}

/* Index + 1 of a link's cell, and the word that leads elsewhere. */
static inline uint32_t link_cell(uint64_t w)
{
	return (uint32_t)w;
}
static inline uint64_t link_next(uint64_t w, uint32_t cell)
{
	return ((w >> ABI_LINK_VERSION_SHIFT) + 1) << ABI_LINK_VERSION_SHIFT | cell;
}

static inline uint32_t cell_state(uint64_t w)
{
	return w & ABI_CELL_STATE_MASK;
}
static inline uint32_t cell_kind(uint64_t w)
{
	return w >> ABI_CELL_KIND_SHIFT & ABI_CELL_KIND_MASK;
}
static inline uint32_t cell_session(uint64_t w)
{
	return (uint32_t)(w >> ABI_CELL_SESSION_SHIFT) & ABI_SESSION_MASK;
}
static inline uint32_t cell_errno(uint64_t w)
{
	return w >> ABI_CELL_ERRNO_SHIFT & ABI_CELL_ERRNO_MASK;
}
static inline uint64_t cell_next(uint64_t w, uint32_t state, uint32_t kind, uint32_t number,
				 uint32_t error)
{
	return ((w >> ABI_CELL_VERSION_SHIFT) + 1) << ABI_CELL_VERSION_SHIFT |
	       (uint64_t)error << ABI_CELL_ERRNO_SHIFT |
	       (uint64_t)number << ABI_CELL_SESSION_SHIFT | kind << ABI_CELL_KIND_SHIFT | state;
}
/* The same cell in another state. */
static inline uint64_t cell_turn(uint64_t w, uint32_t state, uint32_t error)
{
	return cell_next(w, state, cell_kind(w), cell_session(w), error);
}
/* A sleeper that is in a list and not served yet. */
static inline bool cell_sleeps(uint64_t w)
{
	uint32_t s = cell_state(w);

	return s == ABI_CELL_WAITING || s == ABI_CELL_RETRY || s == ABI_CELL_CLAIMED;
}

static inline int undo_adjust(uint64_t w)
{
	return (int16_t)(w & 0xffff);
}
static inline uint32_t undo_sem(uint64_t w)
{
	return w >> ABI_UNDO_SEM_SHIFT & 0xffff;
}
static inline uint64_t undo_next(uint64_t w, uint32_t sem, int adjust)
{
	return ((w >> ABI_UNDO_VERSION_SHIFT) + 1) << ABI_UNDO_VERSION_SHIFT | ABI_UNDO_USED |
	       (uint64_t)sem << ABI_UNDO_SEM_SHIFT | (uint16_t)adjust;
}

/* Errno of a served sleeper that means: the object moved, start again. */
#define SERVED_MOVED 255

/* --- cell.c ------------------------------------------------------------ */

/* A kind for cell_alloc: a log from the reserve, freed at the end of the call. */
#define KIND_LOG_RESERVE 16
/* Index + 1 of a fresh cell of this session, 0 when none is free. */
uint32_t cell_alloc(struct handle *h, uint32_t kind);
void cell_free(struct handle *h, uint32_t cell);
/* The same, asking the manager for room; -errno in *error. */
uint32_t cell_grow(struct handle *h, uint32_t kind, int *error);
static inline uint32_t cell_alloc_grow(struct handle *h, uint32_t kind, int *error)
{
	uint32_t cell = cell_alloc(h, kind);

	return likely(cell != 0) ? cell : cell_grow(h, kind, error);
}

/* --- transaction.c, lock.c --------------------------------------------- */

#define TXN_LOCAL 40

/* A transaction of one thread. entries[0..n) are what it will change, in
 * order; from mark on they are tentative. */
struct txn {
	struct handle *handle;
	struct call *call;
	uint32_t log; /* index + 1 of the log cell */
	bool temporary; /* the log cell is for this call alone */
	bool held;	/* the lock was taken at epoch, as far as we know */
	bool full;	/* an entry found no room */
	uint64_t epoch;
	uint32_t served; /* sleepers: their states fit order()'s array */
	bool completed;	 /* one of them went on, rather than failed */
	bool zeroed;	 /* the last to change the set left a semaphore at 0 */
	uint32_t last_sender, last_receiver; /* queue: sessions to note after it */
	uint32_t last_thread;	/* the receiver's, see last_received */
	uint32_t reaped;   /* the session that the manager has looked after last */
	uint32_t asked[4]; /* sessions that the manager found alive just now */
	uint32_t n_asked;
	uint32_t bell; /* session whose doorbell is rung after the commit */
	uint32_t hand; /* sleeper to whom the transaction is offered, index + 1, 0: none */
	uint64_t hand_state; /* its state, CLAIMED */
	uint32_t n, mark, room;
	struct abi_log_entry *entries;
	size_t scratch; /* bytes of entries if they are mapped for this call */
	struct abi_log_entry local[TXN_LOCAL];
};

/* Prepares; more: entries needed beyond the usual. 0 or -errno. */
int txn_init(struct txn *t, struct handle *h, struct call *c, uint32_t more);
bool txn_make_room(struct txn *t, uint32_t entries);
void txn_done(struct txn *t);
/* Takes the lock. 0, or -EIDRM: the object was removed or moved. */
int txn_lock(struct txn *t);
/* Makes a list member's state CLAIMED, which every transaction that changes it
 * does first: then nobody else's compare-and-swap of it can come between. False:
 * it does not sleep any more, or the lock is lost. */
bool txn_claim(struct txn *t, uint32_t cell, uint64_t *claimed);
/* Gives it back with nothing changed. False: it had been revoked before. */
bool txn_abort(struct txn *t);
/* Carries out the entries. 0: done. -EAGAIN: revoked, nothing happened, the
 * lock is lost. -ENOMEM: no room for the log, lock lost. keep: the lock stays
 * held at the next epoch, unless t->held says that it was lost after all. */
int txn_commit(struct txn *t, bool keep);
/* The word at off as this transaction sees it. off is checked by the caller. */
uint64_t txn_get(struct txn *t, uint64_t off);
void txn_put(struct txn *t, uint64_t off, uint64_t new);
/* A first entry for the word at off, which was loaded as old. */
void txn_put_new(struct txn *t, uint64_t off, uint64_t old, uint64_t new);
/* All entries are final, and each word has one. */
void txn_keep_all(struct txn *t);
/* Makes tentative entries final, or drops them. */
void txn_keep_tentative(struct txn *t);
void txn_drop_tentative(struct txn *t);
/* After -EIDRM: -EIDRM if the object is gone for good, 0 if it stands in the
 * table (it moved): the call starts again, *tries times at most. */
int object_gone(struct handle *h, unsigned *tries);
/* Finishes a commit of somebody, if one is under way. */
void lock_help(struct handle *h);
/* For a sleeper that was woken and finds its cell, at off, in that CLAIMED
 * state: carries out the transaction that serves it, if that wants nothing but
 * the proof that it slept. */
bool offer_accept(struct handle *h, uint64_t off, uint64_t claimed);

static inline uint64_t off_of(const struct handle *h, const void *p)
{
	return (uint64_t)((const uint8_t *)p - h->mem);
}
#define HEADER_OFF(field) offsetof(struct abi_control_header, field)

/* --- list.c ------------------------------------------------------------ */

/* A list of cells: link words at head and tail in the header. */
void list_append(struct txn *t, uint64_t head_off, uint64_t tail_off, uint32_t cell);
/* Takes cell out; prev is index + 1 of the one before it, 0: it is first. */
void list_remove(struct txn *t, uint64_t head_off, uint64_t tail_off, uint32_t prev, uint32_t cell);
/* Finds cell in a list; false: it is not there. */
bool list_find(struct txn *t, uint64_t head_off, uint32_t cell, uint32_t *prev);

/* --- scan.c ------------------------------------------------------------ */

/* Claims a sleeper that is to be served. The first of a transaction is offered
 * it by the commit; others, and those of doorbells, have to be roused. False: it
 * is awake and will serve itself, or is gone. */
bool sleeper_claim(struct txn *t, uint32_t cell);
/* The same by waking it at once. It waits for the commit then. */
bool sleeper_rouse(struct txn *t, uint32_t cell);
/* Whether somebody sleeps on the cell, without waking it. */
bool sleeper_asleep(struct handle *h, uint32_t cell);
/* Serves the set's sleepers that can proceed, as far as the transaction has
 * room; sets Pending if it has not. */
void scan_sleepers(struct txn *t, bool all);
/* Goes on with what the transaction just committed left Pending. */
void scan_rest(struct txn *t);
/* Whether op k of a sleeper (or of a caller's array) ... */
struct ops {
	const struct abi_sem_op *array; /* a caller's own, or NULL: */
	struct handle *handle;
	uint32_t cell; /* index + 1 of the sleeper */
	uint32_t count;
};
bool ops_at(const struct ops *o, uint32_t k, struct abi_sem_op *op);
struct ops ops_of(struct handle *h, uint32_t cell);
/* Before a commit: SLOW stays on the words it changes that somebody sleeps on
 * or has adjustments for, and goes from the others. */
void words_settle(struct txn *t);

/* --- semop.c ----------------------------------------------------------- */

enum verdict { PROCEED = 0, BLOCK = 1 }; /* or -errno */

/* A semaphore's word as t sees it, frozen: from here on nothing but a
 * committed transaction changes it. */
uint64_t sem_frozen(struct txn *t, uint32_t sem);
/* Applies ops in array order to the words as t sees them, tentatively.
 * PROCEED, BLOCK or -ERANGE, -EAGAIN; *blocking is the first that blocks. */
int ops_apply(struct txn *t, const struct ops *o, uint32_t number, uint32_t *blocking);
/* The call, by the lock. timeout: ns, -1: none, -2: not a valid one. */
long semop_slowly(int id, const struct abi_sem_op *ops, size_t count, int64_t timeout);

/* --- semquick.c -------------------------------------------------------- */

/* Whether they are one compare-and-swap where nobody sleeps and nobody has adjustments: a single
 * one is, too. */
bool ops_in_pair(const struct abi_sem_op *ops, size_t count);
/* Tries one operation, without SEM_UNDO, without the lock. BLOCK: it needs it. */
int semop_try(struct handle *h, const struct abi_sem_op *op);
/* Notes that an operation of the set succeeded just now. */
void semop_touch(struct handle *h);

/* --- undo.c ------------------------------------------------------------ */

/* The offset of number's undo word for sem, 0: it has none. */
uint64_t undo_find(struct txn *t, uint32_t number, uint32_t sem);
static inline uint64_t undo_off(const struct handle *h, uint32_t cell, uint32_t i)
{
	return cell_off(h, cell - 1) + offsetof(struct abi_undo_cell, words) + 8 * i;
}
/* Whether the i-th word of a cell is used: the used ones come first. */
static inline bool word_used(const struct handle *h, uint32_t cell, uint32_t i, uint64_t *w)
{
	if (i == ABI_UNDO_WORDS)
		return false;
	*w = load64((uint64_t *)(h->mem + undo_off(h, cell, i)));
	return *w & ABI_UNDO_USED;
}
/* The session's first undo cell, index + 1, 0: none that is known. A look without the lock, which
 * is good because only this process's threads make such words, and nothing but its death takes
 * them away. */
static inline uint32_t undo_cell(struct handle *h)
{
	uint32_t cell = h->owner == session.number ? h->undo : 0;
	struct abi_undo_cell *c = cell_at(h, cell - 1);
	uint64_t state = c != NULL ? load64(&c->state) : 0;

	return cell_kind(state) == ABI_KIND_UNDO && cell_session(state) == session.number ? cell : 0;
}
/* The offset of the word for sem in that cell (or 0), 0: it has none. */
static inline uint64_t undo_known(const struct handle *h, uint32_t cell, uint32_t sem)
{
	uint64_t w;

	for (uint32_t i = 0; cell != 0 && word_used(h, cell, i, &w); i++)
		if (undo_sem(w) == sem)
			return undo_off(h, cell, i);
	return 0;
}
/* Whether another session has an adjustment of sem other than 0. */
bool undo_others(struct handle *h, uint32_t sem);
/* Makes sure that this session has undo words for all SEM_UNDO ops. */
int undo_reserve(struct handle *h, struct call *c, const struct abi_sem_op *ops, uint32_t n);
/* A session whose hint says that it died with an adjustment of sem; 0: none.
 * sem < 0: of any. */
uint32_t undo_dead_holder(struct txn *t, int sem);
/* Whether anybody has an adjustment of sem other than 0. */
bool undo_names(struct txn *t, uint32_t sem);
/* Sets everybody's adjustment of sem (all: sem < 0) to 0. */
void undo_clear(struct txn *t, int sem);
/* Has the manager look after that session. 0: look again, it is cleaned up or
 * known to be alive. */
int reap(struct txn *t, uint32_t number);

/* --- liveness ---------------------------------------------------------- */

struct pulse {
	uint8_t *page; /* the session's of the pulse file, then a private one */
	uint32_t session, thread; /* the thread whose robust list has the word */
	bool asks; /* no word can be linked: others have to ask */
};
extern OURS struct pulse pulse;

/* Links this session's liveness word into the thread's robust list. */
void pulse_arm(void);
bool pulse_asks(void);
static inline bool pulse_armed(void)
{
	uint64_t w = likely(load32(&pulse.session) == session.number)
			     ? load64((uint64_t *)(pulse.page + ABI_PULSE_ALIVE))
			     : 0;

	return likely(w != 0 && (w & ABI_PULSE_DIED) == 0) || pulse_asks();
}
bool pulse_died(uint32_t number);
void doorbell_ring(uint32_t number);

/* --- sleeping ---------------------------------------------------------- */

/* Waiting a moment before a sleep may save it: another CPU may be about to bring
 * what is waited for. How many rounds, 0: not now. It never happens on one CPU,
 * and stops, but for a try now and then, when it has not paid off. */
uint32_t spin_rounds(struct thread *t);
void spin_over(struct thread *t, uint32_t rounds, bool paid);

/* Sleeps on the cell until the call is over, true: it was served, or gave up and *r says why
 * (-EINTR, -EAGAIN, -EIDRM); or until it has to serve itself. deadline: CLOCK_MONOTONIC ns, or -1. */
bool sleep_on(struct handle *h, struct call *c, uint32_t cell, int64_t deadline, int *r);

/* Ends the wait of this session's cell (0: none): takes it off its list if it is
 * in it. Returns the state it has then: DONE, if it was served after all. */
uint64_t wait_leave(struct handle *h, struct call *c, uint32_t cell);
/* Frees a waiter's cell (0: none) that is off its list, and what belongs to it.
 * One that could not be taken off stays until its session ends. */
void cell_release(struct handle *h, uint32_t cell);

/* --- messages ---------------------------------------------------------- */

/* Frees a message of this session: its chunks and its cell. */
void message_free(struct handle *h, uint32_t cell);

#endif
