/* msgrcv, as do_msgrcv(), find_msg() and convert_mode() in ipc/msg.c. */
#include "queue.h"
#include "quick.h"
#include "session.h"

struct user_message {
	int64_t type;
	char text[];
};

struct wanted {
	uint32_t mode;
	int64_t type;
	uint64_t room;	/* of the program's buffer */
	uint64_t limit; /* longest message taken */
	bool nowait, copy;
};

/* A message that was taken: its cell, or all of it if the cell is free already. */
struct taken {
	uint32_t cell; /* index + 1, this session's; 0: none */
	bool here;     /* what follows counts */
	int64_t type;
	uint64_t size;
	char text[ABI_MESSAGE_INLINE];
};

static struct wanted convert(size_t room, int64_t type, int flags)
{
	struct wanted w = {.mode = ABI_RECEIVE_EQUAL,
			   .type = type,
			   .room = room,
			   .limit = flags & MSG_NOERROR ? UINT64_MAX : room,
			   .nowait = flags & IPC_NOWAIT,
			   .copy = flags & MSG_COPY};

	if (type == 0) {
		w.mode = ABI_RECEIVE_ANY;
	} else if (type < 0) {
		w.mode = ABI_RECEIVE_LESS_EQ;
		w.type = type == INT64_MIN ? INT64_MAX : -type;
	} else if (flags & MSG_EXCEPT) {
		w.mode = ABI_RECEIVE_NOT_EQUAL;
	}
	return w;
}

/* For msg_lrpid: this thread, which sleeps in msgrcv, or would on the kernel. 0:
 * it is its process's first. */
static uint32_t sleeping_thread(void)
{
	uint32_t tid = thread_id();

	return tid == load32(&session.page->pid) ? 0 : tid;
}

/* Takes a message: *message is its cell, this session's then. Or puts the
 * receiver to sleep: returns 1. */
static int attempt(struct txn *t, const struct wanted *w, uint32_t *cell, uint32_t spare,
		   uint32_t *message, bool *again)
{
	struct handle *h = t->handle;
	uint64_t off = *cell ? cell_off(h, *cell - 1) : 0, claimed = 0;
	uint32_t prev, found;
	int verdict = 0;

	*again = true;
	if (*cell != 0 && !txn_claim(t, *cell, &claimed)) {
		txn_abort(t);
		*again = cell_sleeps(load64((uint64_t *)(h->mem + off)));
		return 1;
	}
	found = queue_find(h, w->mode, w->type, &prev);
	if (found != 0 && message_at(h, found)->size > w->limit) {
		verdict = -E2BIG;
	} else if (found != 0) {
		queue_take(t, prev, found, session.number, *cell != 0 ? sleeping_thread() : 0);
	} else if (w->nowait) {
		verdict = -ENOMSG;
	} else {
		verdict = 1;
	}
	if (*cell == 0 && (verdict < 0 || (verdict == 1 && spare == 0))) {
		txn_abort(t);
		*again = false;
		return verdict;
	}
	if (*cell != 0) {
		uint32_t before;

		if (verdict != 1 && list_find(t, HEADER_OFF(wait_head), *cell, &before))
			list_remove(t, HEADER_OFF(wait_head), HEADER_OFF(wait_tail), before, *cell);
		txn_put(t, off,
			cell_turn(claimed, verdict == 1 ? ABI_CELL_WAITING : ABI_CELL_OWNED, 0));
		/* Off the list before others are served: a message of theirs
		 * must not be offered to this very cell. */
	} else if (verdict == 1) {
		list_append(t, HEADER_OFF(wait_head), HEADER_OFF(wait_tail), spare);
		txn_put(t, cell_off(h, spare - 1),
			cell_turn(txn_get(t, cell_off(h, spare - 1)), ABI_CELL_WAITING, 0));
	}
	if (verdict == 0 && link_cell(txn_get(t, HEADER_OFF(send_head))) != 0)
		queue_serve_senders(t);
	int r = queue_commit(t);

	if (r == -EAGAIN)
		return 0;
	*again = false;
	if (r == 0 && verdict == 1 && *cell == 0)
		*cell = spare;
	if (r == 0 && verdict == 0)
		*message = found;
	return r < 0 ? r : verdict;
}

