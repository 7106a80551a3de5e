/* Rows 74 to 76, 80 and 82: attaches that the program cuts, marks, moves and covers by the calls for
 * memory. Each mapping counts, and what was cut stays cut. Found by random sequences of such calls. */
#include "case.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

enum { PAGES = 64 };

/* Room at which nothing else is mapped. */
static char *room(void)
{
	char *m = MUST(mmap(NULL, PAGES * page_size(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	MUST(munmap(m, PAGES * page_size()));
	return m;
}

static char *attach_at(int id, char *at)
{
	return MUST(shmat(id, at, 0));
}

static char *anonymous(char *at, size_t length)
{
	return MUST(mmap(at, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
}

ROWS("75,82", "mlock and munlock of a part cut an attach; of the whole they do not")
{
	size_t page = page_size();
	int id = new_segment(6 * page);
	char *m = MUST(shmat(id, NULL, 0));
	EXPECT_OK(mlock(m, 6 * page));
	EXPECT_EQ(nattch(id), 1);
	EXPECT_OK(munlock(m + 2 * page, page));
	EXPECT_EQ(nattch(id), 3);
	EXPECT_OK(mlock(m + 2 * page, page));
	EXPECT_OK(mlock2(m, 6 * page, MLOCK_ONFAULT));
	EXPECT_EQ(nattch(id), 3);
	EXPECT_OK(mlock(m, page));
	EXPECT_EQ(nattch(id), 4);
	pid_t p;
	CHILD(p) {	/* inherits no locks */
		EXPECT_OK(munlock(m + 3 * page, page));
		EXPECT_EQ(nattch(id), 8);
	}
	JOIN(p);
	EXPECT_OK(munlockall());
	EXPECT_EQ(nattch(id), 4);
	EXPECT_OK(syscall(SYS_mlock, m + 4 * page, page));
	EXPECT_EQ(nattch(id), 6);
	EXPECT_OK(shmdt(m));
	EXPECT_EQ(nattch(id), 0);
}

ROWS("75,82", "advice for a part that stays cuts an attach, beyond holes too; passing advice does not")
{
	static const int stays[] = { MADV_RANDOM, MADV_SEQUENTIAL, MADV_DONTDUMP, MADV_DONTFORK };
	size_t page = page_size();
	for (size_t i = 0; i < sizeof stays / sizeof *stays; i++) {
		int id = new_segment(6 * page);
		char *m = MUST(shmat(id, NULL, 0));
		EXPECT_OK(madvise(m + page, page, MADV_WILLNEED));
		EXPECT_OK(madvise(m + page, page, MADV_DONTNEED));
		EXPECT_EQ(nattch(id), 1);
		EXPECT_OK(madvise(m + page, page, stays[i]));
		EXPECT_EQ(nattch(id), 3);
		EXPECT_OK(madvise(m + page, page, stays[i]));
		EXPECT_EQ(nattch(id), 3);
		EXPECT_OK(munmap(m + 3 * page, page));
		EXPECT_EQ(nattch(id), 4);
		EXPECT_ERR(madvise(m + 2 * page, 3 * page, stays[i]), ENOMEM);
		EXPECT_EQ(nattch(id), 5);
		EXPECT_OK(shmdt(m));
		EXPECT_EQ(nattch(id), 0);
	}
}

ROWS("75,82", "a memory policy, a protection key or a seal for a part cuts an attach; of the whole they do not")
{
	size_t page = page_size();
	const unsigned long node = 1, most = 64;
	int id = new_segment(6 * page), key = pkey_alloc(0, 0);
	char *m = MUST(shmat(id, NULL, 0));
	EXPECT_OK(syscall(SYS_mbind, m, 6 * page, 3, &node, most, 0));	/* MPOL_INTERLEAVE */
	EXPECT_EQ(nattch(id), 1);
	EXPECT_OK(syscall(SYS_mbind, m + page, page, 2, &node, most, 0));	/* MPOL_BIND */
	EXPECT_EQ(nattch(id), 3);
	EXPECT_OK(syscall(SYS_mbind, m + 2 * page, page, 2, &node, most, 0));
	EXPECT_EQ(nattch(id), 3);
	EXPECT_OK(remap_file_pages(m, 3 * page, 0, 0, 0));
	EXPECT_EQ(nattch(id), 2);
	EXPECT_OK(syscall(SYS_mbind, m, 6 * page, 0, NULL, 0, 0));	/* MPOL_DEFAULT */
	EXPECT_OK(pkey_mprotect(m + 4 * page, 2 * page, PROT_READ, -1));
	EXPECT_OK(mprotect(m + 4 * page, 2 * page, PROT_READ | PROT_WRITE));
	long before = nattch(id);
	if (key >= 0) {
		EXPECT_OK(pkey_mprotect(m + 5 * page, page, PROT_READ | PROT_WRITE, key));
		EXPECT_EQ(nattch(id), before + 1);
		EXPECT_OK(pkey_mprotect(m + 5 * page, page, PROT_READ | PROT_WRITE, 0));
	}
	EXPECT_OK(shmdt(m));
	EXPECT_EQ(nattch(id), 0);
	m = MUST(shmat(id, NULL, 0));
	if (syscall(462, m + page, page, 0) == 0) {	/* mseal, of Linux 6.10 */
		EXPECT_EQ(nattch(id), 3);
		EXPECT_ERR(mprotect(m, 3 * page, PROT_READ), EPERM);
		EXPECT_EQ(nattch(id), 3);
		EXPECT_ERR(munmap(m + page, page), EPERM);
		EXPECT_EQ(nattch(id), 3);
		EXPECT_OK(shmdt(m));
		EXPECT_EQ(nattch(id), 1);
	}
}

ROWS("75,82", "a part at the edge of a piece goes over to a neighbour that is so already")
{
	size_t page = page_size();
	int id = new_segment(6 * page);
	char *m = MUST(shmat(id, NULL, 0));
	EXPECT_OK(mprotect(m + 2 * page, 2 * page, PROT_READ));
	EXPECT_EQ(nattch(id), 3);
	EXPECT_OK(mprotect(m + 4 * page, page, PROT_READ));
	EXPECT_OK(mprotect(m + page, page, PROT_READ));
	EXPECT_EQ(nattch(id), 3);
	EXPECT_OK(mprotect(m + page, 4 * page, PROT_READ | PROT_WRITE));	/* whole ones stay what they are */
	EXPECT_EQ(nattch(id), 3);
	EXPECT_OK(mprotect(m, 6 * page, PROT_READ));
	EXPECT_OK(mlock(m + 2 * page, page));
	EXPECT_EQ(nattch(id), 5);
	EXPECT_OK(mlock(m + page, 3 * page));
	EXPECT_EQ(nattch(id), 5);
	EXPECT_OK(shmdt(m));
	EXPECT_EQ(nattch(id), 0);
}

ROWS("69,75", "mprotect that fails has changed what comes before, and cut it")
{
	size_t page = page_size();
	int id = new_segment(4 * page);
	char *at = room(), *m = attach_at(id, at);
	EXPECT_ERR(mprotect(m + 2 * page, 4 * page, PROT_READ), ENOMEM);
	EXPECT_EQ(nattch(id), 2);
	EXPECT_EQ(fault(m + 3 * page, true), SIGSEGV);
	EXPECT_EQ(fault(m + page, true), 0);
	MUST(shmat(id, at + 4 * page, SHM_RDONLY));
	EXPECT_ERR(mprotect(m + 3 * page, 2 * page, PROT_READ | PROT_WRITE), EACCES);
	EXPECT_EQ(nattch(id), 4);
	EXPECT_ERR(mprotect(m + 5 * page, page, PROT_READ | PROT_WRITE), EACCES);
	EXPECT_EQ(nattch(id), 4);
}

ROWS("76,82", "mremap of other memory onto an attach detaches what it covers")
{
	size_t page = page_size();
	int id = new_segment(5 * page);
	char *at = room(), *m = attach_at(id, at), *other = anonymous(at + 20 * page, 2 * page);
	EXPECT((char *)mremap(other, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, m + 2 * page) == m + 2 * page);
	EXPECT_EQ(nattch(id), 2);
	EXPECT((char *)mremap(other + page, page, page, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, m) == m);
	EXPECT_EQ(nattch(id), 2);
	int second = new_segment(page);
	char *s = attach_at(second, at + 30 * page);
	EXPECT((char *)mremap(s, 0, page, MREMAP_MAYMOVE | MREMAP_FIXED, m + page) == m + page);
	EXPECT_EQ(nattch(id), 1);
	EXPECT_EQ(nattch(second), 2);
	EXPECT((char *)mremap(s, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, m + 4 * page) == m + 4 * page);
	EXPECT_EQ(nattch(id), 1);
	EXPECT_EQ(nattch(second), 2);
	s = attach_at(second, at + 40 * page);
	EXPECT_ERR((long)mremap(s, 0, page, MREMAP_MAYMOVE | MREMAP_FIXED, s), EFAULT);
	EXPECT_EQ(nattch(second), 2);	/* it was its own place */
}

ROWS("75,82", "mremap of a part in place cuts nothing: it grows or shrinks the mapping")
{
	size_t page = page_size();
	int id = new_segment(5 * page);
	char *m = attach_at(id, room());
	EXPECT((char *)mremap(m + 2 * page, 3 * page, page, 0) == m + 2 * page);
	EXPECT_EQ(nattch(id), 1);
	EXPECT((char *)mremap(m + page, 2 * page, 6 * page, 0) == m + page);
	EXPECT_EQ(nattch(id), 1);
	EXPECT_ERR((long)mremap(m, 2 * page, 9 * page, MREMAP_MAYMOVE | MREMAP_FIXED, m + page), EINVAL);
	EXPECT_OK(munmap(m, 7 * page));
	EXPECT_EQ(nattch(id), 0);
}

ROWS("75,82", "a part that is moved away and back joins its neighbour")
{
	size_t page = page_size();
	int id = new_segment(5 * page);
	char *at = room(), *m = attach_at(id, at), *away = at + 20 * page;
	EXPECT((char *)mremap(m + page, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, away) == away);
	EXPECT_EQ(nattch(id), 3);
	EXPECT((char *)mremap(away, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, m + page) == m + page);
	EXPECT_EQ(nattch(id), 2);
	EXPECT_OK(munmap(m + 4 * page, page));
	EXPECT((char *)mremap(m + 3 * page, 0, 2 * page, MREMAP_MAYMOVE | MREMAP_FIXED, away) == away);
	EXPECT_EQ(nattch(id), 3);
	EXPECT_OK(shmdt(m));
	EXPECT_EQ(nattch(id), 1);
}

ROWS("74,82", "shmdt takes what is of the attach that begins there, as far as the segment reaches")
{
	size_t page = page_size();
	int id = new_segment(3 * page);
	char *at = room(), *m = attach_at(id, at), *same = attach_at(id, at + 20 * page);
	EXPECT_OK(munmap(m + page, page));
	EXPECT((char *)mremap(same + page, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, m + page) == m + page);
	EXPECT_EQ(nattch(id), 5);
	EXPECT_OK(shmdt(m));	/* what was put in its hole is another attach's */
	EXPECT_EQ(nattch(id), 3);
	EXPECT_EQ(fault(m + page, false), 0);
	EXPECT_OK(shmdt(m));
	EXPECT_OK(shmdt(same));
	EXPECT_EQ(nattch(id), 0);
	m = attach_at(id, at);
	EXPECT_OK(munmap(m + page, page));
	EXPECT((char *)mremap(m + 2 * page, page, 4 * page, 0) == m + 2 * page);
	EXPECT_OK(shmdt(m));	/* what has grown ends too late */
	EXPECT_EQ(nattch(id), 1);
	EXPECT_OK(shmdt(m));	/* and is the first now */
	EXPECT_EQ(nattch(id), 0);
}

ROWS("75,82", "remap_file_pages makes one mapping of those it covers, of one attach")
{
	size_t page = page_size();
	int id = new_segment(4 * page);
	char *at = room(), *m = attach_at(id, at);
	attach_at(id, at + 4 * page);
	EXPECT_ERR(remap_file_pages(m + 3 * page, 2 * page, 0, 0, 0), EINVAL);
	EXPECT_EQ(nattch(id), 2);
	EXPECT_OK(mprotect(m + page, page, PROT_READ));
	EXPECT_ERR(remap_file_pages(m, 2 * page, 0, 2, 0), EINVAL);
	EXPECT_OK(mprotect(m + page, page, PROT_READ | PROT_WRITE));
	EXPECT_EQ(nattch(id), 4);
	m[2 * page] = 'x';
	EXPECT_OK(remap_file_pages(m, 2 * page, 0, 2, 0));
	EXPECT_EQ(nattch(id), 3);
	EXPECT_EQ(m[0], 'x');
	EXPECT_OK(remap_file_pages(m, 2 * page, 0, 0, 0));
	EXPECT_EQ(nattch(id), 2);	/* joined to what follows */
}
