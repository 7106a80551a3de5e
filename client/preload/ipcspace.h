/*
 * libipcspace.so: System V IPC of a space inside an unmodified program.
 *
 * Each file begins with what it is about. By rooms:
 *
 * - the calls: sem.c, semquick.c, semop.c; msg.c, send.c, receive.c; shm.c, attach.c;
 *   ctl.c; raw.c, by number
 * - the data plane: cell.c, lock.c, log.c, transaction.c and its short form quick.h,
 *   list.c, scan.c, undo.c, queue.c, message.c, wait.c, verify.c
 * - what this process has: session.c, connect.c, channel.c, packet.c; table.c,
 *   handle.c, creds.c, thread.c
 * - what else it does: fork.c, spare.c, exec.c, environment.c, leave.c, borrow.c;
 *   mapping.c, marks.c, piece.c; deep.c
 * - the ground: sys.c, vdso.c, room.c, user.c, fail.c
 *
 * ARCHITECTURE.md has the protocol.
 *
 * It has no thread, no signal handler, no allocator and no state but the one
 * session of the process.
 */
#ifndef IPCSPACE_H
#define IPCSPACE_H

#include "abi.h"
#include "fail.h"
#include "sys.h"

/* --- thread.c ---------------------------------------------------------- */

#define LOG_CACHE 4
#define USER_PAGES 16

/* What one thread keeps. Lives in an arena, not in thread-local storage, so
 * that others may look at it after the thread is gone. */
struct thread {
	/* Stack address of the innermost call under way, 0: none, and the thread waits on
	 * no cell. A call that finds it set was made by a signal handler if its own frame
	 * is deeper; otherwise siglongjmp left that call behind. */
	uintptr_t active;
	/* The cell on which the thread sleeps: what a nested call cancels. */
	struct handle *wait_handle;
	uint32_t wait_cell; /* index + 1, 0: none */
	uint32_t asleep;    /* in the kernel: touches wait_handle alone */
	uintptr_t disturbed; /* active, of the call in which call_disturbed() is true */
	uint32_t tid;	    /* 0: to be asked for */
	uint32_t attaching; /* inside shmat or shmdt, without the control lock */
	uint32_t brokered;  /* the first request of a call under way that the manager does for
			       it, 0: none. Set with the control lock held */
	uint32_t away;	    /* in another IPC namespace: see MODE_AWAY */
	uint32_t creds;	  /* of its own, 0: the process's */
	uint32_t session; /* whose cells the log cache has */
	uint32_t spin;	       /* how long spinning paid off lately, in rounds */
	uint32_t spin_skipped; /* sleeps since spinning was last tried */
	bool sends;	       /* it last sent a message, and did not receive one */
	uint32_t streak;       /* so many in a row */
	struct {
		struct handle *handle;
		uint64_t serial;
		uint32_t cell; /* index + 1 */
	} log[LOG_CACHE];
	/* Addresses of the program's pages found readable or writable, each in the place
	 * of its number. In a free place is that of a page which belongs in another. */
	uintptr_t readable[USER_PAGES];
	uintptr_t writable[USER_PAGES];
};

/* One call of a thread, from its entry to its return. */
struct call {
	struct thread *thread;
	uintptr_t outer; /* thread->active to restore */
	bool nested;	 /* a handler's call inside another call */
};

extern __thread struct thread *this_thread __attribute__((tls_model("initial-exec")));

struct thread *thread_make(void);
static inline struct thread *thread_own(void)
{
	struct thread *t = this_thread;

	return likely(t != NULL) ? t : thread_make();
}
/* The calling thread's number, without a system call where it is known. A vfork
 * child has its parent's, if that is. */
uint32_t thread_id(void);
/* Another one: 0, in a child, for one to be asked for. The number before. */
uint32_t thread_renumber(uint32_t tid);
/* In a child: only the calling thread is left, and it sleeps on nothing. */
void threads_forked(void);
/* Gives new numbers to what credentials threads have of their own. */
void threads_recreds(void);
/* What all threads remember of these pages is forgotten (user.c). */
void threads_forget(uintptr_t first, uintptr_t end);
/* Threads of the process, as the kernel counts them; 0: /proc does not say. */
uint64_t thread_total(void);
/* The first of the requests that threads wait for the manager to do for them (struct
 * thread's brokered); 0: that is not known. With the control lock held. */