static uint32_t make_receiver(struct handle *h, const struct wanted *w, int *error)
{
	uint32_t cell = cell_alloc_grow(h, ABI_KIND_RECEIVER, error);

	if (cell != 0) {
		struct abi_receiver_cell *r = cell_at(h, cell - 1);

		r->flags = 0;
		r->mode = w->mode;
		r->thread = sleeping_thread();
		r->type = w->type;
		r->size = w->limit;
		store64(&r->message,
			(r->state >> ABI_CELL_VERSION_SHIFT) << (ABI_LINK_VERSION_SHIFT + 1));
	}
	return cell;
}

/* Waits a moment for a message that w wants; those of other types may be there. */
static bool spin_for(struct thread *t, struct handle *h, const struct wanted *w)
{
	const struct abi_control_header *head = header_of(h);
	uint32_t rounds = spin_rounds(t), prev;
	uint64_t seen = 0;

	for (uint32_t i = 0; i < rounds; i++) {
		uint64_t sent = load64(&head->sent);

		if (sent != seen && queue_find(h, w->mode, w->type, &prev) != 0) {
			spin_over(t, rounds, true);
			if (t->streak >= STREAM)
				quick_step_aside(t);
			return true;
		}
		seen = sent;
		if (link_cell(load64(&head->wait_head)) != 0)
			break; /* others come first */
		cpu_relax();
	}
	if (rounds != 0)
		spin_over(t, rounds, false);
	return false;
}

/* Takes a message that is there, without the lock. QUICK_DONE and *got, or
 * another outcome, or -errno. thread: as in last_received.
 *
 * A short message is read before it is taken: what was read is right if nobody
 * was faster, and then its cell is free with the same transaction. */
static inline __attribute__((always_inline)) int take_at_once(struct handle *h, struct call *c, const struct wanted *w, uint32_t thread,
			struct taken *got)
{
	struct abi_control_header *head = header_of(h);
	struct quick q;
	uint32_t prev;

	/* In this order: see queue_lock. */
	if (c->nested)
		return QUICK_LOCK;
	if (!quick_begin(&q, h, c->thread))
		return quick_not_begun(&q);
	if (!handle_valid(h) || link_cell(load64(&head->send_head)) != 0)
		return QUICK_LOCK;
	uint64_t taken = load64(&head->taken), last_recv = load64(&head->last_recv);
	uint64_t tail = load64(&head->msg_tail);
	uint32_t found = queue_find(h, w->mode, w->type, &prev);
	struct abi_message_cell *m = message_at(h, found), *before = message_at(h, prev);

	if (m == NULL)
		return !quick_holds(&q) ? QUICK_LOST : w->nowait ? -ENOMSG : QUICK_LOCK;
	uint64_t size = m->size, state = load64(&m->state);
	const char *after = (const char *)message_at(h, link_cell(load64(&m->next)));

	if (after != NULL) { /* another CPU has just filled it: it comes while this one is taken */
		__builtin_prefetch(after);
		__builtin_prefetch(after + 64);
	}

	if (size > w->limit)
		return quick_holds(&q) ? -E2BIG : QUICK_LOST;
	quick_put_next(&q, before ? off_of(h, &before->next) : HEADER_OFF(msg_head),
		       link_cell(load64(&m->next)));
	/* With no message left the tail does not count. */
	bool shorter = unlikely(link_cell(tail) == found && before != NULL);
	if (shorter)
		quick_put(&q, HEADER_OFF(msg_tail), tail, link_next(tail, prev));
	quick_put(&q, HEADER_OFF(taken), taken, counter_add(taken, size));
	bool brief = likely(size <= ABI_MESSAGE_INLINE);
	uint64_t ours = cell_next(state, ABI_CELL_OWNED, ABI_KIND_MESSAGE, session.number, 0);
	uint64_t none = cell_next(state, ABI_CELL_FREE, ABI_KIND_NONE, 0, 0);

