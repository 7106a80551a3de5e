/* Rows 225 to 228: IPC namespaces. */
#include "case.h"

static void new_namespace(void)
{
	if (unshare(CLONE_NEWIPC) < 0)
		SKIP("no IPC namespace of one's own: %s", errno_name(errno));
}

ROWS("225,227", "a new namespace is empty: ids and keys of the old one mean nothing there")
{
	NEED_ROOT();
	int id[3];
	key_t key = free_key();
	EACH_FAMILY(f)
		id[f] = MUST(get(f, key, 1, IPC_CREAT | 0600));
	pid_t p;
	CHILD(p) {
		new_namespace();
		EACH_FAMILY(f) {
			union any_ds ds;
			EXPECT_ERR(get(f, key, 1, 0600), ENOENT);
			EXPECT_ERR(ctl(f, id[f], IPC_STAT, &ds), EINVAL);
			EXPECT_ERR(ctl(f, id[f], IPC_RMID, NULL), EINVAL);
			EXPECT_EQ(ctl(f, 0, info_cmd(f), &ds), 0);
		}
		EXPECT_ERR(op1(id[SEM], 0, 1, 0), EINVAL);
		EXPECT_ERR((long)shmat(id[SHM], NULL, 0), EINVAL);
		EXPECT_ERR(send_text(id[MSG], 1, "x", 0), EINVAL);
		EACH_FAMILY(f)
			MUST(f == SHM ? shmget(key, 9, IPC_CREAT | IPC_EXCL | 0600)
			   : f == SEM ? semget(key, 9, IPC_CREAT | IPC_EXCL | 0600)
			   : msgget(key, IPC_CREAT | IPC_EXCL | 0600));
	}
	JOIN(p);
	EACH_FAMILY(f)
		EXPECT_EQ(get(f, key, 1, 0600), id[f]);
	EXPECT_EQ(segment_stat(id[SHM]).shm_segsz, 1);
	EXPECT_EQ(value(id[SEM], 0), 0);
}

ROW(225, "setns goes back to where the objects are")
{
	NEED_ROOT();
	int set = new_set(1), old = MUST(open("/proc/self/ns/ipc", O_RDONLY | O_CLOEXEC));
	pid_t p;
	CHILD(p) {
		new_namespace();
		EXPECT_ERR(semctl(set, 0, GETVAL), EINVAL);
		MUST(setns(old, CLONE_NEWIPC));
		EXPECT_OK(op1(set, 0, 3, 0));
	}
	JOIN(p);
	EXPECT_EQ(value(set, 0), 3);
}

static int none_there(key_t key)
{
	EACH_FAMILY(f)
		if (get(f, key, 1, 0600) != -1 || errno != ENOENT)
			return f + 1;
	return 0;
}

/* key, and descriptor of the namespace from which it comes. */
ACT(look_around)
{
	key_t key = atoi(argv[0]);
	int none = none_there(key);
	if (argc != 2 || none != 0)
		return none + 1;
	if (setns(atoi(argv[1]), CLONE_NEWIPC) < 0)
		return 10;
	return get(SEM, key, 1, 0600) >= 0 ? 0 : 11;
}

static void exec_look_around(key_t key, int old, char *const envp[])
{
	char t[2][16];
	snprintf(t[0], sizeof t[0], "%d", key);
	snprintf(t[1], sizeof t[1], "%d", old);
	execle(self_path, self_path, "--act", "look_around", t[0], t[1], (char *)0, envp);
}

ROW(225, "what is executed in a new namespace finds it empty, as under unshare -i")
{
	NEED_ROOT();
	key_t key = free_key();
	int old = MUST(open("/proc/self/ns/ipc", O_RDONLY));
	keep(SEM, MUST(semget(key, 1, IPC_CREAT | 0600)));
	for (int used = 0; used < 2; used++) {
		pid_t p;
		CHILD(p) {
			if (used)
				MUST(semget(key, 1, 0));
			new_namespace();
			exec_look_around(key, old, environ);
			_exit(99);
		}
		JOIN(p);
	}
}

static pthread_barrier_t meeting;
static struct { int set, old; key_t key; } place;

