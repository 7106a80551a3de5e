/* Rows 73 to 84 but those of shmfork.c: detaching, nattch, and what else can be done to attached memory. */
#include "case.h"
#include <sys/uio.h>

ROW(73, "shmdt: dtime, lpid, nattch, and the memory is gone at once")
{
	int id = new_segment(4096);
	MUST((long)shmat(id, NULL, 0));
	pid_t p;
	CHILD(p) {
		char *m = MUST(shmat(id, NULL, 0));
		long before = nattch(id);
		time_t start = time(NULL);
		EXPECT_OK(shmdt(m));
		struct shmid_ds d = segment_stat(id);
		EXPECT_EQ((long)d.shm_nattch, before - 1);
		EXPECT_RECENT(d.shm_dtime, start);
		EXPECT_EQ(d.shm_lpid, getpid());
		EXPECT_EQ(fault(m, false), SIGSEGV);
	}
	JOIN(p);
}

ROW(73, "lpid is who came last, also as a second begins")
{
	int id = new_segment(4096);
	struct timespec now;
	pid_t p;

	do
		clock_gettime(CLOCK_REALTIME, &now);
	while (now.tv_nsec > 200000);
	MUST((long)shmat(id, NULL, 0));
	CHILD(p) {
		EXPECT_OK(shmdt(MUST(shmat(id, NULL, 0))));
		EXPECT_EQ(segment_stat(id).shm_lpid, getpid());
	}
	JOIN(p);
}

ROW(73, "lpid is who came last, also after what was done as the second before ended")
{
	int id = new_segment(4096);
	struct timespec now;
	pid_t p;

	for (int second = 0; second < 3; second++) {
		do
			clock_gettime(CLOCK_REALTIME, &now);
		while (now.tv_nsec < 999900000);
		do {
			EXPECT_OK(shmdt(MUST(shmat(id, NULL, 0))));
			clock_gettime(CLOCK_REALTIME, &now);
		} while (now.tv_nsec > 500000000);
		CHILD(p) {
			EXPECT_OK(shmdt(MUST(shmat(id, NULL, 0))));
			EXPECT_EQ(segment_stat(id).shm_lpid, getpid());
		}
		JOIN(p);
	}
}

ROW(74, "shmdt detaches all that is left of an attach in pieces")
{
	size_t page = page_size();
	int id = new_segment(6 * page);
	char *m = MUST(shmat(id, NULL, 0));
	MUST(mprotect(m + page, page, PROT_READ));
	MUST(munmap(m + 3 * page, page));
	EXPECT_OK(shmdt(m));
	EXPECT_EQ(nattch(id), 0);
	for (int i = 0; i < 6; i++)
		EXPECT_EQ(fault(m + (size_t)i * page, false), SIGSEGV);
	EXPECT_ERR(shmdt(m), EINVAL);
}

ROW(74, "also when the first page is gone, by the address where it was")
{
	size_t page = page_size();
	int id = new_segment(4 * page);
	char *m = MUST(shmat(id, NULL, 0));
	MUST(munmap(m, page));
	EXPECT_ERR(shmdt(m + page), EINVAL);
	EXPECT_OK(shmdt(m));
	EXPECT_EQ(nattch(id), 0);
	EXPECT_EQ(fault(m + page, false), SIGSEGV);
}

ROW(74, "shmdt leaves another segment's attach in the hole alone")
{
	size_t page = page_size();
	int a = new_segment(3 * page), b = new_segment(page);
	char *m = MUST(shmat(a, NULL, 0));
	EXPECT(shmat(b, m + page, SHM_REMAP) == m + page);
	m[page] = 'b';
	EXPECT_OK(shmdt(m));
	EXPECT_EQ(nattch(a), 0);
	EXPECT_EQ(nattch(b), 1);
	EXPECT_EQ(m[page], 'b');
	EXPECT_EQ(fault(m, false), SIGSEGV);
	EXPECT_EQ(fault(m + 2 * page, false), SIGSEGV);
}

ROW(75, "unmapping a part at the end or the beginning leaves nattch at 1")
{
	size_t page = page_size();
	int id = new_segment(4 * page);
	char *m = MUST(shmat(id, NULL, 0));
	MUST(munmap(m + 3 * page, page));
	EXPECT_EQ(nattch(id), 1);
	MUST(munmap(m, page));
	EXPECT_EQ(nattch(id), 1);
	MUST(munmap(m + page, 2 * page));
	EXPECT_EQ(nattch(id), 0);
}

