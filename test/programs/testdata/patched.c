/*
 * As UCX (of MPICH and Open MPI) watches memory: a jump in the beginning of shmat, mmap and
 * madvise to functions that have syscall() do the work.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

static int seen;

static void *watched_shmat(int id, const void *at, int flags)
{
	seen++;
	return (void *)syscall(SYS_shmat, id, at, flags);
}

static void *watched_mmap(void *at, size_t length, int prot, int flags, int fd, off_t offset)
{
	seen++;
	return (void *)syscall(SYS_mmap, at, length, prot, flags, fd, offset);
}

static int watched_madvise(void *at, size_t length, int advice)
{
	seen++;
	return (int)syscall(SYS_madvise, at, length, advice);
}

/* movabs $to, %r11; jmp *%r11 */
static void patch(void *function, void *to)
{
	uint8_t jump[13] = {0x49, 0xbb, [10] = 0x41, 0xff, 0xe3};
	uintptr_t page = (uintptr_t)function & ~(uintptr_t)4095;

	memcpy(jump + 2, &to, 8);
	mprotect((void *)page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC);
	memcpy(function, jump, sizeof jump);
	mprotect((void *)page, 8192, PROT_READ | PROT_EXEC);
}

int main(void)
{
	int id = shmget(IPC_PRIVATE, 8192, 0600);
	struct shmid_ds state;

	patch((void *)shmat, (void *)watched_shmat);
	patch((void *)mmap, (void *)watched_mmap);
	patch((void *)madvise, (void *)watched_madvise);
	char *p = shmat(id, NULL, 0);
	void *over = mmap(p + 4096, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	int advised = madvise(p, 4096, MADV_NORMAL);

	shmctl(id, IPC_STAT, &state);
	printf("%d %d %d %lu ", seen, over == p + 4096, advised, (unsigned long)state.shm_nattch);
	shmdt(p);
	shmctl(id, IPC_STAT, &state);
	printf("%lu\n", (unsigned long)state.shm_nattch);
	return shmctl(id, IPC_RMID, NULL);
}
