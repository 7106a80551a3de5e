/* Rows 19, 20 and 201: process and user ids, as a caller of any namespace sees them. */
#include "case.h"

#include <dirent.h>

ROW(19, "pids are process ids, not thread ids")
{
	int id = new_segment(4096), queue = new_queue(), set = new_set(1);
	EXPECT_EQ(segment_stat(id).shm_cpid, getpid());
	pid_t p;
	CHILD(p) {
		MUST((long)shmat(id, NULL, 0));
		MUST(send_text(queue, 1, "x", 0));
		MUST(op1(set, 0, 1, 0));
	}
	JOIN(p);
	EXPECT_EQ(segment_stat(id).shm_lpid, p);
	EXPECT_EQ(queue_stat(queue).msg_lspid, p);
	EXPECT_EQ(semctl(set, 0, GETPID), p);
}

static void *use_all(void *ids)
{
	int *id = ids;
	MUST((long)shmat(id[SHM], NULL, 0));
	MUST(send_text(id[MSG], 1, "x", 0));
	MUST(op1(id[SEM], 0, 1, 0));
	return NULL;
}

ROW(19, "a thread's calls are its process's")
{
	int id[3] = { new_segment(4096), new_set(1), new_queue() };
	pid_t p;
	CHILD(p) {
		in_thread(use_all, id);
	}
	JOIN(p);
	EXPECT_EQ(segment_stat(id[SHM]).shm_lpid, p);
	EXPECT_EQ(queue_stat(id[MSG]).msg_lspid, p);
	EXPECT_EQ(semctl(id[SEM], 0, GETPID), p);
}

ROW(19, "pids are translated to the caller's pid namespace, 0 where it cannot see them")
{
	NEED_ROOT();
	int outer = new_segment(4096), set = new_set(1), queue = new_queue();
	MUST(op1(set, 0, 1, 0));
	MUST(send_text(queue, 1, "x", 0));
	pid_t p, q;
	CHILD(p) {
		if (unshare(CLONE_NEWPID) < 0)
			SKIP("no pid namespace: %s", errno_name(errno));
		CHILD(q) {
			EXPECT_EQ(getpid(), 1);
			EXPECT_EQ(segment_stat(outer).shm_cpid, 0);
			EXPECT_EQ(semctl(set, 0, GETPID), 0);
			EXPECT_EQ(queue_stat(queue).msg_lspid, 0);
			int inner = new_segment(4096);
			EXPECT_EQ(segment_stat(inner).shm_cpid, 1);
			MUST(op1(set, 0, 1, 0));
			EXPECT_EQ(semctl(set, 0, GETPID), 1);
			MUST(send_text(queue, 1, "x", 0));
			EXPECT_EQ(queue_stat(queue).msg_lspid, 1);
			board->n[1] = inner;
		}
		board->n[0] = q;
		JOIN(q);
	}
	JOIN(p);
	EXPECT_EQ(segment_stat(board->n[1]).shm_cpid, board->n[0]);
	EXPECT_EQ(semctl(set, 0, GETPID), board->n[0]);
	EXPECT_EQ(queue_stat(queue).msg_lspid, board->n[0]);
}

static void *receive_two(void *queue)
{
	struct message m;
	board->n[0] = (int)syscall(SYS_gettid);
	ready(MSG, *(int *)queue);
	MUST(receive(*(int *)queue, &m, 0, 0));
	board->n[1] = 1;
	pause();
	return NULL;
}

/* Sends a message to a thread of a new process that sleeps in msgrcv, and returns the
 * thread's number here. */
