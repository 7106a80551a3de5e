/*
 * The fenced transaction: entries that its thread gathers under the lock, and
 * a commit that is one compare-and-swap, after which anyone may carry them
 * out.
 */
#include "transaction.h"

bool txn_make_room(struct txn *t, uint32_t entries)
{
	size_t size = entries * sizeof *t->entries;

	if (entries <= t->room)
		return true;
	long p = SYS6(__NR_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (is_error(p))
		return false;
	memcpy((void *)p, t->entries, t->n * sizeof *t->entries);
	if (t->scratch)
		SYS2(__NR_munmap, t->entries, t->scratch);
	t->entries = (struct abi_log_entry *)p;
	t->room = entries;
	t->scratch = size;
	return true;
}

int txn_init(struct txn *t, struct handle *h, struct call *c, uint32_t more)
{
	t->handle = h;
	t->call = c;
	t->held = false;
	t->full = false;
	t->n_asked = t->reaped = 0;
	t->n = t->mark = 0;
	t->entries = t->local;
	t->room = TXN_LOCAL;
	t->scratch = 0;
	t->log = 0;
	t->temporary = c->nested;
	if (more > TXN_LOCAL - 16 && !txn_make_room(t, more + 64))
		return -ENOMEM;
	for (;;) {
		uint32_t cells = h->cells;

		t->log = t->temporary ? cell_alloc(h, ABI_KIND_LOG) : log_kept(c->thread, h);
		if (unlikely(t->log == 0 && !t->temporary))
			t->log = log_keep(c->thread, h);
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

/* Writes the log. -EAGAIN or -ENOMEM: there was no room, the lock is lost. */
static int record(struct txn *t, uint32_t *chain)
{
	struct handle *h = t->handle;

	if (likely(t->n <= ABI_LOG_ENTRIES)) {
		log_write(t, chain);
		return 0;
	}
	if (log_write(t, chain))
		return 0;
	txn_abort(t);
	log_free_chain(h, *chain);
	*chain = 0;
	int error = handle_grow(h, h->cells + t->n / ABI_LOG_ENTRIES + 16, h->chunks);
	return error < 0 ? error : -EAGAIN;
}

/* Offers the transaction to the sleeper that it serves (offer_accept) and wakes
 * it, which proves that it slept: then the commit follows, or has happened.
 * False: it did not sleep. It gets nothing and serves itself; the offer is
 * withdrawn by a new epoch, unless somebody was faster. */
static bool offer(struct txn *t)
{
	struct handle *h = t->handle;
	struct abi_log_cell *log = cell_at(h, t->log - 1);
	uint64_t *state = cell_at(h, t->hand - 1);

	/* Another one that it serves was woken before, and is no proof of this. */
	if (t->n <= ABI_LOG_ENTRIES && t->served == 1)
		store64(&log->outcome, outcome_word(t->epoch, ABI_OUTCOME_READY));
	FAIL_POINT("offer: made");
	if (futex_wake((uint32_t *)state, 1) == 1) {
		FAIL_POINT("offer: woken");
		return true;
	}
	uint64_t held = lock_of(t, ABI_LOCK_HELD);

	t->epoch++;
	if (!cas64(&header_of(h)->lock, held, lock_of(t, ABI_LOCK_HELD))) {
		t->epoch--;
		return true; /* revoked, or committed by one woken by chance */
	}
	FAIL_POINT("offer: withdrawn");
	cas64(state, t->hand_state, cell_turn(t->hand_state, ABI_CELL_RETRY, 0));
	txn_abort(t);
	return false;
}

/* Whether a commit that failed did so because the sleeper was faster. */
static bool accepted(const struct txn *t)
{
	struct handle *h = t->handle;
	struct abi_log_cell *log = cell_at(h, t->log - 1);

	if (t->hand == 0)
		return false;
	/* In this order: the outcome is noted before the lock is released. */
	return load64(&header_of(h)->lock) == lock_of(t, ABI_LOCK_COMMITTED) ||
	       load64(&log->outcome) == outcome_word(t->epoch, ABI_OUTCOME_DONE);
}

int txn_commit(struct txn *t, bool keep)
{
	struct handle *h = t->handle;
	uint64_t *lock = &header_of(h)->lock;
	uint32_t chain = 0;
	int r;

	order(t);
	r = record(t, &chain);
	if (r < 0)
		return r;
	FAIL_POINT("commit: log written");
	if ((t->hand != 0 && !offer(t)) ||
	    (!cas64(lock, lock_of(t, ABI_LOCK_HELD), lock_of(t, ABI_LOCK_COMMITTED)) &&
	     !accepted(t))) {
		t->held = false;
		log_free_chain(h, chain);
		return -EAGAIN;
	}
	/* From here on it has happened; helpers may do the rest. The private
	 * entries are applied, not the log: a handler may have reused that. */
	uint64_t committed = lock_of(t, ABI_LOCK_COMMITTED);
	entries_apply(h, t->entries, t->n);
	VERIFY(h, committed);
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
	log_free_chain(h, chain);
	if (unlikely(t->bell != 0))
		doorbell_ring(t->bell);
	t->bell = 0;
	t->hand = 0;
	t->served = 0;
	t->completed = false;
	return 0;
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
