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

/* This process's counts. NULL: it is a child that has not called yet. Then it counts
 * what it has. */
static struct abi_use *own_uses(void)
{
	return session.page != NULL && load32(session.alive) == 1 ? session.page->uses : NULL;
}

struct abi_use *use_of(uint64_t serial)
{
	struct abi_use *uses = own_uses(), *unused = NULL;

	if (uses == NULL)
		return NULL;
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
	struct abi_use *uses = own_uses();
	uint64_t serial = p->serial;

	if (!cas32(&p->state, PIECE_LIVE, PIECE_FREE))
		return false;
	__atomic_fetch_sub(&pieces_live, 1, __ATOMIC_ACQ_REL);
	FAIL_POINT("detach: freed");
	for (int i = 0; uses != NULL && i < ABI_PAGE_USES; i++)
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

	if (piece_count_out(p) && own_uses() != NULL)
		tell_if_doomed(seen.id, seen.serial);
}

/* --- where they are ---------------------------------------------------- */

bool piece_overlaps(const struct piece *p, uintptr_t addr, size_t length)
{
	return p->addr < addr + length && addr < p->addr + p->length;
}

struct piece *piece_at(uintptr_t addr, uintptr_t *next)
{
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p)) {
		if (addr - p->addr < p->length)
			return p;
		if (p->addr > addr && p->addr < *next)
			*next = p->addr;
	}
	return NULL;
}

bool concerns_pieces(uintptr_t addr, size_t length)
{
	if (likely(__atomic_load_n(&pieces_live, __ATOMIC_ACQUIRE) == 0) || length == 0)
		return false;
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p))
		if (piece_overlaps(p, addr, length))
			return true;
	return false;
}

void pieces_follow(void)
{
	control_lock();
	attach_exclude();
}

void pieces_followed(void)
{
	attach_include();
	control_unlock();
}

void count_in(uint64_t serial)
{
	struct abi_use *use = use_of(serial);

	if (use != NULL) {
		use->atime = now_real();
		use_add(use, 1);
	}
}

void piece_cut(struct piece *p, uintptr_t addr)
{
	if (addr <= p->addr || addr >= p->addr + p->length)
		return;
	struct piece *rest = piece_take();
	if (rest == NULL)
		return;
	size_t head = addr - p->addr;

	*rest = *p;
	rest->state = PIECE_TAKEN;
	rest->addr = addr;
	rest->offset += head;
	rest->length -= head;
	p->length = head;
	piece_publish(rest);
	count_in(p->serial);
}

void pieces_cut(uintptr_t addr, size_t length)
{
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p))
		if (piece_overlaps(p, addr, length)) {
			piece_cut(p, addr + length);
			piece_cut(p, addr);
		}
}

bool piece_inside(const struct piece *p, uintptr_t addr, size_t length)
{
	return p->addr >= addr && p->addr + p->length <= addr + length;
}

void pieces_unmapped(uintptr_t addr, size_t length)
{
	pieces_cut(addr, length);
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p))
		if (piece_inside(p, addr, length))
			piece_gone(p);
}

void pieces_left_out(struct abi_session_page *page)
{
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p))
		for (int i = 0; (p->marks & MARK_NOT_FORKED) && i < ABI_PAGE_USES; i++)
			if (page->uses[i].serial == p->serial && page->uses[i].count > 0)
				page->uses[i].count--;
}

void pieces_forked(void)
{
	const uint32_t dropped = MARK_LOCKED | MARK_ON_FAULT;

	/* Few have any: what is not written need not be copied for the child. */
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p))
		if (p->marks & MARK_NOT_FORKED)
			pieces_live -= cas32(&p->state, PIECE_LIVE, PIECE_FREE);
		else if (p->marks & dropped)
			p->marks &= ~dropped;
}

bool piece_joins(const struct piece *p)
{
	struct piece *right = NULL;

	for (struct piece *q = piece_next(NULL); q != NULL; q = piece_next(q)) {
		if (q == p || q->attach != p->attach || q->prot != p->prot || q->marks != p->marks ||
		    q->addr - q->offset != p->addr - p->offset)
			continue;
		if (q->addr + q->length == p->addr) {
			q->length += p->length;
			return true;
		}
		if (p->addr + p->length == q->addr)
			right = q;
	}
	if (right == NULL)
		return false;
	right->addr -= p->length;
	right->offset -= p->length;
	right->length += p->length;
	return true;
}
