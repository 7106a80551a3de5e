/* Rows 31 to 41: what the three *ctl calls have in common. */
#include "case.h"

ROW(31, "IPC_SET changes uid, gid and the low mode bits, and nothing else")
{
	key_t key = free_key();
	EACH_FAMILY(f) {
		union any_ds before, want, after;
		int id = MUST(get(f, key, 1, IPC_CREAT | 0600));
		MUST(ctl(f, id, IPC_STAT, &before));
		want = before;
		struct ipc_perm *w = perm_of(f, &want), *a = perm_of(f, &after);
		if (geteuid() == 0) {
			w->uid = STRANGER;
			w->gid = OTHER;
		}
		w->mode = 0751;
		w->cuid = w->cgid = 99;
		w->__key = key + 1;
		w->__seq = 77;
		MUST(ctl(f, id, IPC_SET, &want));
		MUST(ctl(f, id, IPC_STAT, &after));
		EXPECT_EQ(a->uid, w->uid);
		EXPECT_EQ(a->gid, w->gid);
		EXPECT_EQ(a->mode, 0751);
		EXPECT_EQ(a->cuid, geteuid());
		EXPECT_EQ(a->cgid, getegid());
		EXPECT_EQ(a->__key, key);
		EXPECT_EQ(a->__seq, perm_of(f, &before)->__seq);
		EXPECT_EQ(get(f, key, 1, 0), id);
	}
}

ROW(32, "IPC_SET drops mode bits above 0777")
{
	EACH_FAMILY(f) {
		union any_ds ds;
		int id = MUST(get(f, IPC_PRIVATE, 1, 0600));
		MUST(ctl(f, id, IPC_STAT, &ds));
		perm_of(f, &ds)->mode = 07640;
		MUST(ctl(f, id, IPC_SET, &ds));
		MUST(ctl(f, id, IPC_STAT, &ds));
		EXPECT_EQ(perm_of(f, &ds)->mode, 0640);
	}
}

ROW(32, "IPC_SET keeps SHM_DEST")
{
	int id = new_segment(4096);
	MUST((long)shmat(id, NULL, 0));
	MUST(shmctl(id, IPC_RMID, NULL));
	struct shmid_ds d = segment_stat(id);
	EXPECT_EQ(d.shm_perm.mode, SHM_DEST | 0600);
	d.shm_perm.mode = 0640;
	MUST(shmctl(id, IPC_SET, &d));
	EXPECT_EQ(segment_stat(id).shm_perm.mode, SHM_DEST | 0640);
}

ROW(33, "IPC_SET with an invalid uid or gid is EINVAL and changes nothing")
{
	EACH_FAMILY(f) {
		union any_ds ds, bad;
		int id = MUST(get(f, IPC_PRIVATE, 1, 0600));
		MUST(ctl(f, id, IPC_STAT, &ds));
		bad = ds;
		perm_of(f, &bad)->mode = 0666;
		perm_of(f, &bad)->uid = (uid_t)-1;
		EXPECT_ERR(ctl(f, id, IPC_SET, &bad), EINVAL);
		perm_of(f, &bad)->uid = geteuid();
		perm_of(f, &bad)->gid = (gid_t)-1;
		EXPECT_ERR(ctl(f, id, IPC_SET, &bad), EINVAL);
		MUST(ctl(f, id, IPC_STAT, &ds));
		EXPECT_EQ(perm_of(f, &ds)->mode, 0600);
		EXPECT_EQ(perm_of(f, &ds)->uid, geteuid());
	}
}

ROW(34, "IPC_SET sets ctime")
{
	union any_ds ds[3], after;
	int id[3];
	EACH_FAMILY(f) {
		id[f] = MUST(get(f, IPC_PRIVATE, 1, 0600));
		MUST(ctl(f, id[f], IPC_STAT, &ds[f]));
	}
	pause_ms(2100);
	EACH_FAMILY(f) {
		time_t start = time(NULL);
		MUST(ctl(f, id[f], IPC_SET, &ds[f]));
		MUST(ctl(f, id[f], IPC_STAT, &after));
		EXPECT(ctime_of(f, &after) > ctime_of(f, &ds[f]));
		EXPECT_RECENT(ctime_of(f, &after), start);
	}
}

