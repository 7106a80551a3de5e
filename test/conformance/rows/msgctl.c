/* Rows 207 to 214: msgctl. */
#include "case.h"

ROW(207, "IPC_STAT fills every field")
{
	key_t key = free_key();
	time_t start = time(NULL);
	int q = keep(MSG, MUST(msgget(key, IPC_CREAT | 0640)));
	struct message m;
	pid_t p;
	CHILD(p) {
		EXPECT_OK(send_text(q, 1, "one", 0));
		EXPECT_OK(send_text(q, 1, "two and three", 0));
	}
	JOIN(p);
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, 0), 3);
	struct msqid_ds d;
	memset(&d, 0xff, sizeof d);
	EXPECT_OK(msgctl(q, IPC_STAT, &d));
	EXPECT_EQ(d.msg_perm.__key, key);
	EXPECT_EQ(d.msg_perm.mode, 0640);
	EXPECT_EQ(d.msg_perm.uid, geteuid());
	EXPECT_EQ(d.msg_perm.cgid, getegid());
	EXPECT_RECENT(d.msg_stime, start);
	EXPECT_RECENT(d.msg_rtime, start);
	EXPECT_RECENT(d.msg_ctime, start);
	EXPECT_EQ(d.__msg_cbytes, 13);
	EXPECT_EQ(d.msg_qnum, 1);
	EXPECT_EQ(d.msg_qbytes, queue_info(IPC_INFO).msgmnb);
	EXPECT_EQ(d.msg_lspid, p);
	EXPECT_EQ(d.msg_lrpid, getpid());
}

ROW(208, "IPC_SET changes uid, gid, mode, qbytes and ctime, nothing else")
{
	int q = new_queue();
	EXPECT_OK(send_text(q, 1, "one", 0));
	struct msqid_ds before = queue_stat(q), d = before;
	pause_ms(1100);
	d.msg_perm.mode = 0604;
	d.msg_qbytes = 77;
	d.msg_qnum = 99;
	d.__msg_cbytes = 99;
	d.msg_stime = d.msg_rtime = d.msg_ctime = 1;
	d.msg_lspid = d.msg_lrpid = 1;
	EXPECT_OK(msgctl(q, IPC_SET, &d));
	d = queue_stat(q);
	EXPECT_EQ(d.msg_perm.mode, 0604);
	EXPECT_EQ(d.msg_qbytes, 77);
	EXPECT(d.msg_ctime > before.msg_ctime);
	EXPECT_EQ(d.msg_qnum, 1);
	EXPECT_EQ(d.__msg_cbytes, 3);
	EXPECT_EQ(d.msg_stime, before.msg_stime);
	EXPECT_EQ(d.msg_rtime, 0);
	EXPECT_EQ(d.msg_lspid, getpid());
	EXPECT_EQ(d.msg_lrpid, 0);
}

ROW(209, "qbytes over msgmnb without CAP_SYS_RESOURCE is EPERM, and nothing changes")
{
	unsigned long max = (unsigned long)queue_info(IPC_INFO).msgmnb;
	pid_t p;
	CHILD(p) {
		if (geteuid() == 0)
			become(STRANGER, STRANGER);
		int q = new_queue();
		struct msqid_ds d = queue_stat(q);
		d.msg_qbytes = max + 1;
		d.msg_perm.mode = 0666;
		EXPECT_ERR(msgctl(q, IPC_SET, &d), EPERM);
		EXPECT_EQ(queue_stat(q).msg_qbytes, max);
		EXPECT_EQ(queue_stat(q).msg_perm.mode, 0600);
		d.msg_qbytes = max - 1;
		EXPECT_OK(msgctl(q, IPC_SET, &d));
		d.msg_qbytes = max;
		EXPECT_OK(msgctl(q, IPC_SET, &d));
	}
	JOIN(p);
}

ROW(209, "qbytes is read as an int: what is above it does not count")
{
	int q = new_queue();
	set_qbytes(q, (1UL << 32) + 100);
	EXPECT_EQ(queue_stat(q).msg_qbytes, 100);
	set_qbytes(q, 1UL << 32);
	EXPECT_EQ(queue_stat(q).msg_qbytes, 0);
}

ROW(209, "with CAP_SYS_RESOURCE it is allowed")
{
	if (!has_cap(CAP_RESOURCE))
		SKIP("needs CAP_SYS_RESOURCE");
	int q = new_queue();
	unsigned long max = (unsigned long)queue_info(IPC_INFO).msgmnb;
	set_qbytes(q, max + 1000);
	EXPECT_EQ(queue_stat(q).msg_qbytes, max + 1000);
	for (unsigned long n = 0; n + 500 <= max + 1000; n += 500)
		EXPECT_OK(send_size(q, 1, 500, IPC_NOWAIT));
}

