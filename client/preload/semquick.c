/*
 * semop without the lock: one operation is one compare-and-swap of its word, as are
 * several on it and its neighbour; others, and those with SEM_UNDO, are a quick
 * transaction. What cannot go on so, for it has to sleep, or others do, goes the way
 * of semop.c.
 */
#include "object.h"
#include "quick.h"

/* Each may change a word and an adjustment. */
#define QUICK_OPS (ABI_LOG_ENTRIES / 2)

static inline void touch(struct abi_control_header *head)
{
	int64_t now = now_seconds();

	if (unlikely(__atomic_load_n(&head->otime, __ATOMIC_RELAXED) != now))
		__atomic_store_n(&head->otime, now, __ATOMIC_RELAXED);
}

void semop_touch(struct handle *h)
{
	touch(header_of(h));
}

/* Whether op proceeds on the word w, which is *next then: not where others come first, or may. */
static inline bool proceeds(uint64_t w, struct abi_sem_op op, uint64_t *next)
{
	uint32_t value = sem_value(w) + (uint32_t)(int32_t)op.op; /* huge, where it were negative */

	if (unlikely((w & (ABI_SEM_SLOW | ABI_SEM_DEAD)) || value > ABI_SEM_VMX ||
		     (op.op == 0 && value != 0)))
		return false;
	*next = sem_next(w, value, session.number);
	return true;
}

/* Why it does not, if all goes by the value. */
static int hindrance(uint32_t value, struct abi_sem_op op)
{
	if ((int)value + op.op > ABI_SEM_VMX)
		return -ERANGE;
	return op.flag & IPC_NOWAIT ? -EAGAIN : BLOCK;
}

/* One operation without SEM_UNDO. False: it did not proceed on *seen. */
static inline bool try_one(struct handle *h, struct abi_sem_op op, uint64_t *seen)
{
	uint64_t *word = word_at(h, op.num), next;

	*seen = load64(word);
	do {
		if (unlikely(!proceeds(*seen, op, &next)))
			return false;
	} while (!__atomic_compare_exchange_n(word, seen, next, false, __ATOMIC_ACQ_REL,
					      __ATOMIC_ACQUIRE));
	touch(header_of(h));
	return true;
}

int semop_try(struct handle *h, const struct abi_sem_op *op)
{
	uint64_t seen;

	if (try_one(h, *op, &seen))
		return PROCEED;
	return seen & (ABI_SEM_SLOW | ABI_SEM_DEAD) ? BLOCK : hindrance(sem_value(seen), *op);
}

bool ops_in_pair(const struct abi_sem_op *ops, size_t count)
{
	for (size_t k = 0; k < count; k++)
		if ((ops[k].flag & SEM_UNDO) || ops[k].num / 2 != ops->num / 2)
			return false;
	return true;
}

/* Several operations on one semaphore, or on two that share 16 bytes: they are one
 * compare-and-swap, too. False: they are not such, or do not proceed. */
static inline bool try_pair(struct handle *h, const struct abi_sem_op *ops, size_t count)
{
	if (ops->num >= h->sems)
		return false;
	/* The last semaphore's neighbour may be what fills up its cache line. */
	uint64_t *words = word_at(h, ops->num & ~1U), old[2], new[2];

	do {
		new[0] = old[0] = load64(&words[0]);
		new[1] = old[1] = load64(&words[1]);
		for (size_t k = 0; k < count; k++) {
			struct abi_sem_op op = ops[k];

			if ((op.flag & SEM_UNDO) || op.num >= h->sems || op.num / 2 != ops->num / 2 ||
			    !proceeds(new[op.num & 1], op, &new[op.num & 1]))
				return false;
		}
	} while (!cas_pair(words, old, new));
	touch(header_of(h));
	return true;
}

/* An entry for a semaphore's word, frozen (ops_apply in semop.c: whoever sets SLOW without need does
 * no harm); NULL: it is dead. */