ROW(35, "IPC_SET with a bad pointer is EFAULT before the id is looked at")
{
	EACH_FAMILY(f) {
		int id = MUST(get(f, IPC_PRIVATE, 1, 0600));
		EXPECT_ERR(ctl(f, id, IPC_SET, BAD_POINTER), EFAULT);
		MUST(ctl(f, id, IPC_RMID, NULL));
		EXPECT_ERR(ctl(f, id, IPC_SET, BAD_POINTER), EFAULT);
		EXPECT_ERR(ctl(f, id, IPC_SET, NULL), EFAULT);
	}
}

ROW(36, "IPC_STAT with a bad pointer is EFAULT after the checks of id and permission")
{
	int id[3];
	EACH_FAMILY(f) {
		id[f] = MUST(get(f, IPC_PRIVATE, 1, 0600));
		EXPECT_ERR(ctl(f, id[f], IPC_STAT, BAD_POINTER), EFAULT);
		EXPECT_ERR(ctl(f, id[f] & 0x7fff, stat_cmd(f), BAD_POINTER), EFAULT);
		EXPECT_ERR(ctl(f, -1, IPC_STAT, BAD_POINTER), EINVAL);
	}
	NEED_ROOT();
	pid_t p;
	CHILD(p) {
		become(STRANGER, STRANGER);
		EACH_FAMILY(f)
			EXPECT_ERR(ctl(f, id[f], IPC_STAT, BAD_POINTER), EACCES);
	}
	JOIN(p);
}

ROW(36, "IPC_STAT into a read-only page or across the end of memory is EFAULT")
{
	size_t page = page_size();
	char *m = MUST(mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	MUST(mprotect(m + page, page, PROT_READ));
	EACH_FAMILY(f) {
		int id = MUST(get(f, IPC_PRIVATE, 1, 0600));
		EXPECT_ERR(ctl(f, id, IPC_STAT, m + page), EFAULT);
		EXPECT_ERR(ctl(f, id, IPC_STAT, m + page - 8), EFAULT);
	}
}

ROWS("90,164,207", "IPC_STAT writes every byte, before the first use of the object and after it")
{
	EACH_FAMILY(f) {
		static const size_t size[] = { sizeof(struct shmid_ds), sizeof(struct semid_ds), sizeof(struct msqid_ds) };
		int id = MUST(get(f, IPC_PRIVATE, 1, 0600));
		for (int used = 0; used < 2; used++) {
			union any_ds a, b;
			memset(&a, 0, sizeof a);
			memset(&b, 0xff, sizeof b);
			MUST(ctl(f, id, IPC_STAT, &a));
			MUST(ctl(f, id, IPC_STAT, &b));
			EXPECT_EQ(memcmp(&a, &b, size[f]), 0);
			EXPECT_EQ((unsigned char)b.room[size[f]], 0xff);
			if (f == SHM)
				MUST(shmdt(MUST(shmat(id, NULL, 0))));
			else
				MUST(f == SEM ? op1(id, 0, 1, 0) : send_text(id, 1, "x", 0));
		}
	}
}

ROW(37, "unknown commands are EINVAL, whatever the id")
{
	static const int bad[] = { 4, 99, 0x7fffffff, -1 };
	EACH_FAMILY(f) {
		union any_ds ds;
		int id = MUST(get(f, IPC_PRIVATE, 1, 0600));
		memset(&ds, 0, sizeof ds);
		for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
			EXPECT_ERR(ctl(f, id, bad[i], &ds), EINVAL);
			EXPECT_ERR(ctl(f, -1, bad[i], &ds), EINVAL);
			EXPECT_ERR(ctl(f, 0x7ffffffe, bad[i], &ds), EINVAL);
		}
	}
}

ROW(38, "IPC_RMID does not look at its buffer")
{
	EACH_FAMILY(f)
		EXPECT_OK(ctl(f, MUST(get(f, IPC_PRIVATE, 1, 0600)), IPC_RMID, BAD_POINTER));
}

