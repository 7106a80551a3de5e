/* SEM_UNDO: adjustments in the set, and the word that tells of a death. */
#include "object.h"
#include "session.h"

/* The next cell of the undo list after at (0: the first), 0: no more. */
static uint32_t next_cell(struct txn *t, uint32_t at)
{
	uint64_t off = at == 0 ? HEADER_OFF(undo_head)
			       : cell_off(t->handle, at - 1) + offsetof(struct abi_undo_cell, next);
	uint32_t next = link_cell(txn_get(t, off));

	return next <= t->handle->cells ? next : 0;
}

#define EACH_CELL(t, at)                                                       \
	for (uint32_t at = next_cell(t, 0), turns_ = 0;                        \
	     at != 0 && turns_ < (t)->handle->cells; at = next_cell(t, at), turns_++)

uint64_t undo_find(struct txn *t, uint32_t number, uint32_t sem)
{
	struct handle *h = t->handle;
	uint64_t w;

	EACH_CELL(t, at) {
		if (cell_session(txn_get(t, cell_off(h, at - 1))) != number)
			continue;
		for (uint32_t i = 0; word_used(h, at, i, &w); i++)
			if (undo_sem(w) == sem)
				return undo_off(h, at, i);
	}
	return 0;
}

bool undo_names(struct txn *t, uint32_t sem)
{
	uint64_t w;

	EACH_CELL(t, at)
		for (uint32_t i = 0; word_used(t->handle, at, i, &w); i++)
			/* Which semaphore a word names does not change in a
			 * transaction that has adjustments: only look closer then. */
			if (undo_sem(w) == sem &&
			    undo_adjust(txn_get(t, undo_off(t->handle, at, i))) != 0)
				return true;
	return false;
}

void undo_clear(struct txn *t, int sem)
{
	uint64_t w;

	EACH_CELL(t, at)
		for (uint32_t i = 0; word_used(t->handle, at, i, &w); i++) {
			w = txn_get(t, undo_off(t->handle, at, i));
			if ((sem < 0 || undo_sem(w) == (uint32_t)sem) && undo_adjust(w) != 0)
				txn_put(t, undo_off(t->handle, at, i),
					undo_next(w, undo_sem(w), 0));
		}
}

int reap(struct txn *t, uint32_t number)
{
	int64_t dead = 0;
	int r = channel_simple(ABI_MSG_REAP, number, ABI_SEM, t->handle->id, 0, &dead);

	/* Of one that is dead nothing is found again, unless the manager cannot clean up. */
	if (r == 0 && (!dead || number == t->reaped))
		t->asked[t->n_asked++ % 4] = number;
	t->reaped = number;
	return r;
}

/* With many of them in doubt at once the oldest answers must do. */
static bool asked(const struct txn *t, uint32_t number)
{
	for (uint32_t i = 0; i < 4 && i < t->n_asked; i++)
		if (t->asked[i] == number)
			return true;
	return t->n_asked > 64;
}

uint32_t undo_dead_holder(struct txn *t, int sem)
{
	struct handle *h = t->handle;
	uint64_t w;

	EACH_CELL(t, at) {
		uint32_t number = cell_session(load64((uint64_t *)(h->mem + cell_off(h, at - 1))));

		if (number == session.number)
			continue;
		for (uint32_t i = 0; word_used(h, at, i, &w); i++) {
			if (undo_adjust(w) == 0 || (sem >= 0 && undo_sem(w) != (uint32_t)sem))
				continue;
			if (!asked(t, number) && pulse_died(number))
				return number;
			if (sem < 0)
				break;
		}
	}
	return 0;
}

bool undo_others(struct handle *h, uint32_t sem)
{
	uint32_t at = link_cell(load64(&header_of(h)->undo_head));
	uint64_t w;

	for (uint32_t n = 0; at != 0 && n < h->cells; n++) {
		struct abi_undo_cell *c = cell_at(h, at - 1);

		if (c == NULL)
			return true;
		bool own = cell_session(load64(&c->state)) == session.number;

		for (uint32_t i = 0; !own && word_used(h, at, i, &w); i++)
			if (undo_sem(w) == sem && undo_adjust(w) != 0)
				return true;
		at = link_cell(load64(&c->next));
	}
	return false;
}

