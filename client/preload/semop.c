/* semop and semtimedop, as do_semtimedop() and perform_atomic_semop() in
 * ipc/sem.c. */
#include "object.h"

uint64_t sem_frozen(struct txn *t, uint32_t sem)
{
	uint64_t off = ABI_WORDS_OFF + 8 * (uint64_t)sem;
	uint64_t *word = (uint64_t *)(t->handle->mem + off);

	for (;;) {
		uint64_t w = txn_get(t, off);

		if (w & (ABI_SEM_SLOW | ABI_SEM_DEAD))
			return w;
		cas64(word, w, w | ABI_SEM_SLOW);
		FAIL_POINT("freeze: SLOW set");
	}
}

int ops_apply(struct txn *t, const struct ops *o, uint32_t number, uint32_t *blocking)
{
	struct abi_sem_op op;

	for (uint32_t k = 0; k < o->count; k++) {
		if (!ops_at(o, k, &op) || op.num >= t->handle->sems)
			return -EIDRM;
		uint64_t off = ABI_WORDS_OFF + 8 * (uint64_t)op.num;
		uint64_t w = sem_frozen(t, op.num);
		int value = (int)sem_value(w) + op.op;

		if (w & ABI_SEM_DEAD)
			return -EIDRM;
		if ((op.op == 0 && value != 0) || value < 0) {
			*blocking = k;
			return op.flag & IPC_NOWAIT ? -EAGAIN : BLOCK;
		}
		if (value > ABI_SEM_VMX)
			return -ERANGE;
		if (op.flag & SEM_UNDO) {
			uint64_t undo = undo_find(t, number, op.num);

			if (undo == 0)
				return -ENXIO;
			int adjust = undo_adjust(txn_get(t, undo)) - op.op;

			if (adjust < -ABI_SEM_VMX - 1 || adjust > ABI_SEM_VMX)
				return -ERANGE;
			if (op.op != 0)
				txn_put(t, undo, undo_next(txn_get(t, undo), op.num, adjust));
		}
		txn_put(t, off, sem_next(w, (uint32_t)value, number));
	}
	return t->full ? -ENOMEM : PROCEED;
}

/* What one call wants. */
struct want {
	const struct abi_sem_op *ops;
	uint32_t count;
	bool alters, undoes;
	int64_t deadline; /* CLOCK_MONOTONIC ns, -1: none */
};

/* Puts the operations into a sleeper and cells after it. */
static int fill_sleeper(struct handle *h, uint32_t cell, const struct want *want)
{
	struct abi_sleeper_cell *s = cell_at(h, cell - 1);
	uint32_t *more = &s->more;
	uint32_t n = want->count < ABI_SLEEPER_OPS ? want->count : ABI_SLEEPER_OPS;

	pulse_arm(); /* so that others can tell whether this sleeper is alive */
	s->flags = 0;
	s->undo = 0;
	s->count = want->count;
	s->more = 0;
	memcpy(s->ops, want->ops, n * sizeof *want->ops);
	FAIL_POINT("sleeper: filled");
	for (uint32_t done = n; done < want->count; done += n) {
		int error;
		uint32_t c = cell_alloc_grow(h, ABI_KIND_OPS, &error);

		if (c == 0)
			return error;
		struct abi_ops_cell *o = cell_at(h, c - 1);

		n = want->count - done < ABI_OPS_CELL_OPS ? want->count - done : ABI_OPS_CELL_OPS;
		memcpy(o->ops, want->ops + done, n * sizeof *want->ops);
		o->next = link_next(o->next, 0);
		*more = c;
		more = (uint32_t *)&o->next; /* the low half of the link */
	}
	return 0;
}

/* One try under the lock, held already. cell: 0, or this call's own sleeper,
 * in the list. PROCEED or an error: it is over, cell is off the list (OWNED).
 * BLOCK: cell is WAITING in the list; without a cell nothing happened.
 * -EAGAIN in *again: start over from the lock. */
