/* Cells of a control file: one compare-and-swap owns a cell, whatever any
 * hint or list says. */
#include "object.h"

/* Whether the cell was free, and is this session's now. */
static inline bool take(struct handle *h, uint32_t index, uint32_t kind)
{
	uint64_t *state = cell_at(h, index);
	uint64_t w = state != NULL ? load64(state) : ABI_CELL_OWNED;

	if (cell_state(w) != ABI_CELL_FREE ||
	    !cas64(state, w, cell_next(w, ABI_CELL_OWNED, kind, session.number, 0)))
		return false;
	FAIL_POINT("cell: owned");
	return true;
}

static __attribute__((noinline)) uint32_t search(struct handle *h, uint32_t kind)
{
	uint32_t cells = __atomic_load_n(&h->cells, __ATOMIC_RELAXED);
	uint64_t *hint = &header_of(h)->hint;

	if (cells == 0)
		return 0;
	/* The first cells are for logs of calls under way, when all else is taken. */
	uint32_t first = kind == KIND_LOG_RESERVE ? 0 : ABI_LOG_RESERVE;
	uint32_t i = (uint32_t)load64(hint);
	if (unlikely(i >= cells))
		i %= cells;
	if (kind == KIND_LOG_RESERVE) {
		cells = cells < ABI_LOG_RESERVE ? cells : ABI_LOG_RESERVE;
		kind = ABI_KIND_LOG;
		i = 0;
	}
	if (i < first)
		i = first;
	for (uint32_t tried = 0; tried < cells; tried++, i = i + 1 < cells ? i + 1 : first) {
		if (i >= cells)
			return 0;
		if (take(h, i, kind)) {
			store64(hint, i + 1);
			return i + 1;
		}
	}
	return 0;
}

uint32_t cell_alloc(struct handle *h, uint32_t kind)
{
	uint64_t *hint = &header_of(h)->hint;
	uint32_t i = (uint32_t)load64(hint);

	if (likely(i >= ABI_LOG_RESERVE && kind != KIND_LOG_RESERVE && take(h, i, kind))) {
		store64(hint, i + 1);
		return i + 1;
	}
	return search(h, kind);
}

void cell_free(struct handle *h, uint32_t cell)
{
	uint64_t *state = cell ? cell_at(h, cell - 1) : NULL;

	if (state == NULL)
		return;
	FAIL_POINT("cell: before it is freed");
	for (;;) {
		uint64_t w = load64(state);

		if (cell_state(w) == ABI_CELL_FREE || cell_session(w) != session.number)
			return;
		if (cas64(state, w, cell_next(w, ABI_CELL_FREE, ABI_KIND_NONE, 0, 0))) {
			FAIL_POINT("cell: freed");
			store64(&header_of(h)->hint, cell - 1);
			return;
		}
	}
}

uint32_t cell_grow(struct handle *h, uint32_t kind, int *error)
{
	for (;;) {
		uint32_t cells = h->cells;
		uint32_t cell = cell_alloc(h, kind);

		if (cell != 0)
			return cell;
		*error = handle_grow(h, cells + cells / 2 + 16, h->chunks);
		if (*error < 0)
			return 0;
	}
}
