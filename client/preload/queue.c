/* Hand-over in a queue, as pipelined_send() and ss_wakeup() in ipc/msg.c. */
#include "queue.h"

/* Entries that putting one message may take, with one to set Pending. */
#define RESERVE 12

#define NEXT_OFF offsetof(struct abi_message_cell, next)

bool queue_fits(struct txn *t, uint64_t size)
{
	return counters_fit(txn_get(t, HEADER_OFF(sent)), txn_get(t, HEADER_OFF(taken)), size,
			    t->handle->size);
}

/* Whether a receiver of that mode and type wants a message of type. */
static bool type_matches(uint32_t mode, int64_t wanted, int64_t type)
{
	switch (mode) {
	case ABI_RECEIVE_ANY:
		return true;
	case ABI_RECEIVE_EQUAL:
		return type == wanted;
	case ABI_RECEIVE_NOT_EQUAL:
		return type != wanted;
	case ABI_RECEIVE_LESS_EQ:
		return type <= wanted;
	}
	return false;
}

static void set_pending(struct txn *t, bool pending)
{
	uint64_t w = txn_get(t, HEADER_OFF(pending));

	if ((w & 1) != pending)
		txn_put(t, HEADER_OFF(pending), ((w >> 1) + 1) << 1 | pending);
}

static bool waits(uint32_t state)
{
	return state == ABI_CELL_WAITING || state == ABI_CELL_CLAIMED;
}

/* Ends a waiter's sleep: off its list, DONE. */
static void done(struct txn *t, uint64_t head, uint64_t tail, uint32_t prev, uint32_t cell,
		 uint32_t error)
{
	struct abi_sender_cell *s = cell_at(t->handle, cell - 1);
	uint64_t off = cell_off(t->handle, cell - 1);

	FAIL_POINT("queue: one served");
	list_remove(t, head, tail, prev, cell);
	txn_put(t, off, cell_turn(txn_get(t, off), ABI_CELL_DONE, error));
	if (s->flags & ABI_SLEEPER_DOORBELL)
		t->bell = cell_session(txn_get(t, off));
	t->served++;
}

/* Hands the message to the first receiver that wants it and has room. Those
 * that want it and have not are served with E2BIG. */
static bool hand_over(struct txn *t, uint32_t message, const struct abi_message_cell *m)
{
	struct handle *h = t->handle;
	uint32_t prev = 0, at = link_cell(txn_get(t, HEADER_OFF(wait_head)));

	for (uint32_t n = 0; at != 0 && at <= h->cells && n < h->cells; n++) {
		struct abi_receiver_cell *r = cell_at(h, at - 1);
		uint64_t off = cell_off(h, at - 1);
		uint32_t next = link_cell(txn_get(t, off + NEXT_OFF));
		bool served = false, wants = waits(cell_state(txn_get(t, off))) &&
					     type_matches(r->mode, r->type, m->type);

		if (wants && (t->room - t->n < RESERVE || t->bell != 0)) {
			set_pending(t, true); /* the message waits for those that are left */
			return false;
		}
		if (wants && sleeper_claim(t, at)) {
			uint32_t receiver = cell_session(txn_get(t, off));

			if (r->size >= m->size) {
				uint64_t msg = cell_off(h, message - 1);
				uint64_t link = off + offsetof(struct abi_receiver_cell, message);

				txn_put(t, link, link_next(txn_get(t, link), message));
				txn_put(t, msg,
					cell_next(txn_get(t, msg), ABI_CELL_OWNED,
						  ABI_KIND_MESSAGE, receiver, 0));
				done(t, HEADER_OFF(wait_head), HEADER_OFF(wait_tail), prev, at, 0);
				t->last_receiver = receiver;
				t->last_thread = load32(&r->thread);
				return true;
			}
			done(t, HEADER_OFF(wait_head), HEADER_OFF(wait_tail), prev, at, E2BIG);
			served = true;
		}
		if (!served)
			prev = at;
		at = next;
	}
	return false;
}

