/* Rows 1 to 21: identifiers, keys, and what the three *get calls have in common. */
#include "case.h"

#include <dirent.h>

ROW(1, "IPC_PRIVATE always makes a new object, without IPC_CREAT, even with IPC_EXCL")
{
	EACH_FAMILY(f) {
		int a = MUST(get(f, IPC_PRIVATE, 1, 0600));
		int b = MUST(get(f, IPC_PRIVATE, 1, 0600));
		int c = MUST(get(f, IPC_PRIVATE, 1, IPC_CREAT | IPC_EXCL | 0600));
		EXPECT(a != b && b != c && a != c);
	}
}

ROW(2, "an absent key without IPC_CREAT is ENOENT, IPC_EXCL alone or not")
{
	key_t key = free_key();
	EACH_FAMILY(f) {
		EXPECT_ERR(get(f, key, 1, 0), ENOENT);
		EXPECT_ERR(get(f, key, 1, 0600), ENOENT);
		EXPECT_ERR(get(f, key, 1, IPC_EXCL | 0600), ENOENT);
	}
}

ROW(3, "IPC_CREAT|IPC_EXCL on an existing key is EEXIST")
{
	key_t key = free_key();
	EACH_FAMILY(f) {
		int id = MUST(get(f, key, 1, IPC_CREAT | IPC_EXCL | 0600));
		EXPECT_ERR(get(f, key, 1, IPC_CREAT | IPC_EXCL | 0600), EEXIST);
		EXPECT_EQ(get(f, key, 1, IPC_EXCL | 0600), id);
	}
}

ROW(3, "EEXIST comes before the checks of size and of permission")
{
	NEED_ROOT();
	key_t key = free_key();
	pid_t p;
	EACH_FAMILY(f)
		MUST(get(f, key, 1, IPC_CREAT | IPC_EXCL | 0600));
	EXPECT_ERR(shmget(key, 100000, IPC_CREAT | IPC_EXCL | 0600), EEXIST);
	EXPECT_ERR(semget(key, 100, IPC_CREAT | IPC_EXCL | 0600), EEXIST);
	CHILD(p) {
		become(STRANGER, STRANGER);
		EACH_FAMILY(f)
			EXPECT_ERR(get(f, key, 100, IPC_CREAT | IPC_EXCL | 0600), EEXIST);
	}
	JOIN(p);
}

ROW(4, "an existing key gives the same id to everyone, IPC_CREAT or not")
{
	key_t key = free_key();
	EACH_FAMILY(f) {
		int id = MUST(get(f, key, 1, IPC_CREAT | 0600));
		EXPECT_EQ(get(f, key, 1, IPC_CREAT | 0600), id);
		EXPECT_EQ(get(f, key, 1, 0), id);
		pid_t p;
		CHILD(p)
			EXPECT_EQ(get(f, key, 1, 0600), id);
		JOIN(p);
	}
}

ROW(5, "on an existing key the size is checked before the permission")
{
	NEED_ROOT();
	key_t key = free_key();
	pid_t p;
	MUST(get(SHM, key, 4096, IPC_CREAT | 0600));
	MUST(get(SEM, key, 2, IPC_CREAT | 0600));
	CHILD(p) {
		become(STRANGER, STRANGER);
		EXPECT_ERR(shmget(key, 4097, 0600), EINVAL);
		EXPECT_ERR(shmget(key, 4096, 0600), EACCES);
		EXPECT_ERR(semget(key, 3, 0600), EINVAL);
		EXPECT_ERR(semget(key, 2, 0600), EACCES);
	}
	JOIN(p);
}

ROW(6, "the bits asked for are the classes of the flags OR-ed, whatever class they stand in")
{
	NEED_ROOT();
	key_t key = free_key();
	pid_t p;
	EACH_FAMILY(f)
		MUST(get(f, key, 1, IPC_CREAT | 0604));
	CHILD(p) {
		become(STRANGER, STRANGER);
		EACH_FAMILY(f) {
			MUST(get(f, key, 1, 0400));
			MUST(get(f, key, 1, 0040));
			MUST(get(f, key, 1, 0004));
			MUST(get(f, key, 1, 0444));
			EXPECT_ERR(get(f, key, 1, 0200), EACCES);
			EXPECT_ERR(get(f, key, 1, 0020), EACCES);
			EXPECT_ERR(get(f, key, 1, 0002), EACCES);
			EXPECT_ERR(get(f, key, 1, 0600), EACCES);
			EXPECT_ERR(get(f, key, 1, 0001), EACCES);
			EXPECT_ERR(get(f, key, 1, IPC_CREAT | 0200), EACCES);
		}
	}
	JOIN(p);
}

