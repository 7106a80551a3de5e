/* Rows 188 to 206: msgrcv. */
#include "case.h"

/* The text of the message taken, by its first letter, so that cases read as a list of letters. */
static int letter(int q, long type, int flags)
{
	struct message m;
	return receive(q, &m, type, flags | IPC_NOWAIT) > 0 ? m.text[0] : -1;
}

ROW(188, "a negative size and bad ids are EINVAL")
{
	int q = new_queue();
	struct message m;
	EXPECT_OK(send_text(q, 1, "x", 0));
	EXPECT_ERR(msgrcv(q, &m, (size_t)-1, 0, IPC_NOWAIT), EINVAL);
	EXPECT_ERR(msgrcv(q, &m, (size_t)LONG_MAX + 1, 0, IPC_NOWAIT), EINVAL);
	EXPECT_ERR(msgrcv(-1, &m, 1, 0, IPC_NOWAIT), EINVAL);
	EXPECT_EQ(letter(q, 0, 0), 'x');
	MUST(msgctl(q, IPC_RMID, NULL));
	EXPECT_ERR(msgrcv(q, &m, 1, 0, IPC_NOWAIT), EINVAL);
}

ROW(189, "type 0 takes the first, a positive one the first of it, a negative one of the lowest up to it")
{
	int q = new_queue();
	static const struct { long type; const char *text; } sent[] = {
		{ 5, "a" }, { 3, "b" }, { 9, "c" }, { 3, "d" }, { 5, "e" }, { 2, "f" }, { LONG_MAX, "g" },
	};
	for (int i = 0; i < 7; i++)
		EXPECT_OK(send_text(q, sent[i].type, sent[i].text, 0));
	EXPECT_EQ(letter(q, 4, 0), -1);
	EXPECT_EQ(letter(q, -1, 0), -1);
	EXPECT_EQ(letter(q, 9, 0), 'c');
	EXPECT_EQ(letter(q, -4, 0), 'f');
	EXPECT_EQ(letter(q, -4, 0), 'b');
	EXPECT_EQ(letter(q, 0, 0), 'a');
	EXPECT_EQ(letter(q, -5, 0), 'd');
	EXPECT_EQ(letter(q, -LONG_MAX, 0), 'e');
	EXPECT_EQ(letter(q, LONG_MAX, 0), 'g');
	EXPECT_EQ(letter(q, 0, 0), -1);
}

ROW(190, "the type LONG_MIN counts as -LONG_MAX")
{
	int q = new_queue();
	EXPECT_OK(send_text(q, LONG_MAX, "a", 0));
	EXPECT_OK(send_text(q, 7, "b", 0));
	EXPECT_EQ(letter(q, LONG_MIN, 0), 'b');
	EXPECT_EQ(letter(q, LONG_MIN, 0), 'a');
}

ROW(191, "MSG_EXCEPT takes the first of another type; without effect for types of 0 and below")
{
	int q = new_queue();
	EXPECT_OK(send_text(q, 2, "a", 0));
	EXPECT_OK(send_text(q, 3, "b", 0));
	EXPECT_OK(send_text(q, 2, "c", 0));
	EXPECT_EQ(letter(q, 2, MSG_EXCEPT), 'b');
	EXPECT_EQ(letter(q, 2, MSG_EXCEPT), -1);
	EXPECT_EQ(letter(q, 0, MSG_EXCEPT), 'a');
	EXPECT_EQ(letter(q, -2, MSG_EXCEPT), 'c');
}

ROW(191, "a sleeper with MSG_EXCEPT is given another type only")
{
	int q = new_queue();
	pid_t p;
	CHILD(p) {
		struct message m;
		ready(MSG, q);
		EXPECT_EQ_OR_ERRNO(receive(q, &m, 2, MSG_EXCEPT), 1);
		EXPECT_EQ(m.type, 3);
	}
	UNTIL_ASLEEP(p);
	EXPECT_OK(send_text(q, 2, "a", 0));
	EXPECT_EQ(queue_stat(q).msg_qnum, 1);
	EXPECT_OK(send_text(q, 3, "b", 0));
	JOIN(p);
	EXPECT_EQ(queue_stat(q).msg_qnum, 1);
}

