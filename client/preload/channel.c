/* The channel: requests to the manager with their answers. */
#include "fail.h"
#include "session.h"

#define SO_RCVTIMEO_NEW 66

struct control control = {.channel = -1, .other_channel = -1, .pulse = -1};

static void channel_swap(void)
{
	int channel = control.other_channel;
	uint64_t inode = control.other_inode;

	control.other_channel = control.channel;
	control.other_inode = control.channel_inode;
	control.channel = channel;
	control.channel_inode = inode;
	control.spare_asked = 0; /* there */
}

int channel_ready(void)
{
	if (fd_is(control.channel, control.channel_inode))
		return 0;
	channel_swap();
	return fd_is(control.channel, control.channel_inode) ? 0 : channel_open();
}

void channel_forget(void)
{
	for (int i = 0; i < 2; i++) {
		if (fd_is(control.channel, control.channel_inode))
			SYS1(__NR_close, control.channel);
		control.channel = -1;
		channel_swap();
	}
}

uint32_t request_number(void)
{
	if (++control.seq == 0)
		control.seq = 1;
	return control.seq;
}

/* Whether no call that blocks makes such a request. (Nor does one make OPEN of a
 * segment, but programs attach, pause, and are looked at: LTP's shmctl01.) */
static bool may_sleep(const struct abi_request *r)
{
	return r->kind == ABI_MSG_GET || r->kind == ABI_MSG_CTL || r->kind == ABI_MSG_DETACHED ||
	       r->kind == ABI_MSG_FOLD;
}

static long call(void *exchange)
{
	struct exchange *x = exchange;
	long r;

	control_lock();
	control.may_sleep = may_sleep(&x->request);
	spares_settle();
	x->request.seq = request_number();
	x->request.tid = thread_id();
	for (;;) {
		r = channel_ready();
		if (r < 0)
			break;
		r = packet_exchange(control.channel, x);
		FAIL_POINT("request: answered");
		if (r > 0 && x->reply.errno != ECONNRESET) {
			r = -(long)x->reply.errno;
			break;
		}
		if (r < 0 && r != -ECONNRESET && r != -EPIPE && r != -ENOTCONN)
			break;
		/* The manager went away: the same request under the same number
		 * is carried out once, whichever of the two managers does it. */
		SYS1(__NR_close, control.channel);
		control.channel = -1;
	}
	for (int i = 0; r == 0 && i < x->nfds; i++)
		x->fds[i] = fd_move(x->fds[i]);
	if (r < 0 || x->request.kind != ABI_MSG_OPEN) /* nothing else is answered with any */
		packet_close(x);
	control.may_sleep = false;
	control_unlock();
	return r;
}

int channel_call(struct exchange *x)
{
	long r = call(x);

	/* Descriptors in the answer would be lost: see handle_open. */
	if (unlikely(r == -EMFILE) && x->request.kind != ABI_MSG_OPEN)
		r = with_descriptors(call, x);
	return (int)r;
}

int channel_simple(uint32_t kind, int64_t a0, int64_t a1, int64_t a2, int64_t a3, int64_t *val)
{
	struct exchange x = {.request = {.kind = kind, .arg = {a0, a1, a2, a3}}};
	int r = channel_call(&x);

	if (r == 0 && val != NULL)
		*val = x.reply.val[0];
	packet_close(&x);
	return r;
}

/* -ERESTART: the manager ends and has done nothing; the next one will. -ECONNRESET:
 * it was killed; what it has come to, the next one knows. */
static long brokered(struct exchange *x, int64_t deadline, bool *cancelled)
{
	struct thread *t = thread_own();
	struct exchange greeting = {0};
	struct abi_request cancel = {.kind = ABI_MSG_CANCEL};
	long r;

	control_lock();
	long fd = channel_connect(&greeting);
	if (fd >= 0) {
		packet_close(&greeting);
		fd = fd_move((int)fd);
	}
	if (x->request.seq == 0)
		x->request.seq = request_number();
	if (t->brokered == 0) /* else a handler's, within another */
		store32(&t->brokered, x->request.seq);
	x->request.arg[ABI_BROKERED_OPEN] = threads_brokered();
	cancel.seq = request_number();
	control_unlock();
	if (fd < 0)
		return fd;

	if (deadline >= 0) {
		int64_t left = deadline - now_monotonic();

		x->request.arg[2] = left > 0 ? left : 0;
	}
	x->request.tid = thread_id();
	cancel.tid = x->request.tid;
	cancel.arg[0] = x->request.seq;
	/* With a time-out set, recvmsg is never restarted after a handler
	 * (signal(7)), which is what semop and msgrcv do. */
	struct timespec64 hour = {3600, 0};
	SYS5(__NR_setsockopt, fd, SOL_SOCKET, SO_RCVTIMEO_NEW, &hour, sizeof hour);
	r = packet_send((int)fd, &x->request, x->data);
	if (r == -EPIPE || r == -ECONNRESET || r == -ENOTCONN)
		r = -ERESTART; /* it did not come there */
	/* Should a cancel not come there, the answer or the end is on its way. */
	*cancelled = *cancelled || call_disturbed();
	if (r == 0 && *cancelled)
		packet_send((int)fd, &cancel, NULL);
	while (r == 0) {
		long got = packet_receive((int)fd, x, 0);

		if (got == -EAGAIN)
			continue;
		if (got == -EINTR) {
			if (!*cancelled)
				packet_send((int)fd, &cancel, NULL);
			*cancelled = true;
			continue;
		}
		if (got > 0 && x->reply.seq != x->request.seq) {
			packet_close(x);
			continue;
		}
		r = got > 0 ? -(long)x->reply.errno : got == 0 ? -ECONNRESET : got;
		if (got > 0 && r == -ECONNRESET)
			r = *cancelled && !x->request.arg[ABI_BROKERED_AGAIN] ? -EINTR : -ERESTART;
		break;
	}
	packet_close(x); /* no answer to such a call has descriptors */
	SYS1(__NR_close, fd);
	return r;
}

int channel_brokered(struct exchange *x, int64_t deadline)
{
	struct thread *t = thread_own();
	uint32_t outer = t->brokered;
	bool cancelled = false;
	long r;

	while ((r = brokered(x, deadline, &cancelled)) == -ERESTART || r == -ECONNRESET)
		if (r == -ECONNRESET)
			x->request.arg[ABI_BROKERED_AGAIN] = 1;
	store32(&t->brokered, outer);
	return (int)r;
}
