/* Loads a plugin by its path, PLUGIN, as argv[1] says: what it makes is found by the
 * program itself. And one by its name, along the run path of this program. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>

static void *load(const char *name, int flags)
{
	void *h = dlopen(name, flags);
	const char *e = dlerror();

	if (h == NULL || e != NULL) {
		fprintf(stderr, "dlopen %s: %s\n", name, e ? e : "an error without a text");
		exit(1);
	}
	return h;
}

int main(int argc, char **argv)
{
	int flags = RTLD_DEEPBIND | (argc > 1 && strcmp(argv[1], "now") == 0 ? RTLD_NOW : RTLD_LAZY);

	dlclose(load("libnamed.so", RTLD_LAZY));
	if (dlopen("/nowhere/plugin.so", flags) != NULL || strstr(dlerror(), "/nowhere/plugin.so") == NULL) {
		fprintf(stderr, "an object that is not there was loaded\n");
		return 1;
	}
	for (int time = 0; time < 3; time++) {
		void *h = load(PLUGIN, flags); /* the third time it is there already */
		int (*get)(key_t) = (int (*)(key_t))dlsym(h, "plugin_get");
		int (*needed)(key_t) = (int (*)(key_t))dlsym(h, "plugin_needed");
		int (**pointer)(key_t, int, int) = (int (**)(key_t, int, int))dlsym(h, "plugin_pointer");
		int set = get(4711), queue = needed(4712);

		if (set < 0 || queue < 0) {
			perror("the plugin's call");
			return 1;
		}
		if (semget(4711, 1, 0) != set || msgget(4712, 0) != queue || (*pointer)(4711, 1, 0) != set) {
			fprintf(stderr, "time %d: the plugin's objects are not the program's\n", time);
			return 1;
		}
		if (semctl(set, 0, IPC_RMID) < 0 || msgctl(queue, IPC_RMID, NULL) < 0) {
			perror("IPC_RMID");
			return 1;
		}
		if (time == 0)
			dlclose(h);
	}
	puts("done");
	return 0;
}
