/* msgsnd, as do_msgsnd() in ipc/msg.c. */
#include "queue.h"
#include "quick.h"

struct user_message {
	int64_t type;
	char text[];
};

/* Puts the sender's cell to sleep, or the message into the queue. cell: 0, or
 * the sender's own, in the list. Returns 1 to sleep. */
static int attempt(struct txn *t, uint32_t message, uint32_t *cell, uint32_t spare, bool nowait,
		   bool *again)
{
	struct handle *h = t->handle;
	uint64_t off = *cell ? cell_off(h, *cell - 1) : 0, claimed = 0;
	struct abi_message_cell *m = message_at(h, message);
	uint32_t prev;
	int verdict = 0;

	*again = true;
	if (*cell != 0 && !txn_claim(t, *cell, &claimed)) {
		txn_abort(t);
		*again = cell_sleeps(load64((uint64_t *)(h->mem + off)));
		return 1;
	}
	if (queue_fits(t, m->size)) {
		if (*cell != 0) {
			if (list_find(t, HEADER_OFF(send_head), *cell, &prev))
				list_remove(t, HEADER_OFF(send_head), HEADER_OFF(send_tail), prev,
					    *cell);
			txn_put(t, off, cell_turn(claimed, ABI_CELL_OWNED, 0));
		}
		queue_put(t, message, session.number);
	} else if (*cell != 0) {
		txn_put(t, off, cell_turn(claimed, ABI_CELL_WAITING, 0));
		verdict = 1;
	} else if (nowait || spare == 0) {
		txn_abort(t);
		*again = false;
		return nowait ? -EAGAIN : 1;
	} else {
		list_append(t, HEADER_OFF(send_head), HEADER_OFF(send_tail), spare);
		txn_put(t, cell_off(h, spare - 1),
			cell_turn(txn_get(t, cell_off(h, spare - 1)), ABI_CELL_WAITING, 0));
		verdict = 1;
	}
	int r = queue_commit(t);

	if (r == -EAGAIN)
		return 0;
	*again = false;
	if (r == 0 && verdict == 1 && *cell == 0)
		*cell = spare;
	return r < 0 ? r : verdict;
}

static uint32_t make_sender(struct handle *h, uint32_t message, uint64_t size, int *error)
{
	uint32_t cell = cell_alloc_grow(h, ABI_KIND_SENDER, error);

	if (cell != 0) {
		struct abi_sender_cell *s = cell_at(h, cell - 1);

		s->flags = 0;
		s->message = message;
		s->size = size;
	}
	return cell;
}

/* Appends a message where no receiver waits and it fits, without the lock. */
static int send_at_once(struct handle *h, struct call *c, uint32_t message)
{
	struct abi_control_header *head = header_of(h);
	struct abi_message_cell *m = message_at(h, message);
	struct quick q;

	/* In this order: see queue_lock. */
	if (c->nested)
		return QUICK_LOCK;
	if (!quick_begin(&q, h, c->thread))
		return quick_not_begun(&q);
	if (!handle_valid(h))
		return QUICK_LOCK;
	uint64_t sent = load64(&head->sent), last_send = load64(&head->last_send);
	uint64_t first = load64(&head->msg_head), tail = load64(&head->msg_tail);
	struct abi_message_cell *last = message_at(h, link_cell(tail));

	if (!counters_fit(sent, load64(&head->taken), m->size, h->size))
		return QUICK_LOCK;
	if (link_cell(first) == 0 || last == NULL)
		quick_put(&q, HEADER_OFF(msg_head), first, link_next(first, message));
	else
		quick_put_next(&q, off_of(h, &last->next), message);
	quick_put(&q, HEADER_OFF(msg_tail), tail, link_next(tail, message));
	quick_put(&q, HEADER_OFF(sent), sent, counter_add(sent, m->size));
	quick_put(&q, off_of(h, m), m->state, cell_turn(m->state, ABI_CELL_QUEUED, 0));
	if (!quick_commit(&q, 4))
		return QUICK_LOST;
	last_touch(&head->last_send, last_send, session.number);
	return QUICK_DONE;
}

