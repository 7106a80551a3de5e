#include <sys/ipc.h>
#include <sys/msg.h>

int needed_get(key_t key)
{
	return msgget(key, IPC_CREAT | IPC_EXCL | 0600);
}