	quick_put(&q, off_of(h, m), state, brief ? none : ours);
	if (brief) {
		got->type = m->type;
		got->size = size;
		memcpy(got->text, m->text, size);
	}
	if (!(shorter ? quick_commit(&q, 4) : quick_commit(&q, 3)))
		return QUICK_LOST;
	got->here = brief;
	if (brief)
		store64(&head->hint, found - 1);
	else
		got->cell = found;
	last_received(head, last_recv, session.number, thread);
	return QUICK_DONE;
}

static int take_quickly(struct handle *h, struct call *c, const struct wanted *w, uint32_t thread,
			struct taken *got)
{
	for (unsigned tries = 0;; tries++) {
		int r = take_at_once(h, c, w, thread, got);

		if (!quick_again(c->thread, r, tries))
			return r;
	}
}

/* The message that was handed to this session's cell: the cell lets go of it. */
static uint32_t handed_over(struct handle *h, uint32_t cell)
{
	struct abi_receiver_cell *own = cell_at(h, cell - 1);
	uint64_t w = load64(&own->message);

	store64(&own->message, link_next(w, 0));
	return link_cell(w);
}

/* 0 and *got, or -errno. */
static int receive_direct(struct handle *h, struct call *c, const struct wanted *w,
			  struct taken *got)
{
	uint32_t cell = 0, spare = 0;
	int r;
	struct txn t;
	bool again;

	got->cell = 0;
	got->here = false;
	r = take_quickly(h, c, w, 0, got);
	if (likely(r <= QUICK_DONE))
		return r;
	if (!w->nowait && spin_for(c->thread, h, w)) {
		r = take_quickly(h, c, w, sleeping_thread(), got);
		if (r <= QUICK_DONE)
			return r;
	}
	r = txn_init(&t, h, c, 0);
	if (r < 0)
		return r;
	for (;;) {
		r = queue_lock(&t);
		if (r < 0)
			break;
		r = attempt(&t, w, &cell, spare, &got->cell, &again);
		if (again)
			continue;
		if (r != 1)
			break;
		if (cell == 0) {
			spare = make_receiver(h, w, &r);
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
		handle_room(h);
		if (r == 0)
			got->cell = handed_over(h, cell);
		queue_rest(&t);
	}
	txn_done(&t);
	cell_release(h, cell);
	c->thread->wait_cell = 0;
	return r;
}

/* MSG_COPY: a look at the message at position w->type, which stays. */
static int64_t copy_direct(struct handle *h, struct call *c, const struct wanted *w,
			   struct user_message *to, bool noerror)
{
	struct txn t;
	int64_t r = txn_init(&t, h, c, 0);