ROW(192, "no message and IPC_NOWAIT is ENOMSG")
{
	int q = new_queue();
	struct message m;
	EXPECT_ERR(msgrcv(q, &m, 10, 0, IPC_NOWAIT), ENOMSG);
	EXPECT_OK(send_text(q, 4, "x", 0));
	EXPECT_ERR(msgrcv(q, &m, 10, 3, IPC_NOWAIT), ENOMSG);
	EXPECT_ERR(msgrcv(q, &m, 10, -3, IPC_NOWAIT), ENOMSG);
	EXPECT_ERR(msgrcv(q, BAD_POINTER, 10, 3, IPC_NOWAIT), ENOMSG);
}

ROWS("193,194,195", "a message that is too long stays; MSG_NOERROR cuts it; the length is returned")
{
	int q = new_queue();
	struct message m = { .type = 0 };
	EXPECT_OK(send_text(q, 4, "0123456789", 0));
	EXPECT_ERR(msgrcv(q, &m, 9, 0, 0), E2BIG);
	EXPECT_ERR(msgrcv(q, &m, 0, 4, 0), E2BIG);
	EXPECT_EQ(queue_stat(q).msg_qnum, 1);
	EXPECT_EQ(m.type, 0);
	memset(m.text, '-', 20);
	EXPECT_EQ_OR_ERRNO(msgrcv(q, &m, 4, 0, MSG_NOERROR), 4);
	EXPECT_EQ(m.type, 4);
	EXPECT_EQ(memcmp(m.text, "0123------", 10), 0);
	EXPECT_EQ(queue_stat(q).msg_qnum, 0);
	EXPECT_OK(send_text(q, 5, "01234", 0));
	EXPECT_EQ_OR_ERRNO(msgrcv(q, &m, 5, 0, 0), 5);
	EXPECT_EQ(m.type, 5);
	EXPECT_EQ(memcmp(m.text, "01234-----", 10), 0);
	EXPECT_OK(send_text(q, 6, "gone", 0));
	EXPECT_EQ_OR_ERRNO(msgrcv(q, &m, 0, 0, MSG_NOERROR), 0);
	EXPECT_EQ(queue_stat(q).msg_qnum, 0);
}

ROW(193, "the message that is too long is the one of the type asked for")
{
	int q = new_queue();
	struct message m;
	EXPECT_OK(send_text(q, 1, "short", 0));
	EXPECT_OK(send_text(q, 2, "longer than that", 0));
	EXPECT_ERR(msgrcv(q, &m, 5, 2, IPC_NOWAIT), E2BIG);
	EXPECT_EQ_OR_ERRNO(msgrcv(q, &m, 5, 1, IPC_NOWAIT), 5);
}

ROW(195, "messages of every size come as they were sent")
{
	int q = new_queue();
	static const size_t sizes[] = { 0, 1, 7, 8, 63, 64, 65, 1000, 4047, 4048, 4049, 4096, 8000, 8191, 8192 };
	struct { long type; unsigned char text[8192]; } out, in;
	for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
		out.type = (long)s + 1;
		for (size_t i = 0; i < sizes[s]; i++)
			out.text[i] = (unsigned char)(i * 31 + s);
		EXPECT_OK(msgsnd(q, &out, sizes[s], 0));
		EXPECT_EQ_OR_ERRNO(msgrcv(q, &in, sizeof in.text, 0, 0), sizes[s]);
		EXPECT_EQ(in.type, out.type);
		EXPECT_EQ(memcmp(in.text, out.text, sizes[s]), 0);
	}
}

ROW(195, "a buffer may be shorter than msgsz, as long as the message is, too")
{
	int q = new_queue();
	EXPECT_OK(send_text(q, 7, "12345678", 0));
	EXPECT_OK(send_text(q, 9, "123456789", 0));
	expect_short_buffer(q);
	EXPECT_EQ(queue_stat(q).msg_qnum, 0);
}

