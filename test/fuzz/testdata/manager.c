/* A thread is the manager where the library waits for it on a connection of its own. */
#define _GNU_SOURCE
#include "manager.h"

#include <linux/errno.h> /* libc's has errno for a macro, which abi.h has for a name */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CHECK(condition)                                                                           \
	do                                                                                         \
		if (!(condition))                                                                  \
			abort();                                                                   \
	while (0)

long answer_send(int fd, const struct answer *a)
{
	static const uint8_t rest[ANSWER_MORE];
	struct iovec iov[] = {{(void *)&a->head, a->n}, {(void *)rest, a->more}};
	union {
		struct cmsghdr head;
		uint8_t room[CMSG_SPACE(ANSWER_FDS * sizeof(int))];
	} control = {.room = {0}};
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};

	if (a->n_fds > 0) {
		control.head = (struct cmsghdr){CMSG_LEN(a->n_fds * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
		memcpy(CMSG_DATA(&control.head), a->fds, a->n_fds * sizeof(int));
		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(a->n_fds * sizeof(int));
	}
	return sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -1 : (long)(a->n + a->more + 600);
}

/* --- brokered calls -------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct answer script[BROKER_ANSWERS];
static unsigned scripted, said;
static char folder[] = "/tmp/ipcspace-fuzz-XXXXXX", channels[sizeof folder + 16], any[sizeof folder + 16];

void broker_says(const struct answer *answers, unsigned n)
{
	pthread_mutex_lock(&lock);
	memcpy(script, answers, n * sizeof *answers);
	scripted = n;
	said = 0;
	pthread_mutex_unlock(&lock);
}

static struct answer next_answer(const struct abi_request *r)
{
	struct answer a = {.n = sizeof a.head, .head = {.kind = r->kind, .errno = r->kind == ABI_MSG_HELLO ? 0 : EIDRM}};

	pthread_mutex_lock(&lock);
	if (said < scripted)
		a = script[said++];
	pthread_mutex_unlock(&lock);
	if (!a.stray)
		a.head.seq = r->seq;
	return a;
}

static void *serve(void *connection)
{
	int fd = (int)(intptr_t)connection;
	union {
		struct abi_request head;
		uint8_t packet[ABI_MAX_PACKET];
	} got;

	while (recv(fd, &got, sizeof got, 0) >= (long)sizeof got.head) {
		struct answer a;

		do
			a = next_answer(&got.head);
		while (answer_send(fd, &a) > 0 && a.stray);
	}
	close(fd);
	return NULL;
}

/* The library may keep a connection, and make another. */
static void *broker(void *listener)
{
	for (;;) {
		int fd = accept4((int)(intptr_t)listener, NULL, NULL, SOCK_CLOEXEC);
		pthread_t thread;

		CHECK(fd >= 0 && pthread_create(&thread, NULL, serve, (void *)(intptr_t)fd) == 0);
		pthread_detach(thread);
	}
	return NULL;
}

static void remove_folder(void)
{
	unlink(any);
	rmdir(channels);
	rmdir(folder);
}

const char *broker_begin(void)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	pthread_t thread;

	CHECK(fd >= 0 && mkdtemp(folder) != NULL);
	atexit(remove_folder);
	snprintf(channels, sizeof channels, "%s/" ABI_CHANNELS_NAME, folder);
	snprintf(any, sizeof any, "%s/" ABI_CHANNELS_NAME "/" ABI_ANY_CHANNEL_NAME, folder);
	CHECK(mkdir(channels, 0700) == 0);
	memcpy(sun.sun_path, any, strlen(any) + 1);
	CHECK(bind(fd, (struct sockaddr *)&sun, sizeof sun) == 0 && listen(fd, 64) == 0);
	CHECK(pthread_create(&thread, NULL, broker, (void *)(intptr_t)fd) == 0);
	return folder;
}
