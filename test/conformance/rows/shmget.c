/* Rows 42 to 53: making segments. */
#include "case.h"
#include <sys/sysinfo.h>

#define HUGE_SHIFT 26	/* SHM_HUGE_SHIFT */

static struct shminfo limits(void)
{
	struct shminfo i;
	MUST(shmctl(0, IPC_INFO, (struct shmid_ds *)&i));
	return i;
}

static struct shm_info usage(void)
{
	struct shm_info i;
	MUST(shmctl(0, SHM_INFO, (struct shmid_ds *)&i));
	return i;
}

ROW(42, "size 0, and any size over shmmax, is EINVAL")
{
	size_t max = limits().shmmax;
	EXPECT_ERR(shmget(IPC_PRIVATE, 0, 0600), EINVAL);
	EXPECT_ERR(shmget(free_key(), 0, IPC_CREAT | 0600), EINVAL);
	if (max < SIZE_MAX) {
		EXPECT_ERR(shmget(IPC_PRIVATE, max + 1, 0600), EINVAL);
		EXPECT_ERR(shmget(IPC_PRIVATE, SIZE_MAX, 0600), EINVAL);
	}
	new_segment(1);
}

ROW(42, "shmmax itself is allowed, one byte more is not")
{
	if (may_set_limits())
		MUST(set_limit("shmmax", "10000"));
	size_t max = limits().shmmax;
	if (max > 1 << 30)
		SKIP("shmmax is too large to be reached");
	EXPECT_EQ(segment_stat(new_segment(max)).shm_segsz, max);
	EXPECT_ERR(shmget(IPC_PRIVATE, max + 1, 0600), EINVAL);
}

ROW(42, "a size that no file can have is EINVAL, too, with SHM_NORESERVE or without")
{
	size_t size = (size_t)PTRDIFF_MAX + 1;
	EXPECT_ERR(shmget(IPC_PRIVATE, size, 0600), EINVAL);
	EXPECT_ERR(shmget(IPC_PRIVATE, size, 0600 | SHM_NORESERVE), EINVAL);
	EXPECT_ERR(shmget(free_key(), size, IPC_CREAT | 0600), EINVAL);
}

ROW(43, "on an existing key a larger size is EINVAL, a smaller or none is fine")
{
	key_t key = free_key();
	int id = keep(SHM, MUST(shmget(key, 100, IPC_CREAT | 0600)));
	EXPECT_EQ(shmget(key, 100, 0600), id);
	EXPECT_EQ(shmget(key, 99, 0600), id);
	EXPECT_EQ(shmget(key, 0, 0600), id);
	EXPECT_EQ(shmget(key, 0, IPC_CREAT | 0600), id);
	EXPECT_ERR(shmget(key, 101, 0600), EINVAL);
	EXPECT_ERR(shmget(key, 101, IPC_CREAT | 0600), EINVAL);
	EXPECT_ERR(shmget(key, SIZE_MAX, 0600), EINVAL);
}

ROW(44, "more pages than shmall are ENOSPC, and come back with IPC_RMID")
{
	if (may_set_limits())
		MUST(set_limit("shmall", "16"));
	size_t all = limits().shmall, room = all - usage().shm_tot;
	if (all > 1 << 18)
		SKIP("shmall is too large to be filled");
	int id = new_segment(room * page_size());
	EXPECT_EQ(usage().shm_tot, all);
	EXPECT_ERR(shmget(IPC_PRIVATE, 1, 0600), ENOSPC);
	MUST(shmctl(id, IPC_RMID, NULL));
	new_segment(room / 2 * page_size());
	EXPECT_ERR(shmget(IPC_PRIVATE, (room - room / 2) * page_size() + 1, 0600), ENOSPC);
	new_segment((room - room / 2) * page_size());
}

ROW(44, "more memory than the machine has is ENOMEM")
{
	struct sysinfo machine;
	MUST(sysinfo(&machine));
	size_t size = (machine.totalram + machine.totalswap + 1) * machine.mem_unit;
	FILE *f = fopen("/proc/sys/vm/overcommit_memory", "re");
	int mode = f ? fgetc(f) : '0';
	if (f)
		fclose(f);
	if (mode != '0' || limits().shmmax < size || limits().shmall < size / page_size() + 1)
		SKIP("a limit is met before, or there is none");
	EXPECT_ERR(shmget(IPC_PRIVATE, size, 0600), ENOMEM);
	EXPECT_ERR(shmget(free_key(), size, IPC_CREAT | 0600), ENOMEM);
}

ROW(45, "more segments than shmmni are ENOSPC, and come back with IPC_RMID")
{
	if (may_set_limits())
		MUST(set_limit("shmmni", "8"));
	int max = (int)limits().shmmni, last = -1, made = 0, used = usage().used_ids;
	if (max > 40000)
		SKIP("shmmni is too large to be filled");
	for (; made < max - used; made++)
		last = new_segment(1);
	EXPECT_EQ(usage().used_ids, max);
	EXPECT_ERR(shmget(IPC_PRIVATE, 1, 0600), ENOSPC);
	EXPECT_ERR(shmget(free_key(), 1, IPC_CREAT | 0600), ENOSPC);
	MUST(shmctl(last, IPC_RMID, NULL));
	new_segment(1);
	EXPECT_ERR(shmget(IPC_PRIVATE, 1, 0600), ENOSPC);
}

