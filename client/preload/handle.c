/* The objects that this process has open: found by id, opened by the manager. */
#include "session.h"

struct handle **handle_index[ABI_FAMILIES];

#define ARENA_HANDLES 64
#define SWEEP 4 /* indexes looked at for each new object */

static struct handle *free_handles;
static struct handle *arena; /* what was never used of the last one */
static uint32_t arena_left;
/* Superseded handles that a call of another thread may still be using. */
static struct handle *retired;

static struct handle *handle_alloc(void)
{
	struct handle *h = free_handles;

	if (h != NULL) {
		free_handles = h->next;
	} else {
		if (arena_left == 0) {
			arena = room_anonymous(ARENA_HANDLES * sizeof *arena);
			arena_left = arena != NULL ? ARENA_HANDLES : 0;
		}
		if (arena_left > 0)
			h = &arena[--arena_left];
	}
	if (h != NULL) {
		memset(h, 0, sizeof *h);
		h->fd = -1;
	}
	return h;
}

/* The address room that a control or data file can ever need: files grow, the
 * mapping does not, and what is beyond the end is not touched. */
static size_t control_room(uint32_t sems)
{
	return cells_off(sems) + (size_t)ABI_MAX_CELLS * ABI_CELL_SIZE;
}
static size_t data_room(void)
{
	return chunk_off(ABI_MAX_CHUNKS - 1) + ABI_CHUNK_SIZE;
}

static void release(struct handle *h)
{
	if (h->mem != NULL)
		SYS2(__NR_munmap, h->mem, control_room(h->sems));
	if (h->data != NULL)
		SYS2(__NR_munmap, h->data, data_room());
	if (h->anchor != NULL)
		room_give_page(h->anchor);
	if (fd_is(h->fd, h->fd_inode))
		SYS1(__NR_close, h->fd);
	h->serial = 0; /* no log cell is kept for it any more */
	h->id = UINT32_MAX;
	h->next = free_handles;
	free_handles = h;
}

static void retire(struct handle *h)
{
	h->next = retired;
	retired = h;
	for (struct handle **at = &retired; *at != NULL;) {
		struct handle *old = *at;

		if (threads_left(old)) {
			*at = old->next;
			release(old);
		} else {
			at = &old->next;
		}
	}
}

/* Whether the object was removed. A record that is just written may say so of one
 * that was not: then it is opened once more. */
static bool gone(int family, uint32_t index, const struct handle *h)
{
	uint64_t slot = load64(table_slot(family, index));
	const struct abi_record *r = table_named(slot);

	return h != NULL && (slot == 0 || (r != NULL && r->serial != h->serial));
}

static uint32_t top[ABI_FAMILIES]; /* highest index with a handle */

void handle_sweep(int family)
{
	static uint32_t next[ABI_FAMILIES];

	/* A call that this one interrupted, in a signal handler, may be using any. */
	if (handle_index[family] == NULL || this_thread == NULL || this_thread->active != 0)
		return;
	for (int i = 0; i < SWEEP; i++) {
		uint32_t at = load32(&next[family]);
		struct handle **place = &handle_index[family][at];

		store32(&next[family], at < load32(&top[family]) ? at + 1 : 0);
		if (likely(!gone(family, at, __atomic_load_n(place, __ATOMIC_ACQUIRE))))
			continue;
		control_lock();
		struct handle *h = *place;
		if (gone(family, at, h)) {
			__atomic_store_n(place, NULL, __ATOMIC_RELEASE);
			retire(h);
		}
		control_unlock();
	}
}

static void *map_file(int fd, size_t room)
{
	long p = SYS6(__NR_mmap, room_wish(room), room, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_NORESERVE, fd, 0);

	return is_error(p) ? NULL : (void *)p;
}

/* Whether r grants what it granted when h was opened. */
static bool same_rights(const struct handle *h, const struct abi_record *r)
{
	return h->uid == r->uid && h->gid == r->gid && h->cuid == r->cuid && h->cgid == r->cgid &&
	       (h->mode & 0777) == (r->mode & 0777) && h->creds == creds_now();
}

static void take_record(struct handle *h, const struct abi_record *r, uint64_t slot)
{
	h->uid = r->uid;
	h->gid = r->gid;
	h->cuid = r->cuid;
	h->cgid = r->cgid;
	h->mode = r->mode;
	h->creds = creds_now();
	h->cells = r->cells < ABI_MAX_CELLS ? r->cells : ABI_MAX_CELLS;
	h->chunks = r->chunks < ABI_MAX_CHUNKS ? r->chunks : ABI_MAX_CHUNKS;
	h->size = r->size;
	h->seen = slot;
	store64(&h->slot, slot);
}

/* Asks the manager; with control held. NULL and *error, or a handle whose
 * slot word is the one under which the manager granted the rights. */