void queue_put(struct txn *t, uint32_t message, uint32_t number)
{
	struct handle *h = t->handle;
	struct abi_message_cell *m = message_at(h, message);
	uint64_t off = cell_off(h, message - 1);

	t->last_sender = number;
	if (link_cell(txn_get(t, HEADER_OFF(wait_head))) != 0 && hand_over(t, message, m))
		return;
	list_append(t, HEADER_OFF(msg_head), HEADER_OFF(msg_tail), message);
	txn_put(t, HEADER_OFF(sent), counter_add(txn_get(t, HEADER_OFF(sent)), m->size));
	txn_put(t, off, cell_turn(txn_get(t, off), ABI_CELL_QUEUED, 0));
}

void queue_serve_senders(struct txn *t)
{
	struct handle *h = t->handle;
	uint32_t prev = 0, at = link_cell(txn_get(t, HEADER_OFF(send_head)));
	bool no_room = false;

	for (uint32_t n = 0; at != 0 && at <= h->cells && n < h->cells; n++) {
		struct abi_sender_cell *s = cell_at(h, at - 1);
		uint64_t off = cell_off(h, at - 1);
		uint32_t next = link_cell(txn_get(t, off + NEXT_OFF));
		uint64_t state = txn_get(t, off);
		/* Loaded once: if we were revoked, its owner may be gone with it. */
		uint32_t message = load32(&s->message);
		struct abi_message_cell *m = message_at(h, message);
		bool refused = load32(&s->flags) & ABI_SENDER_REFUSED;

		if (refused ? !waits(cell_state(state)) || !queue_fits(t, s->size)
			    : m == NULL || !waits(cell_state(state)) || !queue_fits(t, m->size) ||
				      cell_session(load64(&m->state)) != cell_session(state)) {
			prev = at;
		} else if (t->room - t->n < 2 * RESERVE || t->served >= TXN_LOCAL - 8 || t->bell || t->hand) {
			no_room = true;
			break;
		} else if (sleeper_claim(t, at)) {
			if (!refused)
				queue_put(t, message, cell_session(state));
			done(t, HEADER_OFF(send_head), HEADER_OFF(send_tail), prev, at,
			     refused ? EACCES : 0);
		} else {
			prev = at;
		}
		at = next;
	}
	if (no_room)
		set_pending(t, true);
}

uint32_t queue_at(struct handle *h, int64_t position)
{
	uint32_t at = link_cell(load64(&header_of(h)->msg_head));

	for (uint32_t n = 0; at != 0 && at <= h->cells && n < h->cells; n++) {
		const struct abi_message_cell *m = message_at(h, at);

		if (!message_queued(m))
			break;
		if (position-- == 0)
			return at;
		at = link_cell(load64(&m->next));
	}
	return 0;
}

uint32_t queue_search(struct handle *h, uint32_t mode, int64_t type, uint32_t *prev)
{
	uint32_t before = 0, found = 0;
	uint32_t at = link_cell(load64(&header_of(h)->msg_head));

	*prev = 0;
	for (uint32_t n = 0; at != 0 && at <= h->cells && n < h->cells; n++) {
		const struct abi_message_cell *m = message_at(h, at);

		if (!message_queued(m))
			break; /* we were revoked, or a member damaged the list */
		if (type_matches(mode, type, m->type)) {
			*prev = before;
			found = at;
			/* The lowest type of all: go on for a lower one. */
			if (mode != ABI_RECEIVE_LESS_EQ || m->type == 1)
				return found;
			type = m->type - 1;
		}
		before = at;
		at = link_cell(load64(&m->next));
	}
	return found;
}