static inline struct abi_log_entry *frozen(struct quick *q, uint32_t sem)
{
	uint64_t *word = word_at(q->handle, sem), w = load64(word);

	while (!(w & (ABI_SEM_SLOW | ABI_SEM_DEAD))) {
		cas64(word, w, w | ABI_SEM_SLOW);
		w = load64(word);
	}
	return w & ABI_SEM_DEAD ? NULL : quick_put(q, off_of(q->handle, word), w, w);
}

/* The first of the operations that is on the same semaphore as the k-th. */
static inline size_t first_alike(const struct abi_sem_op *ops, size_t k)
{
	size_t i = 0;

	while (i < k && ops[i].num != ops[k].num)
		i++;
	return i;
}

/* Whether no session but this one, with its one cell at most, has adjustments. */
static inline bool adjusts_alone(struct handle *h, uint32_t own)
{
	uint32_t first = link_cell(load64(&header_of(h)->undo_head));

	return first == 0 ||
	       (first == own &&
		link_cell(load64(&((struct abi_undo_cell *)cell_at(h, own - 1))->next)) == 0);
}

/* Several operations, or one with SEM_UNDO. BLOCK: they need the lock. Of a count that the
 * compiler knows it makes code without loops. */
static inline __attribute__((always_inline)) int
transact(struct handle *h, struct thread *t, const struct abi_sem_op *given, const size_t count)
{
	/* Of the operations that are the first on their semaphores. */
	struct abi_log_entry *word[QUICK_OPS], *undo[QUICK_OPS];
	struct abi_sem_op ops[QUICK_OPS];
	bool undoes = false;
	struct quick q;

	for (size_t k = 0; k < count; k++) {
		ops[k] = given[k];
		undoes |= (ops[k].flag & SEM_UNDO) != 0;
	}
	if (unlikely((undoes && !pulse_armed()) || !quick_begin(&q, h, t)))
		return BLOCK;
	uint32_t own = undo_cell(h);
	bool alone = adjusts_alone(h, own);

	for (size_t k = 0; k < count; k++) {
		const struct abi_sem_op op = ops[k];
		size_t i = first_alike(ops, k);

		if (unlikely(op.num >= h->sems))
			return BLOCK;
		if (i == k) {
			word[k] = frozen(&q, op.num);
			undo[k] = NULL;
		}
		if (unlikely(word[i] == NULL || (!alone && undo_others(h, op.num))))
			return BLOCK;
		uint64_t w = word[i]->new ^ ABI_SEM_SLOW, next;
		int verdict = PROCEED;

		if (likely(proceeds(w, op, &next)))
			word[i]->new = next | ABI_SEM_SLOW;
		else
			verdict = hindrance(sem_value(w), op);
		if (verdict == PROCEED && (op.flag & SEM_UNDO)) {
			uint64_t off = undo_known(h, own, op.num);

			if (unlikely(off == 0))
				return BLOCK;
			if (undo[i] == NULL) {
				uint64_t w = load64((uint64_t *)(h->mem + off));

				undo[i] = quick_put(&q, off, w, w);
			}
			int adjust = undo_adjust(undo[i]->new) - op.op;

			if (unlikely(adjust < -ABI_SEM_VMX - 1 || adjust > ABI_SEM_VMX))
				verdict = -ERANGE;
			else
				undo[i]->new = undo_next(undo[i]->new, op.num, adjust);
		}
		if (unlikely(verdict != PROCEED))
			return quick_holds(&q) ? verdict : BLOCK;
	}
	/* Slow words are for adjustments and sleepers: there are none. */
	if (count > 1 && link_cell(load64(&header_of(h)->undo_head)) == 0 && ops_in_pair(ops, count))
		for (uint32_t i = 0; i < q.n; i++)
			q.entries[i].new &= ~(uint64_t)ABI_SEM_SLOW;
	if (unlikely(!quick_commit(&q, q.n)))
		return BLOCK;
	touch(header_of(h));
	return PROCEED;
}

/* Begins a call of nearly all, with nothing in it that has to be called. NULL: what is not plain
 * goes the other way. */
