/* Calls of a program that may read a set and no more, while managers come and
 * go: upgrade wait SET sleeps until the set's value is 0, upgrade make SET
 * makes and removes objects until then. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>

int main(int argc, char **argv)
{
	struct sembuf zero = {0, 0, 0};
	int set = argc == 3 ? atoi(argv[2]) : -1, value;

	if (set >= 0 && !strcmp(argv[1], "wait")) {
		if (semop(set, &zero, 1) == 0)
			return 0;
	} else if (set >= 0) {
		while ((value = semctl(set, 0, GETVAL)) > 0) {
			int queue = msgget(IPC_PRIVATE, 0600);

			if (queue < 0 || msgctl(queue, IPC_RMID, NULL) < 0)
				break;
		}
		if (value == 0)
			return 0;
	}
	perror(argv[1]);
	return 1;
}