	if (r < 0)
		return r;
	do {
		r = queue_lock(&t);
		if (r < 0)
			break;
		uint32_t found = queue_at(h, w->type);
		struct abi_message_cell *m = message_at(h, found);

		if (m == NULL)
			r = -ENOMSG;
		else if (m->size > w->room)
			r = noerror ? -EINVAL : -E2BIG;
		else if (!user_writable(c->thread, to, sizeof to->type + m->size))
			r = -EFAULT;
		else {
			to->type = m->type;
			r = (int64_t)m->size;
			message_copy(h, found, to->text, m->size);
		}
		if (!txn_abort(&t))
			r = -EAGAIN; /* revoked: what was copied may be another's */
	} while (r == -EAGAIN);
	txn_done(&t);
	return r;
}

/* A buffer may be shorter than it is said to be, as long as the message is, too:
 * then the text goes by way of another. */
static int64_t brokered(struct call *c, int id, struct user_message *to, size_t room, int64_t type,
			int flags)
{
	size_t limit = room < ABI_MAX_PACKET ? room : ABI_MAX_PACKET;
	bool whole = user_writable(c->thread, to, sizeof to->type + limit);
	long text = whole ? (long)to->text
			  : SYS6(__NR_mmap, 0, sizeof to->type + limit, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (!whole && is_error(text))
		return -ENOMEM;
	struct exchange x = {.request = {.kind = ABI_MSG_RECEIVE,
					 .arg = {id, (int64_t)room, type, flags}},
			     .reply_data = (void *)text,
			     .reply_room = (uint32_t)limit};
	int64_t r = channel_brokered(&x, -1);

	if (r >= 0) {
		r = x.reply.val[0];
		if (whole || user_writable(c->thread, to, sizeof to->type + (size_t)r)) {
			to->type = x.reply.val[1];
			if (!whole)
				memcpy(to->text, (void *)text, (size_t)r);
		} else {
			r = -EFAULT;
		}
	}
	if (!whole)
		SYS2(__NR_munmap, text, sizeof to->type + limit);
	return r;
}

/* Copies the message out and frees it: it is taken, whatever the buffer is. */
static int64_t deliver(struct handle *h, struct call *c, const struct taken *got, size_t room,
		       struct user_message *to)
{
	struct abi_message_cell *m = message_at(h, got->cell);
	uint64_t size = got->here ? got->size : m != NULL ? m->size : 0;
	int64_t r = -EFAULT;

	if (size > room)
		size = room;
	if ((got->here || m != NULL) && user_writable(c->thread, to, sizeof to->type + size)) {
		to->type = got->here ? got->type : m->type;
		if (got->here)
			memcpy(to->text, got->text, size);
		else
			message_copy(h, got->cell, to->text, size);
		r = (int64_t)size;
	}
	if (!got->here)
		message_free(h, got->cell);
	streak_goes_on(c->thread, false);
	return r;
}

static int64_t do_msgrcv(struct call *c, int id, struct user_message *to, size_t room, int64_t type,
			 int flags)
{
	struct wanted w = convert(room, type, flags);
	unsigned tries = 0;

	if (id < 0 || (int64_t)room < 0)
		return -EINVAL;
	if (w.copy && ((flags & MSG_EXCEPT) || !w.nowait))
		return -EINVAL;
	if (w.copy) {
		uint64_t max = session.table->msg_max;

		if (w.room > max)
			w.room = max;
		/* prepare_copy reads what it is to write to. */
		if (w.room != 0 && !user_readable(c->thread, to, w.room))
			return -EFAULT;
		w.type = type;
	}
	call_calm(c);
	for (;;) {
		int r = 0;
		struct taken got;
		struct handle *h = handle_get(ABI_MSG, id, &r);

		if (h == NULL)
			return tries ? -EIDRM : r;
		if (!(h->rights & ABI_ACCESS_READ))
			return -EACCES;
		if (h->mem == NULL)
			return brokered(c, id, to, room, type, flags);
		if (w.copy)
			r = (int)copy_direct(h, c, &w, to, flags & MSG_NOERROR);
		else
			r = receive_direct(h, c, &w, &got);
		if ((r == -EIDRM || r == -SERVED_MOVED) && object_gone(h, &tries) == 0)
			continue;
		if (r == -SERVED_MOVED)
			return -EIDRM;
		return r < 0 || w.copy ? r : deliver(h, c, &got, room, to);
	}
}

EXPORT long msgrcv(int id, void *msg, size_t room, long type, int flags)
{
	if (unlikely(session_ready() < 0))
		return finish(session_refused() ? -ENOSYS
						: SYS5(__NR_msgrcv, id, msg, room, type, flags));
	cancellation_point();
	struct call c;

	call_begin(&c);
	int64_t r = do_msgrcv(&c, id, msg, room, type, flags);

	call_end(&c);
	return likely(r >= 0) ? r : finish(r);
}