static inline __attribute__((always_inline)) struct handle *
enter(struct thread *t, int id, const struct abi_sem_op *ops, size_t count)
{
	/* Or a call of this thread is under way, or was left by siglongjmp. */
	if (unlikely(!session_here() || t == NULL || t->active != 0 ||
		     !user_known(t->readable, ops, count * sizeof *ops) ||
		     handle_index[ABI_SEM] == NULL))
		return NULL;
	__atomic_store_n(&t->active, stack_pointer(), __ATOMIC_RELAXED);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	struct handle *h = __atomic_load_n(&handle_index[ABI_SEM][id & ABI_INDEX_MASK],
					   __ATOMIC_ACQUIRE);
	/* Who has the memory has both rights. */
	if (likely(h != NULL && h->id == (uint32_t)id && h->mem != NULL &&
		   load64(h->table_word) == h->slot && h->creds == creds_all))
		return h;
	t->active = 0;
	return NULL;
}

static inline void leave(struct thread *t)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	__atomic_store_n(&t->active, 0, __ATOMIC_RELAXED);
}

/* count is an unsigned int, as it is to the kernel: of a size_t the low half counts. */
static __attribute__((noinline)) int otherwise(int id, const struct abi_sem_op *ops, unsigned count,
					       const struct timespec64 *timeout)
{
	int64_t ns = -1;

	if (unlikely(session_ready() < 0))
		return (int)finish(session_refused()
					   ? -ENOSYS
					   : SYS4(__NR_semtimedop, id, ops, count, timeout));
	if (timeout != NULL) {
		struct call c;

		call_begin(&c);
		bool readable = user_readable(c.thread, timeout, sizeof *timeout);

		call_end(&c);
		if (!readable)
			return (int)finish(-EFAULT);
		if (timeout->tv_sec < 0 || timeout->tv_nsec < 0 || timeout->tv_nsec >= 1000000000)
			ns = -2; /* invalid, but E2BIG and EFAULT come first */
		else if (timeout->tv_sec > INT64_MAX / 2000000000)
			ns = INT64_MAX / 2;
		else
			ns = timeout->tv_sec * INT64_C(1000000000) + timeout->tv_nsec;
	}
	return (int)finish(semop_slowly(id, ops, count, ns));
}

static __attribute__((noinline)) int several(struct handle *h, struct thread *t, int id,
					     const struct abi_sem_op *ops, size_t count)
{
	int r = PROCEED;

	if (count == 1)
		r = transact(h, t, ops, 1);
	else if (!try_pair(h, ops, count))
		r = count == 2 ? transact(h, t, ops, 2) : transact(h, t, ops, count);
	leave(t);
	return likely(r == PROCEED) ? 0 : otherwise(id, ops, (unsigned)count, NULL);
}

static __attribute__((noinline)) int not_one(int id, const struct abi_sem_op *ops, size_t count)
{
	struct thread *t = this_thread;
	struct handle *h = count - 1 < QUICK_OPS ? enter(t, id, ops, count) : NULL;

	return likely(h != NULL) ? several(h, t, id, ops, count)
				 : otherwise(id, ops, (unsigned)count, NULL);
}

EXPORT int semop(int id, struct abi_sem_op *ops, size_t count)
{
	struct thread *t = this_thread;

	if (unlikely(count != 1))
		return not_one(id, ops, count);
	struct handle *h = enter(t, id, ops, 1);

	if (likely(h != NULL)) {
		struct abi_sem_op op = *ops;

		if (unlikely(op.flag & SEM_UNDO))
			return several(h, t, id, ops, 1);
		uint64_t seen;
		bool done = likely(op.num < h->sems) && try_one(h, op, &seen);

		leave(t);
		if (likely(done))
			return 0;
	}
	return otherwise(id, ops, 1, NULL);
}

EXPORT int semtimedop(int id, struct abi_sem_op *ops, size_t count, const struct timespec64 *timeout)
{
	return timeout == NULL ? semop(id, ops, count)
			       : otherwise(id, ops, (unsigned)count, timeout);
}