ROW(196, "a bad pointer is EFAULT, and the message is lost")
{
	int q = new_queue();
	EXPECT_OK(send_text(q, 1, "first", 0));
	EXPECT_OK(send_text(q, 2, "second", 0));
	EXPECT_ERR(msgrcv(q, BAD_POINTER, 100, 0, 0), EFAULT);
	EXPECT_EQ(queue_stat(q).msg_qnum, 1);
	char *m = MUST(mmap(NULL, 2 * page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	MUST(munmap(m + page_size(), page_size()));
	EXPECT_ERR(msgrcv(q, m + page_size() - sizeof(long) - 3, 100, 0, 0), EFAULT);
	EXPECT_EQ(queue_stat(q).msg_qnum, 0);
	EXPECT_EQ(queue_stat(q).msg_lrpid, getpid());
}

ROW(197, "no read permission is EACCES")
{
	NEED_ROOT();
	int q = keep(MSG, MUST(msgget(IPC_PRIVATE, 0622)));
	EXPECT_OK(send_text(q, 1, "x", 0));
	pid_t p;
	CHILD(p) {
		struct message m;
		become(STRANGER, STRANGER);
		EXPECT_ERR(receive(q, &m, 0, 0), EACCES);
		EXPECT_ERR(receive(q, &m, 0, IPC_NOWAIT), EACCES);
	}
	JOIN(p);
	EXPECT_EQ(queue_stat(q).msg_qnum, 1);
}

/* A child that sleeps in msgrcv and expects this errno, or a message for 0. */
static pid_t receiving(int q, long type, int want_errno, int sigaction_flags)
{
	pid_t p;
	CHILD(p) {
		struct message m;
		on_signal(SIGUSR1, no_op, sigaction_flags);
		on_signal(SIGUSR2, SIG_IGN, 0);
		ready(MSG, q);
		long n = receive(q, &m, type, 0);
		int e = n < 0 ? errno : 0;
		if (e != want_errno)
			FAIL("expected %s, came %s", errno_name(want_errno), e ? errno_name(e) : "a message");
	}
	UNTIL_ASLEEP(p);
	return p;
}

ROW(198, "removal while asleep is EIDRM")
{
	int q = new_queue();
	pid_t p[3];
	for (int i = 0; i < 3; i++)
		p[i] = receiving(q, i, EIDRM, 0);
	MUST(msgctl(q, IPC_RMID, NULL));
	for (int i = 0; i < 3; i++)
		JOIN(p[i]);
}

ROW(199, "a handler ends the sleep with EINTR, SA_RESTART or not")
{
	int q = new_queue();
	pid_t a = receiving(q, 0, EINTR, 0), b = receiving(q, 0, EINTR, SA_RESTART);
	kill(a, SIGUSR1);
	kill(b, SIGUSR1);
	JOIN(a);
	JOIN(b);
	EXPECT_OK(send_text(q, 1, "x", 0));
	EXPECT_EQ(queue_stat(q).msg_qnum, 1);
}

/* What a process must do before it can sleep on an object that it never used must not look like
 * that sleep, nor swallow the signal. */
ROWS("123,199", "one signal to a first use that looks asleep is enough")
{
	for (int i = 0; i < 20; i++) {
		int id = i % 2 ? new_set(1) : new_queue();
		pid_t p;
		on_signal(SIGUSR1, no_op, SA_RESTART);
		CHILD(p) {
			struct message m;
			if (i % 2)
				EXPECT_ERR(op1(id, 0, -1, 0), EINTR);
			else
				EXPECT_ERR(receive(id, &m, 0, 0), EINTR);
		}
		UNTIL(thread_state(p) == 'S');
		kill(p, SIGUSR1);
		JOIN(p);
	}
}

ROWS("122,198", "removal under a first use that looks asleep is EIDRM")
{
	for (int i = 0; i < 20; i++) {
		int id = i % 2 ? new_set(1) : new_queue();
		pid_t p;
		CHILD(p) {
			struct message m;
			if (i % 2)
				EXPECT_ERR(op1(id, 0, -1, 0), EIDRM);
			else
				EXPECT_ERR(receive(id, &m, 0, 0), EIDRM);
		}
		UNTIL(thread_state(p) == 'S');
		MUST(ctl(i % 2 ? SEM : MSG, id, IPC_RMID, NULL));
		JOIN(p);
	}
}

ROW(199, "SIGSTOP with SIGCONT, or an ignored signal: it sleeps on")
{
	int q = new_queue(), status;
	pid_t p = receiving(q, 0, 0, 0);
	kill(p, SIGUSR2);
	EXPECT_STILL_ASLEEP(p);
	kill(p, SIGSTOP);
	MUST(waitpid(p, &status, WUNTRACED));
	EXPECT(WIFSTOPPED(status));
	kill(p, SIGCONT);
	EXPECT_STILL_ASLEEP(p);
	EXPECT_OK(send_text(q, 1, "x", 0));
	JOIN(p);
	EXPECT_EQ(queue_stat(q).msg_qnum, 0);
}

ROW(200, "IPC_SET makes sleeping receivers check their permission again")
{
	NEED_ROOT();
	int q = keep(MSG, MUST(msgget(IPC_PRIVATE, 0666)));
	pid_t out, mine = receiving(q, 2, 0, 0);
	CHILD(out) {
		struct message m;
		become(STRANGER, STRANGER);
		ready(MSG, q);
		EXPECT_ERR(receive(q, &m, 0, 0), EACCES);
	}
	UNTIL_ASLEEP(out);
	struct msqid_ds d = queue_stat(q);
	MUST(msgctl(q, IPC_SET, &d));
	EXPECT_STILL_ASLEEP(out);
	d.msg_perm.mode = 0600;
	MUST(msgctl(q, IPC_SET, &d));
	JOIN(out);
	EXPECT_STILL_ASLEEP(mine);
	EXPECT_OK(send_text(q, 2, "x", 0));
	JOIN(mine);
}

ROW(201, "a success sets rtime and lrpid, lowers qnum and cbytes, and wakes senders")
{
	int q = new_queue();
	struct msqid_ds d = queue_stat(q);
	d.msg_qbytes = 20;
	MUST(msgctl(q, IPC_SET, &d));
	EXPECT_OK(send_text(q, 1, "0123456789", 0));
	EXPECT_OK(send_text(q, 1, "abcde", 0));
	pid_t s, r;
	CHILD(s) {
		ready(MSG, q);
		EXPECT_OK(send_text(q, 2, "0123456789", 0));
	}
	UNTIL_ASLEEP(s);
	time_t start = time(NULL);
	CHILD(r) {
		struct message m;
		EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, 0), 10);
	}
	JOIN(r);
	JOIN(s);
	d = queue_stat(q);
	EXPECT_RECENT(d.msg_rtime, start);
	EXPECT_EQ(d.msg_lrpid, r);
	EXPECT_EQ(d.msg_lspid, s);
	EXPECT_EQ(d.msg_qnum, 2);
	EXPECT_EQ(d.__msg_cbytes, 15);
}

