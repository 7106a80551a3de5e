/* How a process comes to a channel: registration and HELLO. */
#include "session.h"

#define AF_UNIX 1
#define SOCK_SEQPACKET 5
#define SOCK_CLOEXEC 02000000
#define O_WRONLY 1
#define O_NONBLOCK 04000
#define F_DUPFD_CLOEXEC 1030

struct sockaddr_un {
	uint16_t family;
	char path[108];
};

/* How long a call waits for a manager that is away, in ns. A manager that is
 * restarted or upgraded is back long before. */
#define MANAGER_PATIENCE INT64_C(30000000000)
/* The same for a fork, which can do without: the child counts late then. */
#define FORK_PATIENCE INT64_C(1000000000)

uint64_t fd_inode(int fd)
{
	/* struct stat begins with dev and ino on both CPUs. */
	uint64_t st[18];

	if (SYS2(__NR_fstat, fd, st) < 0)
		return 0;
	return st[1] ^ st[0] << 48;
}

bool fd_is(int fd, uint64_t inode)
{
	return fd >= 0 && fd_inode(fd) == inode;
}

int fd_move(int fd)
{
	static const int high[] = {OWN_FDS, 64, 16};

	for (unsigned i = 0; i < sizeof high / sizeof *high; i++) {
		long moved = SYS3(__NR_fcntl, fd, F_DUPFD_CLOEXEC, high[i]);

		if (moved >= 0) {
			SYS1(__NR_close, fd);
			return (int)moved;
		}
	}
	return fd;
}

static char *put_string(char *to, const char *s)
{
	while (*s)
		*to++ = *s++;
	*to = 0;
	return to;
}

static char *put_number(char *to, uint32_t n)
{
	char digits[11];
	int i = 0;

	do
		digits[i++] = (char)('0' + n % 10);
	while ((n /= 10) != 0);
	while (i > 0)
		*to++ = digits[--i];
	*to = 0;
	return to;
}

static long connect_to(int fd, const char *name)
{
	struct sockaddr_un sun = {.family = AF_UNIX};
	char path[DIR_MAX + 64];
	char *end = put_string(path, control.dir);

	end = put_string(end, "/" ABI_CHANNELS_NAME);
	if ((size_t)(end - path) + 2 + ABI_NONCE_DIGITS < sizeof sun.path) {
		end = put_string(put_string(end, "/"), name);
		memcpy(sun.path, path, (size_t)(end - path) + 1);
		return SYS3(__NR_connect, fd, &sun, sizeof sun);
	}
	/* Too long for an address: by way of a descriptor of the folder. */
	long folder = SYS3(__NR_openat, AT_FDCWD, path, 010000000 /* O_PATH */ | O_CLOEXEC);

	if (folder < 0)
		return folder;
	end = put_string(sun.path, "/proc/self/fd/");
	end = put_number(end, (uint32_t)folder);
	put_string(put_string(end, "/"), name);
	long r = SYS3(__NR_connect, fd, &sun, sizeof sun);
	SYS1(__NR_close, folder);
	return r;
}

/* A write without SIGPIPE, should the manager end just now. All signals are
 * blocked (control_lock), so it is pending then, for this thread, and can be
 * taken back, unless it was pending before. */
static long write_quietly(int fd, const void *data, size_t n)
{
	const uint64_t sigpipe = UINT64_C(1) << (13 - 1);
	const struct timespec64 now = {0, 0};
	uint64_t before = 0;

	SYS2(__NR_rt_sigpending, &before, sizeof before);
	long r = SYS3(__NR_write, fd, data, n);
	if (r == -EPIPE && !(before & sigpipe))
		SYS4(__NR_rt_sigtimedwait, &sigpipe, NULL, &now, sizeof sigpipe);
	return r;
}

