/*
 * Serving the sleepers of a set after its values changed, in the kernel's
 * order: do_smart_update(), update_queue() and check_restart() in ipc/sem.c.
 */
#include "object.h"

#define NEXT_OFF offsetof(struct abi_sleeper_cell, next)
/* Entries kept free for unlinking one sleeper and for setting Pending. */
#define RESERVE 8

bool ops_at(const struct ops *o, uint32_t k, struct abi_sem_op *op)
{
	if (o->array != NULL) {
		*op = o->array[k];
		return true;
	}
	struct abi_sleeper_cell *s = cell_at(o->handle, o->cell - 1);

	if (k < ABI_SLEEPER_OPS) {
		*op = s->ops[k];
		return true;
	}
	uint32_t more = s->more;
	for (k -= ABI_SLEEPER_OPS; more != 0; k -= ABI_OPS_CELL_OPS) {
		struct abi_ops_cell *c = cell_at(o->handle, more - 1);

		if (c == NULL)
			return false;
		if (k < ABI_OPS_CELL_OPS) {
			*op = c->ops[k];
			return true;
		}
		more = (uint32_t)load64(&c->next);
	}
	return false;
}

struct ops ops_of(struct handle *h, uint32_t cell)
{
	struct abi_sleeper_cell *s = cell_at(h, cell - 1);
	uint64_t limit = session.table->sem_opm;
	uint32_t count = load32(&s->count);

	return (struct ops){NULL, h, cell, count < limit ? count : (uint32_t)limit};
}

static bool only_zero(const struct ops *o)
{
	struct abi_sem_op op;

	for (uint32_t k = 0; k < o->count; k++)
		if (ops_at(o, k, &op) && op.op != 0)
			return false;
	return true;
}

/* Whether SLOW has to stay on the semaphore for that sleeper. One that waits for zeros
 * alone may have to fail when any becomes 0 (serve). */
static bool names(const struct ops *o, uint32_t sem)
{
	bool alters = false, nowait = false;
	struct abi_sem_op op;

	for (uint32_t k = 0; k < o->count; k++) {
		if (!ops_at(o, k, &op))
			continue;
		if (op.num == sem)
			return true;
		alters |= op.op != 0;
		nowait |= (op.flag & IPC_NOWAIT) != 0;
	}
	return nowait && !alters;
}

static void set_pending(struct txn *t, bool pending)
{
	uint64_t w = txn_get(t, HEADER_OFF(pending));

	if ((w & 1) != pending)
		txn_put(t, HEADER_OFF(pending), ((w >> 1) + 1) << 1 | pending);
}

enum served { NOT, SERVED, FAILED, NO_ROOM };

/* Wakes the sleeper, so that it tries what cannot be done on its behalf. */
static void leave_to_itself(struct txn *t, uint32_t cell)
{
	uint64_t off = cell_off(t->handle, cell - 1);

	if (sleeper_rouse(t, cell)) {
		struct abi_sleeper_cell *s = cell_at(t->handle, cell - 1);
		uint64_t claimed = txn_get(t, off);

		if (cas64((uint64_t *)(t->handle->mem + off), claimed,
			  cell_turn(claimed, ABI_CELL_RETRY, 0)) &&
		    s->flags & ABI_SLEEPER_DOORBELL)
			doorbell_ring(cell_session(claimed));
	}
}

/* Serves the sleeper if it can proceed, or fails for good. prev is the cell
 * before it in the list. */
static enum served serve(struct txn *t, const struct ops *o, uint32_t prev)
{
	uint64_t off = cell_off(t->handle, o->cell - 1);
	uint32_t blocking;
	int verdict;

	if (t->served == TXN_LOCAL - 4)
		return NO_ROOM;
	if (t->room - t->n < 2 * o->count + RESERVE) {
		/* In a transaction of its own it has what it needs. */
		if (t->n > 0)
			return NO_ROOM;
		if (!txn_make_room(t, 2 * o->count + RESERVE)) {
			leave_to_itself(t, o->cell);
			return NOT;
		}
	}
	t->mark = t->n;
	verdict = ops_apply(t, o, cell_session(txn_get(t, off)), &blocking);
	if (verdict != PROCEED)
		txn_drop_tentative(t);
	if (verdict == BLOCK)
		return NOT;
	if (verdict == -EAGAIN && only_zero(o)) {
		if (t->zeroed) /* and not later: a transaction that goes on does not know */
			leave_to_itself(t, o->cell);
		else /* until any semaphore becomes 0 */
			for (uint32_t i = 0; i < t->handle->sems; i++)
				sem_frozen(t, i);
		return NOT;
	}
	/* One sleeper is offered the transaction, one doorbell rung after it:
	 * the next one is for the next transaction. */
	if (t->hand != 0 || t->bell != 0) {
		txn_drop_tentative(t);
		return NO_ROOM;
	}
	if (verdict == -ENXIO) { /* no undo word made ready: it makes one itself */
		leave_to_itself(t, o->cell);
		return NOT;
	}
	if (t->room - t->n < RESERVE) {
		txn_drop_tentative(t);
		return NO_ROOM;
	}
	if (!sleeper_claim(t, o->cell)) {
		txn_drop_tentative(t);
		return NOT;
	}
	list_remove(t, HEADER_OFF(wait_head), HEADER_OFF(wait_tail), prev, o->cell);
	txn_put(t, off, cell_turn(txn_get(t, off), ABI_CELL_DONE, (uint32_t)-verdict));
	struct abi_sleeper_cell *s = cell_at(t->handle, o->cell - 1);
	if (s->flags & ABI_SLEEPER_DOORBELL)
		t->bell = cell_session(txn_get(t, off));
	txn_keep_tentative(t);
	FAIL_POINT("scan: one served");
	t->served++;
	t->completed |= verdict == PROCEED;
	return verdict == PROCEED ? SERVED : FAILED;
}

