/* Messages in their cells and chunks. A message is filled before anything is
 * locked and copied out after: no memory of the program is touched between. */
#include "queue.h"

void last_touch(uint64_t *word, uint64_t seen, uint32_t number)
{
	uint64_t new = (uint64_t)now_seconds() << ABI_LAST_TIME_SHIFT | number;

	if (seen != new)
		cas64(word, seen, new);
}

void last_received(struct abi_control_header *head, uint64_t seen, uint32_t number, uint32_t thread)
{
	if (unlikely(thread != 0)) {
		store64(&head->recv_thread, (uint64_t)thread << ABI_LAST_TIME_SHIFT | number);
		number |= ABI_LAST_THREAD;
	}
	last_touch(&head->last_recv, seen, number);
}

static uint64_t *chunk_word(struct handle *h, uint32_t i)
{
	return (uint64_t *)(h->data + chunk_word_off(i));
}

/* A free chunk for the message, or UINT32_MAX. */
static uint32_t chunk_alloc(struct handle *h, uint32_t cell)
{
	uint32_t chunks = __atomic_load_n(&h->chunks, __ATOMIC_RELAXED);
	uint64_t *hint = &header_of(h)->chunk_hint;
	uint32_t i = (uint32_t)load64(hint);

	if (i >= chunks)
		i = 0;
	for (uint32_t tried = 0; tried < chunks; tried++, i = i + 1 < chunks ? i + 1 : 0)
		if (load64(chunk_word(h, i)) == 0 && cas64(chunk_word(h, i), 0, cell)) {
			FAIL_POINT("message: chunk owned");
			store64(hint, i + 1);
			return i;
		}
	return UINT32_MAX;
}

static uint32_t chunk_alloc_grow(struct handle *h, uint32_t cell, int *error)
{
	for (;;) {
		uint32_t chunks = h->chunks;
		uint32_t i = chunk_alloc(h, cell);

		if (i != UINT32_MAX)
			return i;
		*error = handle_grow(h, h->cells, chunks + chunks / 2 + 8);
		if (*error < 0)
			return UINT32_MAX;
	}
}

static uint32_t chunk_count(uint64_t size)
{
	return size <= ABI_MESSAGE_INLINE ? 0
					  : (uint32_t)((size + ABI_CHUNK_SIZE - 1) / ABI_CHUNK_SIZE);
}

/* The place of a message's k-th chunk number, or NULL. Walks the index cells
 * from the one before: *index is its cell, 0 while k is in the message. */
static uint32_t *chunk_place(struct handle *h, struct abi_message_cell *m, uint32_t k,
			     uint32_t *index)
{
	if (k < ABI_MESSAGE_CHUNKS)
		return (uint32_t *)m->text + k;
	k -= ABI_MESSAGE_CHUNKS;
	if (k % ABI_INDEX_CHUNKS == 0) {
		struct abi_index_cell *before = *index ? cell_at(h, *index - 1) : NULL;

		*index = before ? link_cell(load64(&before->next)) : load32(&m->more);
	}
	struct abi_index_cell *c = *index ? cell_at(h, *index - 1) : NULL;

	return c ? &c->chunks[k % ABI_INDEX_CHUNKS] : NULL;
}

/* The k-th chunk's number, UINT32_MAX if there is none; see chunk_place. */
static uint32_t chunk_number(struct handle *h, struct abi_message_cell *m, uint32_t k,
			     uint32_t *index)
{
	uint32_t *place = chunk_place(h, m, k, index);
	uint32_t chunk = place ? load32(place) : UINT32_MAX;

	return chunk < h->chunks ? chunk : UINT32_MAX;
}

/* Copies size bytes from a text into a message's chunks, or to a text out of them:
 * what lies side by side at once, for to begin a copy costs as much as a KiB of
 * it. One of from and to is NULL. */
static void chunks_copy(struct handle *h, struct abi_message_cell *m, size_t size, const char *from,
			char *to)
{
	uint32_t k = 0, index = 0, next = chunk_number(h, m, 0, &index);

	for (size_t done = 0, n; done < size; done += n) {
		uint32_t first = next;
		uint8_t *data = h->data + chunk_off(first);

		n = ABI_CHUNK_SIZE;
		while (done + n < size) {
			next = chunk_number(h, m, ++k, &index);
			if (next == UINT32_MAX || h->data + chunk_off(next) != data + n)
				break;
			n += ABI_CHUNK_SIZE;
		}
		if (n > size - done)
			n = size - done;
		FAIL_POINT("message: copy");
		if (first != UINT32_MAX && from != NULL)
			memcpy(data, from + done, n);
		else if (first != UINT32_MAX)
			memcpy(to + done, data, n);
		else if (to != NULL)
			memset(to + done, 0, n);
	}
}