static void *in_a_namespace(void *how)
{
	if ((how ? syscall(SYS_unshare, CLONE_NEWIPC) : unshare(CLONE_NEWIPC)) < 0)
		SKIP("no IPC namespace of one's own: %s", errno_name(errno));
	pthread_barrier_wait(&meeting);
	EXPECT_ERR(op1(place.set, 0, 1, 0), EINVAL);
	EXPECT_ERR(semget(place.key, 0, 0), ENOENT);
	int own = MUST(semget(place.key, 2, IPC_CREAT | IPC_EXCL | 0600));
	EXPECT_OK(op1(own, 1, 4, 0));
	pthread_barrier_wait(&meeting);
	EXPECT_EQ(value(own, 1), 4);
	MUST(setns(place.old, CLONE_NEWIPC));
	EXPECT_OK(op1(place.set, 0, 1, 0));
	return NULL;
}

ROW(225, "unshare by one thread of many: the others stay where they are, undo and all")
{
	NEED_ROOT();
	place.old = MUST(open("/proc/self/ns/ipc", O_RDONLY | O_CLOEXEC));
	pthread_barrier_init(&meeting, NULL, 2);
	for (long raw = 0; raw < 2; raw++) {
		pid_t p;
		place.key = free_key();
		place.set = keep(SEM, MUST(semget(place.key, 1, IPC_CREAT | 0600)));
		CHILD(p) {
			pthread_t t;
			EXPECT_OK(op1(place.set, 0, 5, SEM_UNDO));
			EXPECT_OK(pthread_create(&t, NULL, in_a_namespace, (void *)raw));
			pthread_barrier_wait(&meeting);
			EXPECT_EQ(value(place.set, 0), 5);
			EXPECT_EQ_OR_ERRNO(semget(place.key, 1, 0), place.set);
			pid_t q;
			CHILD(q)
				EXPECT_OK(op1(place.set, 0, 2, 0));
			JOIN(q);
			pthread_barrier_wait(&meeting);
			EXPECT_OK(pthread_join(t, NULL));
			EXPECT_EQ(value(place.set, 0), 8);
		}
		JOIN(p);
		EXPECT_EQ(value(place.set, 0), 3);
	}
}

ROW(226, "objects die with the namespace; attached memory stays mapped")
{
	NEED_ROOT();
	int old = MUST(open("/proc/self/ns/ipc", O_RDONLY | O_CLOEXEC));
	pid_t p;
	CHILD(p) {
		new_namespace();
		int id = MUST(shmget(free_key(), 4096, IPC_CREAT | 0600));
		char *m = MUST(shmat(id, NULL, 0));
		strcpy(m, "still here");
		MUST(setns(old, CLONE_NEWIPC));	/* nobody is left there */
		pause_ms(50);
		EXPECT_EQ(strcmp(m, "still here"), 0);
		EXPECT_EQ(fault(m, true), 0);
		EXPECT_OK(shmdt(m));
		EXPECT_EQ(fault(m, false), SIGSEGV);
	}
	JOIN(p);
}

static int in_own_namespace(void *key)
{
	EXPECT_ERR(shmget(*(key_t *)key, 0, 0), ENOENT);
	int own = MUST(shmget(*(key_t *)key, 1, IPC_CREAT | IPC_EXCL | 0600));
	EXPECT_EQ(fault(MUST(shmat(own, NULL, 0)), true), 0);
	_exit(0);
}

ROW(225, "a child of clone(CLONE_NEWIPC) has a namespace of its own, whoever called first")
{
	NEED_ROOT();
	key_t key = free_key();
	char stack[65536] __attribute__((aligned(16)));
	for (int used = 0; used < 2; used++) {
		int id = used ? keep(SHM, MUST(shmget(key, 9, IPC_CREAT | 0600))) : 0;
		long p = MUST(syscall(SYS_clone, CLONE_NEWIPC | SIGCHLD, 0, 0, 0, 0));
		if (p == 0)
			in_own_namespace(&key);
		JOIN((pid_t)p);
		JOIN(MUST(clone(in_own_namespace, stack + sizeof stack, CLONE_NEWIPC | SIGCHLD, &key)));
		EXPECT_EQ_OR_ERRNO(shmget(key, 0, 0), used ? id : -1);
	}
}

ROW(228, "clone with CLONE_NEWIPC and CLONE_SYSVSEM is EINVAL")
{
	NEED_ROOT();
	EXPECT_ERR(syscall(SYS_clone, CLONE_NEWIPC | CLONE_SYSVSEM | SIGCHLD, 0, 0, 0, 0), EINVAL);
}