/* Makes a word for sem, in a cell of this session with room or in spare. */
static int reserve(struct txn *t, uint32_t sem, uint32_t *spare)
{
	struct handle *h = t->handle;

	if (undo_find(t, session.number, sem) != 0)
		return 0;
	EACH_CELL(t, at) {
		if (cell_session(txn_get(t, cell_off(h, at - 1))) != session.number)
			continue;
		for (uint32_t i = 0; i < ABI_UNDO_WORDS; i++) {
			uint64_t w = txn_get(t, undo_off(h, at, i));

			if ((w & ABI_UNDO_USED) == 0) {
				txn_put(t, undo_off(h, at, i), undo_next(w, sem, 0));
				h->undo = at;
				h->owner = session.number;
				return 0;
			}
		}
	}
	if (*spare == 0)
		return -ENOSPC;
	/* The epoch seeds the versions, so that they differ from those of an
	 * earlier life of the cell. */
	for (uint32_t i = 0; i < ABI_UNDO_WORDS; i++)
		store64((uint64_t *)(h->mem + undo_off(h, *spare, i)),
			(t->epoch & 0x7fffffff) << ABI_UNDO_VERSION_SHIFT);
	uint64_t next_off = cell_off(h, *spare - 1) + offsetof(struct abi_undo_cell, next);
	uint64_t head = txn_get(t, HEADER_OFF(undo_head));

	txn_put(t, next_off, link_next(txn_get(t, next_off), link_cell(head)));
	txn_put(t, HEADER_OFF(undo_head), link_next(head, *spare));
	txn_put(t, undo_off(h, *spare, 0),
		undo_next(txn_get(t, undo_off(h, *spare, 0)), sem, 0));
	h->undo = *spare;
	FAIL_POINT("undo: word ready");
	h->owner = session.number;
	*spare = 0;
	return 0;
}

int undo_reserve(struct handle *h, struct call *c, const struct abi_sem_op *ops, uint32_t n)
{
	pulse_arm();
	for (uint32_t k = 0; k < n; k++) {
		uint32_t spare = 0;
		struct txn t;
		int r;

		if (!(ops[k].flag & SEM_UNDO) || undo_known(h, undo_cell(h), ops[k].num) != 0)
			continue;
		r = txn_init(&t, h, c, 0);
		if (r < 0)
			return r;
		for (;;) {
			uint32_t given = spare;

			r = txn_lock(&t);
			if (r < 0)
				break;
			r = reserve(&t, ops[k].num, &spare);
			if (r == 0)
				r = txn_commit(&t, false);
			else
				txn_abort(&t);
			if (r == -EAGAIN) {
				spare = given;
				continue;
			}
			if (r != -ENOSPC)
				break;
			spare = cell_alloc_grow(h, ABI_KIND_UNDO, &r);
			if (spare == 0)
				break;
		}
		if (spare != 0)
			cell_free(h, spare);
		txn_done(&t);
		if (r < 0)
			return r;
	}
	return 0;
}

/* --- liveness ---------------------------------------------------------- */

#define WINDOW 4096 /* sessions mapped at once */

static uint8_t *windows[ABI_MAX_SESSIONS / WINDOW];

/* Where pages of the pulse are to be mapped; NULL: anywhere. */
struct part {
	uint32_t number;
	size_t pages;
	void *fixed;
};

static long map_part(void *arg)
{
	const struct part *part = arg;

	if (!fd_is(control.pulse, control.pulse_inode)) {
		if (fd_is(control.channel, control.channel_inode))
			SYS1(__NR_close, control.channel);
		long r = channel_open();
		if (r < 0)
			return r;
	}
	return SYS6(__NR_mmap, part->fixed, part->pages * ABI_PAGE_SIZE, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_NORESERVE | (part->fixed ? MAP_FIXED : 0), control.pulse,
		    (long)part->number * ABI_PAGE_SIZE);
}

