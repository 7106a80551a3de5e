/*
 * The fenced transaction: a lock that anyone may revoke, a commit that is one
 * compare-and-swap, changes that anyone may carry out.
 *
 * Nothing here waits for another process but txn_lock, and that for PATIENCE
 * at most. Nothing here touches the program's memory, so no fault and no
 * siglongjmp can start inside but by a signal handler, which is a helper like
 * any other: it revokes what its own thread holds, or finishes it.
 */
#include "object.h"

/* How long a holder may keep others waiting, in ns. It is far more than any
 * transaction takes, and more than a time slice lost to another process, so
 * revoking is rare; too short a patience would only cost work done twice. */
#define PATIENCE INT64_C(2000000)

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

static bool is_cell_state(const struct handle *h, uint64_t off)
{
	return off >= cells_off(h->sems) && off % ABI_CELL_SIZE == 0;
}

static void apply(struct handle *h, const struct abi_log_entry *e, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		uint64_t *word = (uint64_t *)(h->mem + e[i].off);

		FAIL_POINT("apply: next entry");
		if (!off_valid(h, e[i].off) || cas64(word, e[i].old, e[i].new))
			continue;
		/* The manager marks a word DEAD without a new version, so that
		 * what has committed is still carried out on it. */
		if (is_sem_word(h, e[i].off))
			cas64(word, e[i].old | ABI_SEM_DEAD, e[i].new | ABI_SEM_DEAD);
	}
}

/* States of cells last: who sees itself served finds everything else done. */
static void order(struct txn *t)
{
	uint32_t states = 0;
	struct abi_log_entry later[TXN_LOCAL];

	for (uint32_t i = 0, n = t->n; i < n; i++) {
		if (!is_cell_state(t->handle, t->entries[i].off)) {
			t->entries[i - states] = t->entries[i];
		} else if (states < TXN_LOCAL) {
			later[states++] = t->entries[i];
		}
	}
	for (uint32_t i = 0; i < states; i++)
		t->entries[t->n - states + i] = later[i];
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
		apply(h, copy, (uint32_t)n);
		next = following;
	}
	FAIL_POINT("help: applied");
	cas64(lock, w, lock_word(lock_epoch(w) + 1, 0, ABI_LOCK_FREE));
}

void lock_help(struct handle *h)
{
	uint64_t w = load64(&header_of(h)->lock);

	if (unlikely(lock_state(w) == ABI_LOCK_COMMITTED))
		help(h, w);
}

static unsigned log_slot(const struct handle *h)
{
	return (h->id ^ h->id >> 2) % LOG_CACHE;
}

/* The log cell that the thread keeps for this object, 0: none. */
static uint32_t kept_log(const struct thread *t, const struct handle *h)
{
	unsigned slot = log_slot(h);

	if (t->session == session.number && t->log[slot].handle == h &&
	    t->log[slot].serial == h->serial)
		return t->log[slot].cell;
	return 0;
}

/* Takes a log cell and keeps it between calls, in the place of another
 * object's. Not for nested calls: the other may be under way below. */
static uint32_t keep_log(struct thread *t, struct handle *h)
{
	unsigned slot = log_slot(h);
	struct handle *other = t->log[slot].handle;
	uint32_t cell = t->log[slot].cell;

	/* siglongjmp may end this anywhere: the place is empty while it changes. */
	t->log[slot].cell = 0;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	if (t->session != session.number) {
		memset(t->log, 0, sizeof t->log);
		t->session = session.number;
	} else if (cell != 0 && t->log[slot].serial == other->serial && handle_valid(other)) {
		lock_help(other); /* siglongjmp may have left it committed */
		cell_free(other, cell);
	}
	cell = cell_alloc(h, ABI_KIND_LOG);
	FAIL_POINT("log: cell found");
	t->log[slot].handle = h;
	t->log[slot].serial = h->serial;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	t->log[slot].cell = cell;
	FAIL_POINT("log: cell kept");
	return cell;
}