static void need_copy(int q)
{
	struct message m;
	if (msgrcv(q, &m, 1, 0, MSG_COPY | IPC_NOWAIT) < 0 && errno == ENOSYS)
		SKIP("no MSG_COPY in this kernel");
}

ROW(201, "lrpid is who slept, also where a vfork child has called first")
{
	int q = new_queue();
	pid_t p;
	CHILD(p) {
		struct message m;
		pid_t v = vfork();
		if (v == 0) {
			msgget(0x1201, 0);
			_exit(0);
		}
		EXPECT_EQ(waitpid(v, NULL, 0), v);
		ready(MSG, q);
		EXPECT_EQ(receive(q, &m, 0, 0), 2);
	}
	UNTIL_ASLEEP(p);
	EXPECT_OK(send_text(q, 1, "hi", 0));
	JOIN(p);
	EXPECT_EQ(queue_stat(q).msg_lrpid, p);
}

ROW(202, "MSG_COPY copies the n-th message and changes nothing")
{
	int q = new_queue();
	struct message m;
	need_copy(q);
	EXPECT_OK(send_text(q, 7, "zero", 0));
	EXPECT_OK(send_text(q, 8, "one", 0));
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 1, MSG_COPY | IPC_NOWAIT), 3);
	EXPECT_EQ(m.type, 8);
	EXPECT_EQ(strcmp(m.text, "one"), 0);
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, MSG_COPY | IPC_NOWAIT), 4);
	EXPECT_EQ(m.type, 7);
	struct msqid_ds d = queue_stat(q);
	EXPECT_EQ(d.msg_qnum, 2);
	EXPECT_EQ(d.__msg_cbytes, 7);
	EXPECT_EQ(d.msg_lrpid, 0);
	EXPECT_EQ(d.msg_rtime, 0);
}