ROW(75, "VMA splits: mprotect of a part raises nattch")
{
	size_t page = page_size();
	int id = new_segment(4 * page);
	char *m = MUST(shmat(id, NULL, 0));
	MUST(mprotect(m, page, PROT_READ));
	EXPECT_EQ(nattch(id), 2);
	MUST(mprotect(m + 2 * page, page, PROT_READ));
	EXPECT_EQ(nattch(id), 4);
	EXPECT_OK(shmdt(m));
	EXPECT_EQ(nattch(id), 0);
}

ROW(75, "VMA splits: a hole in the middle raises nattch")
{
	size_t page = page_size();
	int id = new_segment(3 * page);
	char *m = MUST(shmat(id, NULL, 0));
	MUST(munmap(m + page, page));
	EXPECT_EQ(nattch(id), 2);
	MUST(munmap(m, page));
	EXPECT_EQ(nattch(id), 1);
}

ROW(75, "VMA splits: pieces made alike again stay pieces")
{
	size_t page = page_size();
	int id = new_segment(2 * page);
	char *m = MUST(shmat(id, NULL, 0));
	MUST(mprotect(m, page, PROT_READ));
	EXPECT_EQ(nattch(id), 2);
	MUST(mprotect(m, page, PROT_READ | PROT_WRITE));
	EXPECT_EQ(nattch(id), 2);	/* a mapping with a close operation is never merged */
	EXPECT_OK(shmdt(m));
	EXPECT_EQ(nattch(id), 0);
}

