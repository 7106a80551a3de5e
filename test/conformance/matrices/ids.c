/* The ids that objects get: one after the other removed at once, many alive, removed in any order, and which
 * places are found by *_STAT and *_INFO then. */
#include "matrix.h"

static void one_by_one(void)
{
	for (int i = 0; i < 1000; i++)
		EACH_FAMILY(f) {
			int id = make(f, IPC_PRIVATE, 1, 0);
			printf("%s %d: place %d, sequence %d\n", family_names[f], i, id & 0x7fff, id >> 15);
			ctl(f, id, IPC_RMID, NULL);
		}
}

static int highest(enum family f)
{
	union any_ds info;
	return ctl(f, 0, f == SHM ? SHM_INFO : f == SEM ? SEM_INFO : MSG_INFO, &info);
}

static void in_any_order(enum family f, unsigned most)
{
	int *ids = calloc(most, sizeof *ids);
	unsigned used = 0, random = 12345;
	for (int i = 0; i < 800; i++) {
		random = random * 1103515245 + 12345;
		unsigned dice = random >> 16;
		if (used < most && dice % 5 < 3) {
			int id = ids[used++] = make(f, IPC_PRIVATE, 1, 0600);
			printf("%s, of %u: place %d, sequence %d, highest %d\n", family_names[f], used, id & 0x7fff, id >> 15,
			       highest(f));
		} else if (used > 0) {
			unsigned gone = dice / 5 % used;
			ctl(f, ids[gone], IPC_RMID, NULL);
			ids[gone] = ids[--used];
		}
	}
	for (int place = 0; place <= highest(f) + 1; place++) {
		union any_ds ds;
		int id = ctl(f, place, stat_cmd(f), &ds);
		printf("%s, at %d: %d\n", family_names[f], place, id < 0 ? -errno : id);
	}
	while (used > 0)
		ctl(f, ids[--used], IPC_RMID, NULL);
	printf("%s, none: highest %d\n", family_names[f], highest(f));
	free(ids);
}

int main(void)
{
	one_by_one();
	EACH_FAMILY(f) {
		in_any_order(f, 40);
		in_any_order(f, 300);
	}
	return 0;
}
