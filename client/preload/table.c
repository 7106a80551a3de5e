/* The key space as the manager publishes it: read-only, no message. */
#include "ipcspace.h"

static const uint8_t *table(void)
{
	return (const uint8_t *)session.table;
}

const uint64_t *table_slot(int family, uint32_t id)
{
	return (const uint64_t *)(table() + ABI_TABLE_SLOTS_OFF) + family * ABI_MAX_OBJECTS +
	       (id & ABI_INDEX_MASK);
}

/* Waits until *slot is not word any more, or a little while. */
static void table_wait(const uint64_t *slot, uint64_t word)
{
	const struct timespec64 while_ = {0, 100000000};
	uint32_t changes = load32(&session.table->changes);

	if (load64(slot) == word)
		futex_wait((uint32_t *)&session.table->changes, changes, &while_);
}

const struct abi_record *table_named(uint64_t slot)
{
	uint64_t n = slot & ABI_SLOT_RECORD_MASK;

	return slot != 0 && !(slot & ABI_SLOT_CLOSING) && n < ABI_MAX_RECORDS
		       ? (const struct abi_record *)(table() + ABI_TABLE_RECORDS_OFF) + n
		       : NULL;
}

/* table_record by index, whatever the sequence. */
static bool table_record_at(int family, uint32_t index, struct abi_record *r, uint64_t *slot)
{
	const uint64_t *at = table_slot(family, index);

	for (;;) {
		uint64_t w = load64(at);

		if (w == 0)
			return false;
		if (w & ABI_SLOT_CLOSING) {
			table_wait(at, w);
			continue;
		}
		const struct abi_record *named = table_named(w);
		if (named == NULL)
			return false;
		*r = *named;
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (load64(at) == w) {
			*slot = w;
			return true;
		}
	}
}

bool table_record(int family, uint32_t id, struct abi_record *r, uint64_t *slot)
{
	return table_record_at(family, id & ABI_INDEX_MASK, r, slot) && r->id == id;
}

int table_find(int family, uint32_t key, struct abi_record *r)
{
	const uint64_t *keys = (const uint64_t *)(table() + ABI_TABLE_KEYS_OFF) +
			       family * ABI_KEY_BUCKETS;
	uint32_t bucket = (uint32_t)(key * (uint32_t)ABI_KEY_HASH) >> 16;

	for (uint32_t n = 0; n < ABI_KEY_BUCKETS; n++) {
		uint64_t e = load64(&keys[(bucket + n) % ABI_KEY_BUCKETS]);
		uint64_t slot;

		if (e == 0)
			return -1;
		if ((e & ABI_KEY_USED) == 0 || (uint32_t)e != key)
			continue;
		uint32_t index = (uint32_t)(e >> ABI_KEY_INDEX_SHIFT) & ABI_INDEX_MASK;
		if (table_record_at(family, index, r, &slot) && r->key == key)
			return (int)r->id;
	}
	return -1;
}

uint32_t table_pid(uint32_t number, uint32_t thread)
{
	if (number == 0 || number >= ABI_MAX_SESSIONS)
		return 0;
	if (number == session.number)
		return thread != 0 ? thread : load32(&session.page->pid);

	const struct abi_session_record *s =
		(const struct abi_session_record *)(table() + ABI_TABLE_SESSIONS_OFF) + number;
	uint32_t pid = load32(&s->pid);
	int64_t val = 0;

	if (pid != 0 && load64(&s->pid_ns) == session.pid_ns)
		return thread != 0 ? thread : pid;
	if (channel_simple(ABI_MSG_WHO, number, thread, 0, 0, &val) < 0)
		return 0;
	return (uint32_t)val;
}
