/* Rows 85 to 99: shmctl. */
#include "case.h"

static struct shm_info usage(void)
{
	struct shm_info i;
	MUST(shmctl(0, SHM_INFO, (struct shmid_ds *)&i));
	return i;
}

static void expect_gone(int id)
{
	struct shmid_ds d;
	EXPECT_ERR(shmctl(id, IPC_STAT, &d), EINVAL);
	EXPECT_ERR(shmctl(id, IPC_RMID, NULL), EINVAL);
	EXPECT_ERR((long)shmat(id, NULL, 0), EINVAL);
}

ROW(85, "IPC_RMID of a segment that nobody has frees it at once")
{
	key_t key = free_key();
	int id = keep(SHM, MUST(shmget(key, 4096, IPC_CREAT | 0600)));
	MUST(shmdt(MUST(shmat(id, NULL, 0))));
	EXPECT_OK(shmctl(id, IPC_RMID, NULL));
	expect_gone(id);
	EXPECT_ERR(shmget(key, 4096, 0), ENOENT);
}

ROW(86, "IPC_RMID of one in use marks it, hides its key, and frees it at the last detach")
{
	key_t key = free_key();
	int id = keep(SHM, MUST(shmget(key, 4096, IPC_CREAT | 0640)));
	char *m = MUST(shmat(id, NULL, 0)), *n = MUST(shmat(id, NULL, 0));
	EXPECT_OK(shmctl(id, IPC_RMID, NULL));
	struct shmid_ds d = segment_stat(id);
	EXPECT_EQ(d.shm_perm.mode, SHM_DEST | 0640);
	EXPECT_EQ(d.shm_perm.__key, IPC_PRIVATE);
	EXPECT_EQ(d.shm_nattch, 2);
	*m = 'x';
	EXPECT_EQ(*n, 'x');
	MUST(shmdt(m));
	EXPECT_EQ(nattch(id), 1);
	MUST(shmdt(n));
	expect_gone(id);
}

ROW(86, "the last detach may be another process's death")
{
	int id = new_segment(4096);
	pid_t p;
	CHILD(p) {
		MUST((long)shmat(id, NULL, 0));
		board->n[0] = 1;
		pause();
	}
	UNTIL(board->n[0] == 1);
	EXPECT_OK(shmctl(id, IPC_RMID, NULL));
	EXPECT_EQ(segment_stat(id).shm_perm.mode, SHM_DEST | 0600);
	kill(p, SIGKILL);
	MUST(waitpid(p, NULL, 0));
	expect_gone(id);
}

ROW(87, "after IPC_RMID the key is free for a new segment, though the old one is in use")
{
	key_t key = free_key();
	int id = keep(SHM, MUST(shmget(key, 4096, IPC_CREAT | 0600)));
	char *m = MUST(shmat(id, NULL, 0));
	*m = 'o';
	MUST(shmctl(id, IPC_RMID, NULL));
	EXPECT_ERR(shmget(key, 4096, 0), ENOENT);
	int other = keep(SHM, MUST(shmget(key, 8192, IPC_CREAT | IPC_EXCL | 0600)));
	EXPECT(other != id);
	char *n = MUST(shmat(other, NULL, 0));
	EXPECT_EQ(*n, 0);
	EXPECT_EQ(*m, 'o');
	EXPECT_EQ(shmget(key, 0, 0), other);
	MUST(shmdt(m));
	expect_gone(id);
	EXPECT_EQ(shmget(key, 0, 0), other);
}

ROW(88, "a second IPC_RMID on a marked segment succeeds")
{
	int id = new_segment(4096);
	MUST((long)shmat(id, NULL, 0));
	EXPECT_OK(shmctl(id, IPC_RMID, NULL));
	EXPECT_OK(shmctl(id, IPC_RMID, NULL));
	EXPECT_EQ(nattch(id), 1);
}

ROW(89, "IPC_RMID does not change ctime")
{
	int id = new_segment(4096);
	MUST((long)shmat(id, NULL, 0));
	time_t made = segment_stat(id).shm_ctime;
	pause_ms(1100);
	MUST(shmctl(id, IPC_RMID, NULL));
	EXPECT_EQ(segment_stat(id).shm_ctime, made);
}

