/*
 * The lock of a set or queue: anyone may revoke it from its holder, or carry
 * out what its holder committed.
 *
 * Nothing here waits for another process but txn_lock, and that for PATIENCE
 * at most. Nothing here touches the program's memory, so no fault and no
 * siglongjmp can start inside but by a signal handler, which is a helper like
 * any other: it revokes what its own thread holds, or finishes it.
 */
#include "transaction.h"

/* How long a holder may keep others waiting, in ns. It is far more than any
 * transaction takes, and more than a time slice lost to another process, so
 * revoking is rare; too short a patience would only cost work done twice. */
#define PATIENCE INT64_C(2000000)

/* Whether a transaction may change the word at off: not the lock, nothing
 * beyond the cells. */
static bool off_valid(const struct handle *h, uint64_t off)
{
	return off % 8 == 0 && off >= 8 && off < cell_off(h, h->cells);
}

static bool is_sem_word(const struct handle *h, uint64_t off)
{
	return off >= ABI_WORDS_OFF && off < ABI_WORDS_OFF + 8 * (uint64_t)h->sems;
}

bool is_cell_state(const struct handle *h, uint64_t off)
{
	return off >= h->first_cell && off % ABI_CELL_SIZE == 0;
}

void entry_apply(struct handle *h, struct abi_log_entry e)
{
	uint64_t *word = (uint64_t *)(h->mem + e.off);

	FAIL_POINT("apply: next entry");
	if (!off_valid(h, e.off) || cas64(word, e.old, e.new))
		return;
	/* The manager marks a word DEAD without a new version, so that
	 * what has committed is still carried out on it. */
	if (is_sem_word(h, e.off))
		cas64(word, e.old | ABI_SEM_DEAD, e.new | ABI_SEM_DEAD);
}

void entries_apply(struct handle *h, const struct abi_log_entry *e, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		entry_apply(h, e[i]);
}

/* Tells the owner of an offer (see offer_accept) that it was carried out. The
 * lock is not released before, so an owner that finds it released, and READY
 * still there, knows that it was revoked. A late one fails: each offer has an
 * epoch of its own, and no other kind of cell has such a word there. */
static void note_outcome(struct handle *h, uint64_t w)
{
	struct abi_log_cell *log = cell_at(h, lock_cell(w) - 1);

	if (log != NULL)
		cas64(&log->outcome, outcome_word(lock_epoch(w), ABI_OUTCOME_READY),
		      outcome_word(lock_epoch(w), ABI_OUTCOME_DONE));
}

/* Rings for those that the entries served: their owner, who does that after its
 * commit, may be dead. */
static void ring_for(struct handle *h, const struct abi_log_entry *e, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		uint64_t new = e[i].new;
		uint32_t kind = cell_kind(new);

		if (!off_valid(h, e[i].off) || !is_cell_state(h, e[i].off) ||
		    cell_state(new) != ABI_CELL_DONE ||
		    (kind != ABI_KIND_SLEEPER && kind != ABI_KIND_RECEIVER && kind != ABI_KIND_SENDER))
			continue;
		const struct abi_sleeper_cell *s = (const void *)(h->mem + e[i].off);
		if (s->flags & ABI_SLEEPER_DOORBELL)
			doorbell_ring(cell_session(new));
	}
}

/* Carries out the transaction that w, COMMITTED, names. The entries are
 * copied before the lock word is looked at again: their owner does not write
 * its log cells until that word has changed, so if it has not, the copy is
 * the committed one. Entries are copied cell by cell, and each copy is
 * checked, for a long transaction has many. */
static void help(struct handle *h, uint64_t w)
{
	uint64_t *lock = &header_of(h)->lock;
	uint32_t next = lock_cell(w);

	handle_room(h);
	for (uint32_t cells = 0; next != 0 && cells < ABI_MAX_CELLS; cells++) {
		struct abi_log_cell *log = cell_at(h, next - 1);
		struct abi_log_entry copy[ABI_LOG_ENTRIES];

		if (log == NULL)
			break;
		uint64_t n = load64(&log->count);
		uint32_t following = (uint32_t)load64(&log->next); /* of a link */

		if (n > ABI_LOG_ENTRIES)
			n = ABI_LOG_ENTRIES;
		for (uint64_t i = 0; i < n; i++) {
			copy[i].off = load64(&log->entries[i].off);
			copy[i].old = load64(&log->entries[i].old);
			copy[i].new = load64(&log->entries[i].new);
		}
		FAIL_POINT("help: entries copied");
		if (load64(lock) != w)
			return;
		entries_apply(h, copy, (uint32_t)n);
		ring_for(h, copy, (uint32_t)n);
		next = following;
	}
	FAIL_POINT("help: applied");
	note_outcome(h, w);
	cas64(lock, w, lock_word(lock_epoch(w) + 1, 0, ABI_LOCK_FREE));
}

void lock_help(struct handle *h)
{
	uint64_t w = load64(&header_of(h)->lock);

	if (unlikely(lock_state(w) == ABI_LOCK_COMMITTED))
		help(h, w);
}