static uint8_t *pulse_map(uint32_t number, size_t pages, void *fixed)
{
	struct part part = {number, pages, fixed};

	control_lock();
	long p = map_part(&part);
	if (p == -EMFILE)
		p = with_descriptors(map_part, &part);
	control_unlock();
	return is_error(p) ? NULL : (uint8_t *)p;
}

static uint8_t *pulse_page(uint32_t number)
{
	if (number == 0 || number >= ABI_MAX_SESSIONS)
		return NULL;
	uint8_t **window = &windows[number / WINDOW];
	uint8_t *at = __atomic_load_n(window, __ATOMIC_ACQUIRE);

	if (at == NULL) {
		at = pulse_map(number / WINDOW * WINDOW, WINDOW, NULL);
		if (at == NULL)
			return NULL;
		__atomic_store_n(window, at, __ATOMIC_RELEASE);
	}
	return at + (number % WINDOW) * ABI_PAGE_SIZE;
}

bool pulse_died(uint32_t number)
{
	uint8_t *page = pulse_page(number);

	return page == NULL || load64((uint64_t *)(page + ABI_PULSE_ASK)) != 0 ||
	       (load64((uint64_t *)(page + ABI_PULSE_ALIVE)) & ABI_PULSE_DIED) != 0;
}

void doorbell_ring(uint32_t number)
{
	uint8_t *page = pulse_page(number);

	if (page != NULL) {
		uint32_t *bell = (uint32_t *)(page + ABI_PULSE_DOORBELL);

		__atomic_fetch_add(bell, 1, __ATOMIC_ACQ_REL);
		futex_wake(bell, INT32_MAX);
	}
}

/* libc's list of robust futexes (linux/futex.h). Before each entry stands a
 * pointer to the previous one, in glibc and musl alike. */
struct robust_head {
	void **next;
	long futex_offset;
	void *pending;
};

struct pulse pulse;

static uint64_t *own_word(size_t off)
{
	return (uint64_t *)(pulse.page + off);
}

/* Links the word into the calling thread's list. False: its libc keeps none
 * that fits. */
static bool link_word(uint32_t tid)
{
	struct robust_head *head = NULL;
	size_t len = 0;
	void **entry = (void **)(pulse.page + ABI_PAGE_SIZE + 8);

	if (SYS3(__NR_get_robust_list, 0, &head, &len) < 0 || head == NULL)
		return false;
	if (head->futex_offset != -32 && head->futex_offset != -28)
		return false;
	void **first = head->next;

	store64(own_word(ABI_PULSE_ALIVE), 0);
	store32((uint32_t *)((uint8_t *)entry + head->futex_offset), tid);
	store64(own_word(ABI_PULSE_ASK), 0);
	FAIL_POINT("pulse: word named");
	entry[0] = first;
	entry[-1] = &head->next;
	if ((void *)first != (void *)head)
		first[-1] = entry;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	FAIL_POINT("pulse: entry filled");
	head->next = entry;
	return true;
}

bool pulse_asks(void)
{
	return pulse.asks && pulse.session == session.number && load64(own_word(ABI_PULSE_ASK)) != 0;
}

void pulse_arm(void)
{
	if (likely(pulse_armed()))
		return;
	control_lock();
	uint32_t tid = (uint32_t)SYS0(__NR_gettid);

	if (pulse.session != session.number) {
		void *p = room_anonymous(2 * ABI_PAGE_SIZE);

		if (p != NULL && pulse_map(session.number, 1, p) != NULL) {
			pulse.page = p;
			pulse.thread = 0;
			store32(&pulse.session, session.number);
		}
	}
	if (pulse.session == session.number) {
		bool linked_alive = pulse.thread != 0 &&
				    SYS3(__NR_tgkill, SYS0(__NR_getpid), pulse.thread, 0) == 0;

		/* Linked by a thread that lives: the entry must not enter a
		 * second list. Its word was cleared; asking takes its place. */
		pulse.asks = linked_alive || !link_word(tid);
		if (!pulse.asks)
			pulse.thread = tid;
		else
			store64(own_word(ABI_PULSE_ASK), 1);
	}
	control_unlock();
}