static struct handle *ask(int family, uint32_t id, uint32_t access, const struct abi_record *r,
			  int *error)
{
	struct exchange x = {.request = {.kind = ABI_MSG_OPEN, .arg = {family, id, access}}};

	*error = channel_call(&x);
	if (*error < 0)
		return NULL;
	struct handle *h = handle_alloc();
	if (h == NULL) {
		*error = -ENOMEM;
	} else {
		h->id = id;
		h->family = (uint32_t)family;
		h->table_word = table_slot(family, id);
		h->serial = r->serial;
		h->sems = family == ABI_SEM ? (uint32_t)r->size : 0;
		h->first_cell = cells_off(h->sems);
		h->rights = (uint32_t)x.reply.val[1];
		take_record(h, r, (uint64_t)x.reply.val[0]);
		if (family == ABI_SHM && x.nfds > 0) {
			h->fd = x.fds[0];
			h->fd_inode = fd_inode(h->fd);
			x.fds[0] = -1;
		} else if (family != ABI_SHM && x.reply.val[2] == 0 && x.nfds > 0) {
			h->mem = map_file(x.fds[0], control_room(h->sems));
			if (family == ABI_MSG && x.nfds > 1)
				h->data = map_file(x.fds[1], data_room());
			if (h->mem == NULL || (family == ABI_MSG && h->data == NULL))
				*error = -ENOMEM;
		}
	}
	for (int i = 0; i < x.nfds; i++)
		if (x.fds[i] >= 0)
			SYS1(__NR_close, x.fds[i]);
	if (*error < 0 && h != NULL) {
		release(h);
		h = NULL;
	}
	return h;
}

long handle_descriptor(const struct handle *h, uint32_t access)
{
	struct exchange x = {.request = {.kind = ABI_MSG_OPEN, .arg = {ABI_SHM, h->id, access}}};
	int r = channel_call(&x);

	return r < 0 ? r : x.nfds > 0 ? x.fds[0] : -ENOMEM;
}

static struct handle *open_locked(int family, uint32_t id, uint32_t access, int *error)
{
	struct abi_record r;
	uint64_t slot;

	if (handle_index[family] == NULL)
		__atomic_store_n(&handle_index[family],
				 room_anonymous(ABI_MAX_OBJECTS * sizeof(struct handle *)),
				 __ATOMIC_RELEASE);
	if (handle_index[family] == NULL) {
		*error = -ENOMEM;
		return NULL;
	}
	struct handle **place = &handle_index[family][id & ABI_INDEX_MASK];
	for (;;) {
		struct handle *old = *place, *h;

		if (!table_record(family, id, &r, &slot)) {
			*error = -EINVAL;
			return NULL;
		}
		if (old != NULL && old->id == id && old->serial == r.serial &&
		    same_rights(old, &r) && (access & ~old->rights) == 0 &&
		    (family != ABI_SHM || fd_is(old->fd, old->fd_inode))) {
			take_record(old, &r, slot);
			return old;
		}
		h = ask(family, id, access, &r, error);
		if (h == NULL)
			return NULL;
		if (h->slot != slot) { /* it changed meanwhile: r is an old record */
			release(h);
			continue;
		}
		if ((id & ABI_INDEX_MASK) > top[family])
			top[family] = id & ABI_INDEX_MASK;
		__atomic_store_n(place, h, __ATOMIC_RELEASE);
		if (old != NULL) {
			if (old->fd == h->fd) /* it was closed and given out again */
				old->fd = -1;
			retire(old);
		}
		return h;
	}
}

struct opening {
	int family;
	uint32_t id, access;
	int error;
	struct handle *handle;
};

static long open_for(void *opening)
{
	struct opening *o = opening;

	o->handle = open_locked(o->family, o->id, o->access, &o->error);
	return o->handle ? 0 : o->error;
}

struct handle *handle_open(int family, uint32_t id, uint32_t access, int *error)
{
	struct opening o = {family, id, access, 0, NULL};

	control_lock();
	if (unlikely(open_for(&o) == -EMFILE))
		with_descriptors(open_for, &o);
	control_unlock();
	if (o.handle == NULL)
		*error = o.error;
	return o.handle;
}

void handle_room_slow(struct handle *h)
{
	struct abi_record r;
	uint64_t slot;

	if (!table_record((int)h->family, h->id, &r, &slot) || r.serial != h->serial)
		return;
	if (r.cells <= ABI_MAX_CELLS)
		__atomic_store_n(&h->cells, r.cells, __ATOMIC_RELAXED);
	if (r.chunks <= ABI_MAX_CHUNKS)
		__atomic_store_n(&h->chunks, r.chunks, __ATOMIC_RELAXED);
	store64(&h->seen, slot);
}

int handle_grow(struct handle *h, uint32_t cells, uint32_t chunks)
{
	struct abi_record r;
	uint64_t slot;

	if (cells > ABI_MAX_CELLS || chunks > ABI_MAX_CHUNKS)
		return -ENOMEM;
	control_lock();
	int e = 0;
	if (cells > h->cells || chunks > h->chunks)
		e = channel_simple(ABI_MSG_GROW, h->family, h->id, cells, chunks, NULL);
	/* Only the capacity is news to this handle; whatever else the new
	 * record says, handle_open will look at. */
	if (e == 0) {
		if (!table_record((int)h->family, h->id, &r, &slot) || r.serial != h->serial)
			e = -EIDRM;
		else if (same_rights(h, &r))
			take_record(h, &r, slot);
		else
			e = -EIDRM;
	}
	control_unlock();
	return e == -EINVAL ? -EIDRM : e;
}
