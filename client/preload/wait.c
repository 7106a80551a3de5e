/* Sleeping on a cell, and leaving it. */
#include "object.h"

/* msgsnd and msgrcv are cancellation points, semop is not. A thread that is
 * cancelled leaves its cell behind: nobody is woken on it, so nothing is
 * handed to it, and it is freed with the process. */
extern int pthread_setcanceltype(int type, int *old) __attribute__((weak));
#define CANCEL_ASYNCHRONOUS 1

/* Gives up a wait without the lock. Returns the state that stands then:
 * CANCELLED, or DONE if the sleeper was served before, or CLAIMED if somebody
 * is about to (or was, and died). */
static uint64_t cancel(uint64_t *state)
{
	for (;;) {
		uint64_t w = load64(state);

		switch (cell_state(w)) {
		case ABI_CELL_WAITING:
		case ABI_CELL_RETRY:
			if (!cas64(state, w, cell_turn(w, ABI_CELL_CANCELLED, 0)))
				continue;
			return load64(state);
		default:
			return w;
		}
	}
}

static bool rest_of(int64_t deadline, struct timespec64 *ts)
{
	int64_t left = deadline - now_monotonic();

	ts->tv_sec = left / 1000000000;
	ts->tv_nsec = left % 1000000000;
	return left > 0;
}

/* Whether the object that h opened is gone, and not only published anew. */
static bool removed(const struct handle *h)
{
	struct abi_record r;
	uint64_t slot;

	return !table_record((int)h->family, h->id, &r, &slot) || r.serial != h->serial;
}

/* Rounds of a spin: at most what a sleep and a wake-up cost where CPUs are idle.
 * One that was in vain halves the next, one that paid adds a quarter: so they go
 * down to none at all unless three of four pay, as they do not where others want
 * the CPUs. Then one sleep in SPIN_EVERY tries again, at full length: two that
 * could go on at once find out, and who waits for long loses little. */
#define SPIN_MOST 2000
#define SPIN_LEAST 200
#define SPIN_EVERY 64

uint32_t spin_rounds(struct thread *t)
{
	if (session.cpus < 2 || (t->spin == 0 && ++t->spin_skipped < SPIN_EVERY))
		return 0;
	t->spin_skipped = 0;
	return t->spin ? t->spin : SPIN_MOST;
}

void spin_over(struct thread *t, uint32_t rounds, bool paid)
{
	uint32_t next = paid ? rounds + rounds / 4 : rounds / 2;

	t->spin = next > SPIN_MOST ? SPIN_MOST : next < SPIN_LEAST ? 0 : next;
}

bool sleep_on(struct handle *h, struct call *c, uint32_t cell, int64_t deadline, int *r)
{
	int interrupted = 0;
	struct thread *t = c->thread;
	uint64_t *state = cell_at(h, cell - 1);
	uint64_t w;

	t->wait_handle = h;
	t->wait_cell = cell;
	FAIL_POINT("sleep: noted");
	/* Pairs with the barrier between removing the slot word and looking
	 * for sleepers: either the remover sees this one, or this one the
	 * removal. */
	full_barrier();
	if (unlikely(load64(h->table_word) != h->slot) && removed(h))
		interrupted = -EIDRM;
	else if (unlikely(call_disturbed()))
		interrupted = -EINTR;
	bool woken = false;
	for (unsigned spins = 0; interrupted == 0;) {
		struct timespec64 ts = far_future;
		long slept;

		w = load64(state);
		if (cell_state(w) == ABI_CELL_CLAIMED && woken &&
		    offer_accept(h, off_of(h, state), w))
			continue;
		/* The claimer commits in a moment, unless it lost its CPU. */
		if (cell_state(w) == ABI_CELL_CLAIMED && spins++ < 100) {
			if (spins < 50 && session.cpus > 1)
				cpu_relax();
			else
				SYS0(__NR_sched_yield);
			continue;
		}
		if (cell_state(w) == ABI_CELL_CANCELLED)
			interrupted = -EINTR;
		if (cell_state(w) != ABI_CELL_WAITING)
			break;
		if (deadline >= 0 && !rest_of(deadline, &ts)) {
			interrupted = -EAGAIN;
			break;
		}
		bool cancel_point = cell_kind(w) != ABI_KIND_SLEEPER && pthread_setcanceltype;
		int type;

		FAIL_POINT("sleep: before");
		store32(&t->asleep, 1);
		if (cancel_point)
			pthread_setcanceltype(CANCEL_ASYNCHRONOUS, &type);
		slept = futex_wait((uint32_t *)state, (uint32_t)w, &ts);
		if (cancel_point)
			pthread_setcanceltype(type, &type);
		store32(&t->asleep, 0);
		FAIL_POINT("sleep: woken");
		woken = slept == 0;
		if (slept == -EINTR)
			interrupted = -EINTR;
		else if (slept == -ETIMEDOUT && deadline >= 0)
			interrupted = -EAGAIN;
		else if (slept == 0 && cell_state(load64(state)) == ABI_CELL_WAITING)
			break; /* woken by one who died then: serve itself */
	}
	FAIL_POINT("sleep: over");
	w = interrupted ? cancel(state) : load64(state);
	FAIL_POINT("sleep: looked at");
	if (cell_state(w) == ABI_CELL_DONE)
		return true;
	if (interrupted == 0 && !cell_sleeps(w))
		interrupted = -EIDRM; /* taken from it by one who writes nonsense */
	if (interrupted != 0)
		*r = interrupted;
	return interrupted != 0;
}

/* A wait that this thread will not come back to, or not before this call is
 * over: for the kernel it ended when the handler began. */
