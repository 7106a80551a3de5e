/* Operations on a message queue, and what may be there after each. */
#include "failpoints.h"
#include <errno.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>

#define LONG 3000
#define QBYTES 4000
#define HUGE 120000 /* more chunks than one cell names */

struct message {
	long type;
	uint8_t text[HUGE];
};

static void fill(struct message *m, size_t size)
{
	for (size_t i = 0; i < size; i++)
		m->text[i] = (uint8_t)(m->type * 17 + (long)size + (long)i * 3);
}

static bool whole(const struct message *m, long size)
{
	for (long i = 0; i < size; i++)
		if (m->text[i] != (uint8_t)(m->type * 17 + size + i * 3))
			return false;
	return true;
}

static int send(long type, size_t size, int flags)
{
	struct message m = {.type = type};

	fill(&m, size);
	return msgsnd(object, &m, size, flags) < 0 ? errno : 0;
}

/* Size of the message, or -errno; -1000: it is damaged. */
static long receive(long type, size_t room, int flags)
{
	struct message m;
	long n = msgrcv(object, &m, room, type, flags);

	return n < 0 ? -errno : whole(&m, n) ? n : -1000;
}

static void make_queue(void)
{
	struct msqid_ds ds;

	object = msgget(IPC_PRIVATE, 0600);
	if (msgctl(object, IPC_STAT, &ds) < 0)
		wrong("IPC_STAT: %m");
	ds.msg_qbytes = QBYTES;
	if (msgctl(object, IPC_SET, &ds) < 0)
		wrong("IPC_SET: %m");
}
static void remove_queue(void)
{
	if (TIMED(msgctl(object, IPC_RMID, NULL)) < 0)
		wrong("IPC_RMID: %m");
	object = -1;
}

/* Messages: the victim's has type 1, the referee's 2. */
static int count(long type, long size)
{
	int n = 0;
	long r;

	while ((r = TIMED(receive(type, HUGE, IPC_NOWAIT))) >= 0) {
		if (r != size)
			wrong("a message of %ld bytes for %ld", r, size);
		n++;
	}
	if (r != -ENOMSG)
		wrong("receive: %ld", r);
	return n;
}
static void drained(int n, bool h, bool c)
{
	if (n > 1 || (c && n != h))
		wrong("%d messages, happened %d, certain %d", n, h, c);
}
static int do_send(void) { return send(1, 40, 0); }
static void after_send(bool h, bool c) { drained(count(1, 40), h, c); }
static int do_send_long(void) { return send(1, LONG, 0); }
static void after_send_long(bool h, bool c) { drained(count(1, LONG), h, c); }

static void allow_huge(void)
{
	struct msqid_ds ds;

	msgctl(object, IPC_STAT, &ds);
	ds.msg_qbytes = 2 * HUGE;
	if (msgctl(object, IPC_SET, &ds) < 0)
		wrong("IPC_SET: %m");
}
static void put_huge(void)
{
	allow_huge();
	send(2, HUGE, 0);
}
static int do_send_huge(void) { return send(1, HUGE, 0); }

static int take(long type, size_t room, int flags)
{
	long n = receive(type, room, flags);

	if (n == -1000)
		return EBADMSG;
	if (n >= 0)
		shared->got = shared->got + 1;
	return n < 0 ? (int)-n : 0;
}
static int help_receive(void) { return take(1, QBYTES, 0); }
static int help_receive_small(void) { return take(1, 10, 0); }
/* A helper waits for the victim's message. */
static void after_hand_over(bool h, bool c)
{
	int n = 0;

	for (int i = 0; i < 25 && !shared->helped; i++)
		nap(200);
	if (c && h)
		SOON("hand-over", shared->helped != 0);
	if (!shared->helped) {
		n = -1; /* the referee's own */
		if (TIMED(send(1, 40, 0)) != 0)
			wrong("send: %m");
	}
	SOON("hand-over by another", shared->helped != 0);
	n += count(1, 40) + shared->got;
	if (shared->helped != 1 || n < 0 || n > 1 || (c && n != h))
		wrong("helper %d, %d messages, happened %d, certain %d", shared->helped - 1, n, h, c);
}
static void after_too_big(bool h, bool c)
{
	for (int i = 0; i < 25 && !shared->helped; i++)
		nap(200);
	int n = count(1, LONG);

	if (!shared->helped && TIMED(send(1, LONG, 0)) != 0)
		wrong("send: %m");
	SOON("E2BIG", shared->helped != 0);
	if (shared->helped != E2BIG + 1)
		wrong("helper %d", shared->helped - 1);
	drained(n, h, c);
	count(1, LONG);
}

