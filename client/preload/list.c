/* Lists of cells: links that change in transactions. */
#include "object.h"

void list_append(struct txn *t, uint64_t head_off, uint64_t tail_off, uint32_t cell)
{
	struct handle *h = t->handle;
	uint64_t tail = txn_get(t, tail_off);
	uint64_t next_off = cell_off(h, cell - 1) + offsetof(struct abi_sleeper_cell, next);

	if (link_cell(txn_get(t, next_off)) != 0)
		txn_put(t, next_off, link_next(txn_get(t, next_off), 0));
	if (link_cell(txn_get(t, head_off)) == 0 || link_cell(tail) == 0 ||
	    link_cell(tail) > h->cells) {
		txn_put(t, head_off, link_next(txn_get(t, head_off), cell));
	} else {
		uint64_t last = cell_off(h, link_cell(tail) - 1) +
				offsetof(struct abi_sleeper_cell, next);

		txn_put(t, last, link_next(txn_get(t, last), cell));
	}
	txn_put(t, tail_off, link_next(tail, cell));
}

void list_remove(struct txn *t, uint64_t head_off, uint64_t tail_off, uint32_t prev, uint32_t cell)
{
	struct handle *h = t->handle;
	uint64_t next_off = cell_off(h, cell - 1) + offsetof(struct abi_sleeper_cell, next);
	uint32_t next = link_cell(txn_get(t, next_off));
	uint64_t from = prev == 0 ? head_off
				  : cell_off(h, prev - 1) + offsetof(struct abi_sleeper_cell, next);

	txn_put(t, from, link_next(txn_get(t, from), next));
	if (tail_off != 0 && link_cell(txn_get(t, tail_off)) == cell)
		txn_put(t, tail_off, link_next(txn_get(t, tail_off), prev));
}

bool list_find(struct txn *t, uint64_t head_off, uint32_t cell, uint32_t *prev)
{
	struct handle *h = t->handle;
	uint32_t at = link_cell(txn_get(t, head_off));

	*prev = 0;
	for (uint32_t n = 0; at != 0 && at <= h->cells && n < h->cells; n++) {
		if (at == cell)
			return true;
		*prev = at;
		at = link_cell(txn_get(t, cell_off(h, at - 1) +
						  offsetof(struct abi_sleeper_cell, next)));
	}
	return false;
}
