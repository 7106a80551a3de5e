/* Rows 54 to 70: attaching. Rows 71 and 72 are in shmdt.c, 73 to 84 in shmmem.c and shmfork.c. */
#include "case.h"

/* An address with room for this many pages: far below where mappings without a wish are put, so
 * that nothing takes the room before the case does. */
static char *free_range(size_t pages)
{
	static char *next = (char *)0x200000000000;
	for (;; next += 64 << 20) {
		char *m = mmap(next, pages * page_size(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (m == MAP_FAILED)
			FAIL("mmap: %s", errno_name(errno));
		MUST(munmap(m, pages * page_size()));
		if (m == next)
			break;
	}
	next += 64 << 20;
	return next - (64 << 20);
}

/* The line of /proc/self/maps that begins at this address. */
static bool maps_line(void *address, char *line, size_t size)
{
	char want[32];
	snprintf(want, sizeof want, "%lx-", (unsigned long)address);
	FILE *f = fopen("/proc/self/maps", "re");
	bool found = false;
	while (f && !found && fgets(line, (int)size, f))
		found = strncmp(line, want, strlen(want)) == 0;
	if (f)
		fclose(f);
	return found;
}

ROW(54, "the address is page-aligned and the memory can be read and written")
{
	for (int i = 1; i < 200000; i = i * 7) {
		char *m = MUST(shmat(new_segment((size_t)i), NULL, 0));
		EXPECT_EQ((uintptr_t)m % page_size(), 0);
		EXPECT_EQ(fault(m, true), 0);
		EXPECT_EQ(fault(m + i - 1, true), 0);
	}
}

ROW(54, "without SHM_RDONLY both read and write permission are needed")
{
	NEED_ROOT();
	int r = keep(SHM, MUST(shmget(IPC_PRIVATE, 1, 0644)));
	int w = keep(SHM, MUST(shmget(IPC_PRIVATE, 1, 0622)));
	int rw = keep(SHM, MUST(shmget(IPC_PRIVATE, 1, 0666)));
	pid_t p;
	CHILD(p) {
		become(STRANGER, STRANGER);
		EXPECT_ERR((long)shmat(r, NULL, 0), EACCES);
		EXPECT_ERR((long)shmat(w, NULL, 0), EACCES);
		MUST((long)shmat(rw, NULL, 0));
	}
	JOIN(p);
}

ROW(55, "SHM_RDONLY needs read permission only, and a store is SIGSEGV")
{
	int id = keep(SHM, MUST(shmget(IPC_PRIVATE, 4096, 0444)));
	char *writable = NULL;
	if (geteuid() == 0)
		writable = MUST(shmat(id, NULL, 0));
	char *m = MUST(shmat(id, NULL, SHM_RDONLY));
	EXPECT_EQ(fault(m, false), 0);
	EXPECT_EQ(fault(m, true), SIGSEGV);
	if (writable) {
		writable[9] = 'x';
		EXPECT_EQ(m[9], 'x');
	}
	NEED_ROOT();
	int w = keep(SHM, MUST(shmget(IPC_PRIVATE, 1, 0622)));
	pid_t p;
	CHILD(p) {
		become(STRANGER, STRANGER);
		m = MUST(shmat(id, NULL, SHM_RDONLY));
		EXPECT_EQ(fault(m, true), SIGSEGV);
		EXPECT_EQ(m[9], 'x');
		EXPECT_ERR((long)shmat(w, NULL, SHM_RDONLY), EACCES);
	}
	JOIN(p);
}

static void expect_runs(void *m)
{
#if defined __x86_64__
	static const unsigned char code[] = { 0xb8, 42, 0, 0, 0, 0xc3 };	/* mov eax, 42; ret */
#elif defined __aarch64__
	static const uint32_t code[] = { 0x52800540, 0xd65f03c0 };	/* mov w0, 42; ret */
#else
	static const char code[1];
	(void)m;
	return;
#endif
	memcpy(m, code, sizeof code);
	__builtin___clear_cache((char *)m, (char *)m + sizeof code);
	EXPECT_EQ(((int (*)(void))m)(), 42);
}

ROW(56, "SHM_EXEC maps the memory executable")
{
	int id = keep(SHM, MUST(shmget(IPC_PRIVATE, 4096, 0700)));
	char *m = MUST(shmat(id, NULL, SHM_EXEC)), line[512];
	expect_runs(m);
	EXPECT(maps_line(m, line, sizeof line));
	EXPECT(strstr(line, "rwxs") != NULL);
	char *plain = MUST(shmat(id, NULL, 0));
	EXPECT(maps_line(plain, line, sizeof line));
	EXPECT(strstr(line, "rw-s") != NULL);
}

ROW(56, "SHM_EXEC needs the x bit too")
{
	pid_t p;
	CHILD(p) {
		if (geteuid() == 0)
			become(STRANGER, STRANGER);
		int id = new_segment(4096), x = keep(SHM, MUST(shmget(IPC_PRIVATE, 4096, 0700)));
		EXPECT_ERR((long)shmat(id, NULL, SHM_EXEC), EACCES);
		EXPECT_ERR((long)shmat(id, NULL, SHM_EXEC | SHM_RDONLY), EACCES);
		MUST((long)shmat(x, NULL, SHM_EXEC));
		MUST((long)shmat(x, NULL, SHM_EXEC | SHM_RDONLY));
	}
	JOIN(p);
}

ROW(57, "bad and removed ids are EINVAL")
{
	int id = new_segment(4096);
	MUST(shmctl(id, IPC_RMID, NULL));
	EXPECT_ERR((long)shmat(id, NULL, 0), EINVAL);
	EXPECT_ERR((long)shmat(-1, NULL, 0), EINVAL);
	EXPECT_ERR((long)shmat(INT_MAX, NULL, 0), EINVAL);
}

ROW(58, "an address that is not page-aligned, without SHM_RND, is EINVAL")
{
	int id = new_segment(4096);
	char *at = free_range(2);
	EXPECT_ERR((long)shmat(id, at + 1, 0), EINVAL);
	EXPECT_ERR((long)shmat(id, at + page_size() - 1, SHM_RDONLY), EINVAL);
	EXPECT(shmat(id, at, 0) == at);
}

ROW(59, "SHM_RND rounds the address down to SHMLBA")
{
	int id = new_segment(4096);
	char *at = free_range(2);
	uintptr_t unit = (uintptr_t)SHMLBA;
	char *m = MUST(shmat(id, at + page_size() + 123, SHM_RND));
	EXPECT_EQ((uintptr_t)m, ((uintptr_t)at + page_size() + 123) / unit * unit);
}

ROW(60, "SHM_REMAP without an address, or with one that rounds to 0, is EINVAL")
{
	int id = new_segment(4096);
	EXPECT_ERR((long)shmat(id, NULL, SHM_REMAP), EINVAL);
	EXPECT_ERR((long)shmat(id, (void *)100, SHM_REMAP | SHM_RND), EINVAL);
	EXPECT_EQ(nattch(id), 0);
}

ROW(61, "a given address that overlaps any mapping is EINVAL")
{
	int id = new_segment(3 * page_size());
	char *busy = MUST(mmap(NULL, page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	busy[0] = 'b';
	EXPECT_ERR((long)shmat(id, busy, 0), EINVAL);
	EXPECT_ERR((long)shmat(id, busy - page_size(), 0), EINVAL);
	char *m = MUST(shmat(id, NULL, 0));
	EXPECT_ERR((long)shmat(id, m, 0), EINVAL);
	EXPECT_ERR((long)shmat(id, m + page_size(), 0), EINVAL);
	EXPECT_EQ(busy[0], 'b');
	EXPECT_EQ(nattch(id), 1);
}

ROW(61, "what the program has unmapped stays free through its first calls of every family")
{
	const size_t size = 64 << 20;
	char *m = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	MUST((long)m);
	MUST(munmap(m, size));
	int set = new_set(1), queue = new_queue(), segment = new_segment(size);
	MUST(semop(set, &(struct sembuf){ 0, 1, SEM_UNDO }, 1));
	MUST(msgsnd(queue, &(struct { long type; char text[1]; }){ 1, "" }, 1, 0));
	char *other = mmap(m, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (other != m)
		FAIL("the calls took of the room: %s", errno_name(errno));
	MUST(munmap(m, size));
	EXPECT_EQ((long)shmat(segment, m, 0), (long)m);
}

ROW(62, "SHM_REMAP replaces what is mapped there")
{
	int id = new_segment(2 * page_size());
	char *busy = MUST(mmap(NULL, 4 * page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	memset(busy, 'b', 4 * page_size());
	EXPECT(shmat(id, busy + page_size(), SHM_REMAP) == busy + page_size());
	EXPECT_EQ(busy[page_size() - 1], 'b');
	EXPECT_EQ(busy[page_size()], 0);
	EXPECT_EQ(busy[3 * page_size() - 1], 0);
	EXPECT_EQ(busy[3 * page_size()], 'b');
}

ROW(62, "SHM_REMAP over another segment's attach detaches that one")
{
	int a = new_segment(page_size()), b = new_segment(page_size());
	char *m = MUST(shmat(a, NULL, 0));
	*m = 'a';
	EXPECT(shmat(b, m, SHM_REMAP) == m);
	EXPECT_EQ(*m, 0);
	EXPECT_EQ(nattch(a), 0);
	EXPECT_EQ(nattch(b), 1);
	MUST(shmdt(m));
	EXPECT_EQ(nattch(b), 0);
}

ROWS("62,65", "one over the program's own code is the end of it, and an attach all the same")
{
	const size_t size = 512 << 10;
	time_t start = time(NULL);
	int id = new_segment(size), status;
	uintptr_t code = (uintptr_t)shmat & ~(page_size() - 1);
	pid_t p = MUST(fork());
	if (p == 0) {
		shmat(id, (void *)(code - size / 2), SHM_REMAP);
		_exit(0);
	}
	MUST(waitpid(p, &status, 0));
	EXPECT(WIFSIGNALED(status));
	struct shmid_ds d;
	MUST(shmctl(id, IPC_STAT, &d));
	EXPECT_RECENT(d.shm_atime, start);
	EXPECT_RECENT(d.shm_dtime, start);
	EXPECT_EQ(d.shm_nattch, 0);
	EXPECT_EQ(d.shm_lpid, p);
}

ROW(63, "no room in the address space is ENOMEM")
{
	int id = new_segment((size_t)1 << 30);
	pid_t p;
	CHILD(p) {
		MUST((long)shmat(new_segment(1), NULL, 0));
		struct rlimit small = { 256 << 20, 256 << 20 };
		MUST(setrlimit(RLIMIT_AS, &small));
		EXPECT_ERR((long)shmat(id, NULL, 0), ENOMEM);
		EXPECT_EQ(nattch(id), 0);
	}
	JOIN(p);
}

ROW(64, "one process attaches a segment many times, all coherent")
{
	enum { N = 50 };
	char *m[N];
	int id = new_segment(10000);
	for (int i = 0; i < N; i++) {
		m[i] = MUST(shmat(id, NULL, i % 2 ? SHM_RDONLY : 0));
		for (int j = 0; j < i; j++)
			EXPECT(m[j] != m[i]);
	}
	EXPECT_EQ(nattch(id), N);
	for (int i = 0; i < N; i += 2) {
		m[i][9999] = (char)i;
		for (int j = 0; j < N; j++)
			EXPECT_EQ(m[j][9999], i);
	}
	for (int i = 0; i < N; i++)
		MUST(shmdt(m[i]));
	EXPECT_EQ(nattch(id), 0);
}

ROW(65, "an attach counts in nattch and sets atime and lpid")
{
	int id = new_segment(4096);
	pid_t p;
	CHILD(p) {
		time_t start = time(NULL);
		MUST((long)shmat(id, NULL, 0));
		struct shmid_ds d = segment_stat(id);
		EXPECT_EQ(d.shm_nattch, 1);
		EXPECT_RECENT(d.shm_atime, start);
		EXPECT_EQ(d.shm_dtime, 0);
		EXPECT_EQ(d.shm_lpid, getpid());
		MUST((long)shmat(id, NULL, SHM_RDONLY));
		EXPECT_EQ(nattch(id), 2);
	}
	JOIN(p);
	EXPECT_EQ(segment_stat(id).shm_cpid, getpid());
	EXPECT_EQ(segment_stat(id).shm_lpid, p);
}

ROW(66, "a segment marked for removal can be attached while somebody has it")
{
	int id = new_segment(4096);
	char *m = MUST(shmat(id, NULL, 0));
	m[5] = 'x';
	MUST(shmctl(id, IPC_RMID, NULL));
	pid_t p;
	CHILD(p) {
		char *again = MUST(shmat(id, NULL, 0));
		EXPECT_EQ(again[5], 'x');
		EXPECT_EQ(nattch(id), 3);
	}
	JOIN(p);
	MUST(shmdt(m));
	EXPECT_ERR((long)shmat(id, NULL, 0), EINVAL);
}

ROW(67, "the rest of the last page can be used, the page after it is SIGSEGV")
{
	size_t page = page_size();
	int id = new_segment(page + 10);
	char *at = free_range(4);
	EXPECT(shmat(id, at, 0) == at);
	EXPECT_EQ(fault(at + page + 10, true), 0);
	at[2 * page - 1] = 'e';
	EXPECT_EQ(fault(at + 2 * page, false), SIGSEGV);
	char *other = MUST(shmat(id, NULL, 0));
	EXPECT_EQ(other[2 * page - 1], 'e');
}

struct meeting { pthread_mutex_t lock; pthread_cond_t changed; atomic_int turn; long sum; };

static void take_turns(struct meeting *m, int mine, int rounds)
{
	for (int i = 0; i < rounds; i++) {
		pthread_mutex_lock(&m->lock);
		while (atomic_load(&m->turn) != mine)
			pthread_cond_wait(&m->changed, &m->lock);
		m->sum++;
		atomic_store(&m->turn, !mine);
		pthread_cond_broadcast(&m->changed);
		pthread_mutex_unlock(&m->lock);
	}
}

ROW(68, "shared mutexes, conditions and atomics work in the memory, at different addresses")
{
	int id = new_segment(sizeof(struct meeting));
	struct meeting *m = MUST(shmat(id, NULL, 0));
	pthread_mutexattr_t ma;
	pthread_condattr_t ca;
	pthread_mutexattr_init(&ma);
	pthread_mutexattr_setpshared(&ma, PTHREAD_PROCESS_SHARED);
	pthread_condattr_init(&ca);
	pthread_condattr_setpshared(&ca, PTHREAD_PROCESS_SHARED);
	EXPECT_OK(pthread_mutex_init(&m->lock, &ma));
	EXPECT_OK(pthread_cond_init(&m->changed, &ca));
	pid_t p;
	CHILD(p) {
		struct meeting *own = MUST(shmat(id, NULL, 0));
		EXPECT(own != m);
		take_turns(own, 1, 500);
	}
	take_turns(m, 0, 500);
	JOIN(p);
	EXPECT_EQ(m->sum, 1000);
}

ROW(69, "mprotect cannot add write to a SHM_RDONLY attach")
{
	int id = new_segment(4096);
	char *m = MUST(shmat(id, NULL, SHM_RDONLY));
	EXPECT_ERR(mprotect(m, 4096, PROT_READ | PROT_WRITE), EACCES);
	EXPECT_EQ(fault(m, true), SIGSEGV);
	char *w = MUST(shmat(id, NULL, 0));
	EXPECT_OK(mprotect(w, 4096, PROT_READ));
	EXPECT_EQ(fault(w, true), SIGSEGV);
	EXPECT_OK(mprotect(w, 4096, PROT_READ | PROT_WRITE));
	EXPECT_EQ(fault(w, true), 0);
}

ROW(69, "nor to one that was made while another allows writing")
{
	int id = new_segment(4096);
	char *w = MUST(shmat(id, NULL, 0));
	char *m = MUST(shmat(id, NULL, SHM_RDONLY));
	EXPECT_ERR(mprotect(m, 4096, PROT_READ | PROT_WRITE), EACCES);
	EXPECT_ERR(madvise(m, 4096, MADV_REMOVE), EACCES);
	EXPECT_EQ(fault(m, true), SIGSEGV);
	EXPECT_EQ(fault(w, true), 0);
	EXPECT_EQ(*m, *w);
}

ROWS("58,61", "an address from which the segment would pass the end of all is EINVAL")
{
	int id = new_segment(8192);
	EXPECT_ERR((long)shmat(id, (void *)-4096UL, 0), EINVAL);
	EXPECT_ERR((long)shmat(id, (void *)-4095UL, SHM_RND), EINVAL);
}

ROW(59, "rounded down to 0, it is the address 0: attached there, or refused")
{
	int id = new_segment(4096);
	errno = 0;
	void *p = shmat(id, (void *)1, SHM_RND);
	if (p == (void *)-1)
		EXPECT_EQ(errno, EPERM);	/* vm.mmap_min_addr */
	else
		EXPECT_EQ(p, 0);
	EXPECT_EQ(nattch(id), p == NULL);
	if (p == NULL)
		EXPECT_OK(shmdt(NULL));
}

ROW(70, "/proc/PID/maps names the attach SYSV and its key")
{
	char line[512], want[32];
	key_t key = free_key();
	int id = keep(SHM, MUST(shmget(key, 4096, IPC_CREAT | 0600)));
	char *m = MUST(shmat(id, NULL, 0));
	EXPECT(maps_line(m, line, sizeof line));
	snprintf(want, sizeof want, "SYSV%08x", (unsigned)key);
	if (!strstr(line, want))
		FAIL("%s is not in: %s", want, line);
}

ROW(70, "with the id for an inode, exactly as /SYSV%08x (deleted)")
{
	char line[512], want[64], path[128] = "";
	unsigned long inode = 0;
	key_t key = free_key();
	int id = keep(SHM, MUST(shmget(key, 4096, IPC_CREAT | 0600)));
	char *m = MUST(shmat(id, NULL, 0));
	EXPECT(maps_line(m, line, sizeof line));
	snprintf(want, sizeof want, "/SYSV%08x (deleted)", (unsigned)key);
	EXPECT_EQ(sscanf(line, "%*s %*s %*s %*s %lu %127[^\n]", &inode, path), 2);
	EXPECT_EQ(inode, id);
	if (strcmp(path, want) != 0)
		FAIL("expected %s, came %s", want, path);
}