/* Whether a semaphore named is 0: only then does the kernel look at those who wait
 * for zeros (do_smart_wakeup_zero), which matters to one that would fail now. */
static bool ops_zero(struct txn *t, const struct ops *o)
{
	struct abi_sem_op op;

	for (uint32_t k = 0; k < o->count; k++)
		if (ops_at(o, k, &op) && op.num < t->handle->sems &&
		    sem_value(txn_get(t, ABI_WORDS_OFF + 8 * (uint64_t)op.num)) == 0)
			return true;
	return false;
}

/* The same of those that the transaction has changed, or of all. */
static bool changed_zero(const struct txn *t)
{
	uint64_t end = ABI_WORDS_OFF + 8 * (uint64_t)t->handle->sems;

	for (uint32_t i = 0; i < t->n; i++)
		if (t->entries[i].off >= ABI_WORDS_OFF && t->entries[i].off < end &&
		    sem_value(t->entries[i].new) == 0)
			return true;
	return false;
}

static bool any_zero(struct txn *t)
{
	for (uint32_t i = 0; i < t->handle->sems; i++)
		if (sem_value(txn_get(t, ABI_WORDS_OFF + 8 * (uint64_t)i)) == 0)
			return true;
	return false;
}

/* Walks the list once: zero-waiters only, or the others. Returns true when
 * the walk of the others has to begin again. */
static bool walk(struct txn *t, bool zero, bool *no_room)
{
	struct handle *h = t->handle;
	uint32_t prev = 0, at = link_cell(txn_get(t, HEADER_OFF(wait_head)));

	for (uint32_t n = 0; at != 0 && at <= h->cells && n < h->cells; n++) {
		uint32_t next = link_cell(txn_get(t, cell_off(h, at - 1) + NEXT_OFF));
		uint32_t state = cell_state(txn_get(t, cell_off(h, at - 1)));
		struct ops o = ops_of(h, at);
		enum served served = NOT;

		if ((state == ABI_CELL_WAITING || state == ABI_CELL_CLAIMED) &&
		    only_zero(&o) == zero)
			served = serve(t, &o, prev);
		if (served == NO_ROOM) {
			*no_room = true;
			return false;
		}
		if (served == NOT)
			prev = at;
		else if (served == SERVED && !zero) {
			/* Its own changes may let zero-waiters go, and if it was
			 * more than a simple decrement, earlier ones too. */
			t->zeroed = ops_zero(t, &o);
			return true;
		}
		at = next;
	}
	return false;
}

void scan_sleepers(struct txn *t, bool all)
{
	bool no_room = false;

	if (link_cell(txn_get(t, HEADER_OFF(wait_head))) != 0) {
		t->zeroed = all ? any_zero(t) : changed_zero(t);
		do
			walk(t, true, &no_room);
		while (!no_room && walk(t, false, &no_room) && !no_room);
	}
	set_pending(t, no_room);
}

void scan_rest(struct txn *t)
{
	const uint64_t *pending = &header_of(t->handle)->pending;

	while (unlikely(load64(pending) & 1) && txn_lock(t) == 0) {
		if (!(load64(pending) & 1)) {
			txn_abort(t);
			return;
		}
		scan_sleepers(t, false);
		words_settle(t);
		if (txn_commit(t, false) == -ENOMEM)
			return;
	}
}

void words_settle(struct txn *t)
{
	struct handle *h = t->handle;
	uint64_t end = ABI_WORDS_OFF + 8 * (uint64_t)h->sems;
	bool undo = link_cell(txn_get(t, HEADER_OFF(undo_head))) != 0;

	for (uint32_t i = 0; i < t->n; i++) {
		struct abi_log_entry *e = &t->entries[i];

		if (e->off < ABI_WORDS_OFF || e->off >= end)
			continue;
		uint32_t sem = (uint32_t)(e->off - ABI_WORDS_OFF) / 8;
		bool slow = undo && undo_names(t, sem);
		uint32_t at = link_cell(txn_get(t, HEADER_OFF(wait_head)));

		for (uint32_t n = 0; !slow && at != 0 && at <= h->cells && n < h->cells; n++) {
			struct ops o = ops_of(h, at);

			slow = cell_sleeps(txn_get(t, cell_off(h, at - 1))) && names(&o, sem);
			at = link_cell(txn_get(t, cell_off(h, at - 1) + NEXT_OFF));
		}
		e->new = slow ? e->new | ABI_SEM_SLOW : e->new & ~(uint64_t)ABI_SEM_SLOW;
	}
}
