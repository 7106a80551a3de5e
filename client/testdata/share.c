/* share SET SEGMENT: adds to a counter in a segment, under a semaphore. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/sem.h>
#include <sys/shm.h>

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	int set = atoi(argv[1]);
	volatile int64_t *n = shmat(atoi(argv[2]), NULL, 0);
	struct sembuf down = {0, -1, SEM_UNDO}, up = {0, 1, SEM_UNDO};

	if (n == (void *)-1) {
		perror("shmat");
		return 1;
	}
	for (int i = 0; i < 3000; i++) {
		if (semop(set, &down, 1) < 0) {
			perror("down");
			return 1;
		}
		n[1]++;
		if (semop(set, &up, 1) < 0) {
			perror("up");
			return 1;
		}
	}
	return 0;
}