/*
 * An offer is a transaction that serves a sleeper and whose log is complete.
 * Its owner wakes the sleeper and commits if there was one to be woken. The
 * woken need not wait for that: it is the proof itself. So whoever of the two
 * has a CPU goes on.
 *
 * It is this sleeper's offer if it has an entry that begins with the very state
 * in which the sleeper finds itself: each claim is a new version, so an offer
 * of somebody who was revoked since, or to another sleeper, has none. The log
 * does not change while the lock is HELD at that epoch, which the
 * compare-and-swap then proves: its owner withdraws an offer by going to the
 * next epoch.
 */
bool offer_accept(struct handle *h, uint64_t off, uint64_t claimed)
{
	uint64_t *lock = &header_of(h)->lock;
	uint64_t w = load64(lock);
	struct abi_log_cell *log = lock_cell(w) ? cell_at(h, lock_cell(w) - 1) : NULL;
	bool mine = false;

	if (lock_state(w) == ABI_LOCK_COMMITTED) {
		help(h, w);
		return true;
	}
	if (lock_state(w) != ABI_LOCK_HELD || log == NULL ||
	    load64(&log->outcome) != outcome_word(lock_epoch(w), ABI_OUTCOME_READY))
		return false;
	uint64_t n = load64(&log->count);
	for (uint64_t i = 0; i < n && i < ABI_LOG_ENTRIES; i++)
		mine |= load64(&log->entries[i].off) == off &&
			load64(&log->entries[i].old) == claimed;
	FAIL_POINT("offer: seen");
	uint64_t committed = lock_word(lock_epoch(w), lock_cell(w), ABI_LOCK_COMMITTED);
	if (!mine || !cas64(lock, w, committed))
		return false;
	FAIL_POINT("offer: accepted");
	help(h, committed);
	return true;
}

int txn_lock(struct txn *t)
{
	uint64_t *lock = &header_of(t->handle)->lock;
	uint64_t seen = 0;
	int64_t since = 0;

	t->n = t->mark = 0;
	t->full = false;
	t->bell = 0;
	t->hand = 0;
	t->served = 0;
	t->completed = false;
	for (unsigned spins = 0;; spins++) {
		uint64_t w = load64(lock);

		switch (lock_state(w)) {
		case ABI_LOCK_FREE:
			if (cas64(lock, w, lock_word(lock_epoch(w), t->log, ABI_LOCK_HELD))) {
				t->epoch = lock_epoch(w);
				t->held = true;
				FAIL_POINT("lock: taken");
				handle_room(t->handle);
				/* Looked at under the lock: a mover marks the
				 * object first and takes the lock then. */
				if (likely(load64(&header_of(t->handle)->state) == 0))
					return 0;
				txn_abort(t);
				return -EIDRM;
			}
			continue;
		case ABI_LOCK_COMMITTED:
			help(t->handle, w);
			continue;
		case ABI_LOCK_HELD:
			break;
		default: /* noise of a hostile member: no state of ours */
			cas64(lock, w, lock_word(lock_epoch(w) + 1, 0, ABI_LOCK_FREE));
			continue;
		}
		bool mine = lock_cell(w) == t->log;

		/* Below a handler, or left by siglongjmp, is this thread's own
		 * transaction: nobody will go on with it before this call. */
		if (!mine && t->call->nested)
			mine = lock_cell(w) == log_kept(t->call->thread, t->handle);
		if (mine) {
			cas64(lock, w, lock_word(lock_epoch(w) + 1, 0, ABI_LOCK_FREE));
			continue;
		}
		if (session.cpus > 1 && spins < 60) {
			cpu_relax();
			continue;
		}
		SYS0(__NR_sched_yield);
		int64_t now = now_monotonic();
		if (w != seen) {
			seen = w;
			since = now;
		} else if (now - since > PATIENCE) {
			cas64(lock, w, lock_word(lock_epoch(w) + 1, 0, ABI_LOCK_FREE));
		}
	}
}

bool txn_abort(struct txn *t)
{
	FAIL_POINT("abort: before");
	bool held = t->held && cas64(&header_of(t->handle)->lock,
				     lock_of(t, ABI_LOCK_HELD),
				     lock_word(t->epoch + 1, 0, ABI_LOCK_FREE));

	t->held = false;
	return held;
}

bool txn_claim(struct txn *t, uint32_t cell, uint64_t *claimed)
{
	uint64_t *state = cell_at(t->handle, cell - 1);
	uint64_t w = load64(state);

	if (!cell_sleeps(w))
		return false;
	/* The state was loaded while the lock was ours, so a claim made by
	 * whoever revokes us is newer than it, and then this one fails. */
	if (load64(&header_of(t->handle)->lock) != lock_of(t, ABI_LOCK_HELD))
		return false;
	*claimed = cell_turn(w, ABI_CELL_CLAIMED, 0);
	FAIL_POINT("claim: before");
	return cas64(state, w, *claimed);
}
