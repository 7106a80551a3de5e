/*
 * semop without the lock: one operation is one compare-and-swap of its word,
 * several or those with SEM_UNDO are a quick transaction. What cannot go on so,
 * for it has to sleep, or others do, goes the way of semop.c.
 */
#include "object.h"
#include "quick.h"

/* Each may change a word and an adjustment. */
#define QUICK_OPS (ABI_LOG_ENTRIES / 2)

static inline void touch(const struct handle *h, int64_t now)
{
	int64_t *otime = &header_of(h)->otime;

	if (unlikely(__atomic_load_n(otime, __ATOMIC_RELAXED) != now))
		__atomic_store_n(otime, now, __ATOMIC_RELAXED);
}

void semop_touch(struct handle *h)
{
	touch(h, now_seconds());
}

/* One operation without SEM_UNDO. BLOCK: it needs the lock. */
static inline int try_one(const struct handle *h, const struct abi_sem_op *op, int64_t now)
{
	uint64_t *word = word_at(h, op->num);
	uint64_t w = load64(word);

	for (;;) {
		if (unlikely(w & (ABI_SEM_SLOW | ABI_SEM_DEAD)))
			return BLOCK;
		int value = (int)sem_value(w) + op->op;

		if (unlikely(value < 0 || (op->op == 0 && value != 0)))
			return op->flag & IPC_NOWAIT ? -EAGAIN : BLOCK;
		if (unlikely(value > ABI_SEM_VMX))
			return -ERANGE;
		if (__atomic_compare_exchange_n(word, &w,
						sem_next(w, (uint32_t)value, session.number), false,
						__ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
			touch(h, now);
			return PROCEED;
		}
	}
}

int semop_try(struct handle *h, const struct abi_sem_op *op)
{
	return try_one(h, op, now_seconds());
}

/* The entry for a semaphore's word, frozen (ops_apply in semop.c: whoever sets
 * SLOW without need does no harm); NULL: it is dead. */
static struct abi_log_entry *frozen(struct quick *q, uint32_t sem)
{
	uint64_t off = ABI_WORDS_OFF + 8 * (uint64_t)sem;
	struct abi_log_entry *e = quick_entry(q, off);

	while (!(e->old & (ABI_SEM_SLOW | ABI_SEM_DEAD))) {
		cas64(word_at(q->handle, sem), e->old, e->old | ABI_SEM_SLOW);
		e->old = e->new = load64(word_at(q->handle, sem));
	}
	return e->old & ABI_SEM_DEAD ? NULL : e;
}

/* Several operations, or one with SEM_UNDO. BLOCK: they need the lock. */
static __attribute__((noinline)) int try_several(struct handle *h, struct thread *t,
						 const struct abi_sem_op *ops, size_t count,
						 int64_t now)
{
	struct quick q;
	int verdict = PROCEED;

	if (!quick_begin(&q, h, t))
		return BLOCK;
	for (size_t k = 0; k < count; k++) {
		struct abi_sem_op op = ops[k];

		if (op.num >= h->sems)
			return BLOCK;
		struct abi_log_entry *word = frozen(&q, op.num);
		if (word == NULL || undo_others(h, op.num))
			return BLOCK;
		int value = (int)sem_value(word->new) + op.op;

		if (value < 0 || (op.op == 0 && value != 0))
			verdict = op.flag & IPC_NOWAIT ? -EAGAIN : BLOCK;
		else if (value > ABI_SEM_VMX)
			verdict = -ERANGE;
		else
			word->new = sem_next(word->new, (uint32_t)value, session.number);
		if (verdict == PROCEED && (op.flag & SEM_UNDO)) {
			uint64_t off = pulse_armed() ? undo_known(h, op.num) : 0;

			if (off == 0)
				return BLOCK;
			struct abi_log_entry *undo = quick_entry(&q, off);
			int adjust = undo_adjust(undo->new) - op.op;

			if (adjust < -ABI_SEM_VMX - 1 || adjust > ABI_SEM_VMX)
				verdict = -ERANGE;
			else
				undo->new = undo_next(undo->new, op.num, adjust);
		}
		if (verdict != PROCEED)
			return quick_holds(&q) ? verdict : BLOCK;
	}
	if (!quick_commit(&q, q.n))
		return BLOCK;
	touch(h, now);
	return PROCEED;
}

/* The way of nearly all calls, with nothing in it that has to be called: what
 * is not plain goes the other way. The clock is looked at first, for the same
 * reason. */
static inline __attribute__((always_inline)) int at_once(int id, const struct abi_sem_op *ops,
							 size_t count)
{
	int64_t now = now_seconds();
	struct thread *t = this_thread;
	uintptr_t first = (uintptr_t)ops, last = first + count * sizeof *ops - 1;
	int r = BLOCK;

	/* Or a call of this thread is under way, or was left by siglongjmp. */
	if (unlikely(t == NULL || t->active != 0 || t->wait_cell != 0))
		return BLOCK;
	if (unlikely(first >> 12 != last >> 12 || !user_page_known(t->readable, first >> 12) ||
		     creds_differ || handle_index[ABI_SEM] == NULL))
		return BLOCK;
	__atomic_store_n(&t->active, stack_pointer(), __ATOMIC_RELAXED);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	struct handle *h = __atomic_load_n(&handle_index[ABI_SEM][id & ABI_INDEX_MASK],
					   __ATOMIC_ACQUIRE);
	/* Who has the memory has both rights. */
	if (likely(h != NULL && h->id == (uint32_t)id && h->mem != NULL &&
		   load64(h->table_word) == h->slot && h->creds == creds_process)) {
		struct abi_sem_op op = *ops;

		if (unlikely(count > 1 || (op.flag & SEM_UNDO)))
			r = try_several(h, t, ops, count, now);
		else if (likely(op.num < h->sems))
			r = try_one(h, &op, now);
	}
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	__atomic_store_n(&t->active, 0, __ATOMIC_RELAXED);
	return r;
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

EXPORT int semop(int id, struct abi_sem_op *ops, size_t count)
{
	if (likely(count - 1 < QUICK_OPS && session_here() && at_once(id, ops, count) == PROCEED))
		return 0;
	return otherwise(id, ops, (unsigned)count, NULL);
}

EXPORT int semtimedop(int id, struct abi_sem_op *ops, size_t count, const struct timespec64 *timeout)
{
	if (likely(count - 1 < QUICK_OPS && timeout == NULL && session_here() &&
		   at_once(id, ops, count) == PROCEED))
		return 0;
	return otherwise(id, ops, (unsigned)count, timeout);
}
