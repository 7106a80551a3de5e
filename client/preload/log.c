/* Log cells: the redo record that lets others carry out a transaction. */
#include "transaction.h"

/* In the place of another object's. Not for nested calls: the other may be
 * under way below. */
uint32_t log_keep(struct thread *t, struct handle *h)
{
	unsigned slot = log_slot(h);
	struct handle *other = t->log[slot].handle;
	uint32_t cell = t->log[slot].cell;

	/* siglongjmp may end this anywhere: the place is empty while it changes. */
	t->log[slot].cell = 0;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	if (t->session != session.number) {
		memset(t->log, 0, sizeof t->log);
		t->session = session.number;
	} else if (cell != 0 && t->log[slot].serial == other->serial && handle_valid(other)) {
		lock_help(other); /* siglongjmp may have left it committed */
		cell_free(other, cell);
	}
	cell = cell_alloc(h, ABI_KIND_LOG);
	FAIL_POINT("log: cell found");
	t->log[slot].handle = h;
	t->log[slot].serial = h->serial;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	t->log[slot].cell = cell;
	FAIL_POINT("log: cell kept");
	return cell;
}

bool log_write(struct txn *t, uint32_t *chain)
{
	struct handle *h = t->handle;
	struct abi_log_cell *log = cell_at(h, t->log - 1);
	uint32_t done = 0;

	*chain = 0;
	for (;;) {
		uint32_t n = t->n - done;

		if (n > ABI_LOG_ENTRIES)
			n = ABI_LOG_ENTRIES;
		for (uint32_t i = 0; i < n; i++)
			log_put(&log->entries[i], &t->entries[done + i]);
		store64(&log->count, n);
		FAIL_POINT("log: cell written");
		done += n;
		if (done == t->n) {
			log_set_next(log, 0);
			return true;
		}
		uint32_t more = cell_alloc(h, ABI_KIND_LOG);
		if (more == 0)
			more = cell_alloc(h, KIND_LOG_RESERVE);
		log_set_next(log, more);
		if (*chain == 0)
			*chain = more;
		if (more == 0)
			return false;
		log = cell_at(h, more - 1);
		log_set_next(log, 0);
	}
}

void log_free_chain(struct handle *h, uint32_t chain)
{
	for (uint32_t n = 0; chain != 0 && n < ABI_MAX_CELLS; n++) {
		struct abi_log_cell *log = cell_at(h, chain - 1);
		uint32_t next = log ? (uint32_t)load64(&log->next) : 0;

		cell_free(h, chain);
		chain = next;
	}
}