uint32_t threads_brokered(void);
/* Whether no thread but the calling one is using handle. */
bool threads_left(const struct handle *h);
/* Whether another thread is inside shmat or shmdt without the control lock. */
bool threads_attaching(void);
void call_interrupt_wait(struct call *c);
/* Whether a handler ran while this call waited for the manager: it must not go
 * to sleep then. A call that may sleep begins with call_calm(). */
bool call_disturbed(void);
static inline void call_calm(struct call *c)
{
	if (c->thread->disturbed == c->thread->active)
		c->thread->disturbed = 0;
}

static inline uintptr_t stack_pointer(void)
{
	uintptr_t sp;

#if defined(__x86_64__)
	__asm__ volatile("mov %%rsp, %0" : "=r"(sp));
#else
	__asm__ volatile("mov %0, sp" : "=r"(sp));
#endif
	return sp;
}

static inline void call_begin(struct call *c)
{
	struct thread *t = thread_own();
	uintptr_t frame = stack_pointer();

	c->thread = t;
	c->outer = t->active;
	c->nested = false;
	if (unlikely(c->outer != 0)) {
		c->nested = c->outer > frame;
		if (!c->nested)
			c->outer = t->brokered = 0;
	}
	t->active = frame;
	if (unlikely(t->wait_cell != 0))
		call_interrupt_wait(c);
}

static inline void call_end(struct call *c)
{
	c->thread->active = c->outer;
}

/* --- room.c ------------------------------------------------------------ */

/* An address to ask for, where the program maps nothing; the kernel takes another if it does. */
uintptr_t room_wish(size_t size);
/* Maps size bytes in the library's own room. NULL: not possible. */
void *room_map(size_t size, int prot, int flags, int fd);
void *room_anonymous(size_t size);
/* Gives back a mapping of one page, with the control lock held. */
void room_give_page(void *page);

/* --- user.c ------------------------------------------------------------ */

/* Whether n bytes at p can be read, or written (which may store the same
 * bytes again): false where the kernel would answer EFAULT. */
bool user_readable_slow(struct thread *t, const void *p, size_t n);
bool user_writable_slow(struct thread *t, void *p, size_t n);
/* Whether the eight bytes around p can be read; nothing is remembered. */
bool user_try(const void *p);
/* The program unmapped, replaced or protected a range: it is tried again. */
void user_forget(uintptr_t addr, size_t length);
/* The same for one thread, of pages. */
void user_forget_of(struct thread *t, uintptr_t first, uintptr_t end);

/* Whether the n bytes are in one page that is known. */
static inline bool user_known(const uintptr_t *known, const void *p, size_t n)
{
	uintptr_t at = (uintptr_t)p;

	return n <= PAGE && at - known[at / PAGE % USER_PAGES] <= PAGE - n;
}

static inline bool user_readable(struct thread *t, const void *p, size_t n)
{
	return likely(user_known(t->readable, p, n)) || user_readable_slow(t, p, n);
}

static inline bool user_writable(struct thread *t, void *p, size_t n)
{
	return likely(user_known(t->writable, p, n)) || user_writable_slow(t, p, n);
}

/* --- session.c --------------------------------------------------------- */

enum mode {
	MODE_UNKNOWN = 0, /* not looked yet */
	MODE_KERNEL,	  /* no space: the kernel's calls, unchanged */
	MODE_SPACE,
	MODE_REFUSED,	  /* a space was required and cannot be had */
	MODE_AWAY,	  /* a thread is, or was, in another IPC namespace than the one
			     in which the program began: each thread knows its own */
};

struct session {
	/* 1 in the process that registered, 0 in a child of fork (the kernel
	 * wipes the page), even after a raw clone. */
	const uint32_t *alive;
	uint32_t mode;
	uint32_t number;
	const struct abi_table_header *table;
	struct abi_session_page *page;
	uint64_t pid_ns; /* inode of the process's pid namespace */
	/* Its user namespace is not the manager's: the ids of the table are others
	 * than its own, and the manager translates and compares them. */
	bool foreign_ids;
	uint32_t cpus;
};

extern OURS struct session session;

/* Makes sure that there is a session. Returns 0, -ENOSYS where the kernel's
 * own calls are to be made, or another -errno. */
int session_start(void);
/* A space was required and cannot be had. */
bool session_refused(void);

static inline bool session_here(void)
{
	return session.mode == MODE_SPACE && load32(session.alive) == 1;
}

static inline int session_ready(void)
{
	if (likely(session_here()))
		return 0;
	return session_start();
}