ROW(39, "*_STAT takes an index, or an id of which only the index counts, and returns the id")
{
	EACH_FAMILY(f) {
		union any_ds ds;
		int id = MUST(get(f, IPC_PRIVATE, 1, 0600)), index = id & 0x7fff;
		EXPECT_EQ_OR_ERRNO(ctl(f, index, stat_cmd(f), &ds), id);
		EXPECT_EQ_OR_ERRNO(ctl(f, id, stat_cmd(f), &ds), id);
		EXPECT_EQ_OR_ERRNO(ctl(f, (321 << 15) + index, stat_cmd(f), &ds), id);
		EXPECT_EQ(perm_of(f, &ds)->__seq, id >> 15);
		EXPECT_EQ_OR_ERRNO(ctl(f, (321 << 15) + index, stat_any_cmd(f), &ds), id);
	}
}

ROW(40, "*_STAT of an unused index is EINVAL")
{
	EACH_FAMILY(f) {
		union any_ds ds;
		int id = MUST(get(f, IPC_PRIVATE, 1, 0600));
		MUST(ctl(f, id, IPC_RMID, NULL));
		EXPECT_ERR(ctl(f, id & 0x7fff, stat_cmd(f), &ds), EINVAL);
		EXPECT_ERR(ctl(f, id & 0x7fff, stat_any_cmd(f), &ds), EINVAL);
		EXPECT_ERR(ctl(f, 32767, stat_cmd(f), &ds), EINVAL);
		EXPECT_ERR(ctl(f, -1, stat_cmd(f), &ds), EINVAL);
	}
}

ROW(41, "IPC_INFO and *_INFO return the highest index in use")
{
	EACH_FAMILY(f) {
		union any_ds room;
		int highest = MUST(ctl(f, 0, IPC_INFO, &room));
		for (int i = 0; i < 10; i++) {
			int index = MUST(get(f, IPC_PRIVATE, 1, 0600)) & 0x7fff;
			if (index > highest)
				highest = index;
		}
		EXPECT_EQ(ctl(f, 0, IPC_INFO, &room), highest);
		EXPECT_EQ(ctl(f, 0, info_cmd(f), &room), highest);
	}
}

ROW(41, "and 0 when none is")
{
	EACH_FAMILY(f) {
		union any_ds room;
		int highest = MUST(ctl(f, 0, info_cmd(f), &room));
		for (int i = 0; i <= highest; i++)
			if (ctl(f, i, stat_any_cmd(f), &room) >= 0)
				SKIP("other objects exist here");
		EXPECT_EQ(highest, 0);
	}
}

static time_t last_stamp;
static void stamped(time_t stamp, time_t before)
{
	EXPECT(stamp >= before && stamp >= last_stamp && stamp <= time(NULL));
	last_stamp = stamp;
}

/* The second of the last tick: a clock that knows better is ahead of time(2) for milliseconds. */
ROW(18, "no stamp is of a second that has not begun for time(2), nor older than one before")
{
	for (int boundary = 0; boundary < 3; boundary++) {
		struct timespec t;
		clock_gettime(CLOCK_REALTIME, &t);
		pause_ms(t.tv_nsec < 990000000 ? (int)((990000000 - t.tv_nsec) / 1000000) : 990);
		do {
			time_t before = time(NULL);
			int segment = new_segment(1);
			stamped(segment_stat(segment).shm_ctime, before);
			void *m = MUST(shmat(segment, NULL, 0));
			stamped(segment_stat(segment).shm_atime, before);
			EXPECT_OK(shmdt(m));
			stamped(segment_stat(segment).shm_dtime, before);
			int set = new_set(1);
			stamped(set_stat(set).sem_ctime, before);
			EXPECT_OK(op1(set, 0, 1, 0));
			stamped(set_stat(set).sem_otime, before);
			int queue = new_queue();
			stamped(queue_stat(queue).msg_ctime, before);
			EXPECT_OK(send_text(queue, 1, "x", 0));
			stamped(queue_stat(queue).msg_stime, before);
			EACH_FAMILY(f)
				EXPECT_OK(ctl(f, f == SHM ? segment : f == SEM ? set : queue, IPC_RMID, NULL));
			clock_gettime(CLOCK_REALTIME, &t);
		} while (t.tv_nsec > 980000000 || t.tv_nsec < 15000000);
	}
}