ROW(203, "MSG_COPY without IPC_NOWAIT, or with MSG_EXCEPT, is EINVAL")
{
	int q = new_queue();
	struct message m;
	need_copy(q);
	EXPECT_OK(send_text(q, 7, "zero", 0));
	EXPECT_ERR(receive(q, &m, 0, MSG_COPY), EINVAL);
	EXPECT_ERR(receive(q, &m, 0, MSG_COPY | MSG_EXCEPT | IPC_NOWAIT), EINVAL);
	EXPECT_ERR(receive(q, &m, 0, MSG_COPY | MSG_EXCEPT), EINVAL);
}

ROW(204, "MSG_COPY of no such message is ENOMSG")
{
	int q = new_queue();
	struct message m;
	need_copy(q);
	EXPECT_ERR(receive(q, &m, 0, MSG_COPY | IPC_NOWAIT), ENOMSG);
	EXPECT_OK(send_text(q, 7, "zero", 0));
	EXPECT_ERR(receive(q, &m, 1, MSG_COPY | IPC_NOWAIT), ENOMSG);
	EXPECT_ERR(receive(q, &m, LONG_MAX, MSG_COPY | IPC_NOWAIT), ENOMSG);
}

ROW(205, "MSG_COPY into too small a buffer is E2BIG, with MSG_NOERROR EINVAL")
{
	int q = new_queue();
	struct message m;
	need_copy(q);
	EXPECT_OK(send_text(q, 7, "0123456789", 0));
	EXPECT_ERR(msgrcv(q, &m, 4, 0, MSG_COPY | IPC_NOWAIT), E2BIG);
	EXPECT_ERR(msgrcv(q, &m, 4, 0, MSG_COPY | IPC_NOWAIT | MSG_NOERROR), EINVAL);
	EXPECT_EQ(queue_stat(q).msg_qnum, 1);
}

ROWS("202,205", "MSG_COPY: a buffer must be readable at first, and writable only for what is copied")
{
	int q = new_queue();
	need_copy(q);
	char *ro = MUST(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	EXPECT_ERR(msgrcv(q, BAD_POINTER, 0, 0, MSG_COPY | IPC_NOWAIT), ENOMSG);
	EXPECT_ERR(msgrcv(q, BAD_POINTER, 10, 0, MSG_COPY | IPC_NOWAIT), EFAULT);
	EXPECT_ERR(msgrcv(q, ro, 10, 0, MSG_COPY | IPC_NOWAIT), ENOMSG);
	EXPECT_OK(send_text(q, 7, "0123456789", 0));
	EXPECT_ERR(msgrcv(q, ro, 4, 0, MSG_COPY | IPC_NOWAIT), E2BIG);
	EXPECT_ERR(msgrcv(q, ro, 10, 0, MSG_COPY | IPC_NOWAIT), EFAULT);
	EXPECT_EQ(queue_stat(q).msg_qnum, 1);
	MUST(msgctl(q, IPC_RMID, NULL));
	EXPECT_ERR(msgrcv(q, BAD_POINTER, 10, 0, MSG_COPY | IPC_NOWAIT), EFAULT);
	EXPECT_ERR(msgrcv(q, ro, 10, 0, MSG_COPY | IPC_NOWAIT), EINVAL);
}

ROW(206, "MSG_COPY works, or is ENOSYS as on a kernel built without it")
{
	int q = new_queue();
	struct message m;
	EXPECT_OK(send_text(q, 7, "x", 0));
	long n = receive(q, &m, 0, MSG_COPY | IPC_NOWAIT);
	EXPECT(n == 1 || (n == -1 && errno == ENOSYS));
	EXPECT_EQ(queue_stat(q).msg_qnum, 1);
}