/* One request and its answer. fds gets up to *nfds descriptors, moved to high
 * numbers and close-on-exec; *nfds says how many came. Bytes after the heads
 * are in data (sent: req->len) and reply_data (room in *reply_len). Waits for
 * the manager if it is away. Returns 0 or -errno, the answer's or its own. */
struct exchange {
	struct abi_request request;
	const void *data;
	struct abi_reply reply;
	void *reply_data;
	uint32_t reply_room;
	int fds[3];
	int nfds;
};
int channel_call(struct exchange *x);

/* The same without an answer's bytes and descriptors. */
int channel_simple(uint32_t kind, int64_t a0, int64_t a1, int64_t a2, int64_t a3, int64_t *val);

/* A brokered call that may sleep: on a connection of its own, ended by a
 * handler's signal. deadline is of a SEM_OP, in ns of CLOCK_MONOTONIC; -1: none. */
int channel_brokered(struct exchange *x, int64_t deadline);

/* Whether the calling thread is in another IPC namespace than the one in which the
 * program began: the first of these calls comes before anything could lead there. */
bool session_elsewhere(void);
/* The inode of the one that it left so, as far as anybody looked; 0: none. */
uint64_t session_left(void);
/* Looks that up, for the thread: elsewhere, the kernel's calls are what it asks for. */
void session_look_home(void);
/* Makes a child by a system call that returns in it on the same stack. */
long fork_by_number(long number, const long *args);
/* mbind, which libc has no function for. */
long mbind_by_number(const long *args);

/* --- table.c ----------------------------------------------------------- */

const uint64_t *table_slot(int family, uint32_t id);
/* Copies the record that stands for id. Returns false if the id is invalid
 * or stale; waits while the object is moving or closing. */
bool table_record(int family, uint32_t id, struct abi_record *r, uint64_t *slot);
/* The record that a slot word names: good as long as the word stands. NULL: the
 * word is none. */
const struct abi_record *table_named(uint64_t slot);
/* The id that stands for key, or -1. */
int table_find(int family, uint32_t key, struct abi_record *r);
/* The session's tgid as this process sees it, or, if thread is not 0, the number
 * here of that thread of it; 0: not visible. */
uint32_t table_pid(uint32_t number, uint32_t thread);

/* --- creds.c ----------------------------------------------------------- */

/* Whether the calling thread has all of the wanted rights (abi access bits)
 * by r's mode, as ipcperms() in ipc/util.c. */
bool creds_allow(const struct abi_record *r, uint32_t wanted);
/* Effective ids, for the credentials of a message. */
uint32_t creds_uid(void);
uint32_t creds_gid(void);
/* Whether they are those that the kernel puts into a message by itself. */
bool creds_plain(void);
/* The number of the credentials that all threads have, 0: some have, or had, their own. */
extern OURS uint32_t creds_all;
uint32_t creds_slow(void);
uint32_t creds_new(void);
/* A number for the calling thread's credentials: another one after each change
 * that the library sees. */
static inline uint32_t creds_now(void)
{
	uint32_t all = load32(&creds_all);

	return likely(all != 0) ? all : creds_slow();
}
/* The process's credentials changed, perhaps, and those of all threads; returns r. */
long creds_changed(long r);
/* libc's own function, behind ours of that name; NULL: it has none. */
void *libc_function(const char *name);
extern void *dlsym(void *handle, const char *name) __attribute__((weak));
/* The calling thread changed its own. */
void creds_thread_changed(void);

/* --- handle.c ---------------------------------------------------------- */

/* An object that this process has open. */
struct handle {
	/* One cache line of what every call looks at. */
	uint32_t id;
	uint32_t creds; /* creds_now() for which rights were found */
	const uint64_t *table_word; /* where its slot word stands */
	uint64_t slot;		    /* what it must be */
	uint64_t seen;		    /* what it was when cells and chunks were read */
	uint8_t *mem; /* control file; NULL: brokered or a segment */
	uint8_t *data;
	uint32_t rights; /* abi access bits */
	uint32_t sems;
	uint32_t cells;
	uint32_t first_cell; /* its offset in mem */
	uint64_t serial;
	uint64_t size; /* bytes of a segment, msg_qbytes */
	uint32_t chunks;
	uint32_t family;
	uint32_t undo; /* sems: index + 1 of this session's first undo cell */
	uint32_t owner; /* session for which undo holds */
	int fd; /* segment: descriptor, -1: none */
	uint64_t fd_inode;
	void *anchor; /* segment: its first page, for further mappings; NULL: none */
	bool attached; /* it was before: the next attach makes an anchor, which forks copy */
	uint32_t use; /* segment: index of its count in the session's page */
	uint32_t uid, gid, cuid, cgid, mode; /* by which rights were found */
	struct handle *next;		     /* in the list of retired or free ones */
} __attribute__((aligned(64)));

