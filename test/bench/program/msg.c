/* Message queues. */
#include "bench.h"

static long count; /* rounds of each process */

static double stat_queue(void)
{
	int id = new_queue();
	struct msqid_ds ds;
	struct text m = {1, ""};
	MUST(msgsnd(id, &m, 1, 0));
	double ns = TIMED(2000000, MUST(msgctl(id, IPC_STAT, &ds)));

	msgctl(id, IPC_RMID, NULL);
	return ns;
}

static double message_pair(size_t size, long n)
{
	int id = new_queue();
	struct text m = {1, ""};
	double ns = TIMED(n, MUST(msgsnd(id, &m, size, 0));
			  MUST(msgrcv(id, &m, sizeof m.text, 0, 0)));

	msgctl(id, IPC_RMID, NULL);
	return ns;
}
double message_64(void)
{
	return message_pair(64, 1000000);
}
static double message_8k(void)
{
	return message_pair(8192, 300000);
}

static void stream_producer(void *arg)
{
	struct text m = {1, ""};

	for (long i = 0; i < count; i++)
		MUST(msgsnd(*(int *)arg, &m, 64, 0));
}
static double stream(void)
{
	int id = new_queue();
	struct text m;

	count = rounds(500000);
	double begun = now();
	child_of(stream_producer, &id);
	for (long i = 0; i < count; i++)
		MUST(msgrcv(id, &m, sizeof m.text, 0, 0));
	double ns = (now() - begun) / (double)count;

	reap_all();
	msgctl(id, IPC_RMID, NULL);
	return ns;
}

static void msg_pong(void *arg)
{
	struct text m = {2, ""};

	for (long i = 0; i < count; i++) {
		MUST(msgrcv(*(int *)arg, &m, sizeof m.text, 1, 0));
		m.type = 2;
		MUST(msgsnd(*(int *)arg, &m, 64, 0));
	}
}
static double msg_ping_pong(void)
{
	int id = new_queue();
	struct text m = {1, ""};

	count = rounds(200000);
	double begun = now();
	child_of(msg_pong, &id);
	for (long i = 0; i < count; i++) {
		m.type = 1;
		MUST(msgsnd(id, &m, 64, 0));
		MUST(msgrcv(id, &m, sizeof m.text, 2, 0));
	}
	double ns = (now() - begun) / (double)count;

	reap_all();
	msgctl(id, IPC_RMID, NULL);
	return ns;
}

static double msg_ping_pong_busy(void)
{
	return busy(msg_ping_pong);
}

static void many_send(void *arg)
{
	struct text m = {1, ""};

	for (long i = 0; i < count; i++)
		MUST(msgsnd(*(int *)arg, &m, 64, 0));
}
static void many_receive(void *arg)
{
	struct text m;

	for (long i = 0; i < count; i++)
		MUST(msgrcv(*(int *)arg, &m, sizeof m.text, 0, 0));
}
static double msg_many(void)
{
	int id = new_queue();

	count = rounds(60000);
	double begun = now();
	for (int i = 0; i < 4; i++) {
		child_of(many_send, &id);
		child_of(many_receive, &id);
	}
	reap_all();
	double ns = (now() - begun) / (double)(4 * count);

	msgctl(id, IPC_RMID, NULL);
	return ns;
}

static double msg_create(void)
{
	return TIMED(50000, int id = msgget(IPC_PRIVATE, 0600); MUST(id);
		     MUST(msgctl(id, IPC_RMID, NULL)));
}

const struct row msg_rows[] = {
	{"stat_queue", stat_queue},
	{"message_64", message_64},
	{"message_8k", message_8k},
	{"stream_64", stream},
	{"msg_ping_pong", msg_ping_pong},
	{"msg_ping_pong_busy", msg_ping_pong_busy},
	{"msg_4_to_4", msg_many},
	{"msg_create_remove", msg_create},
	{NULL, NULL},
};
