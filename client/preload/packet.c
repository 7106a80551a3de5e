/* Packets on the channel: a request, and its answer as a packet or, where that is
 * enough, as a word in the session's page. */
#include "session.h"

#define SCM_RIGHTS 1
#define SCM_CREDENTIALS 2
#define MSG_CTRUNC 8
#define MSG_DONTWAIT 0x40
#define MSG_NOSIGNAL 0x4000
#define MSG_CMSG_CLOEXEC 0x40000000

struct iovec {
	const void *base;
	size_t len;
};
struct msghdr {
	void *name;
	int namelen;
	struct iovec *iov;
	size_t iovlen;
	void *control;
	size_t controllen;
	unsigned flags;
};
struct cmsghdr {
	size_t len;
	int level;
	int type;
};
struct ucred {
	uint32_t pid, uid, gid;
};
/* Rounds of a look for a short answer: some 60 us, as long as a sleep and a wake-up
 * take on a virtual machine. */
#define SHORT_ANSWER_SPINS 2500

long packet_send(int fd, const struct abi_request *req, const void *data)
{
	struct iovec iov[2] = {{req, sizeof *req}, {data, req->len}};
	struct {
		struct cmsghdr head;
		struct ucred creds;
		uint32_t pad;
	} c = {.head = {sizeof(struct cmsghdr) + sizeof(struct ucred), SOL_SOCKET,
			SCM_CREDENTIALS}};
	struct msghdr m = {.iov = iov, .iovlen = req->len ? 2 : 1};
	long r;

	/* What the kernel puts by itself are the real ids. */
	if (!creds_plain()) {
		c.creds = (struct ucred){(uint32_t)SYS0(__NR_getpid), creds_uid(), creds_gid()};
		m.control = &c;
		m.controllen = sizeof c;
	}
	do
		r = SYS3(__NR_sendmsg, fd, &m, MSG_NOSIGNAL);
	while (r == -EINTR);
	if (m.control != NULL && (r == -EINVAL || r == -EPERM)) {
		/* Ids that the user namespace does not map cannot be named. */
		m.control = NULL;
		m.controllen = 0;
		r = SYS3(__NR_sendmsg, fd, &m, MSG_NOSIGNAL);
	}
	return r < 0 ? r : 0;
}

void packet_close(struct exchange *x)
{
	for (int i = 0; i < x->nfds; i++)
		if (x->fds[i] >= 0)
			SYS1(__NR_close, x->fds[i]);
	x->nfds = 0;
}

long packet_receive(int fd, struct exchange *x, int flags)
{
	struct iovec iov[2] = {{&x->reply, sizeof x->reply}, {x->reply_data, x->reply_room}};
	struct {
		struct cmsghdr head;
		int fds[4];
	} c;
	struct msghdr m = {NULL, 0, iov, x->reply_room ? 2 : 1, &c, sizeof c, 0};
	long r = SYS3(__NR_recvmsg, fd, &m, MSG_CMSG_CLOEXEC | flags);

	x->nfds = 0;
	if (r < 0)
		return r;
	if (m.controllen >= sizeof(struct cmsghdr) && c.head.level == SOL_SOCKET &&
	    c.head.type == SCM_RIGHTS) {
		size_t n = (c.head.len - sizeof(struct cmsghdr)) / sizeof(int);

		for (size_t i = 0; i < n && i < 4; i++) {
			if (i < sizeof x->fds / sizeof *x->fds)
				x->fds[x->nfds++] = c.fds[i];
			else
				SYS1(__NR_close, c.fds[i]);
		}
	}
	if (r < (long)sizeof x->reply) {
		packet_close(x);
		return 0;
	}
	if (m.flags & MSG_CTRUNC) /* there was no room for descriptors */
		x->reply.errno = EMFILE;
	return r;
}

/* Waits for a packet, the first while without sleeping: a manager that is
 * awake on another CPU answers within microseconds. */
static long await_packet(int fd, struct exchange *x)
{
	int64_t begun = now_monotonic();

	for (unsigned tries = 0; now_monotonic() - begun < AWAKE; tries++) {
		bool spins = tries < 8 && session.cpus > 1;

		if (!spins && control.may_sleep)
			break;
		long r = packet_receive(fd, x, MSG_DONTWAIT);

		if (r != -EAGAIN)
			return r;
		if (!spins)
			SYS0(__NR_sched_yield);
		else
			for (int i = 0; i < 20; i++)
				cpu_relax();
	}
	return packet_receive(fd, x, 0);
}

long packet_reply(int fd, struct exchange *x)
{
	for (;;) {
		long r = await_packet(fd, x);

		if (r == -EINTR)
			continue;
		if (r <= 0 || x->reply.seq == x->request.seq)
			return r;
		packet_close(x);
	}
}

static uint64_t awaited_word(uint32_t seq)
{
	return (uint64_t)seq << ABI_ANSWER_SEQ_SHIFT | ABI_ANSWER_AWAITED;
}

/* Whether the answer has nothing but an errno and a value. */
static bool is_short(const struct exchange *x)
{
	return session.cpus > 1 && x->reply_room == 0 && x->request.kind != ABI_MSG_OPEN;
}

/* Waits for a short answer, no longer than a sleep and a wake-up would cost. A
 * packet is what the manager sends else, and to those who do not look here. */
static bool short_answer(struct exchange *x)
{
	uint64_t *answer = &session.page->answer;
	uint64_t awaited = awaited_word(x->request.seq);

	for (unsigned i = 0; i < SHORT_ANSWER_SPINS && load64(answer) == awaited; i++)
		cpu_relax();
	if (cas64(answer, awaited, ABI_ANSWER_NONE))
		return false;
	x->reply.errno = load64(answer) >> ABI_ANSWER_ERRNO_SHIFT & ABI_ANSWER_ERRNO_MASK;
	x->reply.val[0] = session.page->value;
	x->nfds = 0;
	return true;
}

long packet_exchange(int fd, struct exchange *x)
{
	if (is_short(x))
		store64(&session.page->answer, awaited_word(x->request.seq));
	long r = packet_send(fd, &x->request, x->data);

	if (r < 0)
		return r;
	return is_short(x) && short_answer(x) ? 1 : packet_reply(fd, x);
}