int txn_init(struct txn *t, struct handle *h, struct call *c, uint32_t more)
{
	t->handle = h;
	t->call = c;
	t->held = false;
	t->full = false;
	t->n_asked = 0;
	t->n = t->mark = 0;
	t->entries = t->local;
	t->room = TXN_LOCAL;
	t->scratch = 0;
	t->log = 0;
	t->temporary = c->nested;
	if (more > TXN_LOCAL - 16) {
		t->scratch = (size_t)(more + 64) * sizeof *t->entries;
		long p = SYS6(__NR_mmap, 0, t->scratch, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (is_error(p)) {
			t->scratch = 0;
			return -ENOMEM;
		}
		t->entries = (struct abi_log_entry *)p;
		t->room = more + 64;
	}
	for (;;) {
		uint32_t cells = h->cells;

		t->log = t->temporary ? cell_alloc(h, ABI_KIND_LOG) : kept_log(c->thread, h);
		if (unlikely(t->log == 0 && !t->temporary))
			t->log = keep_log(c->thread, h);
		if (unlikely(t->log == 0)) {
			t->log = cell_alloc(h, KIND_LOG_RESERVE);
			t->temporary |= t->log != 0;
		}
		if (likely(t->log != 0))
			return 0;
		int error = handle_grow(h, cells + cells / 2 + 16, h->chunks);
		if (error < 0) {
			txn_done(t);
			return error;
		}
	}
}

void txn_done(struct txn *t)
{
	if (t->temporary)
		cell_free(t->handle, t->log);
	if (t->scratch)
		SYS2(__NR_munmap, t->entries, t->scratch);
}

int txn_lock(struct txn *t)
{
	uint64_t *lock = &header_of(t->handle)->lock;
	uint64_t seen = 0;
	int64_t since = 0;

	t->n = t->mark = 0;
	t->full = false;
	t->bell = 0;
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
			mine = lock_cell(w) == kept_log(t->call->thread, t->handle);
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
				     lock_word(t->epoch, t->log, ABI_LOCK_HELD),
				     lock_word(t->epoch + 1, 0, ABI_LOCK_FREE));

	t->held = false;
	return held;
}

/* The second word of every cell is a link in one of its lives: its version
 * never goes back. */
static void set_next(struct abi_log_cell *log, uint32_t cell)
{
	uint64_t w = load64(&log->next);

	if (link_cell(w) != cell)
		store64(&log->next, link_next(w, cell));
}

/* Writes the entries into the log cell and as many more as it takes. The
 * first of those is returned in *chain, to be freed after the release. */
static bool write_log(struct txn *t, uint32_t *chain)
{
	struct handle *h = t->handle;
	struct abi_log_cell *log = cell_at(h, t->log - 1);
	uint32_t done = 0;

	*chain = 0;
	for (;;) {
		uint32_t n = t->n - done;

		if (n > ABI_LOG_ENTRIES)
			n = ABI_LOG_ENTRIES;
		for (uint32_t i = 0; i < n; i++)
			log->entries[i] = t->entries[done + i];
		store64(&log->count, n);
		FAIL_POINT("log: cell written");
		done += n;
		if (done == t->n) {
			set_next(log, 0);
			return true;
		}
		uint32_t more = cell_alloc(h, ABI_KIND_LOG);
		if (more == 0)
			more = cell_alloc(h, KIND_LOG_RESERVE);
		set_next(log, more);
		if (*chain == 0)
			*chain = more;
		if (more == 0)
			return false;
		log = cell_at(h, more - 1);
		set_next(log, 0);
	}
}

static void free_chain(struct handle *h, uint32_t chain)
{
	for (uint32_t n = 0; chain != 0 && n < ABI_MAX_CELLS; n++) {
		struct abi_log_cell *log = cell_at(h, chain - 1);
		uint32_t next = log ? (uint32_t)load64(&log->next) : 0;

		cell_free(h, chain);
		chain = next;
	}
}

int txn_commit(struct txn *t, bool keep)
{
	struct handle *h = t->handle;
	uint64_t *lock = &header_of(h)->lock;
	uint64_t held = lock_word(t->epoch, t->log, ABI_LOCK_HELD);
	uint64_t committed = lock_word(t->epoch, t->log, ABI_LOCK_COMMITTED);
	uint32_t chain = 0;

	order(t);
	if (t->n > ABI_LOG_ENTRIES) {
		bool written = write_log(t, &chain);

		if (!written) {
			txn_abort(t);
			free_chain(h, chain);
			int error = handle_grow(h, h->cells + t->n / ABI_LOG_ENTRIES + 16, h->chunks);
			return error < 0 ? error : -EAGAIN;
		}
	} else {
		struct abi_log_cell *log = cell_at(h, t->log - 1);

		for (uint32_t i = 0; i < t->n; i++) {
			FAIL_POINT("log: next entry");
			log->entries[i] = t->entries[i];
		}
		set_next(log, 0);
		store64(&log->count, t->n);
	}
	FAIL_POINT("commit: log written");
	if (!cas64(lock, held, committed)) {
		t->held = false;
		free_chain(h, chain);
		return -EAGAIN;
	}
	/* From here on it has happened; helpers may do the rest. The private
	 * entries are applied, not the log: a handler may have reused that. */
	apply(h, t->entries, t->n);
	FAIL_POINT("commit: applied");
	if (keep) {
		t->held = cas64(lock, committed, lock_word(t->epoch + 1, t->log, ABI_LOCK_HELD));
		t->epoch++;
	} else {
		cas64(lock, committed, lock_word(t->epoch + 1, 0, ABI_LOCK_FREE));
		t->held = false;
	}
	FAIL_POINT("commit: released");
	t->n = t->mark = 0;
	free_chain(h, chain);
	if (unlikely(t->bell != 0))
		doorbell_ring(t->bell);
	t->bell = 0;
	t->served = 0;
	t->completed = false;
	return 0;
}