/* Announces this process at the FIFO. -ENXIO: nobody reads it. */
static long announce(const char *nonce)
{
	char path[DIR_MAX + 64], line[64];

	put_string(put_string(path, control.dir), "/" ABI_REGISTER_NAME);
	long fd = SYS3(__NR_openat, AT_FDCWD, path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return fd;
	char *end = put_string(line, "\nipcspace ");
	end = put_number(end, ABI_LAYOUT_MAJOR);
	end = put_string(put_string(put_string(end, " "), nonce), "\n");
	long r = write_quietly((int)fd, line, (size_t)(end - line));
	SYS1(__NR_close, fd);
	return r < 0 ? r : 0;
}

static int64_t patience(void)
{
	return control.hasty ? 0 : control.forking ? FORK_PATIENCE : MANAGER_PATIENCE;
}

/* A connected socket, or -errno: ECONNREFUSED, no manager came in time; EIDRM, the
 * space is gone. */
static long rendezvous(void)
{
	int64_t begun = now_monotonic();
	uint64_t random = (uint64_t)begun;
	char nonce[ABI_NONCE_DIGITS + 1];
	bool announced = false;

	SYS3(__NR_getrandom, &random, sizeof random, 1 /* GRND_NONBLOCK */);
	for (int i = 0; i < ABI_NONCE_DIGITS; i++)
		nonce[i] = "0123456789abcdef"[random >> 4 * i & 15];
	nonce[ABI_NONCE_DIGITS] = 0;

	long fd = SYS3(__NR_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return fd;
	/* Whose session is there, a forked child or one whose manager was away, has
	 * registered: its cookie says so. */
	if (session.page != NULL && connect_to((int)fd, ABI_ANY_CHANNEL_NAME) == 0)
		return fd;
	for (unsigned round = 0;; round++) {
		uint32_t seen = load32(&session.table->registrations);
		long r;

		if (!announced) {
			r = announce(nonce);
			announced = r == 0;
			if (r == -ENOENT) { /* the space is gone */
				SYS1(__NR_close, fd);
				return -EIDRM;
			}
		}
		r = connect_to((int)fd, nonce);
		/* Where the FIFO is flooded, lines get lost: the permanent
		 * socket serves everybody, more slowly. */
		if (r < 0 && (round > 2 || !announced))
			r = connect_to((int)fd, ABI_ANY_CHANNEL_NAME);
		if (r == 0)
			return fd;
		if (now_monotonic() - begun > patience()) {
			SYS1(__NR_close, fd);
			return -ECONNREFUSED; /* not what connect said, which may be ENOENT */
		}
		if (round % 16 == 15)
			announced = false; /* a manager that came back knows no old line */
		const struct timespec64 pause = {0, 20000000};
		while (!control.may_sleep && load32(&session.table->registrations) == seen &&
		       now_monotonic() - begun < AWAKE)
			SYS0(__NR_sched_yield);
		futex_wait((uint32_t *)&session.table->registrations, seen, &pause);
	}
}

/* Maps a page of its own file. It is written to at once. */
static struct abi_session_page *map_page(int fd)
{
	return room_map(ABI_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd);
}

/* Says HELLO on fd, for the present session if there is one. */
static long hello(int fd, struct exchange *x)
{
	struct abi_session_page *page = session.page;

	*x = (struct exchange){.request = {.kind = ABI_MSG_HELLO, .arg = {ABI_LAYOUT_MAJOR}}};
	if (page != NULL) {
		x->request.arg[1] = session.number;
		x->request.arg[2] = page->parent != 0; /* made ahead for this child */
		x->request.len = sizeof page->cookie;
		x->data = page->cookie;
	}
	x->request.tid = thread_id();
	long r = packet_send(fd, &x->request, x->data);
	if (r == 0) {
		r = packet_reply(fd, x);
		r = r < 0 ? r : r == 0 ? -ECONNRESET : -(long)x->reply.errno;
	}
	return r;
}

long channel_connect(struct exchange *x)
{
	int64_t begun = now_monotonic();

	for (;;) {
		long fd = rendezvous();
		if (fd < 0)
			return fd;
		long r = hello((int)fd, x);
		if (r == 0)
			return fd;
		packet_close(x);
		SYS1(__NR_close, fd);
		/* The manager went away while we talked to it. */
		if ((r != -ECONNRESET && r != -EPIPE) || now_monotonic() - begun >= patience())
			return r;
	}
}

int channel_open(void)
{
	int64_t begun = now_monotonic();
	struct exchange x;
	long fd;

	do {
		fd = channel_connect(&x);
		if (fd == -ESRCH && session.page != NULL) {
			/* The manager took this process for dead: a new session. */
			room_give_page(session.page);
			session.page = NULL;
			session.number = 0;
			spares_forget();
		}
	} while (fd == -ESRCH && now_monotonic() - begun < patience());
	if (fd < 0)
		return (int)fd;

	bool fresh = session.page == NULL || x.reply.val[0] != session.number;
	struct abi_session_page *page = fresh && x.nfds == 3 ? map_page(x.fds[2]) : NULL;
	if (x.nfds < 2 || (fresh && page == NULL)) {
		packet_close(&x);
		SYS1(__NR_close, fd);
		return -ENOMEM;
	}
	session.foreign_ids = x.reply.val[3] != 0;
	if (fresh) {
		control.page_kept = NULL;
		session.page = page;
		session.number = (uint32_t)x.reply.val[0];
		session.pid_ns = (uint64_t)x.reply.val[1];
		store64(&page->address, (uintptr_t)page);
		store32(&page->pid, (uint32_t)x.reply.val[2]);
		store32(&page->state, ABI_PAGE_CLAIMED);
	}
	control.channel = fd_move((int)fd);
	control.channel_inode = fd_inode(control.channel);
	if (!fd_is(control.pulse, control.pulse_inode)) {
		control.pulse = fd_move(x.fds[1]);
		control.pulse_inode = fd_inode(control.pulse);
		x.fds[1] = -1;
	}
	control.spare_asked = 0;
	packet_close(&x);
	return 0;
}