static void put_short(void) { send(2, 40, 0); }
static void put_long(void) { send(2, LONG, 0); }
static int do_receive(void) { return take(2, QBYTES, 0); }
static int do_receive_nowait(void) { return take(0, QBYTES, IPC_NOWAIT); }
static int do_receive_big(void) { return take(2, 10, 0) == E2BIG ? 0 : EINVAL; }
static int do_copy(void) { return take(0, QBYTES, IPC_NOWAIT | MSG_COPY); }
/* The victim has it, or it is there; only who died with it may have taken it along. */
static void after_receive_size(long size, bool c)
{
	int n = count(2, size) + shared->got;

	if (n > 1 || (c && n != 1))
		wrong("%d messages, of these the victim's %d", n, shared->got);
}
static void after_receive(bool h, bool c) { (void)h, after_receive_size(40, c); }
static void after_receive_long(bool h, bool c) { (void)h, after_receive_size(LONG, c); }
static int do_receive_huge(void) { return take(2, HUGE, 0); }
static void after_receive_huge(bool h, bool c) { (void)h, after_receive_size(HUGE, c); }
static void after_send_huge(bool h, bool c) { drained(count(1, HUGE), h, c); }
static void after_look(bool h, bool c)
{
	(void)h, (void)c;
	int n = count(2, LONG);

	if (n != 1)
		wrong("%d messages", n);
}
static void give_short(void)
{
	if (TIMED(send(2, 40, 0)) != 0)
		wrong("send: %m");
}
static void put_full(void)
{
	send(2, LONG, 0);
}
/* The victim's message waits for room, which the referee makes. */
static int do_send_block(void) { return send(1, LONG, 0); }
static void make_room(void)
{
	if (TIMED(receive(2, QBYTES, IPC_NOWAIT)) != LONG)
		wrong("receive: %m");
}
/* A helper's message waits for the room that the victim makes. */
static int help_send(void) { return send(1, LONG, 0); }
static void after_room(bool h, bool c)
{
	(void)h;
	int n = count(2, LONG) + shared->got;

	if (n > 1 || (c && n != 1))
		wrong("%d messages, of these the victim's %d", n, shared->got);
	SOON("room", shared->helped != 0);
	if (shared->helped != 1 || count(1, LONG) != 1)
		wrong("helper %d, or its message is not there", shared->helped - 1);
}

#define HALF 1500
static int help_half(void) { return send(1, HALF, 0); }
static int help_two_send(void) { return two(help_half); }
static void after_room_for_two(bool h, bool c)
{
	(void)h;
	int n = count(2, LONG) + shared->got;

	if (n > 1 || (c && n != 1))
		wrong("%d messages, of these the victim's %d", n, shared->got);
	SOON("room", shared->helped != 0);
	if (shared->helped != 1 || count(1, HALF) != 2)
		wrong("helper %d, or its messages are not there", shared->helped - 1);
}

static const struct scenario scenarios[] = {
	{"msgsnd", .operate = do_send, .after = after_send},
	{"msgsnd, long", .operate = do_send_long, .after = after_send_long},
	{"msgsnd, huge", .cannot_be_led = true, .msgmax = HUGE, .before = allow_huge, .operate = do_send_huge, .after = after_send_huge},
	{"msgsnd to a receiver", .help = help_receive, .operate = do_send, .after = after_hand_over},
	{"msgsnd, E2BIG there", .help = help_receive_small, .operate = do_send_long, .after = after_too_big},
	{"msgsnd sleeps", .before = put_full, .operate = do_send_block, .meanwhile = make_room, .after = after_send_long},
	{"msgsnd, removed", .before = put_full, .operate = do_send_block, .error = EIDRM, .meanwhile = remove_queue,
	 .after = after_removal},
	{"msgrcv", .before = put_short, .operate = do_receive, .after = after_receive},
	{"msgrcv, long", .before = put_long, .operate = do_receive_nowait, .after = after_receive_long},
	{"msgrcv, huge", .cannot_be_led = true, .msgmax = HUGE, .before = put_huge, .operate = do_receive_huge, .after = after_receive_huge},
	{"msgrcv, E2BIG", .before = put_long, .operate = do_receive_big, .after = after_look},
	{"msgrcv, MSG_COPY", .before = put_long, .operate = do_copy, .after = after_look},
	{"msgrcv sleeps", .operate = do_receive, .meanwhile = give_short, .after = after_receive},
	{"msgrcv makes room", .before = put_full, .help = help_send, .operate = do_receive, .after = after_room},
	{"msgrcv makes room for two", .before = put_full, .help = help_two_send, .operate = do_receive,
	 .meanwhile = both_go_on, .after = after_room_for_two},
	{"msgrcv, removed", .operate = do_receive, .error = EIDRM, .meanwhile = remove_queue, .after = after_removal},
};

static int nested(void)
{
	int r = send(99, 30, IPC_NOWAIT);

	if (r != 0)
		return r == EAGAIN ? 0 : r; /* a full queue may be */
	long n = receive(99, 100, IPC_NOWAIT);
	return n == 30 ? 0 : n < 0 ? (int)-n : EBADMSG;
}

static int again(void)
{
	int r = send(7, 20, IPC_NOWAIT);

	return r ? r : receive(7, 100, IPC_NOWAIT) == 20 ? 0 : EBADMSG;
}

static void beside(void)
{
	int r = (int)TIMED(send(6, 30, IPC_NOWAIT));

	if (r != 0 && r != EAGAIN)
		wrong("msgsnd beside a stopped process: %s", strerror(r));
	else if (r == 0 && TIMED(receive(6, 30, IPC_NOWAIT)) != 30)
		wrong("msgrcv beside a stopped process: %m");
}

static void check(void)
{
	struct msqid_ds ds;

	if (msgctl(object, IPC_STAT, &ds) < 0 || ds.msg_qnum != 0 || ds.__msg_cbytes != 0)
		wrong("%lu messages, %lu bytes", ds.msg_qnum, ds.__msg_cbytes);
	if (TIMED(send(5, LONG, IPC_NOWAIT)) != 0 || TIMED(receive(5, QBYTES, IPC_NOWAIT)) != LONG)
		wrong("queue: %m");
}

const struct family queues = {
	.scenarios = scenarios, .count = sizeof scenarios / sizeof *scenarios, .make = make_queue, .remove = remove_queue,
	.nested = nested, .again = again, .beside = beside, .check = check,
};
