/* Rows 175 to 186: senders that wait for room, and messages handed to receivers that wait. */
#include "case.h"

/* A child that sends `size` bytes of this type and sleeps in it. */
static pid_t sending(int q, long type, size_t size)
{
	pid_t p;
	CHILD(p) {
		ready(MSG, q);
		EXPECT_OK(send_size(q, type, size, 0));
	}
	UNTIL_ASLEEP(p);
	return p;
}

ROWS("175,176", "a full queue, by bytes: EAGAIN with IPC_NOWAIT, else sleep until there is room")
{
	int q = new_queue();
	struct message m;
	set_qbytes(q, 100);
	EXPECT_OK(send_size(q, 1, 60, 0));
	EXPECT_ERR(send_size(q, 1, 41, IPC_NOWAIT), EAGAIN);
	EXPECT_OK(send_size(q, 2, 40, 0));
	EXPECT_ERR(send_size(q, 1, 1, IPC_NOWAIT), EAGAIN);
	EXPECT_OK(send_size(q, 9, 0, IPC_NOWAIT));
	pid_t p = sending(q, 3, 50);
	EXPECT_EQ(queue_stat(q).msg_qnum, 3);
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 1, 0), 60);
	JOIN(p);
	EXPECT_EQ(queue_stat(q).__msg_cbytes, 90);
}

ROW(175, "and by number: no more messages than qbytes, empty ones too")
{
	int q = new_queue();
	struct message m;
	set_qbytes(q, 5);
	for (int i = 0; i < 5; i++)
		EXPECT_OK(send_size(q, 1, 0, IPC_NOWAIT));
	EXPECT_ERR(send_size(q, 1, 0, IPC_NOWAIT), EAGAIN);
	pid_t p = sending(q, 2, 0);
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 1, 0), 0);
	JOIN(p);
	EXPECT_EQ(queue_stat(q).msg_qnum, 5);
}

ROW(177, "a message larger than qbytes sleeps, even at an empty queue")
{
	int q = new_queue();
	struct message m;
	set_qbytes(q, 10);
	EXPECT_ERR(send_size(q, 1, 11, IPC_NOWAIT), EAGAIN);
	pid_t p = sending(q, 1, 11);
	EXPECT_OK(send_size(q, 2, 10, IPC_NOWAIT));
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, 0), 10);
	EXPECT_STILL_ASLEEP(p);
	kill(p, SIGKILL);
	MUST(waitpid(p, NULL, 0));
	EXPECT_EQ(queue_stat(q).msg_qnum, 0);
}

/* A full queue: the next message of any size sleeps. */
static int full_queue(void)
{
	int q = new_queue();
	set_qbytes(q, 100);
	EXPECT_OK(send_size(q, 1, 100, 0));
	return q;
}

ROW(178, "removal while asleep is EIDRM")
{
	int q = full_queue();
	pid_t p[3];
	for (int i = 0; i < 3; i++) {
		CHILD(p[i]) {
			ready(MSG, q);
			EXPECT_ERR(send_size(q, 1, 10, 0), EIDRM);
		}
		UNTIL_ASLEEP(p[i]);
	}
	MUST(msgctl(q, IPC_RMID, NULL));
	for (int i = 0; i < 3; i++)
		JOIN(p[i]);
}

ROW(179, "a handler ends the sleep with EINTR, SA_RESTART or not, and nothing was sent")
{
	int q = full_queue();
	static const int flags[] = { 0, SA_RESTART };
	for (int i = 0; i < 2; i++) {
		pid_t p;
		CHILD(p) {
			on_signal(SIGUSR1, no_op, flags[i]);
			ready(MSG, q);
			EXPECT_ERR(send_size(q, 1, 10, 0), EINTR);
		}
		UNTIL_ASLEEP(p);
		kill(p, SIGUSR1);
		JOIN(p);
	}
	struct message m;
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, 0), 100);
	EXPECT_EQ(queue_stat(q).msg_qnum, 0);
}