static int attempt(struct txn *t, const struct want *want, uint32_t *cell, uint32_t spare,
		   bool *again)
{
	struct handle *h = t->handle;
	struct ops ops = {want->ops, h, 0, want->count};
	uint64_t off = *cell ? cell_off(h, *cell - 1) : 0;
	uint64_t claimed = 0;
	uint32_t prev, blocking;

	*again = true;
	if (load64(&header_of(h)->pending) & 1) {
		scan_sleepers(t, false);
		words_settle(t);
		txn_commit(t, false);
		return 0;
	}
	for (uint32_t k = 0; k < want->count; k++) {
		uint32_t dead = undo_dead_holder(t, want->ops[k].num);

		if (dead != 0) {
			txn_abort(t);
			int r = reap(t, dead);

			*again = r == 0;
			return r;
		}
	}
	if (*cell != 0 && !txn_claim(t, *cell, &claimed)) {
		/* Served or cancelled meanwhile, or the lock was lost. */
		txn_abort(t);
		*again = cell_sleeps(load64((uint64_t *)(h->mem + off)));
		return BLOCK;
	}
	t->mark = 0;
	int verdict = ops_apply(t, &ops, session.number, &blocking);
	FAIL_POINT("semop: evaluated");

	if (verdict != PROCEED)
		t->n = 0;
	if (verdict == BLOCK && *cell == 0 && spare == 0) {
		txn_abort(t);
		*again = false;
		return BLOCK;
	}
	if (verdict < 0 && *cell == 0) {
		txn_abort(t);
		*again = false;
		return verdict;
	}
	if (verdict == BLOCK && *cell == 0) {
		uint64_t state = cell_off(h, spare - 1);

		list_append(t, HEADER_OFF(wait_head), HEADER_OFF(wait_tail), spare);
		txn_put(t, state, cell_turn(txn_get(t, state), ABI_CELL_WAITING, 0));
	} else if (verdict == BLOCK) {
		txn_put(t, off, cell_turn(claimed, ABI_CELL_WAITING, 0));
	} else if (*cell != 0) {
		if (list_find(t, HEADER_OFF(wait_head), *cell, &prev))
			list_remove(t, HEADER_OFF(wait_head), HEADER_OFF(wait_tail), prev, *cell);
		txn_put(t, off, cell_turn(claimed, ABI_CELL_OWNED, 0));
	}
	txn_keep_tentative(t);
	if (verdict == PROCEED) {
		if (want->alters)
			scan_sleepers(t, false);
		/* A caller that comes here by the kind of its operations will
		 * come again: it leaves the words slow, which saves it a
		 * compare-and-swap each; the first simple ones clear them. */
		if (ops_in_pair(want->ops, want->count))
			words_settle(t);
	}
	int r = txn_commit(t, false);

	if (r == -EAGAIN)
		return 0;
	*again = false;
	if (r < 0)
		return r;
	if (verdict == PROCEED) {
		semop_touch(h);
		scan_rest(t);
	}
	if (verdict == BLOCK && *cell == 0)
		*cell = spare;
	return verdict;
}

/* Not when others sleep already: they come first. */
static bool spin_for(struct thread *t, struct handle *h, const struct want *want)
{
	uint32_t rounds = want->count == 1 && !want->undoes ? spin_rounds(t) : 0;

	for (uint32_t i = 0; i < rounds; i++) {
		uint64_t w = load64(word_at(h, want->ops->num));
		int value = (int)sem_value(w) + want->ops->op;

		if (w & (ABI_SEM_SLOW | ABI_SEM_DEAD))
			break;
		if (want->ops->op == 0 ? value == 0 : value >= 0) {
			spin_over(t, rounds, true);
			return true;
		}
		cpu_relax();
	}
	if (rounds != 0)
		spin_over(t, rounds, false);
	return false;
}

/* The call with the lock: tries, sleeps, tries again. */
static int with_lock(struct handle *h, struct call *c, const struct want *want)
{
	uint32_t cell = 0, spare = 0;
	int r, tries = 0;
	struct txn t;
	bool again;

	if (want->undoes) {
		r = undo_reserve(h, c, want->ops, want->count);
		if (r < 0)
			return r;
	}
	r = txn_init(&t, h, c, 2 * want->count);
	if (r < 0)
		return r;
	for (;;) {
		r = txn_lock(&t);
		if (r < 0)
			break;
		r = attempt(&t, want, &cell, spare, &again);
		if (again)
			continue;
		if (r == -ENXIO) { /* the word that it knew is on no list any more */
			h->undo = 0;
			r = tries++ < 3 ? undo_reserve(h, c, want->ops, want->count) : -ENOMEM;
			if (r == 0)
				continue;
		}
		if (r != BLOCK)
			break;
		if (cell == 0) {
			spare = cell_alloc_grow(h, ABI_KIND_SLEEPER, &r);
			if (spare == 0)
				break;
			r = fill_sleeper(h, spare, want);
			if (r < 0)
				break;
			continue;
		}
		spare = 0;
		t.n_asked = 0;
		if (sleep_on(h, c, cell, want->deadline, &r))
			break;
	}
	if (cell == 0)
		cell = spare;
	uint64_t end = wait_leave(h, c, cell);
	if (cell_state(end) == ABI_CELL_DONE) {
		r = -(int)cell_errno(end);
		scan_rest(&t); /* who served this one may be stopped since */
	}
	txn_done(&t);
	cell_release(h, cell);
	c->thread->wait_cell = 0;
	return r;
}

