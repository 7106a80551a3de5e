/* What each thread keeps between its calls. */
#include "object.h"

__thread struct thread *this_thread __attribute__((tls_model("initial-exec")));

/* Few chunks: the library's data is one page, so that its start costs little. */
#define CHUNK_THREADS 2048
#define CHUNKS 16
#define REUSE_EVERY 128

/* The first thread's place is among the library's data, which a child of fork
 * writes to anyhow. */
static struct thread first;
static struct thread *chunks[CHUNKS];
static uint32_t made;

static struct thread *thread_at(uint32_t i)
{
	struct thread *chunk = __atomic_load_n(&chunks[i / CHUNK_THREADS], __ATOMIC_ACQUIRE);

	return i == 0 ? &first : chunk ? &chunk[i % CHUNK_THREADS] : NULL;
}

/* Whether this is a thread of the session's process, and not a vfork child, which
 * runs in the place of its parent's. */
static bool of_process(void)
{
	return session.page != NULL && load32(session.alive) == 1 &&
	       load32(&session.page->pid) == (uint32_t)SYS0(__NR_getpid);
}

/* A thread that ended left its place; nothing points to it but the arena. */
static struct thread *reuse(uint32_t count)
{
	uint32_t pid = (uint32_t)SYS0(__NR_getpid);

	for (uint32_t i = 0; i < count; i++) {
		struct thread *t = thread_at(i);
		uint32_t dead = t ? load32(&t->tid) : 0;

		if (dead != 0 && SYS3(__NR_tgkill, pid, dead, 0) == -ESRCH &&
		    cas32(&t->tid, dead, 0)) {
			memset(t->log, 0, sizeof t->log);
			/* A wait that it left is for the new one's first call to end. */
			t->active = t->wait_cell != 0;
			t->asleep = 0;
			t->attaching = 0;
			t->brokered = 0;
			t->away = 0;
			return t;
		}
	}
	return NULL;
}

/* Where everything else fails: one place that threads share. It costs speed,
 * not correctness, for its caches are checked on use. */
static struct thread shared;

/* Remembers it with the thread's place, unless it is a vfork child's, which may be
 * the first to call there. */
static uint32_t ask_number(struct thread *t)
{
	uint32_t tid = (uint32_t)SYS0(__NR_gettid);

	if (t != &shared && of_process())
		store32(&t->tid, tid);
	return tid;
}

uint32_t thread_id(void)
{
	struct thread *t = thread_own();
	uint32_t tid = load32(&t->tid);

	return likely(tid != 0) ? tid : ask_number(t);
}

uint32_t thread_renumber(uint32_t tid)
{
	uint32_t before = 0;

	if (this_thread != NULL && this_thread != &shared) {
		before = load32(&this_thread->tid);
		store32(&this_thread->tid, tid);
	}
	return before;
}

static struct thread *begin(struct thread *t)
{
	user_forget_of(t, 0, UINTPTR_MAX);
	return this_thread = t;
}

struct thread *thread_make(void)
{
	uint32_t n = load32(&made);
	struct thread *t = n && n % REUSE_EVERY == 0 && of_process() ? reuse(n) : NULL;

	if (t == NULL) {
		n = __atomic_fetch_add(&made, 1, __ATOMIC_ACQ_REL);
		if (n >= CHUNKS * CHUNK_THREADS)
			return begin(&shared);
		struct thread **chunk = &chunks[n / CHUNK_THREADS];

		if (n != 0 && __atomic_load_n(chunk, __ATOMIC_ACQUIRE) == NULL) {
			size_t size = CHUNK_THREADS * sizeof *t;
			struct thread *p = room_anonymous(size);

			if (p == NULL)
				return begin(&shared);
			/* If another thread was faster, this chunk is lost. */
			__sync_bool_compare_and_swap(chunk, NULL, p);
		}
		t = thread_at(n);
	}
	ask_number(t);
	t->creds = creds_all == 0 ? creds_new() : 0; /* whose thread it was made by, nobody knows */
	if (session.mode == MODE_AWAY) /* it has the namespace of the thread that made it */
		t->away = session_elsewhere();
	return begin(t);
}

static uint32_t thread_count(void)
{
	uint32_t n = load32(&made);

	return n < CHUNKS * CHUNK_THREADS ? n : CHUNKS * CHUNK_THREADS;
}

void threads_forked(void)
{
	for (uint32_t i = 0; i < thread_count(); i++) {
		struct thread *t = thread_at(i);

		if (t == NULL)
			continue;
		if (t != this_thread) {
			t->active = 0;
			t->attaching = 0;
			t->tid = UINT32_MAX >> 1; /* nobody's: free to be reused */
		}
		t->wait_cell = 0;
		t->asleep = 0;
		t->brokered = 0;
	}
	thread_renumber(0);
}

void threads_recreds(void)
{
	for (uint32_t i = 0; i < thread_count(); i++) {
		struct thread *t = thread_at(i);

		if (t != NULL && load32(&t->creds) != 0)
			store32(&t->creds, creds_new());
	}
}

void threads_forget(uintptr_t first, uintptr_t end)
{
	for (uint32_t i = 0; i < thread_count(); i++) {
		struct thread *t = thread_at(i);

		if (t != NULL)
			user_forget_of(t, first, end);
	}
	user_forget_of(&shared, first, end);
}

uint32_t threads_brokered(void)
{
	uint32_t first = 0;

	if (load32(&made) > CHUNKS * CHUNK_THREADS) /* some share a place */
		return 0;
	for (uint32_t i = 0; i < thread_count(); i++) {
		struct thread *t = thread_at(i);
		uint32_t seq = t != NULL ? load32(&t->brokered) : 0;

		if (seq != 0 && (first == 0 || (int32_t)(seq - first) < 0))
			first = seq;
	}
	return first;
}

uint64_t thread_total(void)
{
	uint64_t st[18]; /* struct stat: dev, ino, then nlink, or mode and nlink of 32 bits */

	if (SYS4(__NR_newfstatat, AT_FDCWD, "/proc/self/task", st, 0) < 0)
		return 0;
#if defined(__x86_64__)
	return st[2] - 2;
#else
	return (st[2] >> 32) - 2;
#endif
}

#define MEMBARRIER_PRIVATE_EXPEDITED 8
#define MEMBARRIER_REGISTER 16

/* What others stored before they entered a call is seen after this: entering is
 * a plain store, so that it costs nothing, and the barrier is on this side
 * alone (membarrier(2)). */
static bool see_others(void)
{
	static bool registered;

	if (!registered)
		registered = SYS2(__NR_membarrier, MEMBARRIER_REGISTER, 0) == 0;
	return registered && SYS2(__NR_membarrier, MEMBARRIER_PRIVATE_EXPEDITED, 0) == 0;
}

bool threads_attaching(void)
{
	if (thread_count() < 2 || !see_others())
		return false;
	for (uint32_t i = 0; i < thread_count(); i++) {
		struct thread *t = thread_at(i);

		if (t != NULL && t != this_thread && load32(&t->attaching))
			return true;
	}
	return false;
}

bool threads_left(const struct handle *h)
{
	if (!see_others())
		return false;
	for (uint32_t i = 0; i < thread_count(); i++) {
		struct thread *t = thread_at(i);

		if (t == NULL || t == this_thread ||
		    __atomic_load_n(&t->active, __ATOMIC_ACQUIRE) == 0)
			continue;
		if (!load32(&t->asleep) || __atomic_load_n(&t->wait_handle, __ATOMIC_ACQUIRE) == h)
			return false;
	}
	return this_thread == NULL || this_thread->wait_handle != h || this_thread->wait_cell == 0;
}
