/*
 * The library's sources as a part of this program, with sanitizers, in a space whose manager and
 * members are the fuzzer's: it says what stands in the table, what others wrote into a set, a queue
 * and their data, and which packets the manager sends, with which descriptors; and which calls the
 * program makes meanwhile. They return, and nothing is touched that is not there.
 *
 * The files are as long as the table's records say, as the manager's are; the calls do not wait for
 * others but for a moment.
 */
#include "manager.h"
#include "object.h"
#include "session.h"

#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                           \
	do                                                                                         \
		if (!(condition))                                                                  \
			abort();                                                                   \
	while (0)

#define SEMS 3
#define SEMS_MAX 32 /* with as many the cells begin at the same place */
#define CELLS 24
#define CHUNKS 8
#define INDEX 1 /* of each of the three objects, and its key */
#define PIPE_BUFFER 60000 /* bytes of packets on their way */
#define BROKERED 250 /* from here on, an input's byte for what is next is a brokered call */

int ipcspace_semop(int, struct abi_sem_op *, size_t);
int ipcspace_semtimedop(int, struct abi_sem_op *, size_t, const struct timespec64 *);
int ipcspace_semget(int, int, int);
int ipcspace_semctl(int, int, int, ...);
int ipcspace_msgget(int, int);
int ipcspace_msgsnd(int, const void *, size_t, int);
long ipcspace_msgrcv(int, void *, size_t, long, int);
int ipcspace_msgctl(int, int, void *);
int ipcspace_shmget(int, size_t, int);
void *ipcspace_shmat(int, const void *, int);
int ipcspace_shmdt(const void *);
int ipcspace_shmctl(int, int, void *);

/* --- the space ------------------------------------------------------------- */

static uint8_t *table;
static const char nowhere[] = "/nowhere", *broker_dir; /* folders of a space */
static int peer = -1; /* the manager's end of the channel */
static size_t sent;
static uint32_t last_seq; /* of the request that was answered last */
/* Files of objects, and as the members have them mapped. */
enum { SET, QUEUE, DATA, SEGMENT, FILES };
static const size_t sizes[FILES] = {
	[SET] = 256 + 256 + CELLS * ABI_CELL_SIZE,
	[QUEUE] = 256 + CELLS * ABI_CELL_SIZE,
	[DATA] = ABI_PAGE_SIZE + CHUNKS * ABI_CHUNK_SIZE,
	[SEGMENT] = 2 * ABI_PAGE_SIZE,
};
static int files[FILES];
static uint8_t *mapped[FILES];
static uint64_t generation;

static struct abi_record *record(int family)
{
	return (struct abi_record *)(table + ABI_TABLE_RECORDS_OFF) + family;
}

static uint64_t *slot(int family)
{
	return (uint64_t *)(table + ABI_TABLE_SLOTS_OFF) + family * ABI_MAX_OBJECTS + INDEX;
}

static int memory_file(size_t size)
{
	long fd = SYS2(__NR_memfd_create, "fuzz", 0);

	CHECK(fd >= 0 && SYS2(__NR_ftruncate, fd, size) == 0);
	return (int)fd;
}