ROW(7, "flags without mode bits always succeed on an existing key")
{
	NEED_ROOT();
	key_t key = free_key();
	pid_t p;
	int id[3];
	EACH_FAMILY(f)
		id[f] = MUST(get(f, key, 1, IPC_CREAT | 0000));
	CHILD(p) {
		become(STRANGER, STRANGER);
		EACH_FAMILY(f) {
			EXPECT_EQ(get(f, key, 1, 0), id[f]);
			EXPECT_EQ(get(f, key, 1, IPC_CREAT), id[f]);
		}
	}
	JOIN(p);
}

ROW(8, "the mode is the low nine bits of the flags; the umask has no part in it")
{
	static const int modes[] = { 0600, 0777, 0666, 0751, 0400 };
	umask(0777);
	for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
		EACH_FAMILY(f) {
			union any_ds ds;
			int id = MUST(get(f, IPC_PRIVATE, 1, modes[i]));
			MUST(ctl(f, id, IPC_STAT, &ds));
			EXPECT_EQ(perm_of(f, &ds)->mode & 0777, modes[i]);
		}
}

ROW(9, "owner and creator are the effective ids of the creator")
{
	EACH_FAMILY(f) {
		union any_ds ds;
		MUST(ctl(f, MUST(get(f, IPC_PRIVATE, 1, 0600)), IPC_STAT, &ds));
		struct ipc_perm *perm = perm_of(f, &ds);
		EXPECT_EQ(perm->uid, geteuid());
		EXPECT_EQ(perm->cuid, geteuid());
		EXPECT_EQ(perm->gid, getegid());
		EXPECT_EQ(perm->cgid, getegid());
	}
}

ROW(9, "effective, not real")
{
	NEED_ROOT();
	pid_t p;
	CHILD(p) {
		MUST(setresgid(-1, OTHER, -1));
		MUST(setresuid(-1, STRANGER, -1));
		EACH_FAMILY(f) {
			union any_ds ds;
			MUST(ctl(f, MUST(get(f, IPC_PRIVATE, 1, 0600)), IPC_STAT, &ds));
			struct ipc_perm *perm = perm_of(f, &ds);
			EXPECT_EQ(perm->uid, STRANGER);
			EXPECT_EQ(perm->cuid, STRANGER);
			EXPECT_EQ(perm->gid, OTHER);
			EXPECT_EQ(perm->cgid, OTHER);
		}
	}
	JOIN(p);
}

ROW(10, "one key may name a segment, a set and a queue at once")
{
	key_t key = free_key();
	EACH_FAMILY(f) {
		for (enum family g = f + 1; g <= MSG; g++)
			EXPECT_ERR(get(g, key, 1, 0), ENOENT);
		MUST(get(f, key, 1, IPC_CREAT | IPC_EXCL | 0600));
	}
	EACH_FAMILY(f) {
		int id = MUST(get(f, key, 1, 0));
		MUST(ctl(f, id, IPC_RMID, NULL));
		EXPECT_ERR(get(f, key, 1, 0), ENOENT);
		for (enum family g = f + 1; g <= MSG; g++)
			MUST(get(g, key, 1, 0));
	}
}

ROWS("11,17", "the id is the sequence number times 32768 plus the index; IPC_STAT tells sequence and key")
{
	key_t key = free_key();
	EACH_FAMILY(f)
		for (int i = 0; i < 5; i++) {
			union any_ds ds;
			key_t k = i ? IPC_PRIVATE : key;
			int id = MUST(get(f, k, 1, IPC_CREAT | 0600));
			MUST(ctl(f, id, IPC_STAT, &ds));
			EXPECT_EQ(perm_of(f, &ds)->__seq, id >> 15);
			EXPECT_EQ(perm_of(f, &ds)->__key, k);
			EXPECT_EQ(ctl(f, id & 0x7fff, stat_cmd(f), &ds), id);
		}
}