void queue_take(struct txn *t, uint32_t prev, uint32_t message, uint32_t number, uint32_t thread)
{
	uint64_t off = cell_off(t->handle, message - 1);

	list_remove(t, HEADER_OFF(msg_head), HEADER_OFF(msg_tail), prev, message);
	txn_put(t, HEADER_OFF(taken),
		counter_add(txn_get(t, HEADER_OFF(taken)), message_at(t->handle, message)->size));
	txn_put(t, off, cell_next(txn_get(t, off), ABI_CELL_OWNED, ABI_KIND_MESSAGE, number, 0));
	t->last_receiver = number;
	t->last_thread = thread;
}

/* Serves the first receiver for whom the queue has a message: a sender that had
 * no room for all whom it met left the message to it. False: there is none. */
static bool serve_receiver(struct txn *t)
{
	struct handle *h = t->handle;
	uint32_t prev = 0, at = link_cell(txn_get(t, HEADER_OFF(wait_head)));

	for (uint32_t n = 0; at != 0 && at <= h->cells && n < h->cells; n++) {
		struct abi_receiver_cell *r = cell_at(h, at - 1);
		uint64_t off = cell_off(h, at - 1), link = off + offsetof(struct abi_receiver_cell, message);
		uint64_t state = txn_get(t, off);
		uint32_t before;
		uint32_t message = waits(cell_state(state)) ? queue_find(h, r->mode, r->type, &before) : 0;

		if (message != 0 && sleeper_claim(t, at)) {
			bool room = r->size >= message_at(h, message)->size;

			if (room) {
				txn_put(t, link, link_next(txn_get(t, link), message));
				queue_take(t, before, message, cell_session(state), load32(&r->thread));
			}
			done(t, HEADER_OFF(wait_head), HEADER_OFF(wait_tail), prev, at, room ? 0 : E2BIG);
			return true;
		}
		prev = at;
		at = link_cell(txn_get(t, off + NEXT_OFF));
	}
	return false;
}

static int commit(struct txn *t)
{
	struct abi_control_header *head = header_of(t->handle);
	uint64_t sent = load64(&head->last_send), received = load64(&head->last_recv);
	uint32_t sender = t->last_sender, receiver = t->last_receiver, thread = t->last_thread;
	int r = txn_commit(t, false);

	if (r == 0 && sender != 0)
		last_touch(&head->last_send, sent, sender);
	if (r == 0 && receiver != 0)
		last_received(head, received, receiver, thread);
	return r;
}

static bool is_pending(const struct txn *t)
{
	return unlikely(load64(&header_of(t->handle)->pending) & 1);
}

/* Serves whom an earlier transaction had no room for: one receiver, or, when
 * there is none left, the senders. */
static int serve_rest(struct txn *t)
{
	t->last_sender = t->last_receiver = t->last_thread = 0;
	if (!serve_receiver(t)) {
		set_pending(t, false);
		queue_serve_senders(t);
	}
	return commit(t);
}

void queue_rest(struct txn *t)
{
	while (is_pending(t) && txn_lock(t) == 0) {
		if (!is_pending(t)) {
			txn_abort(t);
			return;
		}
		if (serve_rest(t) == -ENOMEM)
			return;
	}
}

int queue_commit(struct txn *t)
{
	int r = commit(t);

	if (r == 0)
		queue_rest(t);
	return r;
}

int queue_lock(struct txn *t)
{
	for (;;) {
		int r = txn_lock(t);

		t->last_sender = t->last_receiver = t->last_thread = 0;
		if (r < 0)
			return r;
		/* Under the lock, so that msg_qbytes is the one by which the
		 * manager looks for senders after it published another. */
		if (unlikely(!handle_valid(t->handle))) {
			txn_abort(t);
			struct handle *now = handle_open(ABI_MSG, t->handle->id, 0, &r);

			if (now == NULL)
				return r == -EINVAL ? -EIDRM : r;
			if (now != t->handle)
				return -EIDRM;
			continue;
		}
		if (likely(!is_pending(t)))
			return 0;
		serve_rest(t);
	}
}