/* What lasts from input to input. */
static void begin(void)
{
	static uint32_t alive = 1;
	long p = SYS6(__NR_mmap, 0, ABI_TABLE_SIZE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	CHECK(!is_error(p));
	table = (uint8_t *)p;
	session.table = (const struct abi_table_header *)table;
	session.alive = &alive;
	session.number = 2;
	session.pid_ns = 1;
	session.cpus = 1;
	session.page = room_anonymous(ABI_PAGE_SIZE);
	session.mode = MODE_SPACE;
	memcpy(control.dir, nowhere, sizeof nowhere);
	broker_dir = broker_begin();
	for (int i = 0; i < FILES; i++) {
		files[i] = memory_file(sizes[i]);
		p = SYS6(__NR_mmap, 0, sizes[i], PROT_READ | PROT_WRITE, MAP_SHARED, files[i], 0);
		CHECK(!is_error(p));
		mapped[i] = (uint8_t *)p;
	}
	control.pulse = memory_file((size_t)ABI_MAX_SESSIONS * ABI_PAGE_SIZE);
	control.pulse_inode = fd_inode(control.pulse);
}

/* Stores in the table, to be taken back. */
static struct undo {
	uint64_t *at, old;
} undos[256];
static unsigned n_undos;

/* A manager gives no more room than there is, ends each closing, and has an object's slot name a
 * record of its family. */
static void keep_honest(uint64_t *at)
{
	size_t off = (size_t)((uint8_t *)at - table);

	if (off >= ABI_TABLE_SLOTS_OFF && off < ABI_TABLE_KEYS_OFF) {
		uint64_t family = (off - ABI_TABLE_SLOTS_OFF) / 8 / ABI_MAX_OBJECTS;
		uint64_t n = *at & 63;

		*at = *at >> ABI_SLOT_GEN_SHIFT << ABI_SLOT_GEN_SHIFT | (n < ABI_FAMILIES ? family : n);
	} else if (off >= ABI_TABLE_RECORDS_OFF && off < ABI_TABLE_SESSIONS_OFF) {
		size_t n = (off - ABI_TABLE_RECORDS_OFF) / sizeof(struct abi_record);
		struct abi_record *r = record((int)n);

		r->cells = r->cells < CELLS ? r->cells : CELLS;
		r->chunks = r->chunks < CHUNKS ? r->chunks : CHUNKS;
		if (n != ABI_SHM && n != ABI_MSG)
			r->size = r->size < SEMS_MAX ? r->size : SEMS_MAX;
	}
}

static void table_store(uint32_t off, uint64_t value)
{
	uint64_t *at = (uint64_t *)(table + off / 8 * 8 % ABI_TABLE_SIZE);

	if (n_undos == sizeof undos / sizeof *undos)
		return;
	undos[n_undos++] = (struct undo){at, *at};
	*at = value;
	keep_honest(at);
}

static void make_table(void)
{
	struct abi_table_header *head = (struct abi_table_header *)table;

	while (n_undos > 0) {
		n_undos--;
		*undos[n_undos].at = undos[n_undos].old;
	}
	*head = (struct abi_table_header){
		.magic = ABI_MAGIC, .layout_major = ABI_LAYOUT_MAJOR, .space_id = 1,
		.shm_max = 1 << 20, .shm_all = 1 << 20, .shm_mni = 10, .sem_msl = 100, .sem_mns = 1000,
		.sem_opm = 500, .sem_mni = 10, .msg_max = 8192, .msg_mnb = 16384, .msg_mni = 10,
		.in_use = {1, 1, 1}, .max_index = {2, 2, 2}};
	generation++;
	for (int f = 0; f < ABI_FAMILIES; f++) {
		uint64_t *keys = (uint64_t *)(table + ABI_TABLE_KEYS_OFF) + f * ABI_KEY_BUCKETS;
		uint32_t bucket = (uint32_t)(INDEX * (uint32_t)ABI_KEY_HASH) >> 16;

		*record(f) = (struct abi_record){.id = INDEX, .key = INDEX, .serial = generation, .mode = 0666,
						 .cells = CELLS, .chunks = CHUNKS};
		record(f)->size = f == ABI_SEM ? SEMS : f == ABI_MSG ? 16384 : sizes[SEGMENT];
		*slot(f) = generation << ABI_SLOT_GEN_SHIFT | (uint64_t)f;
		keys[bucket] = ABI_KEY_USED | (uint64_t)INDEX << ABI_KEY_INDEX_SHIFT | INDEX;
	}
	for (int i = 0; i < FILES; i++)
		memset(mapped[i], 0, sizes[i]);
}

/* --- the manager ----------------------------------------------------------- */

/* On the channel, as long as there is room for it. */
static void answer(const struct answer *a)
{
	if (sent + a->n + a->more + 600 > PIPE_BUFFER)
		return;
	sent += a->n + a->more + 600; /* what the kernel counts a packet */
	answer_send(peer, a);
}

/* What an honest manager answers to an OPEN, or to anything that wants one number. */
static void answer_open(int family, bool brokered)
{
	struct answer a = {
		.head = {.kind = ABI_MSG_OPEN, .seq = ++last_seq, .val = {(int64_t)*slot(family), 6, brokered}},
		.n = sizeof a.head,
		.fds = {files[family == ABI_SEM ? SET : family == ABI_MSG ? QUEUE : SEGMENT], files[DATA]},
		.n_fds = brokered ? 0 : family == ABI_MSG ? 2 : 1};

	answer(&a);
}

/* --- the input ------------------------------------------------------------- */

static const uint8_t *input;
static size_t left;

static uint64_t take(unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes && left > 0; i++, left--)
		v |= (uint64_t)*input++ << 8 * i;
	return v;
}