ROW(90, "IPC_STAT fills every field")
{
	key_t key = free_key();
	time_t start = time(NULL);
	int id = keep(SHM, MUST(shmget(key, 12345, IPC_CREAT | 0640)));
	pid_t p;
	CHILD(p)
		MUST(shmdt(MUST(shmat(id, NULL, 0))));
	JOIN(p);
	struct shmid_ds d;
	memset(&d, 0xff, sizeof d);
	EXPECT_OK(shmctl(id, IPC_STAT, &d));
	EXPECT_EQ(d.shm_perm.__key, key);
	EXPECT_EQ(d.shm_perm.uid, geteuid());
	EXPECT_EQ(d.shm_perm.gid, getegid());
	EXPECT_EQ(d.shm_perm.cuid, geteuid());
	EXPECT_EQ(d.shm_perm.cgid, getegid());
	EXPECT_EQ(d.shm_perm.mode, 0640);
	EXPECT_EQ(d.shm_segsz, 12345);
	EXPECT_RECENT(d.shm_atime, start);
	EXPECT_RECENT(d.shm_dtime, start);
	EXPECT_RECENT(d.shm_ctime, start);
	EXPECT_EQ(d.shm_cpid, getpid());
	EXPECT_EQ(d.shm_lpid, p);
	EXPECT_EQ(d.shm_nattch, 0);
}

ROWS("91,92", "SHM_LOCK is for owner, creator and CAP_IPC_LOCK, and needs some RLIMIT_MEMLOCK")
{
	NEED_ROOT();
	int id = keep(SHM, MUST(shmget(IPC_PRIVATE, 4096, 0666)));
	struct rlimit none = { 0, 0 };
	pid_t p;
	CHILD(p) {
		become(STRANGER, STRANGER);
		EXPECT_ERR(shmctl(id, SHM_LOCK, NULL), EPERM);
		EXPECT_ERR(shmctl(id, SHM_UNLOCK, NULL), EPERM);
	}
	JOIN(p);
	CHILD(p) {
		MUST(setresuid(-1, STRANGER, -1));
		only_capability(CAP_LOCK_MEMORY);
		EXPECT_OK(shmctl(id, SHM_LOCK, NULL));
		EXPECT_OK(shmctl(id, SHM_UNLOCK, NULL));
	}
	JOIN(p);
	CHILD(p) {
		MUST(setrlimit(RLIMIT_MEMLOCK, &none));
		only_capability(-1);
		EXPECT_ERR(shmctl(id, SHM_LOCK, NULL), EPERM);
	}
	JOIN(p);
	CHILD(p) {
		MUST(setrlimit(RLIMIT_MEMLOCK, &none));
		EXPECT_OK(shmctl(id, SHM_LOCK, NULL));
		EXPECT_OK(shmctl(id, SHM_UNLOCK, NULL));
	}
	JOIN(p);
}

ROW(91, "SHM_LOCK and SHM_UNLOCK of a bad id are EINVAL")
{
	int id = new_segment(1);
	MUST(shmctl(id, IPC_RMID, NULL));
	EXPECT_ERR(shmctl(id, SHM_LOCK, NULL), EINVAL);
	EXPECT_ERR(shmctl(id, SHM_UNLOCK, NULL), EINVAL);
	EXPECT_ERR(shmctl(-1, SHM_LOCK, NULL), EINVAL);
}

ROW(93, "what a user has locked counts together, until it is unlocked or removed")
{
	NEED_ROOT();
	struct rlimit three = { 3 * page_size(), 3 * page_size() };
	MUST(setrlimit(RLIMIT_MEMLOCK, &three));
	become(STRANGER, STRANGER);
	int one = new_segment(2 * page_size()), two = new_segment(2 * page_size());
	EXPECT_OK(shmctl(one, SHM_LOCK, NULL));
	EXPECT_OK(shmctl(one, SHM_LOCK, NULL));
	EXPECT_ERR(shmctl(two, SHM_LOCK, NULL), ENOMEM);
	EXPECT_OK(shmctl(one, SHM_UNLOCK, NULL));
	EXPECT_OK(shmctl(two, SHM_LOCK, NULL));
	EXPECT_ERR(shmctl(one, SHM_LOCK, NULL), ENOMEM);
	EXPECT_OK(shmctl(two, IPC_RMID, NULL));
	EXPECT_OK(shmctl(one, SHM_LOCK, NULL));
}

ROW(93, "SHM_LOCK of more than RLIMIT_MEMLOCK is ENOMEM")
{
	NEED_ROOT();
	pid_t p;
	CHILD(p) {
		struct rlimit some = { 65536, 65536 };
		MUST(setrlimit(RLIMIT_MEMLOCK, &some));
		become(STRANGER, STRANGER);
		int big = new_segment(1 << 20), small = new_segment(4096);
		EXPECT_OK(shmctl(small, SHM_LOCK, NULL));
		EXPECT_ERR(shmctl(big, SHM_LOCK, NULL), ENOMEM);
		EXPECT_EQ(segment_stat(big).shm_perm.mode, 0600);
		EXPECT_OK(shmctl(small, SHM_UNLOCK, NULL));
	}
	JOIN(p);
}

