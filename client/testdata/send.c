/* send QUEUE TYPE TEXT: sends one message. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/msg.h>

int main(int argc, char **argv)
{
	struct {
		long type;
		char text[100];
	} m;

	if (argc != 4 || strlen(argv[3]) > sizeof m.text)
		return 2;
	m.type = atol(argv[2]);
	memcpy(m.text, argv[3], strlen(argv[3]));
	if (msgsnd(atoi(argv[1]), &m, strlen(argv[3]), 0) == 0)
		return 0;
	perror("send");
	return 1;
}