/* Words that mean something are more probable than others. */
static uint64_t take_word(void)
{
	switch (take(1) % 6) {
	case 0:
		return take(1);
	case 1: /* a link */
		return take(1) % (CELLS + 3) | take(1) << ABI_LINK_VERSION_SHIFT;
	case 2: /* a cell's state */
		return take(1) % 9 | take(1) % 10 << ABI_CELL_KIND_SHIFT | take(1) % 4 << ABI_CELL_SESSION_SHIFT |
		       take(1) << ABI_CELL_VERSION_SHIFT;
	case 3: /* an undo word */
		return ABI_UNDO_USED | take(1) % 5 << ABI_UNDO_SEM_SHIFT | take(2);
	case 4: /* a lock */
		return take(1) % 4 | take(1) % (CELLS + 3) << ABI_LOCK_CELL_SHIFT | take(1) << ABI_LOCK_EPOCH_SHIFT;
	default:
		return take(8);
	}
}

static void store(uint8_t *mem, size_t size)
{
	size_t off = take(2) * 8 % size;

	store64((uint64_t *)(mem + off), take_word());
}

static struct message {
	long type;
	uint8_t text[9000];
} message;

static void semaphores(void)
{
	static uint16_t all[ABI_MAX_OBJECTS]; /* semnum is 16 bits, and a record's size the manager's */
	static uint64_t buffer[32];
	static const struct timespec64 moment = {0, 1000};
	struct abi_sem_op ops[8];
	unsigned n = 1 + (unsigned)take(1) % 8;

	switch (take(1) % 8) {
	case 0:
	case 1:
	case 2:
		for (unsigned i = 0; i < n; i++)
			ops[i] = (struct abi_sem_op){(uint16_t)(take(1) % (SEMS + 1)), (int16_t)((int)take(1) - 128),
						     (uint16_t)(take(1) % 2 * SEM_UNDO)};
		ipcspace_semtimedop(INDEX, ops, n, &moment);
		break;
	case 3:
		ops[0] = (struct abi_sem_op){(uint16_t)(take(1) % SEMS), (int16_t)((int)take(1) - 128), IPC_NOWAIT};
		ipcspace_semop(INDEX, ops, 1);
		break;
	case 4:
		ipcspace_semctl(INDEX, (int)take(1) % (SEMS + 1), 11 + (int)take(1) % 6 /* GETPID to SETVAL */, take(1));
		break;
	case 5:
		ipcspace_semctl(INDEX, 0, take(1) % 2 ? 13 : 17, all); /* GETALL, SETALL */
		break;
	case 6:
		ipcspace_semctl(INDEX, 0, 2 + (int)take(1) % 2, buffer); /* IPC_STAT, IPC_INFO */
		break;
	default:
		ipcspace_semctl((int)take(1) % 3, 0, 18 + (int)take(1) % 3, buffer); /* SEM_STAT and such */
		ipcspace_semget((int)take(1) % 3, (int)take(1) % 5, (int)take(2));
	}
}

static void queue(void)
{
	static uint64_t buffer[32];

	switch (take(1) % 6) {
	case 0:
	case 1:
		message.type = 1 + (long)take(1) % 4;
		ipcspace_msgsnd(INDEX, &message, take(2) % sizeof message.text, IPC_NOWAIT);
		break;
	case 2:
	case 3: {
		long type = (long)take(1) % 9 - 4;
		int flags = IPC_NOWAIT | (take(1) % 4 == 0 ? 010000 : 0) | (take(1) % 4 == 0 ? 040000 : 0);

		ipcspace_msgrcv(INDEX, &message, take(2) % sizeof message.text, type, flags);
		break;
	}
	case 4:
		ipcspace_msgctl(INDEX, 2 + (int)take(1) % 2, buffer);
		break;
	default:
		ipcspace_msgctl((int)take(1) % 3, 11 + (int)take(1) % 3, buffer);
		ipcspace_msgget((int)take(1) % 3, (int)take(2));
	}
}

static void segment(void)
{
	static uint64_t buffer[32];
	void *p;

	switch (take(1) % 3) {
	case 0:
		p = ipcspace_shmat(INDEX, NULL, take(1) % 2 ? 010000 : 0);
		if (p != (void *)-1)
			ipcspace_shmdt(p);
		break;
	case 1:
		ipcspace_shmctl((int)take(1) % 3, 2 + (int)take(1) % 14, buffer);
		break;
	default:
		ipcspace_shmget((int)take(1) % 3, take(2), (int)take(2));
	}
}

