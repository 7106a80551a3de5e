/*
 * Spares: sessions that the manager makes ahead for children. Their pages lie in a
 * room of the parent's, out of reach of all children but the one that gets one
 * (fork.c).
 */
#include "session.h"

/* Half of what a parent may have is asked for at once: as soon as one half is begun, the
 * manager makes the other. On a busy machine that takes it some milliseconds. */
#define BATCH (ABI_MAX_SPARES / 2)

static uint32_t left(const struct spares *s)
{
	return s->count - s->used;
}

struct abi_session_page *spare_next(void)
{
	const struct spares *s = &control.spares[0];

	return left(s) > 0 ? &s->page[s->used] : NULL;
}

/* Maps n spares, out of reach of children, over earlier ones if there were as many. */
static bool map_spares(struct spares *s, int fd, uint32_t n)
{
	const int prot = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_POPULATE;

	if (n <= s->room) {
		long p = SYS6(__NR_mmap, s->page, n * PAGE, prot, flags | MAP_FIXED, fd, 0);

		if (is_error(p))
			return false;
	} else {
		if (s->room > 0)
			SYS2(__NR_munmap, s->page, s->room * PAGE);
		s->page = room_map(n * PAGE, prot, flags, fd);
		s->room = s->page != NULL ? n : 0;
	}
	return s->room > 0 && SYS3(__NR_madvise, s->page, n * PAGE, MADV_DONTFORK) == 0;
}

/* Whoever comes next is used when nothing is left of the first. */
static void turn(void)
{
	struct spares *s = control.spares;

	if (left(&s[0]) == 0 && left(&s[1]) > 0) {
		struct spares first = s[0];

		s[0] = s[1];
		s[1] = first;
	}
}

/* Takes the pages of a MsgSpare's reply. */
static void take_spares(struct exchange *x)
{
	struct spares *s = &control.spares[spare_next() != NULL];
	uint32_t n = (uint32_t)x->reply.val[1];

	if (x->reply.errno == 0 && x->nfds == 1 && left(s) == 0 && n - 1 < BATCH &&
	    map_spares(s, x->fds[0], n)) {
		for (uint32_t i = 0; i < n; i++)
			store64(&s->page[i].address, (uintptr_t)&s->page[i]);
		s->count = n;
		s->used = 0;
	}
	packet_close(x);
}

void spares_settle(void)
{
	struct exchange x = {.request = {.seq = control.spare_asked}};

	if (control.spare_asked != 0 && fd_is(control.channel, control.channel_inode) &&
	    packet_reply(control.channel, &x) > 0)
		take_spares(&x);
	control.spare_asked = 0;
}

bool spares_ask(uint32_t used)
{
	struct abi_request req = {.kind = ABI_MSG_SPARE, .arg = {used, BATCH}};

	if (control.spare_asked != 0 || !fd_is(control.channel, control.channel_inode))
		return false;
	req.seq = request_number();
	if (packet_send(control.channel, &req, NULL) != 0)
		return false;
	control.spare_asked = req.seq;
	return true;
}

/* Tells the manager that a fork used a spare, unless it looks by itself. Is it away,
 * the next one looks at all spares when it comes. */
static void tell(uint32_t used)
{
	struct abi_request req = {.kind = ABI_MSG_FORKED, .arg = {used}};

	for (int tries = 0; tries < 2 && load32(&session.table->forks) == 0; tries++) {
		if (fd_is(control.channel, control.channel_inode)) {
			req.seq = request_number();
			if (packet_send(control.channel, &req, NULL) == 0)
				return;
			SYS1(__NR_close, control.channel);
			control.channel = -1;
		}
		control.hasty = true;
		int r = channel_open();
		control.hasty = false;
		if (r < 0)
			return;
	}
}

void spare_used(uint32_t used)
{
	control.spares[0].used++;
	turn();
	if (left(&control.spares[1]) > 0 || !spares_ask(used))
		tell(used);
}

void spares_forget(void)
{
	memset(control.spares, 0, sizeof control.spares);
	control.spare_asked = 0;
}
