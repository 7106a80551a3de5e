/* Rows 168 to 174, 184 and 187: msgget, and msgsnd that need not wait. Those that do are in msgwait.c. */
#include "case.h"

ROW(168, "more queues than msgmni are ENOSPC, and come back with IPC_RMID")
{
	if (may_set_limits())
		MUST(set_limit("msgmni", "8"));
	int max = queue_info(IPC_INFO).msgmni, used = queue_info(MSG_INFO).msgpool, last = -1;
	if (max > 40000)
		SKIP("msgmni is too large to be filled");
	for (int i = used; i < max; i++)
		last = new_queue();
	EXPECT_EQ(queue_info(MSG_INFO).msgpool, max);
	EXPECT_ERR(msgget(IPC_PRIVATE, 0600), ENOSPC);
	EXPECT_ERR(msgget(free_key(), IPC_CREAT | 0600), ENOSPC);
	MUST(msgctl(last, IPC_RMID, NULL));
	new_queue();
	EXPECT_ERR(msgget(IPC_PRIVATE, 0600), ENOSPC);
}

ROW(169, "a new queue: qbytes is msgmnb, ctime is now, everything else 0")
{
	time_t start = time(NULL);
	struct msqid_ds d = queue_stat(new_queue());
	EXPECT_EQ(d.msg_qbytes, queue_info(IPC_INFO).msgmnb);
	EXPECT_EQ(d.msg_qnum, 0);
	EXPECT_EQ(d.__msg_cbytes, 0);
	EXPECT_EQ(d.msg_lspid, 0);
	EXPECT_EQ(d.msg_lrpid, 0);
	EXPECT_EQ(d.msg_stime, 0);
	EXPECT_EQ(d.msg_rtime, 0);
	EXPECT_RECENT(d.msg_ctime, start);
}

ROW(170, "a type below 1 is EINVAL")
{
	int q = new_queue();
	static const long bad[] = { 0, -1, LONG_MIN };
	for (int i = 0; i < 3; i++)
		EXPECT_ERR(send_text(q, bad[i], "x", 0), EINVAL);
	EXPECT_EQ(queue_stat(q).msg_qnum, 0);
	EXPECT_OK(send_text(q, 1, "x", 0));
	EXPECT_OK(send_text(q, LONG_MAX, "x", 0));
}

ROW(171, "more than msgmax bytes, a negative size and a bad id are EINVAL")
{
	int q = new_queue(), max = queue_info(IPC_INFO).msgmax;
	long *m = calloc(1, sizeof(long) + (size_t)max + 1);
	m[0] = 1;
	EXPECT_ERR(msgsnd(q, m, (size_t)max + 1, IPC_NOWAIT), EINVAL);
	EXPECT_ERR(msgsnd(q, m, (size_t)-1, IPC_NOWAIT), EINVAL);
	EXPECT_ERR(msgsnd(q, m, (size_t)LONG_MAX + 1, IPC_NOWAIT), EINVAL);
	EXPECT_ERR(msgsnd(-1, m, 1, IPC_NOWAIT), EINVAL);
	if (max <= queue_info(IPC_INFO).msgmnb)
		EXPECT_OK(msgsnd(q, m, (size_t)max, IPC_NOWAIT));
	MUST(msgctl(q, IPC_RMID, NULL));
	EXPECT_ERR(msgsnd(q, m, 1, IPC_NOWAIT), EINVAL);
}

ROW(172, "a bad pointer is EFAULT: of the type first of all, of the text before the id is looked up")
{
	int q = new_queue();
	char *m = MUST(mmap(NULL, 2 * page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	MUST(munmap(m + page_size(), page_size()));
	long *last = (long *)(m + page_size()) - 1;
	*last = 1;
	EXPECT_ERR(msgsnd(q, BAD_POINTER, 1, 0), EFAULT);
	EXPECT_ERR(msgsnd(-1, NULL, (size_t)-1, 0), EFAULT);
	EXPECT_ERR(msgsnd(q, last, 1, 0), EFAULT);
	EXPECT_ERR(msgsnd(-1, last, 1, 0), EINVAL);
	EXPECT_OK(msgsnd(q, last, 0, 0));
	EXPECT_EQ(queue_stat(q).msg_qnum, 1);
	MUST(msgctl(q, IPC_RMID, NULL));
	EXPECT_ERR(msgsnd(q, last, 1, 0), EFAULT);
	*last = 0;
	EXPECT_ERR(msgsnd(q, last, 1, 0), EINVAL);
}

ROW(173, "an empty text is legal")
{
	int q = new_queue();
	struct message m;
	EXPECT_OK(send_text(q, 3, "", 0));
	EXPECT_EQ(queue_stat(q).msg_qnum, 1);
	EXPECT_EQ(queue_stat(q).__msg_cbytes, 0);
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, IPC_NOWAIT), 0);
	EXPECT_EQ(m.type, 3);
}

ROW(174, "no write permission is EACCES")
{
	NEED_ROOT();
	int q = keep(MSG, MUST(msgget(IPC_PRIVATE, 0644)));
	pid_t p;
	CHILD(p) {
		become(STRANGER, STRANGER);
		EXPECT_ERR(send_text(q, 1, "x", 0), EACCES);
		EXPECT_ERR(send_text(q, 1, "x", IPC_NOWAIT), EACCES);
	}
	JOIN(p);
}

ROW(184, "a success sets stime and lspid")
{
	int q = new_queue();
	time_t start = time(NULL);
	pid_t p;
	CHILD(p)
		EXPECT_OK(send_text(q, 1, "hello", 0));
	JOIN(p);
	struct msqid_ds d = queue_stat(q);
	EXPECT_RECENT(d.msg_stime, start);
	EXPECT_EQ(d.msg_lspid, p);
	EXPECT_EQ(d.msg_qnum, 1);
	EXPECT_EQ(d.__msg_cbytes, 5);
	EXPECT_EQ(d.msg_lrpid, 0);
	EXPECT_EQ(d.msg_rtime, 0);
}

ROW(187, "one sender's messages keep their order")
{
	enum { N = 2000 };
	int q = new_queue();
	pid_t p;
	CHILD(p)
		for (int i = 0; i < N; i++) {
			char text[16];
			snprintf(text, sizeof text, "%d", i);
			EXPECT_OK(send_text(q, 1 + i % 3, text, 0));
		}
	for (int i = 0; i < N; i++) {
		struct message m;
		EXPECT(receive(q, &m, 0, 0) > 0);
		EXPECT_EQ(atoi(m.text), i);
		EXPECT_EQ(m.type, 1 + i % 3);
	}
	JOIN(p);
}