ROW(210, "qbytes below cbytes: messages stay, sends block; with 0 none is ever sent")
{
	int q = new_queue();
	struct message m;
	EXPECT_OK(send_text(q, 1, "0123456789", 0));
	EXPECT_OK(send_text(q, 1, "0123456789", 0));
	set_qbytes(q, 5);
	EXPECT_EQ(queue_stat(q).msg_qnum, 2);
	EXPECT_ERR(send_text(q, 1, "", IPC_NOWAIT), EAGAIN);
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, 0), 10);
	EXPECT_ERR(send_text(q, 1, "x", IPC_NOWAIT), EAGAIN);
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, 0), 10);
	EXPECT_OK(send_text(q, 1, "12345", IPC_NOWAIT));
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, 0), 5);
	set_qbytes(q, 0);
	EXPECT_ERR(send_text(q, 1, "", IPC_NOWAIT), EAGAIN);
	EXPECT_ERR(send_text(q, 1, "x", IPC_NOWAIT), EAGAIN);
}

ROW(211, "a larger qbytes wakes the senders that now fit")
{
	int q = new_queue();
	set_qbytes(q, 10);
	EXPECT_OK(send_size(q, 1, 10, 0));
	pid_t a, b;
	CHILD(a) {
		ready(MSG, q);
		EXPECT_OK(send_size(q, 2, 5, 0));
	}
	UNTIL_ASLEEP(a);
	CHILD(b) {
		ready(MSG, q);
		EXPECT_OK(send_size(q, 3, 50, 0));
	}
	UNTIL_ASLEEP(b);
	set_qbytes(q, 20);
	JOIN(a);
	EXPECT_STILL_ASLEEP(b);
	EXPECT_EQ(queue_stat(q).__msg_cbytes, 15);
	set_qbytes(q, 65);
	JOIN(b);
	EXPECT_EQ(queue_stat(q).__msg_cbytes, 65);
}

ROW(212, "IPC_RMID drops all messages and wakes all sleepers with EIDRM")
{
	int q = new_queue(), before = queue_info(MSG_INFO).msgmap;
	set_qbytes(q, 10);
	EXPECT_OK(send_size(q, 1, 10, 0));
	pid_t s, r;
	CHILD(s) {
		ready(MSG, q);
		EXPECT_ERR(send_size(q, 1, 5, 0), EIDRM);
	}
	UNTIL_ASLEEP(s);
	CHILD(r) {
		struct message m;
		ready(MSG, q);
		EXPECT_ERR(receive(q, &m, 2, 0), EIDRM);
	}
	UNTIL_ASLEEP(r);
	EXPECT_OK(msgctl(q, IPC_RMID, NULL));
	JOIN(s);
	JOIN(r);
	EXPECT_EQ(queue_info(MSG_INFO).msgmap, before);
}

ROW(213, "IPC_INFO tells the limits, and constants where there are none")
{
	struct msginfo i;
	memset(&i, 0xff, sizeof i);
	MUST(msgctl(0, IPC_INFO, (struct msqid_ds *)&i));
	EXPECT(i.msgmax > 0 && i.msgmnb > 0 && i.msgmni > 0);
	EXPECT_EQ(i.msgpool, 512000);
	EXPECT_EQ(i.msgmap, 16384);
	EXPECT_EQ(i.msgtql, 16384);
	EXPECT_EQ(i.msgssz, 16);
	EXPECT_EQ(i.msgseg, 65535);
	for (size_t k = offsetof(struct msginfo, msgseg) + sizeof i.msgseg; k < sizeof i; k++)
		EXPECT_EQ(((char *)&i)[k], 0);	/* nothing of anybody's stack */
	EXPECT_ERR(msgctl(0, IPC_INFO, BAD_POINTER), EFAULT);
}

ROW(214, "MSG_INFO counts queues, messages and bytes")
{
	struct msginfo before = queue_info(MSG_INFO), after;
	int q = new_queue(), r = new_queue();
	struct message m;
	EXPECT_OK(send_size(q, 1, 100, 0));
	EXPECT_OK(send_size(r, 1, 10, 0));
	EXPECT_OK(send_size(r, 1, 0, 0));
	after = queue_info(MSG_INFO);
	EXPECT_EQ(after.msgpool, before.msgpool + 2);
	EXPECT_EQ(after.msgmap, before.msgmap + 3);
	EXPECT_EQ(after.msgtql, before.msgtql + 110);
	EXPECT_EQ(after.msgmni, queue_info(IPC_INFO).msgmni);
	EXPECT_EQ_OR_ERRNO(receive(r, &m, 0, 0), 10);
	MUST(msgctl(q, IPC_RMID, NULL));
	after = queue_info(MSG_INFO);
	EXPECT_EQ(after.msgpool, before.msgpool + 1);
	EXPECT_EQ(after.msgmap, before.msgmap + 1);
	EXPECT_EQ(after.msgtql, before.msgtql);
}
