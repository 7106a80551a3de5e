/* Rows 235 to 238: processes that are killed or stopped. Storms of both are in hard.c. */
#include "case.h"

ROW(235, "a killed sleeper in semop is gone from the queue")
{
	int set = new_set(1);
	pid_t first, next;
	CHILD(first)
		MUST(op1(set, 0, -1, SEM_UNDO));
	UNTIL_COUNT(set, 0, GETNCNT, 1);
	CHILD(next)
		EXPECT_OK(op1(set, 0, -1, 0));
	UNTIL_COUNT(set, 0, GETNCNT, 2);
	kill(first, SIGKILL);
	MUST(waitpid(first, NULL, 0));
	EXPECT_EQ(semctl(set, 0, GETNCNT), 1);
	EXPECT_OK(op1(set, 0, 1, 0));
	EXPECT_EQ(semctl(set, 0, GETPID), next);
	JOIN(next);
	EXPECT_EQ(value(set, 0), 0);
}

ROW(235, "a killed receiver takes no message, a killed sender leaves none")
{
	int q = new_queue();
	struct message m;
	pid_t p, next;
	CHILD(p) {
		ready(MSG, q);
		MUST(receive(q, &m, 0, 0));
	}
	UNTIL_ASLEEP(p);
	CHILD(next) {
		ready(MSG, q);
		EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, 0), 1);
	}
	UNTIL_ASLEEP(next);
	kill(p, SIGKILL);
	MUST(waitpid(p, NULL, 0));
	EXPECT_OK(send_text(q, 1, "x", 0));
	EXPECT_EQ(queue_stat(q).msg_lrpid, next);
	JOIN(next);
	struct msqid_ds d = queue_stat(q);
	d.msg_qbytes = 10;
	MUST(msgctl(q, IPC_SET, &d));
	EXPECT_OK(send_size(q, 1, 10, 0));
	CHILD(p) {
		ready(MSG, q);
		MUST(send_size(q, 2, 5, 0));
	}
	UNTIL_ASLEEP(p);
	kill(p, SIGKILL);
	MUST(waitpid(p, NULL, 0));
	EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, 0), 10);
	EXPECT_EQ(queue_stat(q).msg_qnum, 0);
	EXPECT_OK(send_size(q, 1, 10, IPC_NOWAIT));
}

ROW(236, "a killed user leaves no attach and no undo, and its objects to others")
{
	int id = new_segment(8192), set = new_set(2), q = new_queue();
	for (int i = 0; i < 30; i++) {
		pid_t p;
		board->n[0] = 0;
		CHILD(p) {
			MUST((long)shmat(id, NULL, 0));
			MUST((long)shmat(id, NULL, SHM_RDONLY));
			MUST(op1(set, 0, 5, SEM_UNDO));
			MUST(send_text(q, 1, "x", 0));
			board->n[0] = 1;
			for (;;)
				pause();
		}
		UNTIL(board->n[0] == 1);
		EXPECT_EQ(nattch(id), 2);
		kill(p, SIGKILL);
		MUST(waitpid(p, NULL, 0));
		EXPECT_EQ(nattch(id), 0);
		EXPECT_EQ(value(set, 0), 0);
		EXPECT_OK(op1(set, 1, 1, 0));
	}
	EXPECT_EQ(queue_stat(q).msg_qnum, 30);
	EXPECT_EQ(value(set, 1), 30);
}

ROW(237, "a stopped process keeps its attaches, its undo and its objects")
{
	int id = new_segment(4096), set = new_set(1), status;
	pid_t p;
	CHILD(p) {
		MUST((long)shmat(id, NULL, 0));
		MUST(op1(set, 0, 5, SEM_UNDO));
		int own = new_set(1);
		board->n[0] = own + 1;
		for (;;)
			pause();
	}
	UNTIL(board->n[0] != 0);
	kill(p, SIGSTOP);
	MUST(waitpid(p, &status, WUNTRACED));
	EXPECT(WIFSTOPPED(status));
	pause_ms(100);
	EXPECT_EQ(nattch(id), 1);
	EXPECT_EQ(value(set, 0), 5);
	EXPECT_OK(op1(board->n[0] - 1, 0, 1, 0));
	EXPECT_OK(op1(set, 0, 1, 0));
	EXPECT_OK(op1(set, 0, -1, 0));
	kill(p, SIGKILL);
	MUST(waitpid(p, NULL, 0));
	EXPECT_EQ(value(set, 0), 0);
	EXPECT_EQ(nattch(id), 0);
	EXPECT_OK(op1(board->n[0] - 1, 0, 1, 0));
}

static void stop(pid_t p)
{
	int status;
	kill(p, SIGSTOP);
	MUST(waitpid(p, &status, WUNTRACED));
	EXPECT(WIFSTOPPED(status));
}

ROW(238, "SIGSTOP takes a sleeper in semop out of the queue")
{
	int set = new_set(1);
	pid_t p;
	CHILD(p)
		EXPECT_ERR(op1(set, 0, -1, 0), EINTR);
	UNTIL_COUNT(set, 0, GETNCNT, 1);
	stop(p);
	EXPECT_EQ(semctl(set, 0, GETNCNT), 0);
	EXPECT_OK(op1(set, 0, 1, 0));
	EXPECT_EQ(value(set, 0), 1);
	kill(p, SIGCONT);
	JOIN(p);
	EXPECT_EQ(value(set, 0), 1);
}

ROW(238, "a message for a stopped receiver is queued; after SIGCONT the receiver takes it")
{
	int q = new_queue();
	pid_t p;
	CHILD(p) {
		struct message m;
		ready(MSG, q);
		EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, 0), 1);
	}
	UNTIL_ASLEEP(p);
	stop(p);
	EXPECT_OK(send_text(q, 1, "x", 0));
	EXPECT_EQ(queue_stat(q).msg_qnum, 1);
	kill(p, SIGCONT);
	JOIN(p);
	EXPECT_EQ(queue_stat(q).msg_qnum, 0);
}

ROW(238, "a receiver that was stopped joins again at the tail")
{
	int q = new_queue();
	pid_t p[2];
	for (int i = 0; i < 2; i++) {
		CHILD(p[i]) {
			struct message m;
			ready(MSG, q);
			EXPECT_EQ_OR_ERRNO(receive(q, &m, 0, 0), 1);
		}
		UNTIL_ASLEEP(p[i]);
	}
	stop(p[0]);
	kill(p[0], SIGCONT);
	EXPECT_STILL_ASLEEP(p[0]);
	EXPECT_OK(send_text(q, 1, "x", 0));
	EXPECT_EQ(queue_stat(q).msg_lrpid, p[1]);
	EXPECT_OK(send_text(q, 1, "x", 0));
	EXPECT_EQ(queue_stat(q).msg_lrpid, p[0]);
	JOIN(p[0]);
	JOIN(p[1]);
}
