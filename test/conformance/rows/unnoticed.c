/* Rows 231 to 234: threads, handlers, errno and cancellation are the program's own. */
#include "case.h"
#include "use.h"

#include <dirent.h>

static int count_threads(void)
{
	int n = 0;
	DIR *d = opendir("/proc/self/task");
	EXPECT(d != NULL);
	for (struct dirent *e; (e = readdir(d));)
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

ROW(231, "no thread, child, signal, handler or mask of the implementation's is to be seen")
{
	struct used u = made_elsewhere();
	sigset_t before, after, pending;
	struct sigaction a[65], b;
	sigprocmask(SIG_SETMASK, NULL, &before);
	for (int s = 1; s < 65; s++)
		sigaction(s, NULL, &a[s]);
	for (int i = 0; i < 20; i++)
		EXPECT_EQ(use(&u), 0);
	EXPECT_EQ(count_threads(), 1);
	EXPECT_ERR(waitpid(-1, NULL, WNOHANG), ECHILD);
	sigprocmask(SIG_SETMASK, NULL, &after);
	sigpending(&pending);
	for (int s = 1; s < 65; s++) {
		EXPECT_EQ(sigismember(&before, s), sigismember(&after, s));
		EXPECT(sigismember(&pending, s) <= 0);
		if (sigaction(s, NULL, &b) == 0)
			EXPECT(a[s].sa_handler == b.sa_handler);
	}
}

/* A counter and, in the same eight bytes, where results of calls begin. */
static struct __attribute__((packed)) beside {
	_Atomic unsigned counter;
	unsigned short values[2];
	char rest[4096];
} *beside;
static atomic_bool counted;

static void *count_on(void *arg)
{
	(void)arg;
	for (unsigned n = 0; !atomic_load(&counted); n++)
		if (atomic_fetch_add(&beside->counter, 1) != n)
			return "not as it was left";
	return NULL;
}

ROW(231, "what stands beside a result is left alone, by not even a store of the same bytes")
{
	beside = MUST(mmap(NULL, sizeof *beside, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	int set = new_set(2), queue = new_queue();
	struct { long type; char text[8]; } m = { 1, "text" };
	void *received = beside->values, *seen;
	pthread_t t;
	EXPECT_OK(pthread_create(&t, NULL, count_on, NULL));
	for (int i = 0; i < 100000; i++) {
		EXPECT_OK(semctl(set, 0, GETALL, (union semun){ .array = received }));
		EXPECT_OK(msgsnd(queue, &m, sizeof m.text, 0));
		EXPECT_EQ(msgrcv(queue, received, sizeof m.text, 0, 0), sizeof m.text);
	}
	atomic_store(&counted, true);
	EXPECT_OK(pthread_join(t, &seen));
	EXPECT(seen == NULL);
}

/* The program's own data, and what is in them: a message, a set's operations, values. */
static char own_data[3 * 4096] __attribute__((aligned(4096)));
struct page { long type; char text[8]; struct sembuf up; unsigned short values[2]; struct msqid_ds ds; };

static void *reused_by_a_thread(void *arg)
{
	struct page *m = (void *)(own_data + 4096);
	const int *id = arg;
	EXPECT_ERR(msgsnd(id[MSG], m, 8, 0), EFAULT);
	return NULL;
}

ROWS("36,115,159,172,196", "memory that calls have found good is bad once it is protected or unmapped")
{
	int id[] = { [SEM] = new_set(2), [MSG] = new_queue() };
	struct page *m = (void *)(own_data + 4096);
	pthread_t t;
	for (int change = 0; change < 4; change++) {
		memset(m, 0, sizeof *m);
		m->type = m->up.sem_op = 1;
		for (int i = 0; i < 2; i++) {
			EXPECT_OK(msgsnd(id[MSG], m, 8, 0));
			EXPECT_OK(semop(id[SEM], &m->up, 1));
			EXPECT_OK(semctl(id[SEM], 0, GETALL, (union semun){ .array = m->values }));
			EXPECT_OK(msgctl(id[MSG], IPC_STAT, &m->ds));
			EXPECT_EQ(msgrcv(id[MSG], m, 8, 0, 0), 8);
		}
		EXPECT_OK(msgsnd(id[MSG], m, 8, 0));
		if (change == 0)
			MUST(mprotect(m, 4096, PROT_READ));
		else if (change == 1)
			MUST(syscall(SYS_mprotect, own_data, sizeof own_data, PROT_NONE));
		else if (change == 2)
			MUST(mmap(m, 4096, PROT_NONE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		else
			MUST(munmap(m, 4096));
		EXPECT_ERR(msgrcv(id[MSG], m, 8, 0, 0), EFAULT);
		EXPECT_ERR(msgctl(id[MSG], IPC_STAT, &m->ds), EFAULT);
		EXPECT_ERR(semctl(id[SEM], 0, GETALL, (union semun){ .array = m->values }), EFAULT);
		if (change > 0) {
			EXPECT_ERR(semop(id[SEM], &m->up, 1), EFAULT);
			EXPECT_ERR(msgsnd(id[MSG], m, 8, 0), EFAULT);
			EXPECT_ERR(semctl(id[SEM], 0, SETALL, (union semun){ .array = m->values }), EFAULT);
			EXPECT_OK(pthread_create(&t, NULL, reused_by_a_thread, id));
			EXPECT_OK(pthread_join(t, NULL));
		}
		if (change < 3)
			MUST(mprotect(own_data, sizeof own_data, PROT_READ | PROT_WRITE));
	}
}

static struct used in_handler;
static volatile sig_atomic_t handled, step_failed;
static void use_in_handler(int sig)
{
	int e = errno;
	(void)sig;
	handled++;
	int step = use(&in_handler);
	if (step)
		step_failed = step;
	errno = e;
}

ROW(232, "all calls work in handlers that interrupt all calls")
{
	in_handler = made_elsewhere();
	on_signal(SIGUSR1, use_in_handler, SA_RESTART);
	pid_t p, me = getpid();
	CHILD(p)
		while (getppid() == me) {
			kill(me, SIGUSR1);
			pause_ms(1);
		}
	double end = now() + 2;
	while (now() < end) {
		int step = use(&in_handler);
		EXPECT_EQ(step, 0);
	}
	kill(p, SIGKILL);
	EXPECT(handled > 10);
	EXPECT_EQ(step_failed, 0);
}

ROW(233, "errno is left alone by success; failure is -1, of shmat (void *)-1")
{
	struct used u = made_elsewhere();
	struct { long type; char text[8]; } m = { 1, "x" };
	union any_ds ds;
	char *at;
	for (int i = 0; i < 2; i++) {
		errno = 4321;
		EXPECT_EQ(shmget(u.key, 0, 0), u.id[SHM]);
		EXPECT((at = shmat(u.id[SHM], NULL, 0)) != (void *)-1);
		EXPECT_EQ(shmdt(at), 0);
		EXPECT_EQ(shmctl(u.id[SHM], IPC_STAT, &ds.shm), 0);
		EXPECT_EQ(semget(u.key, 0, 0), u.id[SEM]);
		EXPECT_EQ(op1(u.id[SEM], 0, 1, SEM_UNDO), 0);
		EXPECT_EQ(op1(u.id[SEM], 0, -1, SEM_UNDO), 0);
		EXPECT_EQ(semctl(u.id[SEM], 0, GETVAL), 0);
		EXPECT_EQ(msgget(u.key, 0), u.id[MSG]);
		EXPECT_EQ(msgsnd(u.id[MSG], &m, 1, 0), 0);
		EXPECT_EQ(msgrcv(u.id[MSG], &m, 1, 0, 0), 1);
		EXPECT_EQ(msgctl(u.id[MSG], IPC_STAT, &ds.msg), 0);
		EXPECT_EQ(keep(SEM, semget(IPC_PRIVATE, 1, 0600)) >= 0, 1);
		EXPECT_EQ(errno, 4321);
	}
	EXPECT(shmat(-1, NULL, 0) == (void *)-1);
	EXPECT_EQ(errno, EINVAL);
}

static void *wait_for_message(void *q)
{
	struct message m;
	ready(MSG, *(int *)q);
	receive(*(int *)q, &m, 77, 0);
	return NULL;
}
static void *wait_for_room(void *q)
{
	ready(MSG, *(int *)q);
	send_size(*(int *)q, 1, 10, 0);
	return NULL;
}
static pid_t sleeping_thread(void)
{
	pid_t tid = 0;
	UNTIL((tid = board->ready[0]) != 0);
	UNTIL_ASLEEP(tid);
	return tid;
}

ROW(234, "msgrcv and msgsnd are cancellation points")
{
	int q = new_queue();
	pthread_t t;
	void *result;
	EXPECT_OK(pthread_create(&t, NULL, wait_for_message, &q));
	sleeping_thread();
	EXPECT_OK(pthread_cancel(t));
	EXPECT_OK(pthread_join(t, &result));
	EXPECT(result == PTHREAD_CANCELED);
	struct msqid_ds d = queue_stat(q);
	d.msg_qbytes = 1;
	MUST(msgctl(q, IPC_SET, &d));
	EXPECT_OK(pthread_create(&t, NULL, wait_for_room, &q));
	sleeping_thread();
	EXPECT_OK(pthread_cancel(t));
	EXPECT_OK(pthread_join(t, &result));
	EXPECT(result == PTHREAD_CANCELED);
	EXPECT_OK(send_text(q, 77, "x", 0));
	EXPECT_EQ(queue_stat(q).msg_qnum, 1);
}

static void *wait_for_unit(void *set)
{
	int rc = op1(*(int *)set, 0, -1, 0);
	board->n[0] = rc == 0 ? 1 : -errno;
	pthread_testcancel();
	return NULL;
}

ROW(234, "semop is none")
{
	int set = new_set(1);
	pthread_t t;
	void *result;
	EXPECT_OK(pthread_create(&t, NULL, wait_for_unit, &set));
	UNTIL_COUNT(set, 0, GETNCNT, 1);
	EXPECT_OK(pthread_cancel(t));
	pause_ms(50);
	/* A libc that cancels by a signal (musl) ends the sleep with it: that is row 123. */
	EXPECT(board->n[0] == 0 || board->n[0] == -EINTR);
	if (semctl(set, 0, GETNCNT) == 1)
		EXPECT_OK(op1(set, 0, 1, 0));
	EXPECT_OK(pthread_join(t, &result));
	EXPECT(result == PTHREAD_CANCELED);
	EXPECT(board->n[0] == 1 || board->n[0] == -EINTR);
}