static int brokered(int id, const struct want *want)
{
	struct exchange x = {.request = {.kind = ABI_MSG_SEM_OP,
					 .len = want->count * (uint32_t)sizeof *want->ops,
					 .arg = {id, want->count, -1}},
			     .data = want->ops};

	return channel_brokered(&x, want->deadline);
}

static int check(struct handle *h, const struct want *want)
{
	for (uint32_t k = 0; k < want->count; k++)
		if (want->ops[k].num >= h->sems)
			return -EFBIG;
	return h->rights & (want->alters ? ABI_ACCESS_WRITE : ABI_ACCESS_READ) ? 0 : -EACCES;
}

/* No right at all: but a semaphore that is not there counts first. */
static int refused(int id, const struct want *want)
{
	struct abi_record r;
	uint64_t slot;

	if (table_record(ABI_SEM, (uint32_t)id, &r, &slot))
		for (uint32_t k = 0; k < want->count; k++)
			if (want->ops[k].num >= r.size)
				return -EFBIG;
	return -EACCES;
}

static long slow(int id, struct call *c, struct want *want)
{
	unsigned tries = 0;

	call_calm(c);
	for (;;) {
		int r = 0;
		struct handle *h = handle_get(ABI_SEM, id, &r);

		if (h == NULL && r == -EACCES)
			return refused(id, want);
		if (h == NULL)
			return tries ? -EIDRM : r;
		r = check(h, want);
		/* The list of adjustments is made before rights and operations
		 * are looked at: the process's end will set otime. */
		if (h->mem == NULL && (r == 0 || want->undoes))
			return brokered(id, want);
		if (r < 0) {
			if (want->undoes)
				undo_reserve(h, c, &(struct abi_sem_op){0, 0, SEM_UNDO}, 1);
			return r;
		}
		if (want->count == 1 && !want->undoes) {
			r = semop_try(h, want->ops);
			if (r == BLOCK && !(want->ops->flag & IPC_NOWAIT) &&
			    spin_for(c->thread, h, want))
				r = semop_try(h, want->ops);
			if (r != BLOCK)
				return r;
		}
		r = with_lock(h, c, want);
		if ((r == -EIDRM || r == -SERVED_MOVED) && object_gone(h, &tries) == 0)
			continue;
		return r == -SERVED_MOVED ? -EIDRM : r;
	}
}

long semop_slowly(int id, const struct abi_sem_op *ops, size_t count, int64_t timeout)
{
	struct call c;
	long r = -EINVAL;

	call_begin(&c);
	struct abi_sem_op few[8];
	struct want want = {few, (uint32_t)count, false, false, -1};
	long mapped = 0;

	if (count < 1)
		goto out;
	r = -E2BIG;
	if (count > session.table->sem_opm)
		goto out;
	r = -EFAULT;
	if (!user_readable(c.thread, ops, count * sizeof *ops))
		goto out;
	r = -EINVAL;
	if (timeout == -2 || id < 0)
		goto out;
	if (count > sizeof few / sizeof *few) {
		mapped = SYS6(__NR_mmap, 0, count * sizeof *ops, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		r = -ENOMEM;
		if (is_error(mapped))
			goto out;
		want.ops = (const struct abi_sem_op *)mapped;
	}
	memcpy((void *)want.ops, ops, count * sizeof *ops);
	for (size_t k = 0; k < count; k++) {
		want.alters |= want.ops[k].op != 0;
		want.undoes |= (want.ops[k].flag & SEM_UNDO) != 0;
	}
	if (timeout >= 0)
		want.deadline = now_monotonic() + timeout;
	if (want.deadline < 0)
		want.deadline = timeout >= 0 ? INT64_MAX : -1;
	r = slow(id, &c, &want);
	if (mapped)
		SYS2(__NR_munmap, mapped, count * sizeof *ops);
out:
	call_end(&c);
	return r;
}
