/* A plugin: one call of its own, and one of a library that only it needs. */
#include <sys/ipc.h>
#include <sys/sem.h>

int needed_get(key_t key);

int plugin_get(key_t key)
{
	return semget(key, 1, IPC_CREAT | IPC_EXCL | 0600);
}

/* By a pointer among the plugin's data. */
int (*const plugin_pointer)(key_t, int, int) = semget;

int plugin_needed(key_t key)
{
	return needed_get(key);
}
