/* msgrcv: every kind of type by flags by sizes, from a queue of seven; msgsnd, and pointers, at their bounds. */
#include "matrix.h"

static struct { long type; char text[9000]; } message;
static int queue;

static void print_queue(void)
{
	struct msqid_ds d = { 0 };
	msgctl(queue, IPC_STAT, &d);
	printf("  %lu messages, %lu of %lu bytes, sent by %s, received by %s\n", d.msg_qnum, d.__msg_cbytes,
	       d.msg_qbytes, d.msg_lspid == getpid() ? "us" : d.msg_lspid ? "another" : "nobody",
	       d.msg_lrpid == getpid() ? "us" : d.msg_lrpid ? "another" : "nobody");
}

static void fill(void)
{
	static const long types[] = { 5, 3, 3, 9, 1, LONG_MAX, 2 };
	for (size_t i = 0; i < COUNT(types); i++) {
		message.type = types[i];
		memset(message.text, 'a' + (int)i, 100);
		msgsnd(queue, &message, 10 * i, 0);
	}
}

/* What is left, in its order, so that nothing else is there. */
static void drain(void)
{
	printf(" ");
	while (msgrcv(queue, &message, sizeof message.text, 0, IPC_NOWAIT) >= 0)
		printf(" %ld", message.type);
	printf("\n");
}

static void receive(long type, int flags, size_t size)
{
	fill();
	memset(&message, 0xee, sizeof message);
	errno = 0;
	long n = msgrcv(queue, &message, size, type, flags);
	int error = errno;
	printf("msgrcv(size %zd, type %ld, flags %#o) = %s", size, type, flags, outcome(n, error));
	if (n >= 0)
		printf(", type %ld, text %02x, then %02x", message.type, message.text[0] & 0xff,
		       message.text[n < (long)sizeof message.text ? n : 0] & 0xff);
	printf("\n");
	print_queue();
	drain();
}

static void receives(void)
{
	static const long types[] = { 0, 1, 2, 3, 5, 9, LONG_MAX, -1, -2, -3, -4, -9, LONG_MIN, -LONG_MAX, 4, 100 };
	static const int flags[] = { 0, MSG_NOERROR, MSG_EXCEPT, MSG_EXCEPT | MSG_NOERROR, MSG_COPY,
		MSG_COPY | MSG_NOERROR, MSG_COPY | MSG_EXCEPT, 01000, 02000 };
	static const size_t sizes[] = { 0, 1, 9, 10, 30, 60, 8192, 8193, 9000, INT_MAX, (size_t)INT_MAX + 1,
		(size_t)1 << 32, LONG_MAX, (size_t)1 << 63, SIZE_MAX };
	for (int wait = 0; wait < 2; wait++)
		for (size_t t = 0; t < COUNT(types); t++)
			for (size_t f = 0; f < COUNT(flags); f++)
				for (size_t s = 0; s < COUNT(sizes); s++) {
					if (wait && (types[t] == 4 || types[t] == 100))
						continue;	/* no such message: it would sleep */
					receive(types[t], flags[f] | (wait ? 0 : IPC_NOWAIT), sizes[s]);
				}
}

static void sends(void)
{
	static const long types[] = { 1, LONG_MAX, 0, -1, LONG_MIN };
	static const size_t sizes[] = { 0, 1, 8192, 8193, (size_t)1 << 32, LONG_MAX, (size_t)1 << 63, SIZE_MAX };
	const struct { const char *name; int id; } ids[] = { { "live", queue }, { "-1", -1 }, { "no such", queue + 1 } };
	for (size_t i = 0; i < COUNT(ids); i++)
		for (size_t t = 0; t < COUNT(types); t++)
			for (size_t s = 0; s < COUNT(sizes); s++) {
				message.type = types[t];
				printf("%s, type %ld, size %zd: ", ids[i].name, types[t], sizes[s]);
				TRY(msgsnd(ids[i].id, &message, sizes[s], IPC_NOWAIT));
			}
	print_queue();
	drain();
}

static void pointers(void)
{
	TRY(msgsnd(-1, nowhere, 1, 0));
	TRY(msgsnd(queue, nowhere, 1, 0));
	TRY(msgsnd(queue, nowhere, 8193, 0));
	*(long *)(edge - 8) = 1;
	TRY(msgsnd(queue, edge - 8, 0, 0));
	TRY(msgsnd(queue, edge - 8, 1, 0));
	TRY(msgsnd(-1, edge - 8, 1, 0));
	*(long *)(edge - 8) = -1;
	TRY(msgsnd(queue, edge - 8, 1, 0));
	TRY(msgsnd(queue, edge - 7, 0, 0));
	TRY(msgsnd(queue, read_only, 0, 0));
	message.type = 2;
	TRY(msgsnd(queue, &message, 8192, IPC_NOWAIT));
	TRY(msgsnd(queue, &message, 8192, IPC_NOWAIT));
	TRY(msgsnd(queue, &message, 0, IPC_NOWAIT));
	print_queue();
	/* A message is gone once it was found, also if it could not be handed over. */
	TRY(msgrcv(queue, read_only, 8192, 0, 0));
	print_queue();
	TRY(msgrcv(queue, edge - 8, 8192, 2, MSG_NOERROR));
	print_queue();
	TRY(msgrcv(queue, edge - 8, 0, 2, MSG_NOERROR | IPC_NOWAIT));
	TRY(msgrcv(queue, nowhere, 1, 0, IPC_NOWAIT));
	TRY(msgrcv(queue, nowhere, 1, 0, IPC_NOWAIT));
	TRY(msgrcv(-1, nowhere, 1, 0, 0));
	TRY(msgrcv(queue, nowhere, SIZE_MAX, 0, 0));
	print_queue();
}

static void room(void)
{
	static const unsigned long all[] = { 0, 1, 16383, 16384, 16385, ULONG_MAX, INT_MAX, 1UL << 32 };
	struct msqid_ds d;
	msgctl(queue, IPC_STAT, &d);
	for (size_t i = 0; i < COUNT(all); i++) {
		d.msg_qbytes = all[i];
		printf("%lu: ", all[i]);
		TRY(msgctl(queue, IPC_SET, &d));
		print_queue();
		message.type = 1;
		TRY(msgsnd(queue, &message, 0, IPC_NOWAIT));
		TRY(msgsnd(queue, &message, 1, IPC_NOWAIT));
		drain();
	}
}

int main(void)
{
	map_pages();
	queue = make(MSG, IPC_PRIVATE, 0, 0600);
	receives();
	sends();
	pointers();
	room();
	return 0;
}