ROWS("12,13", "indexes are handed out cyclically; the sequence grows when the index does not")
{
	EACH_FAMILY(f) {
		int before = MUST(get(f, IPC_PRIVATE, 1, 0600)), highest = 0, wraps = 0;
		MUST(ctl(f, before, IPC_RMID, NULL));
		for (int i = 0; i < 200; i++) {
			int id = MUST(get(f, IPC_PRIVATE, 1, 0600));
			MUST(ctl(f, id, IPC_RMID, NULL));
			int index = id & 0x7fff, last = before & 0x7fff;
			if (index > last) {
				EXPECT_EQ(id >> 15, before >> 15);
			} else {
				EXPECT_EQ(id >> 15, (before >> 15) + 1);
				wraps++;
			}
			if (index > highest)
				highest = index;
			EXPECT(index != last);
			before = id;
		}
		EXPECT(highest >= 63);
		if (highest == 63)	/* nobody else in this namespace: exactly 64 indexes */
			EXPECT(wraps == 3 || wraps == 4);
	}
}

static void expect_gone(enum family f, int id)
{
	union any_ds ds;
	struct message m = { .type = 1 };
	EXPECT_ERR(ctl(f, id, IPC_STAT, &ds), EINVAL);
	EXPECT_ERR(ctl(f, id, IPC_RMID, NULL), EINVAL);
	memset(&ds, 0, sizeof ds);
	EXPECT_ERR(ctl(f, id, IPC_SET, &ds), EINVAL);
	if (f == SHM) {
		EXPECT_ERR((long)shmat(id, NULL, 0), EINVAL);
	} else if (f == SEM) {
		EXPECT_ERR(op1(id, 0, 1, 0), EINVAL);
		EXPECT_ERR(semctl(id, 0, GETVAL), EINVAL);
		EXPECT_ERR(semctl(id, 0, SETVAL, (union semun){ .val = 1 }), EINVAL);
	} else {
		EXPECT_ERR(msgsnd(id, &m, 1, 0), EINVAL);
		EXPECT_ERR(msgrcv(id, &m, 1, 0, IPC_NOWAIT), EINVAL);
	}
}

ROW(14, "the id of a removed object is EINVAL while its index is free")
{
	EACH_FAMILY(f) {
		int id = MUST(get(f, IPC_PRIVATE, 1, 0600));
		MUST(ctl(f, id, IPC_RMID, NULL));
		expect_gone(f, id);
	}
}

ROW(14, "the id of a removed object is EINVAL when its index has a new owner")
{
	EACH_FAMILY(f) {
		int id = MUST(get(f, IPC_PRIVATE, 1, 0600)), again;
		MUST(ctl(f, id, IPC_RMID, NULL));
		for (int i = 0; i < 40000; i++) {
			again = MUST(get(f, IPC_PRIVATE, 1, 0600));
			if ((again & 0x7fff) == (id & 0x7fff))
				break;
			MUST(ctl(f, again, IPC_RMID, NULL));
		}
		EXPECT((again & 0x7fff) == (id & 0x7fff) && again != id);
		expect_gone(f, id);
		union any_ds ds;
		MUST(ctl(f, again, IPC_STAT, &ds));
	}
}

ROW(15, "negative ids are EINVAL")
{
	EACH_FAMILY(f) {
		expect_gone(f, -1);
		expect_gone(f, INT_MIN);
		expect_gone(f, INT_MIN + 1);
	}
}

ROW(16, "who comes after the removal gets EINVAL, who slept EIDRM")
{
	pid_t p;
	int set = new_set(1), queue = new_queue();
	CHILD(p)
		EXPECT_ERR(op1(set, 0, -1, 0), EIDRM);
	UNTIL_COUNT(set, 0, GETNCNT, 1);
	MUST(semctl(set, 0, IPC_RMID));
	EXPECT_ERR(op1(set, 0, -1, 0), EINVAL);
	JOIN(p);
	CHILD(p) {
		struct message m;
		ready(MSG, queue);
		EXPECT_ERR(receive(queue, &m, 0, 0), EIDRM);
	}
	UNTIL_ASLEEP(p);
	MUST(msgctl(queue, IPC_RMID, NULL));
	EXPECT_ERR(send_text(queue, 1, "x", 0), EINVAL);
	JOIN(p);
}

