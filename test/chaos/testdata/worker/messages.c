/* Messages: each comes once, whole, and after those that its sender sent before. */
#include "worker.h"
#include <sched.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <unistd.h>

static uint32_t sum_of(const uint8_t *p, uint32_t n)
{
	uint32_t sum = n;

	for (uint32_t i = 0; i < n; i++)
		sum = (sum << 5 | sum >> 27) ^ p[i];
	return sum;
}

void send_round(void)
{
	static struct message m;
	uint64_t sequence = self->sent_begun;
	uint32_t size = random_below(4) ? random_below(200) : random_below(LONGEST);
	int r;

	if (sequence == MESSAGES)
		_exit(0);
	m.type = 1 + random_below(4);
	m.body.sender = number;
	m.body.sequence = (uint32_t)sequence;
	m.body.size = size;
	for (uint32_t i = 0; i < size; i++)
		m.body.text[i] = (uint8_t)(sequence + i * 7);
	m.body.sum = sum_of(m.body.text, size);
	self->sent_begun++;
	AGAIN(r, msgsnd(queue, &m, 16 + size, random_below(8) ? 0 : IPC_NOWAIT));
	if (r < 0 && errno != EAGAIN && errno != EINTR)
		fail("msgsnd: %m");
	if (r < 0)
		self->sent_begun--;
	else
		self->sent_done++;
}

void receive(const struct message *m, long n, long type)
{
	static uint32_t last[MAX_LIVES][4];
	uint32_t sender = m->body.sender, sequence = m->body.sequence;

	if (n < 16 || sender >= ledger->lives || m->body.size != n - 16 || sequence >= MESSAGES)
		fail("message of %ld bytes, sender %u, sequence %u, size %u", n, sender, sequence,
		     m->body.size);
	if (m->type < 1 || m->type > 4 || (type > 0 && m->type != type) || (type < 0 && m->type > -type))
		fail("message of type %ld for %ld", m->type, type);
	if (sum_of(m->body.text, m->body.size) != m->body.sum)
		fail("message %u of life %u is damaged", sequence, sender);
	if (ledger->life[sender].sent_begun <= sequence)
		fail("message %u of life %u was not sent", sequence, sender);
	if (last[sender][m->type - 1] > sequence)
		fail("message %u of life %u after a later one", sequence, sender);
	last[sender][m->type - 1] = sequence + 1;
	uint8_t bit = (uint8_t)(1 << sequence % 8);
	if (atomic_fetch_or(&ledger->received[sender][sequence / 8], bit) & bit)
		fail("message %u of life %u came twice", sequence, sender);
}

void receive_round(void)
{
	static struct message m;
	long types[] = {0, 0, 0, 1, 2, 3, 4, -2, -3, -4};
	long type = types[random_below(10)];
	size_t room = random_below(8) ? sizeof m.body : 100;
	/* A call for one type or with little room may wait for a long time. */
	int flags = type == 0 && room > 100 ? 0 : IPC_NOWAIT;
	long n;

	self->receiving = 1;
	AGAIN(n, msgrcv(queue, &m, room, type, flags));
	if (n >= 0)
		receive(&m, n, type);
	else if (errno != ENOMSG && errno != E2BIG && errno != EINTR)
		fail("msgrcv: %m");
	self->receiving = 0;
	if (n < 0 && flags)
		sched_yield();
}
