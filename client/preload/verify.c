/* What holds of a set or queue after each transaction: see verify.h. */
#include "object.h"
#include "queue.h"

#ifdef IPCSPACE_VERIFY

/* Of one moment, as long as the lock word is the same afterwards: none of the links
 * changes but by a transaction, and no epoch comes again. Removal and moving take
 * cells from their lists without one. */
static bool holds_still(struct handle *h, uint64_t committed)
{
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return load64(&header_of(h)->lock) == committed && load64(&header_of(h)->state) == 0;
}

struct list {
	uint64_t head, tail; /* words of the header, tail 0: none */
	uint32_t kind;
	/* What each cell adds up to. */
	uint64_t cells, bytes;
};

/* The words that a sleeper names are SLOW, as far as its operations were looked at: the first. One
 * that is CANCELLED gets nothing, and may have been the only one that a word was SLOW for. */
static bool sleeper_ok(struct handle *h, const struct abi_sleeper_cell *s)
{
	return s->ops[0].num < h->sems &&
	       (load64(word_at(h, s->ops[0].num)) & (ABI_SEM_SLOW | ABI_SEM_DEAD)) != 0;
}

static bool list_ok(struct handle *h, struct list *l)
{
	uint32_t last = 0, at = link_cell(load64((uint64_t *)(h->mem + l->head)));

	for (; at != 0; l->cells++) {
		uint64_t *cell = cell_at(h, at - 1);

		if (cell == NULL || l->cells > h->cells) /* out of it, or in a circle */
			return false;
		uint64_t w = load64(cell);

		if (cell_kind(w) != l->kind)
			return false;
		switch (l->kind) {
		case ABI_KIND_MESSAGE:
			if (cell_state(w) != ABI_CELL_QUEUED)
				return false;
			l->bytes += ((struct abi_message_cell *)cell)->size;
			break;
		case ABI_KIND_UNDO:
			if (cell_state(w) != ABI_CELL_OWNED)
				return false;
			break;
		default:
			if (!cell_sleeps(w) && cell_state(w) != ABI_CELL_CANCELLED)
				return false;
			if (l->kind == ABI_KIND_SLEEPER && cell_sleeps(w) &&
			    !sleeper_ok(h, (struct abi_sleeper_cell *)cell))
				return false;
		}
		last = at;
		at = link_cell(load64(cell + 1));
	}
	if (l->kind == ABI_KIND_MESSAGE && last == 0)
		return true; /* its tail does not count */
	return l->tail == 0 || link_cell(load64((uint64_t *)(h->mem + l->tail))) == last;
}

void verify(struct handle *h, uint64_t committed)
{
	struct list set[] = {{HEADER_OFF(wait_head), HEADER_OFF(wait_tail), ABI_KIND_SLEEPER, 0, 0},
			     {HEADER_OFF(undo_head), 0, ABI_KIND_UNDO, 0, 0}};
	struct list queue[] = {{HEADER_OFF(msg_head), HEADER_OFF(msg_tail), ABI_KIND_MESSAGE, 0, 0},
			       {HEADER_OFF(wait_head), HEADER_OFF(wait_tail), ABI_KIND_RECEIVER, 0, 0},
			       {HEADER_OFF(send_head), HEADER_OFF(send_tail), ABI_KIND_SENDER, 0, 0}};
	bool ok = true;

	handle_room(h);
	if (h->family == ABI_SEM) {
		ok = list_ok(h, &set[0]) && list_ok(h, &set[1]);
	} else {
		for (int i = 0; i < 3; i++)
			ok = ok && list_ok(h, &queue[i]);
		uint64_t sent = load64(&header_of(h)->sent), taken = load64(&header_of(h)->taken);

		ok = ok && queue_count(sent, taken) == queue[0].cells &&
		     queue_bytes(sent, taken) == queue[0].bytes;
	}
	if (!ok && holds_still(h, committed))
		__builtin_trap();
}

#else
typedef int nothing_in_this_file;
#endif
