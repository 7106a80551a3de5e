/*
 * Spares: sessions that the manager makes ahead for children. Their pages lie in a
 * room of the parent's, out of reach of all children but the one that gets one
 * (fork.c).
 */
#include "session.h"

/* Maps n spares where earlier ones were, out of reach of children. */
static bool map_spares(int fd, uint32_t n)
{
	if (control.spares_room == NULL)
		control.spares_room = room_reserve(ABI_MAX_SPARES * ABI_PAGE_SIZE);
	if (control.spares_room == NULL)
		return false;
	long p = SYS6(__NR_mmap, control.spares_room, n * ABI_PAGE_SIZE, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_POPULATE | MAP_FIXED, fd, 0);
	return !is_error(p) && SYS3(__NR_madvise, p, n * ABI_PAGE_SIZE, MADV_DONTFORK) == 0;
}

/* Takes the pages of a MsgSpare's reply. */
static void take_spares(struct exchange *x)
{
	uint32_t n = (uint32_t)x->reply.val[1];

	if (x->reply.errno == 0 && x->nfds == 1 && control.spares == 0 && n - 1 < ABI_MAX_SPARES &&
	    map_spares(x->fds[0], n)) {
		control.spare = control.spares_room;
		control.spares = n;
		for (uint32_t i = 0; i < n; i++)
			store64(&control.spare[i].address, (uintptr_t)&control.spare[i]);
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

void spares_ask(uint32_t used)
{
	struct abi_request req = {.kind = ABI_MSG_SPARE, .arg = {used, ABI_MAX_SPARES}};

	if (control.spare_asked != 0 || !fd_is(control.channel, control.channel_inode))
		return;
	req.seq = request_number();
	if (packet_send(control.channel, &req, NULL) == 0)
		control.spare_asked = req.seq;
}

/* Is the manager away, the next one looks at all spares when it comes. */
void spare_used(uint32_t used)
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