ROW(18, "times are whole seconds of CLOCK_REALTIME")
{
	time_t start = time(NULL);
	EACH_FAMILY(f) {
		union any_ds ds;
		MUST(ctl(f, MUST(get(f, IPC_PRIVATE, 1, 0600)), IPC_STAT, &ds));
		EXPECT_RECENT(ctime_of(f, &ds), start);
	}
	EXPECT_EQ(sizeof((struct shmid_ds *)0)->shm_ctime, sizeof(time_t));
}

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
		pthread_t t;
		EXPECT_OK(pthread_create(&t, NULL, use_all, id));
		EXPECT_OK(pthread_join(t, NULL));
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

ROW(20, "uids are translated to the caller's user namespace, the overflow id where unmapped")
{
	NEED_ROOT();
	int id[3];
	EACH_FAMILY(f)
		id[f] = MUST(get(f, IPC_PRIVATE, 1, 0666));
	pid_t p;
	CHILD(p) {
		if (unshare(CLONE_NEWUSER) < 0)
			SKIP("no user namespace: %s", errno_name(errno));
		EACH_FAMILY(f) {
			union any_ds ds;
			MUST(ctl(f, id[f], IPC_STAT, &ds));
			EXPECT_EQ(perm_of(f, &ds)->uid, 65534);
			EXPECT_EQ(perm_of(f, &ds)->cgid, 65534);
		}
		write_file("/proc/self/setgroups", "deny");
		write_file("/proc/self/uid_map", "1000 0 1");
		write_file("/proc/self/gid_map", "2000 0 1");
		EACH_FAMILY(f) {
			union any_ds ds;
			MUST(ctl(f, id[f], IPC_STAT, &ds));
			EXPECT_EQ(perm_of(f, &ds)->uid, 1000);
			EXPECT_EQ(perm_of(f, &ds)->cuid, 1000);
			EXPECT_EQ(perm_of(f, &ds)->gid, 2000);
			EXPECT_EQ(perm_of(f, &ds)->cgid, 2000);
		}
	}
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
		if (unshare(CLONE_NEWUSER) < 0)
			SKIP("no user namespace: %s", errno_name(errno));
		EACH_FAMILY(f) {
			union any_ds ds;
			MUST(ctl(f, id[f], IPC_STAT, &ds));
			EXPECT_EQ(perm_of(f, &ds)->uid, 65534);
			EXPECT_EQ(perm_of(f, &ds)->cgid, 65534);
		}
		write_file("/proc/self/setgroups", "deny");
		write_file("/proc/self/uid_map", "1000 0 1");
		write_file("/proc/self/gid_map", "2000 0 1");
		MUST(op1(id[SEM], 0, 1, 0));
		MUST(send_text(id[MSG], 1, "x", 0));
		EACH_FAMILY(f) {
			union any_ds ds;
			MUST(ctl(f, id[f], IPC_STAT, &ds));
			EXPECT_EQ(perm_of(f, &ds)->uid, 1000);
			EXPECT_EQ(perm_of(f, &ds)->cuid, 1000);
			EXPECT_EQ(perm_of(f, &ds)->gid, 2000);
			EXPECT_EQ(perm_of(f, &ds)->cgid, 2000);
		}
		key_t key = free_key();
		keep(SEM, MUST(semget(key, 1, IPC_CREAT | 0606)));
		EXPECT_EQ(semget(key, 1, 0600) >= 0, 1);
	}
	JOIN(p);
}

ROW(21, "objects survive their creator and all their users until IPC_RMID")
{
	pid_t p;
	CHILD(p) {
		EACH_FAMILY(f)
			board->n[f] = MUST(get(f, IPC_PRIVATE, 1, 0600));
		char *m = MUST(shmat(board->n[SHM], NULL, 0));
		m[0] = 'k';
		MUST(op1(board->n[SEM], 0, 7, 0));
		MUST(send_text(board->n[MSG], 3, "left", 0));
	}
	JOIN(p);
	char *m = MUST(shmat(board->n[SHM], NULL, 0));
	EXPECT_EQ(m[0], 'k');
	EXPECT_EQ(value(board->n[SEM], 0), 7);
	struct message got;
	EXPECT_EQ_OR_ERRNO(receive(board->n[MSG], &got, 0, IPC_NOWAIT), 4);
	EXPECT_EQ(got.type, 3);
}
