/* ftok PATH PROJECT: the C library's key. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/ipc.h>

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	printf("%d\n", ftok(argv[1], atoi(argv[2])));
	return 0;
}