ROWS("75,82", "mremap: what it cuts off or moves was a mapping of its own for a moment")
{
	size_t page = page_size();
	int id = new_segment(4 * page);
	char *m = MUST(shmat(id, NULL, 0));
	EXPECT_EQ(segment_stat(id).shm_dtime, 0);
	EXPECT((m = mremap(m, 4 * page, 3 * page, 0)) != MAP_FAILED);
	EXPECT_RECENT(segment_stat(id).shm_dtime, time(NULL));
	EXPECT_EQ(nattch(id), 1);
	int other = new_segment(4 * page);
	m = MUST(shmat(other, NULL, SHM_RDONLY));
	char *room = mmap(NULL, 8 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	EXPECT_EQ(mremap(m, 4 * page, 4 * page, MREMAP_MAYMOVE | MREMAP_FIXED, room), room);
	EXPECT_RECENT(segment_stat(other).shm_dtime, time(NULL));
	EXPECT_EQ(nattch(other), 1);
	EXPECT_OK(shmdt(room));
	EXPECT_EQ(nattch(other), 0);
}

ROWS("75,86", "remap_file_pages maps anew: the last attach of a removed segment goes with it")
{
	size_t page = page_size();
	int id = new_segment(2 * page), kept = new_segment(2 * page);
	char *m = MUST(shmat(id, NULL, 0)), *n = MUST(shmat(kept, NULL, 0));
	n[page] = 'x';
	if (remap_file_pages(n, page, 0, 1, 0) < 0)
		SKIP("no remap_file_pages here");
	EXPECT_EQ(n[0], 'x');
	EXPECT_EQ(nattch(kept), 2);
	EXPECT_OK(remap_file_pages(m, 2 * page, 0, 0, 0));
	EXPECT_EQ(nattch(id), 1);
	MUST(shmctl(id, IPC_RMID, NULL));
	EXPECT_EQ(nattch(id), 1);
	EXPECT_EQ(remap_file_pages(m, 2 * page, 0, 0, 0), -1);
	EXPECT(errno == EIDRM || errno == EINVAL);
	EXPECT_EQ(fault(m, false), SIGSEGV);
	EXPECT_ERR(shmctl(id, IPC_STAT, &(struct shmid_ds){ 0 }), EINVAL);
}

ROW(76, "munmap of the whole attach detaches")
{
	int id = new_segment(10000);
	char *m = MUST(shmat(id, NULL, 0));
	time_t start = time(NULL);
	MUST(munmap(m, 10000));
	EXPECT_EQ(nattch(id), 0);
	EXPECT_RECENT(segment_stat(id).shm_dtime, start);
	EXPECT_ERR(shmdt(m), EINVAL);
}

ROW(76, "so does mapping something else over it")
{
	int id = new_segment(4096);
	char *m = MUST(shmat(id, NULL, 0));
	time_t start = time(NULL);
	EXPECT(mmap(m, page_size(), PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == m);
	EXPECT_EQ(nattch(id), 0);
	EXPECT_RECENT(segment_stat(id).shm_dtime, start);
	EXPECT_ERR(shmdt(m), EINVAL);
	EXPECT_EQ(fault(m, true), 0);
}

ROW(76, "munmap of the last attach frees a segment marked for removal")
{
	int id = new_segment(4096);
	char *m = MUST(shmat(id, NULL, 0));
	MUST(shmctl(id, IPC_RMID, NULL));
	EXPECT_EQ(nattch(id), 1);
	MUST(munmap(m, 4096));
	struct shmid_ds d;
	EXPECT_ERR(shmctl(id, IPC_STAT, &d), EINVAL);
}

ROW(81, "the contents survive nattch 0")
{
	int id = new_segment(100000);
	for (int i = 0; i < 10; i++) {
		pid_t p;
		CHILD(p) {
			char *m = MUST(shmat(id, NULL, 0));
			EXPECT_EQ(m[99999], i);
			m[99999] = (char)(i + 1);
		}
		JOIN(p);
		EXPECT_EQ(nattch(id), 0);
	}
}

ROW(82, "mprotect, madvise and mlock work on the memory")
{
	size_t page = page_size();
	char *m = MUST(shmat(new_segment(4 * page), NULL, 0));
	memset(m, 'x', 4 * page);
	MUST(mprotect(m, 4 * page, PROT_NONE));
	EXPECT_EQ(fault(m, false), SIGSEGV);
	MUST(mprotect(m, 4 * page, PROT_READ | PROT_WRITE));
	MUST(madvise(m, 4 * page, MADV_WILLNEED));
	MUST(madvise(m, 4 * page, MADV_DONTNEED));	/* shared: the contents stay */
	EXPECT_EQ(m[3 * page], 'x');
	MUST(mlock(m, 2 * page));
	MUST(munlock(m, 2 * page));
	MUST(msync(m, 4 * page, MS_SYNC));
	unsigned char resident[4];
	MUST(mincore(m, 4 * page, resident));
}

ROW(82, "mremap moves an attach; it is still one attach, detached where it stands now")
{
	size_t page = page_size();
	int id = new_segment(2 * page);
	char *m = MUST(shmat(id, NULL, 0));
	m[page] = 'x';
	char *to = MUST(mmap(NULL, 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	EXPECT(mremap(m, 2 * page, 2 * page, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	EXPECT_EQ(nattch(id), 1);
	EXPECT_EQ(to[page], 'x');
	EXPECT_EQ(fault(m, false), SIGSEGV);
	EXPECT_ERR(shmdt(m), EINVAL);
	EXPECT_OK(shmdt(to));
	EXPECT_EQ(nattch(id), 0);
}

ROW(82, "another process can read it with process_vm_readv, a descriptor with O_DIRECT too")
{
	size_t page = page_size();
	char *m = MUST(shmat(new_segment(4 * page), NULL, 0));
	strcpy(m, "seen from outside");
	char copy[32] = "";
	struct iovec to = { copy, 18 }, from = { m, 18 };
	EXPECT_EQ_OR_ERRNO(process_vm_readv(getpid(), &to, 1, &from, 1, 0), 18);
	EXPECT_EQ(strcmp(copy, m), 0);
	char path[] = "/var/tmp/direct-XXXXXX";
	int fd = mkstemp(path);
	if (fd < 0)
		return;
	unlink(path);
	if (fcntl(fd, F_SETFL, O_DIRECT) == 0) {
		EXPECT_EQ_OR_ERRNO(pwrite(fd, m, 4 * page, 0), 4 * page);
		memset(m, 0, page);
		EXPECT_EQ_OR_ERRNO(pread(fd, m, 4 * page, 0), 4 * page);
		EXPECT_EQ(strcmp(copy, m), 0);
	}
	close(fd);
}

ROW(83, "MADV_REMOVE punches a hole of zeros")
{
	size_t page = page_size();
	int id = new_segment(3 * page);
	char *m = MUST(shmat(id, NULL, 0)), *other = MUST(shmat(id, NULL, 0));
	memset(m, 'x', 3 * page);
	EXPECT_OK(madvise(m + page, page, MADV_REMOVE));
	EXPECT_EQ(other[page - 1], 'x');
	EXPECT_EQ(other[page], 0);
	EXPECT_EQ(other[2 * page - 1], 0);
	EXPECT_EQ(other[2 * page], 'x');
}

ROW(83, "MADV_REMOVE frees memory, in pieces of an attach too, and only for writers")
{
	size_t page = page_size(), n = 1024;
	int id = new_segment(n * page);
	struct shm_info before, full, after;
	char *m = MUST(shmat(id, NULL, 0)), *reader = MUST(shmat(id, NULL, SHM_RDONLY));
	EXPECT_EQ(shmctl(0, SHM_INFO, (void *)&before) < 0, 0);
	memset(m, 'x', n * page);
	EXPECT_EQ(shmctl(0, SHM_INFO, (void *)&full) < 0, 0);
	EXPECT_EQ(full.shm_rss - before.shm_rss, n);
	EXPECT_OK(mprotect(m + 10 * page, 20 * page, PROT_READ));
	EXPECT_OK(mprotect(m + 10 * page, 20 * page, PROT_READ | PROT_WRITE | PROT_EXEC));
	EXPECT_OK(madvise(m + page, (n - 2) * page, MADV_REMOVE));
	EXPECT_EQ(shmctl(0, SHM_INFO, (void *)&after) < 0, 0);
	EXPECT_EQ(after.shm_rss - before.shm_rss, 2);
	EXPECT_EQ(reader[0], 'x');
	EXPECT_EQ(reader[page], 0);
	EXPECT_EQ(reader[(n - 1) * page - 1], 0);
	EXPECT_EQ(reader[(n - 1) * page], 'x');
	EXPECT_ERR(madvise(reader, page, MADV_REMOVE), EACCES);
	EXPECT_ERR(madvise(m + 1, page, MADV_REMOVE), EINVAL);
	EXPECT_EQ(reader[0], 'x');
	m[page] = 'y';
	EXPECT_EQ(reader[page], 'y');
}

ROW(83, "MADV_REMOVE asks what the mapping allows, not what the caller may do now")
{
	NEED_ROOT();
	int id = new_segment(3 * 4096);
	char *m = MUST(shmat(id, NULL, 0));
	memset(m, 7, 3 * 4096);
	pid_t p;
	CHILD(p) {
		become(STRANGER, STRANGER);
		EXPECT_OK(mprotect(m, 4096, PROT_READ));
		EXPECT_OK(madvise(m, 2 * 4096, MADV_REMOVE));
	}
	JOIN(p);
	EXPECT(m[0] == 0 && m[4096] == 0 && m[2 * 4096] == 7);
}

ROW(83, "MADV_REMOVE passes over holes, and stops at a mapping of another kind")
{
	int id = new_segment(4 * 4096);
	char *m = MUST(shmat(id, NULL, 0));
	memset(m, 7, 4 * 4096);
	EXPECT_OK(munmap(m + 4096, 4096));
	EXPECT_ERR(madvise(m, 4 * 4096, MADV_REMOVE), ENOMEM);
	EXPECT(m[0] == 0 && m[2 * 4096] == 0 && m[3 * 4096] == 0);
	m[0] = m[2 * 4096] = 7;
	MUST((long)mmap(m + 4096, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	EXPECT_ERR(madvise(m, 4 * 4096, MADV_REMOVE), EINVAL);
	EXPECT(m[0] == 0 && m[2 * 4096] == 7);
	m = MUST(shmat(id, NULL, 0));
	m = MUST(mremap(m, 4 * 4096, 8 * 4096, MREMAP_MAYMOVE));
	EXPECT_OK(madvise(m + 2 * 4096, 6 * 4096, MADV_REMOVE));
	EXPECT_OK(madvise(m + 6 * 4096, 4096, MADV_REMOVE));
	EXPECT(m[2 * 4096] == 0);
}

ROWS("75,82", "mremap does not grow what mprotect has cut in pieces, alike again or not")
{
	int id = new_segment(3 * 4096);
	char *m = MUST(shmat(id, NULL, 0));
	EXPECT_OK(mprotect(m + 4096, 4096, PROT_READ));
	EXPECT_OK(mprotect(m + 4096, 4096, PROT_READ | PROT_WRITE));
	EXPECT_ERR((long)mremap(m, 3 * 4096, 5 * 4096, MREMAP_MAYMOVE), EFAULT);
	EXPECT_EQ(nattch(id), 3);
	EXPECT_EQ((long)mremap(m, 3 * 4096, 2 * 4096, MREMAP_MAYMOVE), (long)m);
	EXPECT_EQ(nattch(id), 2);
	EXPECT_OK(shmdt(m));
	EXPECT_EQ(nattch(id), 0);
}

ROW(84, "memory of a grown mremap past the segment's end is SIGBUS")
{
	size_t page = page_size();
	int id = new_segment(page);
	char *m = MUST(shmat(id, NULL, 0));
	char *grown = MUST(mremap(m, page, 4 * page, MREMAP_MAYMOVE));
	EXPECT_EQ(fault(grown, true), 0);
	EXPECT_EQ(fault(grown + page, false), SIGBUS);
	EXPECT_EQ(fault(grown + 3 * page, true), SIGBUS);
	EXPECT_OK(shmdt(grown));
	EXPECT_EQ(nattch(id), 0);
}