ROW(180, "SIGSTOP with SIGCONT, or an ignored signal: it sleeps on")
{
	int q = full_queue(), status;
	struct message m;
	pid_t p;
	CHILD(p) {
		on_signal(SIGUSR1, SIG_IGN, 0);
		ready(MSG, q);
		EXPECT_OK(send_size(q, 7, 10, 0));
	}
	UNTIL_ASLEEP(p);
	kill(p, SIGUSR1);
	EXPECT_STILL_ASLEEP(p);
	kill(p, SIGSTOP);
	MUST(waitpid(p, &status, WUNTRACED));
	EXPECT(WIFSTOPPED(status));
	kill(p, SIGCONT);
	EXPECT_STILL_ASLEEP(p);
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 1, 0), 100);
	JOIN(p);
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 7, IPC_NOWAIT), 10);
}

ROW(181, "a new sender whose message fits overtakes sleepers")
{
	int q = new_queue();
	struct message m;
	set_qbytes(q, 100);
	EXPECT_OK(send_size(q, 1, 90, 0));
	pid_t p = sending(q, 2, 50);
	EXPECT_OK(send_size(q, 3, 10, IPC_NOWAIT));
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 1, 0), 90);
	JOIN(p);
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, 0), 10);
	EXPECT_EQ(m.type, 3);
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, 0), 50);
	EXPECT_EQ(m.type, 2);
}

/* Woken senders try again by themselves, so on the kernel a later one can win the race, unless both
 * have the same CPU and a scheduler that runs them in the order in which they became ready. */
static bool in_wake_order(void)
{
	cpu_set_t mine, one;
	struct sched_param first = { .sched_priority = 1 };
	MUST(sched_getaffinity(0, sizeof mine, &mine));
	CPU_ZERO(&one);
	for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; cpu++)
		if (CPU_ISSET(cpu, &mine))
			CPU_SET(cpu, &one);
	MUST(sched_setaffinity(0, sizeof one, &one));
	return syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &first) == 0;	/* musl's own refuses */
}

/* The ordinary scheduler again. Under the other one nobody waits for a child: the kernel
 * may spin then until a process of lower priority has let go of the child's files in
 * /proc (shrink_dcache_parent), which has no CPU meanwhile. */
static void in_any_order(void)
{
	struct sched_param none = { .sched_priority = 0 };
	MUST(syscall(SYS_sched_setscheduler, 0, SCHED_OTHER, &none));
}

/* Without the right to that scheduler, most of the trials must show it. */
LONG_ROWS("181", "sleeping senders are woken in the order in which they came", 120)
{
	enum { TRIALS = 15 };
	bool surely = true;
	int in_order = 0;
	for (int t = 0; t < TRIALS; t++) {
		surely &= in_wake_order();
		int q = full_queue();
		struct message m;
		pid_t a = sending(q, 2, 80), b = sending(q, 3, 80);
		EXPECT_EQ_OR_ERRNO(receive(q, &m, 1, 0), 100);
		EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, 0), 80);
		in_order += m.type == 2;
		long second = 5 - m.type;
		EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, 0), 80);
		EXPECT_EQ(m.type, second);
		in_any_order();
		JOIN(a);
		JOIN(b);
		MUST(msgctl(q, IPC_RMID, NULL));
	}
	if (surely)
		EXPECT_EQ(in_order, TRIALS);
	EXPECT(in_order > TRIALS / 2);
}

ROW(182, "a later sleeper goes first when the earlier one's message does not fit")
{
	int q = new_queue();
	struct message m;
	set_qbytes(q, 100);
	EXPECT_OK(send_size(q, 1, 30, 0));
	EXPECT_OK(send_size(q, 2, 70, 0));
	pid_t big = sending(q, 3, 60), small = sending(q, 4, 20);
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 1, 0), 30);
	JOIN(small);
	EXPECT_STILL_ASLEEP(big);
	EXPECT_EQ(queue_stat(q).__msg_cbytes, 90);
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 2, 0), 70);
	JOIN(big);
	EXPECT_EQ(queue_stat(q).__msg_cbytes, 80);
}

