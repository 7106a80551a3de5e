/* shmat: modes of a segment by flags by addresses, free and taken; what comes of reading and writing there, and
 * of shmdt; sizes; a segment that is removed while it is attached. */
#include "matrix.h"
#include <setjmp.h>
#include <signal.h>

static sigjmp_buf fault;
static void on_fault(int sig) { siglongjmp(fault, sig); }

/* The signal that a touch of the byte brings; 0 for none. */
static int touch(volatile char *at, bool write)
{
	int sig = sigsetjmp(fault, 1);
	if (sig == 0) {
		if (write)
			*at = 1;
		else
			(void)*at;
	}
	return sig;
}

static void print_mapping(const void *at)
{
	char line[512], rights[8] = "none";
	unsigned long start, end, length = 0;
	FILE *maps = fopen("/proc/self/maps", "r");
	while (maps && fgets(line, sizeof line, maps)) {
		char r[8];
		if (sscanf(line, "%lx-%lx %4s", &start, &end, r) == 3 && (unsigned long)at >= start && (unsigned long)at < end) {
			memcpy(rights, r, sizeof r);
			length = end - (unsigned long)at;
		}
	}
	if (maps)
		fclose(maps);
	printf("%s, %lu bytes", rights, length);
}

static char *base;	/* of a megabyte where nothing is */

struct place { const char *name; long offset; };
static const struct place places[] = {
	{ "NULL", LONG_MIN }, { "0", 0 }, { "1", 1 }, { "4095", 4095 }, { "4096", 4096 }, { "8191", 8191 }, { "7", LONG_MAX },
};

static void attach(int mode, int flags, const struct place *place, bool taken)
{
	bool near = place->offset != LONG_MIN && place->offset != LONG_MAX;
	char *at = near ? base + place->offset : place->offset == LONG_MIN ? NULL : (char *)7;
	if (taken && mmap(base + 8192, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		exit(2);
	int id = make(SHM, IPC_PRIVATE, 5000, mode);
	errno = 0;
	char *p = shmat(id, at, flags);
	int error = errno;
	printf("mode %04o, shmat(%s%s, %#x) = ", mode, place->name, taken ? ", in part taken" : "", flags);
	if (p == (char *)-1)
		printf("%s", strerrorname_np(error));
	else {
		if (near)
			printf("%ld: ", (long)(p - base));
		print_mapping(p);
		printf(", read %d, write %d, beyond %d", touch(p, false), touch(p, true), touch(p + 5000, false));
	}
	struct shmid_ds d = { 0 };
	int stat = shmctl(id, IPC_STAT, &d);
	printf("; stat %d, nattch %lu, atime %d\n", stat, (unsigned long)d.shm_nattch, d.shm_atime != 0);
	if (p != (char *)-1) {
		TRY(shmdt(p + 1));
		TRY(shmdt(p + 4096));
		TRY(shmdt(p));
		TRY(shmdt(p));
	}
	shmctl(id, IPC_RMID, NULL);
	munmap(base + 8192, 4096);
}

static void all_attaches(void)
{
	static const int modes[] = { 0600, 0400, 0200, 0700, 0500, 0100, 0 };
	static const int flags[] = { 0, SHM_RDONLY, SHM_EXEC, SHM_EXEC | SHM_RDONLY, SHM_RND, SHM_REMAP, SHM_RND | SHM_REMAP,
		SHM_RND | SHM_REMAP | SHM_RDONLY, 07777, 01000, 02000, INT_MIN };
	for (size_t m = 0; m < COUNT(modes); m++)
		for (size_t f = 0; f < COUNT(flags); f++)
			for (size_t p = 0; p < COUNT(places); p++) {
				attach(modes[m], flags[f], &places[p], false);
				if (places[p].offset >= 0 && places[p].offset < LONG_MAX)
					attach(modes[m], flags[f], &places[p], true);
			}
}

static void addresses(void)
{
	TRY(shmdt(NULL));
	TRY(shmdt(nowhere));
	TRY(shmdt((void *)-1L));
	TRY(shmdt((void *)-4096L));
	TRY(shmdt(edge - 4096));
	static const int flags[] = { 0, SHM_RDONLY, SHM_RND, SHM_REMAP, SHM_RND | SHM_REMAP, SHM_EXEC };
	const struct { const char *name; void *at; } all[] = {
		{ "-4096", (void *)-4096L }, { "-1", (void *)-1L }, { "past the user's", (void *)0x7ffffffff000UL },
		{ "kernel's", (void *)0x8000000000000000UL }, { "100", (void *)100 }, { "1", (void *)1 }, { "NULL", NULL },
	};
	int id = make(SHM, IPC_PRIVATE, 4096, 0600);
	for (size_t i = 0; i < COUNT(all); i++)
		for (size_t f = 0; f < COUNT(flags); f++) {
			printf("at %s, flags %#x:\n", all[i].name, flags[f]);
			if (all[i].at != NULL)
				TRY(shmat(id, all[i].at, flags[f]));
			TRY(shmat(-1, all[i].at, flags[f]));
			TRY(shmat(INT_MAX, all[i].at, flags[f]));
		}
	shmctl(id, IPC_RMID, NULL);
}

static void sizes(void)
{
	static const size_t all[] = { 0, 1, 4095, 4096, 4097, (size_t)1 << 47, (size_t)1 << 63, SIZE_MAX };
	for (size_t i = 0; i < COUNT(all); i++) {
		printf("size %zu: ", all[i]);
		int id = (int)TRY(shmget(IPC_PRIVATE, all[i], 0600));
		if (id >= 0) {
			struct shmid_ds d;
			shmctl(id, IPC_STAT, &d);
			printf("  segsz %zu, mode %04o\n", d.shm_segsz, d.shm_perm.mode);
			shmctl(id, IPC_RMID, NULL);
		}
	}
}

static void removed(void)
{
	struct shmid_ds d;
	int id = make(SHM, 4711, 4096, IPC_CREAT | 0600);
	char *first = shmat(id, NULL, 0);
	TRY(shmctl(id, IPC_RMID, NULL));
	TRY(shmget(4711, 1, 0));
	TRY(shmctl(id, IPC_STAT, &d));
	printf("mode %04o, key %x, nattch %lu\n", d.shm_perm.mode, d.shm_perm.__key, (unsigned long)d.shm_nattch);
	TRY(shmctl(id, SHM_LOCK, NULL));
	TRY(shmctl(id, IPC_STAT, &d));
	printf("mode %04o\n", d.shm_perm.mode);
	TRY(shmctl(id, SHM_UNLOCK, NULL));
	TRY(shmctl(id, IPC_RMID, NULL));
	d.shm_perm.mode = 0;
	TRY(shmctl(id, IPC_SET, &d));
	char *second = shmat(id, NULL, 0);
	printf("attached again: %d\n", second != (char *)-1);
	TRY(shmdt(first));
	TRY(shmctl(id, IPC_STAT, &d));
	TRY(shmdt(second));
	TRY(shmctl(id, IPC_STAT, &d));
	TRY(shmctl(id, SHM_LOCK, NULL));
	TRY(shmctl(id, IPC_RMID, NULL));
	TRY(shmat(id, NULL, 0));
}

int main(void)
{
	map_pages();
	signal(SIGSEGV, on_fault);
	signal(SIGBUS, on_fault);
	base = mmap(NULL, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	munmap(base, 1 << 20);
	all_attaches();
	addresses();
	sizes();
	removed();
	return 0;
}