ROW(94, "SHM_LOCK sets a mode bit, SHM_UNLOCK clears it; twice is fine")
{
	int id = new_segment(4096);
	EXPECT_OK(shmctl(id, SHM_UNLOCK, NULL));
	EXPECT_OK(shmctl(id, SHM_LOCK, NULL));
	EXPECT_EQ(segment_stat(id).shm_perm.mode, SHM_LOCKED | 0600);
	EXPECT_OK(shmctl(id, SHM_LOCK, NULL));
	EXPECT_EQ(segment_stat(id).shm_perm.mode, SHM_LOCKED | 0600);
	char *m = MUST(shmat(id, NULL, 0));
	*m = 'x';
	struct shmid_ds d = segment_stat(id);	/* IPC_SET keeps the bit: row 32 */
	d.shm_perm.mode = 0640;
	MUST(shmctl(id, IPC_SET, &d));
	EXPECT_EQ(segment_stat(id).shm_perm.mode, SHM_LOCKED | 0640);
	EXPECT_OK(shmctl(id, SHM_UNLOCK, NULL));
	EXPECT_EQ(segment_stat(id).shm_perm.mode, 0640);
	EXPECT_OK(shmctl(id, SHM_UNLOCK, NULL));
	EXPECT_EQ(*m, 'x');
}

ROW(95, "SHM_LOCK of a huge page segment succeeds without effect")
{
	int id = keep(SHM, shmget(IPC_PRIVATE, 1, SHM_HUGETLB | 0600));
	if (id < 0)
		SKIP("no huge page is free: %s", errno_name(errno));
	EXPECT_OK(shmctl(id, SHM_LOCK, NULL));
	EXPECT_EQ(segment_stat(id).shm_perm.mode & SHM_LOCKED, 0);
}

ROW(96, "IPC_INFO tells the limits")
{
	struct shminfo i;
	MUST(shmctl(0, IPC_INFO, (struct shmid_ds *)&i));
	EXPECT_EQ(i.shmmin, 1);
	EXPECT_EQ(i.shmseg, i.shmmni);
	EXPECT(i.shmmni > 0 && i.shmmni <= 1 << 24);
	EXPECT(i.shmmax > 0 && i.shmall > 0);
	EXPECT_ERR(shmctl(0, IPC_INFO, BAD_POINTER), EFAULT);
}

ROW(97, "SHM_INFO counts segments and pages")
{
	size_t page = page_size();
	struct shm_info before = usage(), after;
	int id = new_segment(10 * page);
	new_segment(1);
	after = usage();
	EXPECT_EQ(after.used_ids, before.used_ids + 2);
	EXPECT_EQ(after.shm_tot, before.shm_tot + 11);
	EXPECT_EQ(after.swap_attempts, 0);
	EXPECT_EQ(after.swap_successes, 0);
	MUST(shmctl(id, IPC_RMID, NULL));
	after = usage();
	EXPECT_EQ(after.used_ids, before.used_ids + 1);
	EXPECT_EQ(after.shm_tot, before.shm_tot + 1);
	EXPECT_ERR(shmctl(0, SHM_INFO, BAD_POINTER), EFAULT);
}

ROW(97, "a segment marked for removal counts until its last detach")
{
	struct shm_info before = usage();
	int id = new_segment(4096);
	char *m = MUST(shmat(id, NULL, 0));
	MUST(shmctl(id, IPC_RMID, NULL));
	EXPECT_EQ(usage().used_ids, before.used_ids + 1);
	MUST(shmdt(m));
	EXPECT_EQ(usage().used_ids, before.used_ids);
}

ROW(98, "shm_rss counts the pages touched, shm_tot the whole segments")
{
	size_t page = page_size();
	struct shm_info before = usage(), after;
	char *m = MUST(shmat(new_segment(100 * page), NULL, 0));
	after = usage();
	EXPECT_EQ(after.shm_tot, before.shm_tot + 100);
	EXPECT_EQ(after.shm_rss, before.shm_rss);
	for (size_t i = 0; i < 7; i++)
		m[i * 13 * page] = 1;
	after = usage();
	EXPECT_EQ(after.shm_tot, before.shm_tot + 100);
	EXPECT_EQ(after.shm_rss + after.shm_swp, before.shm_rss + before.shm_swp + 7);
}

ROW(99, "shm_rmid_forced: freed at the last detach, orphans at once")
{
	if (!may_set_limits())
		SKIP("shm_rmid_forced is a sysctl of the kernel's namespaces");
	int orphan = -1, mine = new_segment(4096), used = new_segment(4096);
	pid_t p;
	CHILD(p)
		board->n[0] = shmget(IPC_PRIVATE, 4096, 0600);
	JOIN(p);
	orphan = board->n[0];
	char *m = MUST(shmat(used, NULL, 0));
	MUST(nattch(orphan));
	MUST(set_limit("shm_rmid_forced", "1"));
	expect_gone(orphan);
	EXPECT_EQ(nattch(mine), 0);	/* its creator lives */
	MUST(shmdt(m));
	expect_gone(used);
	CHILD(p)
		board->n[1] = shmget(IPC_PRIVATE, 4096, 0600);
	JOIN(p);
	expect_gone(board->n[1]);
}