ROW(183, "permission is checked again when a sleeping sender tries again")
{
	NEED_ROOT();
	int q = full_queue();
	struct msqid_ds d = queue_stat(q);
	struct message m;
	d.msg_perm.mode = 0666;
	MUST(msgctl(q, IPC_SET, &d));
	pid_t p;
	CHILD(p) {
		become(STRANGER, STRANGER);
		ready(MSG, q);
		EXPECT_ERR(send_size(q, 1, 10, 0), EACCES);
	}
	UNTIL_ASLEEP(p);
	d.msg_perm.mode = 0600;
	MUST(msgctl(q, IPC_SET, &d));
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, 0), 100);
	JOIN(p);
	EXPECT_EQ(queue_stat(q).msg_qnum, 0);
}

static void set_mode(int q, int mode)
{
	struct msqid_ds d = queue_stat(q);
	d.msg_perm.mode = (unsigned short)mode;
	MUST(msgctl(q, IPC_SET, &d));
}

/* A stranger who sleeps in msgsnd, then loses its right, and expects this errno, or success for 0. */
static pid_t excluded(int q, int mode, int want_errno)
{
	pid_t p;
	set_mode(q, mode);
	CHILD(p) {
		become(STRANGER, STRANGER);
		on_signal(SIGUSR1, no_op, SA_RESTART);
		ready(MSG, q);
		if (want_errno)
			EXPECT_ERR(send_size(q, 7, 10, 0), want_errno);
		else
			EXPECT_OK(send_size(q, 7, 10, 0));
	}
	UNTIL_ASLEEP(p);
	set_mode(q, 0600);
	EXPECT_STILL_ASLEEP(p);
	return p;
}

ROW(183, "which is when there is room: a sender that IPC_SET excludes sleeps on until then")
{
	NEED_ROOT();
	static const int modes[] = { 0666, 0622 };	/* who can only write does so in another way */
	for (int i = 0; i < 2; i++) {
		int q = full_queue();
		struct message m;
		pid_t p = excluded(q, modes[i], EACCES);
		set_qbytes(q, 200);
		JOIN(p);
		set_qbytes(q, 100);
		p = excluded(q, modes[i], EINTR);
		kill(p, SIGUSR1);
		JOIN(p);
		p = excluded(q, modes[i], 0);
		set_mode(q, modes[i]);	/* it has its right again */
		EXPECT_STILL_ASLEEP(p);
		EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, 0), 100);
		JOIN(p);
		EXPECT_EQ(queue_stat(q).msg_lspid, p);
		EXPECT_OK(send_size(q, 1, 90, 0));
		pid_t out = excluded(q, modes[i], EACCES), in;
		CHILD(in) {	/* behind it, and goes first */
			ready(MSG, q);
			EXPECT_OK(send_size(q, 8, 90, 0));
		}
		UNTIL_ASLEEP(in);
		EXPECT_EQ_OR_ERRNO(receive(q, &m, 1, 0), 90);
		JOIN(out);
		JOIN(in);
		p = excluded(q, modes[i], EIDRM);
		MUST(msgctl(q, IPC_RMID, NULL));
		JOIN(p);
	}
}

/* A child that sleeps in msgrcv and expects this errno, or a message for 0. */
static pid_t receiving(int q, long type, size_t size, int flags, int want_errno)
{
	pid_t p;
	CHILD(p) {
		struct message m = { .type = 0 };
		ready(MSG, q);
		long n = msgrcv(q, &m, size, type, flags);
		if (want_errno)
			EXPECT(n == -1 && errno == want_errno);
		else
			EXPECT(n >= 0);
	}
	UNTIL_ASLEEP(p);
	return p;
}

