/*
 * What this process has mapped of segments, and its counts in the session's
 * page, which the manager reads for nattch. A child of fork inherits the pieces
 * as it inherits the mappings.
 */
#include "attach.h"

#define PIECES_ROOM (1U << 16)

static struct piece *pieces;
static uint32_t pieces_end; /* no piece was ever taken from here on */
uint32_t pieces_live;

static struct piece *table(void)
{
	struct piece *p = __atomic_load_n(&pieces, __ATOMIC_ACQUIRE);

	if (likely(p != NULL))
		return p;
	p = room_anonymous(PIECES_ROOM * sizeof *p);
	if (p != NULL && !__sync_bool_compare_and_swap(&pieces, NULL, p))
		SYS2(__NR_munmap, p, PIECES_ROOM * sizeof *p);
	return __atomic_load_n(&pieces, __ATOMIC_ACQUIRE);
}

struct piece *piece_take(void)
{
	struct piece *p = table();

	for (uint32_t i = 0; p != NULL && i < PIECES_ROOM; i++) {
		uint32_t end = load32(&pieces_end);

		if (load32(&p[i].state) != PIECE_FREE ||
		    !cas32(&p[i].state, PIECE_FREE, PIECE_TAKEN))
			continue;
		while (end <= i && !cas32(&pieces_end, end, i + 1))
			end = load32(&pieces_end);
		return &p[i];
	}
	return NULL;
}

void piece_publish(struct piece *p)
{
	__atomic_fetch_add(&pieces_live, 1, __ATOMIC_ACQ_REL);
	store32(&p->state, PIECE_LIVE);
}

struct piece *piece_next(struct piece *p)
{
	struct piece *all = __atomic_load_n(&pieces, __ATOMIC_ACQUIRE);

	for (p = p ? p + 1 : all; p != NULL && p < all + load32(&pieces_end); p++)
		if (load32(&p->state) == PIECE_LIVE)
			return p;
	return NULL;
}

struct abi_use *use_of(uint64_t serial)
{
	struct abi_use *uses = session.page->uses, *unused = NULL;

	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < ABI_PAGE_USES; i++) {
			if (uses[i].serial == serial)
				return &uses[i];
			if (unused == NULL && uses[i].serial == 0)
				unused = &uses[i];
		}
		if (unused != NULL) {
			unused->count = 0;
			unused->atime = unused->dtime = 0;
			store64(&unused->serial, serial);
			return unused;
		}
		/* The manager takes over the times of those used no more. */
		attach_exclude();
		int r = channel_simple(ABI_MSG_FOLD, 0, 0, 0, 0, NULL);
		attach_include();
		if (r < 0)
			break;
	}
	return NULL;
}

void tell_if_doomed(uint32_t id, uint64_t serial)
{
	struct abi_record r;
	uint64_t slot;

	full_barrier();
	if (table_record(ABI_SHM, id, &r, &slot) && r.serial == serial &&
	    ((r.mode & ABI_MODE_DEST) || (load32(&session.table->flags) & ABI_TABLE_FLAG_RMID_FORCED)))
		channel_simple(ABI_MSG_DETACHED, id, 0, 0, 0, NULL);
}

bool piece_count_out(struct piece *p)
{
	struct abi_use *uses = session.page->uses;
	uint64_t serial = p->serial;

	if (!cas32(&p->state, PIECE_LIVE, PIECE_FREE))
		return false;
	__atomic_fetch_sub(&pieces_live, 1, __ATOMIC_ACQ_REL);
	FAIL_POINT("detach: freed");
	for (int i = 0; i < ABI_PAGE_USES; i++)
		if (uses[i].serial == serial && load32(&uses[i].count) > 0) {
			uses[i].dtime = now_real();
			use_add(&uses[i], UINT32_MAX);
			break;
		}
	FAIL_POINT("detach: counted");
	return true;
}

void piece_gone(struct piece *p)
{
	struct piece seen = *p;

	if (piece_count_out(p))
		tell_if_doomed(seen.id, seen.serial);
}