static int send_direct(struct handle *h, struct call *c, int64_t type, const void *text,
		       size_t size, int flags)
{
	uint32_t cell = 0, spare = 0;
	int r;
	struct txn t;
	bool again;
	uint32_t message = message_make(h, type, text, size, &r);

	if (message == 0)
		return r;
	for (unsigned tries = 0;; tries++) {
		int outcome = send_at_once(h, c, message);

		if (likely(outcome == QUICK_DONE))
			return 0;
		if (!quick_again(c->thread, outcome, tries))
			break;
	}
	r = txn_init(&t, h, c, 0);
	if (r < 0) {
		message_free(h, message);
		return r;
	}
	for (;;) {
		r = queue_lock(&t);
		if (r < 0)
			break;
		r = attempt(&t, message, &cell, spare, flags & IPC_NOWAIT, &again);
		if (again)
			continue;
		if (r != 1)
			break;
		if (cell == 0) {
			spare = make_sender(h, message, size, &r);
			if (spare == 0)
				break;
			continue;
		}
		spare = 0;
		if (sleep_on(h, c, cell, -1, &r))
			break;
	}
	if (cell == 0)
		cell = spare;
	uint64_t end = wait_leave(h, c, cell);
	if (cell_state(end) == ABI_CELL_DONE) {
		r = -(int)cell_errno(end);
		queue_rest(&t);
	}
	txn_done(&t);
	if (cell_state(end) == ABI_CELL_OWNED) /* the message is this call's, not the waiter's */
		((struct abi_sender_cell *)cell_at(h, cell - 1))->message = 0;
	cell_release(h, cell);
	c->thread->wait_cell = 0;
	if (r != 0)
		message_free(h, message);
	return r;
}

static int brokered(int id, int64_t type, const void *text, size_t size, int flags, bool slept)
{
	struct exchange x = {.request = {.kind = ABI_MSG_SEND,
					 .len = (uint32_t)size,
					 .arg = {id, type, flags, slept}},
			     .data = text};

	return channel_brokered(&x, -1);
}

static int do_msgsnd(struct call *c, int id, const struct user_message *msg, size_t size, int flags)
{
	unsigned tries = 0;

	bool known = user_known(c->thread->readable, msg, sizeof msg->type + size);

	if (!known && !user_readable(c->thread, &msg->type, sizeof msg->type))
		return -EFAULT;
	int64_t type = msg->type;

	if (size > session.table->msg_max || (int64_t)size < 0 || id < 0 || type < 1)
		return -EINVAL;
	if (!known && !user_readable(c->thread, msg->text, size))
		return -EFAULT;
	call_calm(c);
	streak_goes_on(c->thread, true);
	for (;;) {
		int r = 0;
		struct handle *h = handle_get(ABI_MSG, id, &r);

		if (h == NULL)
			return tries ? -EIDRM : r;
		/* A call that slept learns that it may not send when there is room. */
		bool slept = tries != 0 && !(flags & IPC_NOWAIT);
		bool refused = !(h->rights & ABI_ACCESS_WRITE);
		if (refused && !slept)
			return -EACCES;
		if (refused || h->mem == NULL)
			return brokered(id, type, msg->text, size, flags, slept);
		r = send_direct(h, c, type, msg->text, size, flags);
		if ((r == -EIDRM || r == -SERVED_MOVED) && object_gone(h, &tries) == 0)
			continue;
		return r == -SERVED_MOVED ? -EIDRM : r;
	}
}

EXPORT int msgsnd(int id, const void *msg, size_t size, int flags)
{
	if (unlikely(session_ready() < 0))
		return (int)finish(session_refused() ? -ENOSYS
						     : SYS4(__NR_msgsnd, id, msg, size, flags));
	cancellation_point();
	struct call c;

	call_begin(&c);
	int r = do_msgsnd(&c, id, msg, size, flags);

	call_end(&c);
	return likely(r == 0) ? 0 : (int)finish(r);
}