ROWS("184,185", "a message handed to a sleeping receiver sets the same, and is never in the queue")
{
	int q = new_queue();
	pid_t p = receiving(q, 0, 100, 0, 0);
	EXPECT_OK(send_size(q, 1, 100, IPC_NOWAIT));
	struct msqid_ds d = queue_stat(q);
	EXPECT_EQ(d.msg_lspid, getpid());
	EXPECT_EQ(d.msg_lrpid, p);
	EXPECT(d.msg_stime > 0 && d.msg_rtime > 0);
	EXPECT_EQ(d.msg_qnum, 0);
	EXPECT_EQ(d.__msg_cbytes, 0);
	JOIN(p);
}

ROW(175, "a waiting receiver makes no room: a message larger than qbytes is not handed to it")
{
	int q = new_queue();
	set_qbytes(q, 10);
	pid_t p = receiving(q, 0, 100, 0, 0);
	EXPECT_ERR(send_size(q, 1, 11, IPC_NOWAIT), EAGAIN);
	EXPECT_STILL_ASLEEP(p);
	EXPECT_OK(send_size(q, 1, 10, IPC_NOWAIT));
	JOIN(p);
}

ROW(185, "sleeping receivers are served in order among those whose type matches")
{
	int q = new_queue();
	pid_t five = receiving(q, 5, 100, 0, 0), any = receiving(q, 0, 100, 0, 0),
	      again = receiving(q, 5, 100, 0, 0), low = receiving(q, -3, 100, 0, 0);
	EXPECT_OK(send_text(q, 5, "a", 0));
	EXPECT_EQ(queue_stat(q).msg_lrpid, five);
	EXPECT_OK(send_text(q, 5, "b", 0));
	EXPECT_EQ(queue_stat(q).msg_lrpid, any);
	EXPECT_OK(send_text(q, 4, "c", 0));
	EXPECT_EQ(queue_stat(q).msg_qnum, 1);
	EXPECT_OK(send_text(q, 3, "d", 0));
	EXPECT_EQ(queue_stat(q).msg_lrpid, low);
	EXPECT_OK(send_text(q, 5, "e", 0));
	EXPECT_EQ(queue_stat(q).msg_lrpid, again);
	EXPECT_EQ(queue_stat(q).msg_qnum, 1);
	JOIN(five);
	JOIN(any);
	JOIN(again);
	JOIN(low);
}

ROW(186, "a receiver whose buffer is too small gets E2BIG, and the message the next one")
{
	int q = new_queue();
	pid_t small = receiving(q, 0, 4, 0, E2BIG), other = receiving(q, 9, 4, 0, 0),
	      large = receiving(q, 0, 100, 0, 0);
	EXPECT_OK(send_text(q, 1, "too long", 0));
	JOIN(small);
	JOIN(large);
	EXPECT_EQ(queue_stat(q).msg_lrpid, large);
	EXPECT_EQ(queue_stat(q).msg_qnum, 0);
	EXPECT_OK(send_text(q, 9, "four", 0));
	JOIN(other);
}

ROW(186, "or the queue, when there is no other; MSG_NOERROR takes what fits")
{
	int q = new_queue();
	struct message m;
	pid_t small = receiving(q, 0, 4, 0, E2BIG);
	EXPECT_OK(send_text(q, 1, "too long", 0));
	JOIN(small);
	EXPECT_EQ(queue_stat(q).msg_qnum, 1);
	EXPECT_EQ(queue_stat(q).msg_lrpid, 0);
	EXPECT_EQ(queue_stat(q).msg_rtime, 0);
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, IPC_NOWAIT), 8);
	pid_t cut = receiving(q, 0, 4, MSG_NOERROR, 0);
	EXPECT_OK(send_text(q, 1, "too long", 0));
	JOIN(cut);
	EXPECT_EQ(queue_stat(q).msg_qnum, 0);
}
