/* A segment with a picture that nobody changes. */
#include "worker.h"
#include <sys/ipc.h>
#include <sys/shm.h>
#include <unistd.h>

static uint8_t colour(uint32_t i)
{
	return (uint8_t)(i * 31 >> 4);
}

void paint_picture(uint8_t *p)
{
	for (uint32_t i = 0; i < PICTURE_SIZE; i++)
		p[i] = colour(i);
}

void check_picture(const uint8_t *p)
{
	for (uint32_t i = 0; i < PICTURE_SIZE; i += 61)
		if (p[i] != colour(i))
			fail("byte %u of the picture is %u", i, p[i]);
}

void *attach(int id, int flags)
{
	void *p = shmat(id, NULL, flags);

	if (p == (void *)-1)
		fail("shmat: %m");
	return p;
}

void segment_round(void)
{
	const uint8_t *p = attach(picture_id, random_below(2) ? SHM_RDONLY : 0);
	const uint8_t *q = attach(picture_id, SHM_RDONLY);
	pid_t pid = random_below(4) ? -1 : fork_life();

	check_picture(p);
	if (pid == 0) {
		check_picture(q);
		if (random_below(2) && shmdt(p) < 0)
			fail("shmdt in a child: %m");
		_exit(0);
	}
	if (shmdt(p) < 0 || shmdt(q) < 0)
		fail("shmdt: %m");
	struct shmid_ds ds;
	if (shmctl(picture_id, IPC_STAT, &ds) < 0 || ds.shm_segsz != PICTURE_SIZE)
		fail("IPC_STAT: size %zu: %m", ds.shm_segsz);
	if (pid > 0)
		await(pid, "a child with segments");
}
