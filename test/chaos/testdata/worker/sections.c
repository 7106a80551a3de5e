/* Critical sections, held across exec, too: who is in one is alone there. */
#include "worker.h"
#include <stdio.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <unistd.h>

struct section *sections;

void leave_section(uint32_t k)
{
	struct section *s = &sections[k];
	struct sembuf out = {(uint16_t)k, k == 0 ? -1 : 1, SEM_UNDO};
	uint64_t owner = atomic_exchange(&s->owner, 0);
	int r;

	if (owner != number + 1)
		fail("section %u is life %lu's now", k, owner - 1);
	do
		r = semop(lock_set, &out, 1);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		fail("unlock %u: %m", k);
}

/* Three forms of a lock: wait for zero and increment, decrement, and
 * decrement with another operation beside it. */
void lock_round(void)
{
	uint32_t k = random_below(SECTIONS);
	struct section *s = &sections[k];
	struct sembuf zero[] = {{0, 0, 0}, {0, 1, SEM_UNDO}};
	struct sembuf down[] = {{(uint16_t)k, -1, SEM_UNDO}, {0, 0, 0}};
	int r;

	if (k == 0)
		AGAIN(r, semop(lock_set, zero, 2));
	else if (k == 1)
		AGAIN(r, semop(lock_set, down, 1));
	else {
		down[1] = (struct sembuf){3, 0, 0};
		AGAIN(r, semop(lock_set, down, 2));
	}
	if (r < 0 && errno == EINTR)
		return;
	if (r < 0)
		fail("lock %u: %m", k);
	uint64_t owner = atomic_exchange(&s->owner, number + 1);
	if (owner != 0 && !ledger->life[owner - 1].killed)
		fail("life %lu is in section %u too", owner - 1, k);
	self->section_begun[k]++;
	uint64_t before = s->count;
	if (random_below(4) == 0)
		pause_for(random_below(500));
	s->count = before + 1;
	self->section_done++;
	if (random_below(100) == 0) {
		char held[2] = {(char)('0' + k), 0}, random[24], life[12];

		block_signals(true); /* until there is a handler again */
		snprintf(random, sizeof random, "%lu", seed);
		snprintf(life, sizeof life, "%u", number);
		execl(arguments[0], arguments[0], arguments[1], arguments[2], life, arguments[4],
		      random, held, NULL);
		fail("exec: %m");
	}
	leave_section(k);
}