uint64_t txn_get(struct txn *t, uint64_t off)
{
	for (uint32_t i = t->n; i-- > 0;)
		if (t->entries[i].off == off)
			return t->entries[i].new;
	return load64((uint64_t *)(t->handle->mem + off));
}

void txn_put(struct txn *t, uint64_t off, uint64_t new)
{
	for (uint32_t i = t->n; i-- > t->mark;)
		if (t->entries[i].off == off) {
			t->entries[i].new = new;
			return;
		}
	if (t->n == t->room) {
		t->full = true;
		return;
	}
	t->entries[t->n] = (struct abi_log_entry){off, txn_get(t, off), new};
	t->n++;
}

void txn_put_new(struct txn *t, uint64_t off, uint64_t old, uint64_t new)
{
	if (t->n == t->room)
		t->full = true;
	else
		t->entries[t->n++] = (struct abi_log_entry){off, old, new};
}

void txn_keep_all(struct txn *t)
{
	t->mark = t->n;
}

/* A tentative entry whose word has a final one already becomes part of it, so
 * that each word has one entry. */
void txn_keep_tentative(struct txn *t)
{
	uint32_t kept = t->mark;

	for (uint32_t i = t->mark; i < t->n; i++) {
		bool merged = false;

		for (uint32_t k = 0; k < t->mark && !merged; k++)
			if (t->entries[k].off == t->entries[i].off) {
				t->entries[k].new = t->entries[i].new;
				merged = true;
			}
		if (!merged)
			t->entries[kept++] = t->entries[i];
	}
	t->n = t->mark = kept;
}

void txn_drop_tentative(struct txn *t)
{
	t->n = t->mark;
	t->full = false;
}

void list_append(struct txn *t, uint64_t head_off, uint64_t tail_off, uint32_t cell)
{
	struct handle *h = t->handle;
	uint64_t tail = txn_get(t, tail_off);
	uint64_t next_off = cell_off(h, cell - 1) + offsetof(struct abi_sleeper_cell, next);

	if (link_cell(txn_get(t, next_off)) != 0)
		txn_put(t, next_off, link_next(txn_get(t, next_off), 0));
	if (link_cell(txn_get(t, head_off)) == 0 || link_cell(tail) == 0 ||
	    link_cell(tail) > h->cells) {
		txn_put(t, head_off, link_next(txn_get(t, head_off), cell));
	} else {
		uint64_t last = cell_off(h, link_cell(tail) - 1) +
				offsetof(struct abi_sleeper_cell, next);

		txn_put(t, last, link_next(txn_get(t, last), cell));
	}
	txn_put(t, tail_off, link_next(tail, cell));
}

void list_remove(struct txn *t, uint64_t head_off, uint64_t tail_off, uint32_t prev, uint32_t cell)
{
	struct handle *h = t->handle;
	uint64_t next_off = cell_off(h, cell - 1) + offsetof(struct abi_sleeper_cell, next);
	uint32_t next = link_cell(txn_get(t, next_off));
	uint64_t from = prev == 0 ? head_off
				  : cell_off(h, prev - 1) + offsetof(struct abi_sleeper_cell, next);

	txn_put(t, from, link_next(txn_get(t, from), next));
	if (tail_off != 0 && link_cell(txn_get(t, tail_off)) == cell)
		txn_put(t, tail_off, link_next(txn_get(t, tail_off), prev));
}

bool list_find(struct txn *t, uint64_t head_off, uint32_t cell, uint32_t *prev)
{
	struct handle *h = t->handle;
	uint32_t at = link_cell(txn_get(t, head_off));

	*prev = 0;
	for (uint32_t n = 0; at != 0 && at <= h->cells && n < h->cells; n++) {
		if (at == cell)
			return true;
		*prev = at;
		at = link_cell(txn_get(t, cell_off(h, at - 1) +
						  offsetof(struct abi_sleeper_cell, next)));
	}
	return false;
}

bool txn_claim(struct txn *t, uint32_t cell, uint64_t *claimed)
{
	uint64_t *state = cell_at(t->handle, cell - 1);
	uint64_t w = load64(state);

	if (!cell_sleeps(w))
		return false;
	/* The state was loaded while the lock was ours, so a claim made by
	 * whoever revokes us is newer than it, and then this one fails. */
	if (load64(&header_of(t->handle)->lock) != lock_word(t->epoch, t->log, ABI_LOCK_HELD))
		return false;
	*claimed = cell_turn(w, ABI_CELL_CLAIMED, 0);
	FAIL_POINT("claim: before");
	return cas64(state, w, *claimed);
}

int object_gone(struct handle *h, unsigned *tries)
{
	struct abi_record r;
	uint64_t slot;

	/* A mark that the table never bears out was not the manager's. */
	if (!table_record((int)h->family, h->id, &r, &slot) || ++*tries > 100)
		return -EIDRM;
	return 0;
}
