/* shmctl, semctl and msgctl: every command, known or not, of every kind of id, with every kind of pointer. */
#include "matrix.h"

static const int commands[] = { INT_MIN, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18,
	19, 20, 21, 22, 23, 0x100, 0x102, INT_MAX };

static void all_commands(enum family f)
{
	int gone = make(f, IPC_PRIVATE, 3, 0600);
	ctl(f, gone, IPC_RMID, NULL);
	int live = make(f, IPC_PRIVATE, 3, 0600);
	/* A segment that is removed and attached still has an id. */
	int removed = make(SHM, IPC_PRIVATE, 100, 0600);
	shmat(removed, NULL, 0);
	shmctl(removed, IPC_RMID, NULL);

	const struct { const char *name; int id; } ids[] = {
		{ "live", live }, { "index of live", live & 0x7fff }, { "gone", gone }, { "-1", -1 },
		{ "INT_MIN", INT_MIN }, { "INT_MAX", INT_MAX }, { "removed, attached", removed },
	};
	const struct { const char *name; void *at; } pointers[] = {
		{ "NULL", NULL }, { "nowhere", nowhere }, { "8 bytes", edge - 8 }, { "1 byte", edge - 1 },
		{ "read-only", read_only }, { "-1", (void *)-1L }, { "kernel's", (void *)0x8000000000000000UL },
		{ "past the user's", (void *)0x7ffffffff000UL },
	};
	for (size_t c = 0; c < COUNT(commands); c++)
		for (size_t i = 0; i < (f == SHM ? 7 : 6); i++)
			for (size_t p = 0; p < COUNT(pointers); p++) {
				int cmd = commands[c];
				if (cmd == IPC_RMID && (ids[i].id == live || ids[i].id == removed))
					continue;
				memset(edge - 4096, 0, 4096);
				errno = 0;
				int result = ctl(f, ids[i].id, cmd, pointers[p].at);
				int error = errno;
				if (f == SEM && cmd == GETPID && result == getpid())
					result = 1;
				printf("%sctl(%s, %d, %s) = %s\n", family_names[f], ids[i].name, cmd, pointers[p].name,
				       outcome(result, error));
			}
	ctl(f, live, IPC_RMID, NULL);
}

int main(void)
{
	map_pages();
	EACH_FAMILY(f)
		all_commands(f);
	return 0;
}