/* The handle of id, opened if need be. Returns NULL and sets *error (-EINVAL,
 * -EACCES, -EIDRM, ...) . access: for segments. */
struct handle *handle_open(int family, uint32_t id, uint32_t access, int *error);

extern OURS struct handle **handle_index[ABI_FAMILIES];

static inline bool handle_valid(const struct handle *h)
{
	return load64(h->table_word) == h->slot && h->creds == creds_now();
}

/* The handle that can be used as it is, or NULL: call handle_open. */
static inline struct handle *handle_find(int family, uint32_t id)
{
	if (unlikely(handle_index[family] == NULL))
		return NULL;
	struct handle *h = __atomic_load_n(&handle_index[family][id & ABI_INDEX_MASK],
					   __ATOMIC_ACQUIRE);
	if (unlikely(h == NULL || h->id != id || !handle_valid(h)))
		return NULL;
	return h;
}

static inline struct handle *handle_get(int family, int id, int *error)
{
	struct handle *h = handle_find(family, (uint32_t)id);

	if (likely(h != NULL))
		return h;
	if (id < 0) {
		*error = -EINVAL;
		return NULL;
	}
	return handle_open(family, (uint32_t)id, 0, error);
}

/* Lets go of a few objects that are gone. What this process has open of them is
 * memory that nobody else can use. */
void handle_sweep(int family);

/* Another descriptor of a segment, for that access alone; -errno. */
long handle_descriptor(const struct handle *h, uint32_t access);

/* Asks the manager for room; 0, -ENOMEM or -EIDRM. */
int handle_grow(struct handle *h, uint32_t cells, uint32_t chunks);

/* Takes over the capacity if another process made the object larger: its cells
 * may be in the lists by now. */
void handle_room_slow(struct handle *h);
static inline void handle_room(struct handle *h)
{
	if (unlikely(load64(h->table_word) != h->seen))
		handle_room_slow(h);
}

static inline struct abi_control_header *header_of(const struct handle *h)
{
	return (struct abi_control_header *)h->mem;
}

static inline uint32_t cells_off(uint32_t sems)
{
	return (ABI_WORDS_OFF + 8 * sems + ABI_CELL_SIZE - 1) / ABI_CELL_SIZE * ABI_CELL_SIZE;
}

static inline uint32_t cell_off(const struct handle *h, uint32_t index)
{
	return h->first_cell + index * ABI_CELL_SIZE;
}

/* The cell of that index, or NULL if there is no such cell. */
static inline void *cell_at(struct handle *h, uint32_t index)
{
	if (unlikely(index >= __atomic_load_n(&h->cells, __ATOMIC_RELAXED)))
		return NULL;
	return h->mem + cell_off(h, index);
}

static inline uint64_t *word_at(const struct handle *h, uint32_t sem)
{
	return (uint64_t *)(h->mem + ABI_WORDS_OFF) + sem;
}

/* Where a chunk and its owner word stand in a data file. */
static inline size_t chunk_off(uint32_t i)
{
	return (size_t)(i / ABI_GROUP_CHUNKS) * ABI_GROUP_SIZE + ABI_PAGE_SIZE +
	       (size_t)(i % ABI_GROUP_CHUNKS) * ABI_CHUNK_SIZE;
}
static inline size_t chunk_word_off(uint32_t i)
{
	return (size_t)(i / ABI_GROUP_CHUNKS) * ABI_GROUP_SIZE + (size_t)(i % ABI_GROUP_CHUNKS) * 8;
}

/* --- raw.c ------------------------------------------------------------- */

/* What syscall() comes to. The exported functions of these names are no more than a call of
 * them: UCX writes a jump into the beginning of those, and has the work done by syscall(). */
void *shmat_call(int id, const void *addr, int flags);
int shmdt_call(const void *addr);
void *mmap_call(void *at, size_t length, int prot, int flags, int fd, int64_t offset);
void *mremap_call(void *at, size_t length, size_t wanted, int flags, void *to);
int munmap_call(void *at, size_t length);
int madvise_call(void *at, size_t length, int advice);

/* --- errno ------------------------------------------------------------- */

/* Sets errno and returns -1 for a negative errno, else the value. */
long finish(long r);

#endif
