/*
 * fork: a child has its parent's attaches from its first instant and a
 * session of its own, without a message.
 *
 * The manager gives each session a spare: a number and a page for its next
 * child. Prepare copies the attaches there and holds the control lock, so
 * that the copy is true; the child claims the page. A child of a raw clone is
 * told by the wiped page at its first call and registers then.
 *
 * The handlers are there from the start: prepare waits for a registration that
 * another thread has begun. And as the first that libc was told of, they run
 * closest to the fork itself: handlers of the program may make calls.
 */
#include "attach.h"

extern int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void),
			     void *dso) __attribute__((weak));
extern int pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
	__attribute__((weak));

static bool has_attaches(void)
{
	for (int i = 0; i < ABI_PAGE_USES; i++)
		if (load32(&session.page->uses[i].count) != 0)
			return true;
	return false;
}

/* Gives the child's page the parent's attaches; each that it gets counts as an
 * attach of the parent's at this moment (shm_open in ipc/shm.c). */
static void copy_uses(struct abi_session_page *to)
{
	int64_t now = now_real();

	for (int i = 0; i < ABI_PAGE_USES; i++) {
		struct abi_use *use = &session.page->uses[i];

		to->uses[i].count = 0;
		if (load32(&use->count) == 0) {
			store64(&to->uses[i].serial, 0);
			continue;
		}
		store64(&to->uses[i].serial, use->serial);
		to->uses[i].atime = 0;
		to->uses[i].dtime = 0;
		store32(&to->uses[i].count, use->count);
	}
	pieces_left_out(to);
	for (int i = 0; i < ABI_PAGE_USES; i++)
		if (to->uses[i].count != 0)
			session.page->uses[i].atime = now;
}

/* A child that forks before it ever called has no channel yet. */
static long get_spare(void *unused)
{
	long r = channel_ready();

	(void)unused;
	if (r == 0) {
		spares_ask(0);
		spares_settle();
	}
	return r == 0 && spare_next() == NULL ? -EMFILE : r;
}

/* Without a space now and for good. */
static bool never_a_space(void)
{
	return session.mode == MODE_KERNEL || session.mode == MODE_REFUSED;
}

static void prepare(void)
{
	if (never_a_space())
		return;
	control_lock();
	attach_exclude();
	control.child_page = NULL;
	if (session.page == NULL || load32(session.alive) != 1 || !has_attaches())
		return;
	if (control.page_kept != session.page &&
	    SYS3(__NR_madvise, session.page, ABI_PAGE_SIZE, MADV_DONTFORK) == 0)
		control.page_kept = session.page;
	control.forking = control.may_sleep = true;
	if (spare_next() == NULL)
		spares_settle();
	if (spare_next() == NULL && get_spare(NULL) == -EMFILE)
		with_descriptors(get_spare, NULL);
	control.forking = control.may_sleep = false;
	/* The kernel may have no place for one more mapping: the child counts late. */
	struct abi_session_page *page = spare_next();
	if (page != NULL && SYS3(__NR_madvise, page, ABI_PAGE_SIZE, MADV_DOFORK) == 0) {
		copy_uses(page);
		FAIL_POINT("fork: attaches copied");
		store32(&page->state, ABI_PAGE_RESERVED);
		FAIL_POINT("fork: reserved");
		control.child_page = page;
		control.used_spare = page->session;
	}
}

static void parent(void)
{
	if (never_a_space())
		return;
	FAIL_POINT("fork: parent goes on");
	if (control.child_page != NULL) {
		cas32(&control.child_page->state, ABI_PAGE_RESERVED, ABI_PAGE_FORKED);
		SYS3(__NR_madvise, control.child_page, ABI_PAGE_SIZE, MADV_DONTFORK);
		spare_used(control.used_spare);
	}
	attach_include();
	control_unlock();
}

/* What a child must not take for its own. */
static void forget_parent(void)
{
	spares_forget();
	channel_forget();
	threads_forked();
	attach_alone();
	pieces_forked();
}

/* False: the manager took this child for dead, or never born. */
static bool claim(struct abi_session_page *page, uint32_t pid)
{
	store64(&page->claimed, (uint64_t)now_boot());
	store32(&page->pid, pid);
	FAIL_POINT("fork: child named");
	return cas32(&page->state, ABI_PAGE_RESERVED, ABI_PAGE_CLAIMED) ||
	       cas32(&page->state, ABI_PAGE_FORKED, ABI_PAGE_CLAIMED);
}

/* The parent's page, if the child has that too. */
static struct abi_session_page *inherited_page(void)
{
	struct abi_session_page *page = session.page;

	if (page == control.page_kept)
		page = NULL;
	control.page_kept = NULL;
	return page;
}

static void child(void)
{
	struct abi_session_page *page = control.child_page;
	uint32_t pid;

	if (never_a_space())
		return;
	if (session.alive != NULL)
		store32((uint32_t *)session.alive, 0); /* as it is: to read it first costs one fault more */
	pid = (uint32_t)SYS0(__NR_getpid);
	control_inherit(pid);
	FAIL_POINT("fork: child begins");
	if (session.alive != NULL) {
		struct abi_session_page *inherited = inherited_page();

		if (page != NULL && claim(page, pid)) {
			FAIL_POINT("fork: page claimed");
			if (inherited != NULL)
				room_give_page(inherited);
			inherited = page;
			session.number = page->session;
			store32((uint32_t *)session.alive, 1);
		}
		session.page = inherited;
		control.child_page = NULL;
		forget_parent();
	}
	attach_alone();
	control_unlock();
}

/* Counts what is mapped here. (The parent's page is the parent's: it may have
 * attached and detached since.) */
static void count_pieces(void)
{
	for (struct piece *p = piece_next(NULL); p != NULL; p = piece_next(p)) {
		struct abi_use *use = use_of(p->serial);

		if (use != NULL)
			use_add(use, 1);
	}
}

void fork_forget(void)
{
	forget_parent();
	session.page = NULL;
	session.number = 0;
}

static long register_again(void *unused)
{
	(void)unused;
	return channel_open();
}

/* With the control lock held in the parent or not: only this thread is left. */
void fork_adopt(void)
{
	struct abi_session_page *inherited;

	control_reset();
	control_lock();
	if (load32(session.alive) != 1) {
		inherited = inherited_page();
		fork_forget();
		long r = channel_open();
		if (r == -EMFILE)
			r = with_descriptors(register_again, NULL);
		if (r == 0) {
			store32((uint32_t *)session.alive, 1);
			count_pieces();
		} else {
			store32(&session.mode, MODE_REFUSED);
		}
		if (inherited != NULL)
			room_give_page(inherited);
	}
	control_unlock();
	session_look_home(); /* a raw clone may have had CLONE_NEWIPC */
}

/* A fork by number, through libc's syscall(): libc's handlers do not see it. */
long fork_by_number(long number, const long *a)
{
	prepare();
	long pid = SYS6(number, a[0], a[1], a[2], a[3], a[4], a[5]);

	if (pid == 0)
		child();
	else
		parent();
	return pid;
}

__attribute__((constructor)) static void watch(void)
{
	if (__register_atfork != NULL)
		__register_atfork(prepare, parent, child, NULL);
	else if (pthread_atfork != NULL)
		pthread_atfork(prepare, parent, child);
}
