/* peer QUEUE: answers each message of type 1 with its text in capitals, of type 2. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/msg.h>

int main(int argc, char **argv)
{
	struct {
		long type;
		char text[100];
	} m;
	int queue = argc == 2 ? atoi(argv[1]) : -1;
	ssize_t n;

	while ((n = msgrcv(queue, &m, sizeof m.text, 1, 0)) > 0) {
		for (ssize_t i = 0; i < n; i++)
			m.text[i] = (char)toupper((unsigned char)m.text[i]);
		m.type = 2;
		if (msgsnd(queue, &m, (size_t)n, 0) < 0)
			break;
	}
	if (n != 0)
		perror("peer");
	return n != 0;
}
