/* What the fuzzer's manager sends, and its side of brokered calls. */
#ifndef FUZZ_MANAGER_H
#define FUZZ_MANAGER_H

#include "abi.h"
#include <stdbool.h>

#define ANSWER_FDS 6
#define ANSWER_MORE 128 /* bytes behind the head, at most */

struct answer {
	struct abi_reply head;
	size_t n, more; /* bytes of the head, and behind it */
	bool stray;	/* of another request */
	int fds[ANSWER_FDS];
	unsigned n_fds;
};

/* What the kernel counts it for, or -1: it was not sent. */
long answer_send(int fd, const struct answer *a);

/* Serves channels/any in a folder, which it returns. */
const char *broker_begin(void);
/* What comes to those who connect from now on: to each request, HELLO included, strays and one that
 * is no stray. When that is used up, HELLO is welcome, and all else ends with EIDRM. */
void broker_says(const struct answer *answers, unsigned n);
#define BROKER_ANSWERS 8

#endif