static struct answer take_answer(void)
{
	struct answer a = {.n_fds = (unsigned)take(1) % 8};
	uint8_t *bytes = (uint8_t *)&a.head;

	a.n = take(1) % 4 ? sizeof a.head : take(1) % sizeof a.head;
	a.more = take(1) % 16 * 8;
	for (size_t i = 0; i < a.n; i++)
		bytes[i] = i < 8 || i % 8 < 2 ? (uint8_t)take(1) : 0;
	if (take(1) % 4)
		a.head.errno = 0;
	a.stray = a.head.seq % 8 == 0;
	a.n_fds = a.n_fds > ANSWER_FDS ? 0 : a.n_fds;
	for (unsigned i = 0; i < a.n_fds; i++)
		a.fds[i] = files[take(1) % FILES];
	return a;
}

static void packet(void)
{
	struct answer a = take_answer();

	if (!a.stray)
		a.head.seq = ++last_seq;
	answer(&a);
}

/* A new channel, in the place of one that has come to its end. */
static void connect_channel(void)
{
	int pair[2];

	if (fd_is(control.channel, control.channel_inode))
		SYS1(__NR_close, control.channel);
	if (peer >= 0)
		SYS1(__NR_close, peer);
	CHECK(SYS4(__NR_socketpair, 1, 5 | 02000000, 0, pair) == 0); /* AF_UNIX, SOCK_SEQPACKET */
	control.channel = fd_move(pair[0]);
	control.channel_inode = fd_inode(control.channel);
	control.spare_asked = 0;
	peer = pair[1];
	sent = 0;
	last_seq = control.seq;
}

static void (*const calls[])(void) = {[ABI_SHM] = segment, [ABI_SEM] = semaphores, [ABI_MSG] = queue};

/* A call meets the packets sent so far, and then a manager that is gone. */
static void call(int family)
{
	if (handle_find(family, INDEX) == NULL)
		answer_open(family, false);
	SYS2(__NR_shutdown, peer, 1); /* SHUT_WR */
	calls[family]();
	connect_channel();
}

/* The same with an object that the process has only part of the rights of: the manager does the call. */
static void call_brokered(int family)
{
	struct answer answers[BROKER_ANSWERS];
	unsigned n = (unsigned)take(1) % (BROKER_ANSWERS + 1);

	for (unsigned i = 0; i < n; i++)
		answers[i] = take_answer();
	broker_says(answers, n);
	if (handle_find(family, INDEX) == NULL)
		answer_open(family, true);
	SYS2(__NR_shutdown, peer, 1);
	memcpy(control.dir, broker_dir, strlen(broker_dir) + 1);
	calls[family]();
	memcpy(control.dir, nowhere, sizeof nowhere);
	connect_channel();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (table == NULL)
		begin();
	input = data;
	left = size;
	make_table();
	SYS3(__NR_close_range, OWN_FDS, ~0U, 0); /* of the inputs before */
	connect_channel();
	while (left > 0) {
		uint8_t what = (uint8_t)take(1);

		if (what >= BROKERED) {
			call_brokered(what % 2 ? ABI_SEM : ABI_MSG);
			continue;
		}
		switch (what % 10) {
		case 0:
			table_store((uint32_t)take(4) % ABI_TABLE_SIZE, take_word());
			break;
		case 1: /* a record, or its slot */
			table_store((take(1) % 3 ? ABI_TABLE_RECORDS_OFF : ABI_TABLE_SLOTS_OFF) + (uint32_t)take(2) % 8192, take_word());
			break;
		case 2:
		case 3:
			store(mapped[SET], sizes[SET]);
			break;
		case 4:
		case 5:
			store(mapped[QUEUE], sizes[QUEUE]);
			break;
		case 6:
			store(mapped[DATA], ABI_PAGE_SIZE);
			break;
		case 7:
			packet();
			break;
		case 8:
			call(ABI_SEM);
			break;
		default:
			call(take(1) % 4 ? ABI_MSG : ABI_SHM);
		}
	}
	/* Whatever the input did, these are carried out. */
	for (int f = 0; f < ABI_FAMILIES; f++)
		call(f);
	return 0;
}