static pid_t send_to_thread(int queue, pid_t *p)
{
	char path[64];
	struct dirent *e;
	pid_t thread = 0;
	board->n[0] = board->n[1] = 0;
	CHILD(*p) {
		pthread_t t;
		EXPECT_OK(pthread_create(&t, NULL, receive_two, &queue));
		pthread_join(t, NULL);
	}
	UNTIL(board->n[0] != 0 && take_ready(board->n[0]));
	snprintf(path, sizeof path, "/proc/%d/task", (int)*p);
	DIR *tasks = opendir(path);
	EXPECT(tasks != NULL);
	while ((e = readdir(tasks)) != NULL)
		if (atoi(e->d_name) != 0 && atoi(e->d_name) != *p)
			thread = atoi(e->d_name);
	closedir(tasks);
	UNTIL(is_asleep(thread));
	pause_ms(10);
	EXPECT_OK(send_text(queue, 1, "x", 0));
	UNTIL(board->n[1]);
	return thread;
}

ROW(201, "a thread that slept when its message came is lrpid itself")
{
	pid_t p;
	int q = new_queue();
	pid_t thread = send_to_thread(q, &p);
	EXPECT_EQ(queue_stat(q).msg_lrpid, thread);
	kill(p, SIGKILL);
	wait_for(p);
	EXPECT_EQ(queue_stat(q).msg_lrpid, thread);
}

ROW(201, "a thread that slept is translated to the caller's pid namespace")
{
	NEED_ROOT();
	pid_t p, q;
	int queue = new_queue();
	CHILD(p) {
		if (unshare(CLONE_NEWPID) < 0)
			SKIP("no pid namespace: %s", errno_name(errno));
		pid_t thread = send_to_thread(queue, &q);
		EXPECT(thread != board->n[0]);
		EXPECT_EQ(queue_stat(queue).msg_lrpid, thread);
		kill(q, SIGKILL);
		wait_for(q);
	}
	JOIN(p);
}

static void write_file(const char *path, const char *text)
{
	int fd = MUST(open(path, O_WRONLY));
	EXPECT_EQ(write(fd, text, strlen(text)), (long)strlen(text));
	close(fd);
}

static void expect_owner(const int id[3], uid_t uid, gid_t gid)
{
	EACH_FAMILY(f) {
		union any_ds ds;
		MUST(ctl(f, id[f], IPC_STAT, &ds));
		EXPECT_EQ(perm_of(f, &ds)->uid, uid);
		EXPECT_EQ(perm_of(f, &ds)->cuid, uid);
		EXPECT_EQ(perm_of(f, &ds)->gid, gid);
		EXPECT_EQ(perm_of(f, &ds)->cgid, gid);
	}
}

/* Goes to a user namespace where root is nobody at first, then user 1000 of group 2000. */
static void expect_translated(const int id[3])
{
	if (unshare(CLONE_NEWUSER) < 0)
		SKIP("no user namespace: %s", errno_name(errno));
	expect_owner(id, 65534, 65534);
	write_file("/proc/self/setgroups", "deny");
	write_file("/proc/self/uid_map", "1000 0 1");
	write_file("/proc/self/gid_map", "2000 0 1");
	expect_owner(id, 1000, 2000);
}

ROW(20, "uids are translated to the caller's user namespace, the overflow id where unmapped")
{
	NEED_ROOT();
	int id[3];
	EACH_FAMILY(f)
		id[f] = MUST(get(f, IPC_PRIVATE, 1, 0666));
	pid_t p;
	CHILD(p)
		expect_translated(id);
	JOIN(p);
}

ROW(20, "uids are translated also for a caller that has used the objects, and its rights are those of its own ids")
{
	NEED_ROOT();
	int id[3];
	EACH_FAMILY(f)
		id[f] = MUST(get(f, IPC_PRIVATE, 1, 0666));
	pid_t p;
	CHILD(p) {
		MUST(op1(id[SEM], 0, 1, 0));
		MUST(send_text(id[MSG], 1, "x", 0));
		MUST(shmat(id[SHM], NULL, 0));
		expect_translated(id);
		MUST(op1(id[SEM], 0, 1, 0));
		MUST(send_text(id[MSG], 1, "x", 0));
		expect_owner(id, 1000, 2000);
		key_t key = free_key();
		keep(SEM, MUST(semget(key, 1, IPC_CREAT | 0606)));
		EXPECT_EQ(semget(key, 1, 0600) >= 0, 1);
	}
	JOIN(p);
}