void call_interrupt_wait(struct call *c)
{
	struct thread *t = c->thread;
	struct handle *h = t->wait_handle;
	uint64_t *state = cell_at(h, t->wait_cell - 1);

	if (state == NULL || cell_session(load64(state)) != session.number) {
		t->wait_cell = 0;
		return;
	}
	cancel(state);
	if (!c->nested) {
		uint32_t cell = t->wait_cell;

		t->wait_cell = 0;
		wait_leave(h, c, cell);
		cell_release(h, cell);
	}
}

static void list_of(uint64_t w, uint64_t *head, uint64_t *tail)
{
	bool sender = cell_kind(w) == ABI_KIND_SENDER;

	*head = sender ? HEADER_OFF(send_head) : HEADER_OFF(wait_head);
	*tail = sender ? HEADER_OFF(send_tail) : HEADER_OFF(wait_tail);
}

static bool listed(uint64_t w)
{
	return cell_sleeps(w) || cell_state(w) == ABI_CELL_CANCELLED;
}

uint64_t wait_leave(struct handle *h, struct call *c, uint32_t cell)
{
	if (cell == 0)
		return 0;
	uint64_t *state = cell_at(h, cell - 1);
	uint64_t off = off_of(h, state), head, tail;
	uint32_t prev;
	struct txn t;
	int r;

	if (!listed(load64(state)) || txn_init(&t, h, c, 0) < 0)
		return load64(state);
	do {
		if (txn_lock(&t) < 0)
			break;
		uint64_t w = txn_get(&t, off);

		if (cell_sleeps(w) && !txn_claim(&t, cell, &w)) {
			txn_abort(&t);
			r = -EAGAIN;
			continue;
		}
		if (cell_state(w) != ABI_CELL_CLAIMED && cell_state(w) != ABI_CELL_CANCELLED) {
			txn_abort(&t);
			break;
		}
		list_of(w, &head, &tail);
		if (list_find(&t, head, cell, &prev))
			list_remove(&t, head, tail, prev, cell);
		txn_put(&t, off, cell_turn(w, ABI_CELL_OWNED, 0));
		r = txn_commit(&t, false);
	} while (r == -EAGAIN);
	txn_done(&t);
	FAIL_POINT("leave: off the list");
	return load64(state);
}

void cell_release(struct handle *h, uint32_t cell)
{
	uint64_t *state = cell ? cell_at(h, cell - 1) : NULL;
	uint64_t w = state ? load64(state) : 0;

	if (state == NULL || (listed(w) && load64(&header_of(h)->state) == 0))
		return;
	if (cell_kind(w) == ABI_KIND_SLEEPER) {
		struct abi_sleeper_cell *s = (struct abi_sleeper_cell *)state;
		uint32_t more = s->more;

		for (uint32_t n = 0; more != 0 && n < h->cells; n++) {
			struct abi_ops_cell *o = cell_at(h, more - 1);
			uint32_t next = o ? (uint32_t)o->next : 0;

			cell_free(h, more);
			more = next;
		}
	} else if (cell_kind(w) == ABI_KIND_RECEIVER) {
		struct abi_receiver_cell *r = (struct abi_receiver_cell *)state;

		message_free(h, link_cell(r->message));
	} else if (cell_kind(w) == ABI_KIND_SENDER && cell_state(w) != ABI_CELL_DONE) {
		struct abi_sender_cell *s = (struct abi_sender_cell *)state;

		message_free(h, s->message);
	}
	cell_free(h, cell);
}

/* A requeue from the futex to itself moves nobody, and counts who is there. */
bool sleeper_asleep(struct handle *h, uint32_t cell)
{
	uint32_t *word = cell_at(h, cell - 1);

	if (word == NULL)
		return false;
	for (int tries = 0; tries < 3; tries++) {
		long n = SYS6(__NR_futex, word, FUTEX_CMP_REQUEUE, 0, 1, word, load32(word));

		if (n != -EAGAIN)
			return n == 1;
	}
	return false;
}

/* Leaves a claimed sleeper, found awake, to itself. One with a doorbell may only
 * seem dead: it is told. */
static bool refuse(uint64_t *state, uint64_t claimed)
{
	const struct abi_sleeper_cell *s = (const struct abi_sleeper_cell *)state;

	FAIL_POINT("claim: awake already");
	cas64(state, claimed, cell_turn(claimed, ABI_CELL_RETRY, 0));
	if (s->flags & ABI_SLEEPER_DOORBELL)
		doorbell_ring(cell_session(claimed));
	return false;
}

bool sleeper_rouse(struct txn *t, uint32_t cell)
{
	uint64_t *state = cell_at(t->handle, cell - 1);
	uint64_t claimed;

	if (!txn_claim(t, cell, &claimed))
		return false;
	struct abi_sleeper_cell *s = (struct abi_sleeper_cell *)state;
	FAIL_POINT("claim: claimed");
	if (s->flags & ABI_SLEEPER_DOORBELL ? !pulse_died(cell_session(claimed))
					    : futex_wake((uint32_t *)state, 1) == 1) {
		FAIL_POINT("claim: woken");
		return true;
	}
	return refuse(state, claimed);
}

bool sleeper_claim(struct txn *t, uint32_t cell)
{
	struct abi_sleeper_cell *s = cell_at(t->handle, cell - 1);

	if (t->hand != 0 || s->flags & ABI_SLEEPER_DOORBELL)
		return sleeper_rouse(t, cell);
	if (!txn_claim(t, cell, &t->hand_state))
		return false;
	FAIL_POINT("claim: claimed");
	t->hand = cell;
	return true;
}
