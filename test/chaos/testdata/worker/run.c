/* The beginning and the end of a run. */
#include "worker.h"
#include <stdio.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

enum { KEY_UNDO = 0x100, KEY_COUNT, KEY_LOCK, KEY_LOOSE, KEY_QUEUE, KEY_SECTION, KEY_PICTURE };

int undo_set, count_set, lock_set, loose_set, queue, section_id, picture_id;

void find_objects(int flags)
{
	undo_set = semget(KEY_UNDO, UNDO_SEMS, flags);
	count_set = semget(KEY_COUNT, COUNT_SEMS, flags);
	lock_set = semget(KEY_LOCK, LOCK_SEMS, flags);
	loose_set = semget(KEY_LOOSE, LOOSE_SEMS, flags);
	queue = msgget(KEY_QUEUE, flags);
	section_id = shmget(KEY_SECTION, SECTIONS * sizeof(struct section), flags);
	picture_id = shmget(KEY_PICTURE, PICTURE_SIZE, flags);
	if (undo_set < 0 || count_set < 0 || lock_set < 0 || loose_set < 0 || queue < 0 ||
	    section_id < 0 || picture_id < 0)
		fail("objects %d %d %d %d, %d, %d %d: %m", undo_set, count_set, lock_set, loose_set,
		     queue, section_id, picture_id);
}

static void print_ids(void)
{
	printf("ids %d %d %d %d %d %d %d\n", undo_set, count_set, lock_set, loose_set, queue,
	       section_id, picture_id);
}

void begin_run(void)
{
	unsigned short all[] = {UNDO_START, UNDO_START, UNDO_START, UNDO_START};
	unsigned short locks[LOCK_SEMS] = {0, 1, 1, 0};

	find_objects(IPC_CREAT | IPC_EXCL | 0600);
	if (semctl(undo_set, 0, SETALL, all) < 0 || semctl(lock_set, 0, SETALL, locks) < 0)
		fail("SETALL: %m");
	paint_picture(attach(picture_id, 0));
	print_ids();
}

static void print_set(const char *name, int id, int n)
{
	printf("%s", name);
	for (int i = 0; i < n; i++) {
		int v = semctl(id, i, GETVAL), more = semctl(id, i, GETNCNT), zero = semctl(id, i, GETZCNT);

		if (v < 0 || more != 0 || zero != 0)
			fail("%s %d: value %d, ncnt %d, zcnt %d: %m", name, i, v, more, zero);
		printf(" %d", v);
	}
	printf("\n");
}

static long attaches(int id)
{
	struct shmid_ds ds;

	if (shmctl(id, IPC_STAT, &ds) < 0)
		fail("IPC_STAT: %m");
	return (long)ds.shm_nattch;
}

/* Segments of those killed are there, but nobody has them attached. */
static void print_leftovers(void)
{
	struct shminfo info;
	struct shmid_ds ds;
	int most = shmctl(0, IPC_INFO, (struct shmid_ds *)&info), left = 0;

	for (int i = 0; i <= most; i++) {
		int id = shmctl(i, SHM_STAT, &ds);

		if (id < 0)
			continue;
		left++;
		for (int k = 0; k < 500 && ds.shm_nattch != 0; k++) {
			pause_for(10000);
			shmctl(i, SHM_STAT, &ds);
		}
		if (ds.shm_nattch != 0 || (ds.shm_perm.mode & SHM_DEST))
			fail("segment %d: nattch %lu, mode %o", id, ds.shm_nattch, ds.shm_perm.mode);
	}
	printf("segments %d\n", left);
}

void end_run(void)
{
	static struct message m;
	struct msqid_ds ds;
	long n, count = 0;

	find_objects(0);
	print_ids();
	print_leftovers();
	printf("nattch %ld %ld\n", attaches(section_id), attaches(picture_id));
	sections = attach(section_id, 0);
	check_picture(attach(picture_id, SHM_RDONLY));
	print_set("undo", undo_set, UNDO_SEMS);
	print_set("count", count_set, COUNT_SEMS);
	print_set("lock", lock_set, LOCK_SEMS);
	print_set("loose", loose_set, LOOSE_SEMS);
	printf("sections");
	for (int i = 0; i < SECTIONS; i++)
		printf(" %lu", sections[i].count);
	if (msgctl(queue, IPC_STAT, &ds) < 0)
		fail("IPC_STAT: %m");
	while ((n = msgrcv(queue, &m, sizeof m.body, 0, IPC_NOWAIT)) >= 0) {
		receive(&m, n, 0);
		count++;
	}
	if (errno != ENOMSG || (unsigned long)count != ds.msg_qnum)
		fail("emptying the queue: %ld of %lu: %m", count, ds.msg_qnum);
	if (msgctl(queue, IPC_STAT, &ds) < 0 || ds.msg_qnum != 0 || ds.__msg_cbytes != 0)
		fail("the queue has %lu messages, %lu bytes", ds.msg_qnum, ds.__msg_cbytes);
	printf("\nqueue %ld\n", count);
}