ROW(46, "shm_segsz is the size asked for, not rounded")
{
	static const size_t sizes[] = { 1, 100, 4095, 4096, 4097, 100001, (1 << 20) + 1, (1 << 22) + 5 };
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
		EXPECT_EQ(segment_stat(new_segment(sizes[i])).shm_segsz, sizes[i]);
}

static void expect_zeros(size_t size)
{
	int id = new_segment(size);
	unsigned char *m = MUST(shmat(id, NULL, 0));
	for (size_t i = 0; i < size; i++)
		if (m[i])
			FAIL("byte %zu of %zu is %d", i, size, m[i]);
	memset(m, 0xa5, size);
	MUST(shmdt(m));
	MUST(shmctl(id, IPC_RMID, NULL));
}

ROW(47, "new memory reads as zeros, also where a removed segment was")
{
	for (int i = 0; i < 20; i++) {
		expect_zeros(5000);
		expect_zeros(65536);
	}
	for (int i = 0; i < 3; i++)
		expect_zeros((3 << 20) + 77);
}

ROW(48, "a new segment: no times but ctime, no lpid, no attach, the caller's pid")
{
	time_t start = time(NULL);
	struct shmid_ds d = segment_stat(new_segment(4096));
	EXPECT_EQ(d.shm_atime, 0);
	EXPECT_EQ(d.shm_dtime, 0);
	EXPECT_EQ(d.shm_lpid, 0);
	EXPECT_EQ(d.shm_nattch, 0);
	EXPECT_EQ(d.shm_cpid, getpid());
	EXPECT_EQ(d.shm_perm.mode, 0600);
	EXPECT_RECENT(d.shm_ctime, start);
}

ROW(49, "SHM_NORESERVE is accepted")
{
	int id = keep(SHM, MUST(shmget(IPC_PRIVATE, 1 << 20, SHM_NORESERVE | 0600)));
	char *m = MUST(shmat(id, NULL, 0));
	m[(1 << 20) - 1] = 1;
	EXPECT_EQ(segment_stat(id).shm_perm.mode, 0600);
}

static long meminfo(const char *name)
{
	char line[128];
	long value = -1;
	FILE *f = fopen("/proc/meminfo", "re");
	while (f && fgets(line, sizeof line, f))
		if (strncmp(line, name, strlen(name)) == 0)
			value = atol(line + strlen(name));
	if (f)
		fclose(f);
	return value;
}

ROW(50, "SHM_HUGETLB: whole huge pages, ENOMEM when none is free")
{
	long free_pages = meminfo("HugePages_Free:"), size = meminfo("Hugepagesize:") * 1024;
	if (size <= 0)
		SKIP("no huge pages in this kernel");
	if (geteuid() != 0)
		SKIP("needs root");
	EXPECT_ERR(shmget(IPC_PRIVATE, (size_t)size * (size_t)(free_pages + 1), SHM_HUGETLB | 0600), ENOMEM);
	if (free_pages == 0) {
		EXPECT_ERR(shmget(IPC_PRIVATE, 1, SHM_HUGETLB | 0600), ENOMEM);
		return;
	}
	int id = keep(SHM, MUST(shmget(IPC_PRIVATE, 1, SHM_HUGETLB | 0600)));
	char *m = MUST(shmat(id, NULL, 0));
	EXPECT_EQ((uintptr_t)m % (uintptr_t)size, 0);
	EXPECT_EQ(fault(m + size - 1, true), 0);
}

ROW(51, "SHM_HUGETLB with an unknown size is EINVAL")
{
	NEED_ROOT();
	EXPECT_ERR(shmget(IPC_PRIVATE, 1 << 20, SHM_HUGETLB | (5 << HUGE_SHIFT) | 0600), EINVAL);
	EXPECT_ERR(shmget(IPC_PRIVATE, 1 << 20, SHM_HUGETLB | (13 << HUGE_SHIFT) | 0600), EINVAL);
}

ROW(52, "SHM_HUGETLB without CAP_IPC_LOCK, group and memlock limit is EPERM")
{
	NEED_ROOT();
	if (meminfo("Hugepagesize:") <= 0)
		SKIP("no huge pages in this kernel");
	pid_t p;
	CHILD(p) {
		struct rlimit none = { 0, 0 };
		MUST(setrlimit(RLIMIT_MEMLOCK, &none));
		become(STRANGER, OTHER);
		EXPECT_ERR(shmget(IPC_PRIVATE, 1, SHM_HUGETLB | 0600), EPERM);
	}
	JOIN(p);
}

ROW(53, "unknown flag bits are ignored")
{
	key_t key = free_key();
	/* Every bit that no call gives a meaning to: not IPC_*, SHM_HUGETLB, SHM_NORESERVE, the mode. */
	int odd = ~(0777 | IPC_CREAT | IPC_EXCL | IPC_NOWAIT | SHM_HUGETLB | SHM_NORESERVE);
	int id = keep(SHM, MUST(shmget(key, 4096, odd | IPC_CREAT | 0600)));
	EXPECT_EQ(segment_stat(id).shm_perm.mode, 0600);
	EXPECT_EQ(shmget(key, 4096, odd | 0600), id);
	EXPECT_EQ(shmget(key, 4096, SHM_RDONLY | SHM_RND | 0600), id);
}
