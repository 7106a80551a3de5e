/*
 * The credentials of the calling thread, as the kernel sees them.
 *
 * They are asked for once and kept: the library stands before the calls of
 * libc that change them, for all threads, and before syscall(), by which one
 * thread changes its own. Every change makes all handles doubtful for whom it
 * concerns, so that the manager decides again before the next use.
 */
#include "ipcspace.h"

#define GROUPS 256

/* The number of the process's credentials, that is, of a thread that has none of its own; no
 * two ever had the same. */
static uint32_t of_process = 1, last = 1;
uint32_t creds_all = 1;

struct creds {
	uint32_t uid, fsgid;
	bool plain; /* effective ids are the real ones */
	long count;
	uint32_t groups[GROUPS];
};
static struct creds kept;
static uint32_t kept_of; /* which these are, 0: never filled */

uint32_t creds_slow(void)
{
	/* A thread's first call: it may have been made by one with credentials of its own. */
	struct thread *t = thread_own();

	return t->creds != 0 ? t->creds : load32(&of_process);
}

uint32_t creds_new(void)
{
	return __atomic_add_fetch(&last, 1, __ATOMIC_ACQ_REL);
}

void creds_thread_changed(void)
{
	struct thread *t = thread_own();

	if (thread_total() == 1) {
		creds_changed(0);
		return;
	}
	store32(&creds_all, 0);
	t->creds = creds_new();
}

uint32_t creds_uid(void)
{
	return (uint32_t)SYS0(__NR_geteuid);
}

uint32_t creds_gid(void)
{
	return (uint32_t)SYS0(__NR_getegid);
}

static void ask(struct creds *c)
{
	c->uid = creds_uid();
	c->fsgid = (uint32_t)SYS1(__NR_setfsgid, -1); /* no gid: it only tells */
	c->plain = c->uid == (uint32_t)SYS0(__NR_getuid) && creds_gid() == (uint32_t)SYS0(__NR_getgid);
	c->count = SYS2(__NR_getgroups, GROUPS, c->groups);
}

/* The calling thread's. None are kept where threads differ: they go to own. */
static const struct creds *creds(struct creds *own)
{
	uint32_t now = load32(&creds_all);

	if (unlikely(now == 0)) {
		ask(own);
		return own;
	}
	if (unlikely(load32(&kept_of) != now)) {
		ask(&kept);
		store32(&kept_of, now);
	}
	return &kept;
}

bool creds_plain(void)
{
	return load32(&creds_all) != 0 && creds(NULL)->plain;
}

static bool in_groups(const struct creds *c, uint32_t gid, uint32_t other)
{
	for (long i = 0; i < c->count; i++)
		if (c->groups[i] == gid || c->groups[i] == other)
			return true;
	return false;
}

bool creds_allow(const struct abi_record *r, uint32_t wanted)
{
	struct creds own;
	const struct creds *c = creds(&own);
	uint32_t granted = r->mode;

	if (c->uid == r->cuid || c->uid == r->uid)
		granted >>= 6;
	else if (c->fsgid == r->cgid || c->fsgid == r->gid || in_groups(c, r->cgid, r->gid))
		granted >>= 3;
	return (wanted & ~granted & 7) == 0;
}

/* --- the calls that change them ---------------------------------------- */

#define RTLD_NEXT ((void *)-1L)

/* libc's own function, which changes all threads; NULL: it has none. */
void *libc_function(const char *name)
{
	return dlsym ? dlsym(RTLD_NEXT, name) : NULL;
}

long creds_changed(long r)
{
	uint32_t now = creds_new();

	store32(&of_process, now);
	for (uint32_t all = load32(&creds_all); all != 0; all = load32(&creds_all))
		if (cas32(&creds_all, all, now))
			return r;
	threads_recreds();
	return r;
}

/* Defines one of them: by libc, or for the calling thread where there is no
 * way to libc's. */
#define CHANGES(name, params, args, raw)                               \
	EXPORT int name params                                                 \
	{                                                                      \
		int(*real) params = (int(*) params)libc_function(#name);       \
                                                                               \
		return (int)creds_changed(real ? real args : finish(raw));           \
	}

CHANGES(setuid, (uint32_t u), (u), SYS1(__NR_setuid, u))
CHANGES(setgid, (uint32_t g), (g), SYS1(__NR_setgid, g))
CHANGES(seteuid, (uint32_t u), (u), SYS3(__NR_setresuid, -1, u, -1))
CHANGES(setegid, (uint32_t g), (g), SYS3(__NR_setresgid, -1, g, -1))
CHANGES(setreuid, (uint32_t r, uint32_t e), (r, e), SYS2(__NR_setreuid, r, e))
CHANGES(setregid, (uint32_t r, uint32_t e), (r, e), SYS2(__NR_setregid, r, e))
CHANGES(setresuid, (uint32_t r, uint32_t e, uint32_t s), (r, e, s), SYS3(__NR_setresuid, r, e, s))
CHANGES(setresgid, (uint32_t r, uint32_t e, uint32_t s), (r, e, s), SYS3(__NR_setresgid, r, e, s))
CHANGES(setgroups, (size_t n, const uint32_t *g), (n, g), SYS2(__NR_setgroups, n, g))
CHANGES(initgroups, (const char *user, uint32_t g), (user, g), -ENOSYS)

/* These are the calling thread's alone, in libc, too. */
EXPORT int setfsgid(uint32_t g)
{
	int before = (int)SYS1(__NR_setfsgid, g);

	creds_thread_changed();
	return before;
}

EXPORT int capset(void *head, const void *data)
{
	long r = finish(SYS2(__NR_capset, head, data));

	creds_thread_changed();
	return (int)r;
}