/* Adds a cell for chunk numbers from the k-th on. */
static int index_add(struct handle *h, struct abi_message_cell *m, uint32_t last)
{
	int error = 0;
	uint32_t cell = cell_alloc_grow(h, ABI_KIND_INDEX, &error);

	if (cell == 0)
		return error;
	struct abi_index_cell *c = cell_at(h, cell - 1);
	store64(&c->next, link_next(c->next, 0));
	if (last == 0) {
		store32(&m->more, cell);
	} else {
		struct abi_index_cell *before = cell_at(h, last - 1);

		store64(&before->next, link_next(before->next, cell));
	}
	return 0;
}

uint32_t message_make(struct handle *h, int64_t type, const void *text, size_t size, int *error)
{
	uint32_t cell = cell_alloc_grow(h, ABI_KIND_MESSAGE, error);

	if (cell == 0)
		return 0;
	struct abi_message_cell *m = cell_at(h, cell - 1);
	uint32_t chunks = chunk_count(size), index = 0;

	if (link_cell(m->next) != 0)
		store64(&m->next, link_next(m->next, 0));
	m->type = type;
	FAIL_POINT("message: half filled");
	m->size = size;
	m->more = 0;
	if (chunks == 0) {
		memcpy(m->text, text, size);
		return cell;
	}
	memset(m->text, 0xff, sizeof m->text); /* no chunk number, should we die */
	for (uint32_t k = 0; k < chunks; k++) {
		if (k >= ABI_MESSAGE_CHUNKS && (k - ABI_MESSAGE_CHUNKS) % ABI_INDEX_CHUNKS == 0) {
			*error = index_add(h, m, index);
			if (*error < 0)
				goto fail;
		}
		uint32_t *place = chunk_place(h, m, k, &index);
		uint32_t chunk = chunk_alloc_grow(h, cell, error);

		if (chunk == UINT32_MAX || place == NULL)
			goto fail;
		store32(place, chunk);
		FAIL_POINT("message: chunk noted");
	}
	chunks_copy(h, m, size, text, NULL);
	return cell;
fail:
	message_free(h, cell);
	return 0;
}

void message_copy(struct handle *h, uint32_t cell, void *to, size_t size)
{
	struct abi_message_cell *m = message_at(h, cell);

	if (m != NULL && chunk_count(m->size) == 0)
		memcpy(to, m->text, size < ABI_MESSAGE_INLINE ? size : ABI_MESSAGE_INLINE);
	else if (m != NULL)
		chunks_copy(h, m, size, NULL, to);
}

/* Makes the index cells this session's, so that the death of their maker does
 * not free them under our eyes, then frees them. */
static void free_index(struct handle *h, struct abi_message_cell *m)
{
	uint32_t first = load32(&m->more);

	for (uint32_t at = first, n = 0; at != 0 && n < h->cells; n++) {
		struct abi_index_cell *c = cell_at(h, at - 1);

		if (c == NULL)
			break;
		uint64_t w = load64(&c->state);
		if (cell_kind(w) == ABI_KIND_INDEX)
			cas64(&c->state, w,
			      cell_next(w, ABI_CELL_OWNED, ABI_KIND_INDEX, session.number, 0));
		at = link_cell(load64(&c->next));
	}
	FAIL_POINT("message: index cells owned");
	store32(&m->more, 0);
	for (uint32_t at = first, n = 0; at != 0 && n < h->cells; n++) {
		struct abi_index_cell *c = cell_at(h, at - 1);
		uint32_t next = c ? link_cell(load64(&c->next)) : 0;

		if (c != NULL && cell_kind(load64(&c->state)) == ABI_KIND_INDEX)
			cell_free(h, at);
		at = next;
	}
}

void message_free(struct handle *h, uint32_t cell)
{
	struct abi_message_cell *m = message_at(h, cell);
	uint64_t w = m ? load64(&m->state) : 0;

	if (m == NULL || cell_kind(w) != ABI_KIND_MESSAGE || cell_state(w) != ABI_CELL_OWNED ||
	    cell_session(w) != session.number)
		return;
	uint32_t chunks = chunk_count(m->size), index = 0, first = UINT32_MAX;

	FAIL_POINT("message: before it is freed");
	for (uint32_t k = 0; k < chunks && k < ABI_MAX_CHUNKS; k++) {
		uint32_t *place = chunk_place(h, m, k, &index);
		uint32_t chunk = place ? load32(place) : UINT32_MAX;

		if (place == NULL)
			break;
		if (chunk < h->chunks && cas64(chunk_word(h, chunk), cell, 0) && chunk < first)
			first = chunk;
		FAIL_POINT("message: chunk freed");
	}
	/* The next message's text goes to where this one's is in the CPU's cache. */
	if (first != UINT32_MAX)
		store64(&header_of(h)->chunk_hint, first);
	if (load32(&m->more) != 0)
		free_index(h, m);
	cell_free(h, cell);
}
