/* Objects that come and go, under processes that sleep on them or lose their rights. */
#include "worker.h"
#include <signal.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <unistd.h>

/* What nobody's process does to an object until it may not any more: a unit comes and goes. */
static void use_as_nobody(int kind, int id)
{
	struct message m = {.type = 1};
	struct sembuf op = {0, 1, 0};
	long r;

	if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0)
		fail("setresuid: %m");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int there = 0; !ledger->stop; there ^= r >= 0) {
		op.sem_op = there ? -1 : 1;
		if (kind == 0)
			r = semop(id, &op, 1);
		else
			r = there ? msgrcv(id, &m, 16, 0, 0) : msgsnd(id, &m, 16, 0);
		if (r < 0 && (errno == EACCES || errno == EIDRM || errno == EINVAL))
			_exit(0);
		if (r < 0 && errno != EINTR)
			fail("kind %d as nobody: %m", kind);
	}
	_exit(0);
}

static int units(int kind, int id)
{
	struct msqid_ds ds;
	int n = kind == 0 ? semctl(id, 0, GETVAL) : msgctl(id, IPC_STAT, &ds) < 0 ? -1 : (int)ds.msg_qnum;

	if (n < 0 || n > 1)
		fail("%d units of kind %d: %m", n, kind);
	return n;
}

/* IPC_SET takes nobody's right away, and what nobody did is there. */
static void narrow_round(void)
{
	int kind = (int)random_below(2);
	int id = kind == 0 ? semget(IPC_PRIVATE, 2, 0666) : msgget(IPC_PRIVATE, 0666);

	if (id < 0)
		fail("get %d: %m", kind);
	pid_t pid = fork_life();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		use_as_nobody(kind, id);
	}
	pause_for(random_below(3000));
	struct semid_ds set = {.sem_perm = {.mode = 0600}};
	struct msqid_ds queue_ = {.msg_perm = {.mode = 0600}, .msg_qbytes = 16384};
	if ((kind == 0 ? semctl(id, 0, IPC_SET, &set) : msgctl(id, IPC_SET, &queue_)) < 0)
		fail("IPC_SET of kind %d: %m", kind);
	int n = units(kind, id);
	pause_for(random_below(500));
	if (units(kind, id) != n)
		fail("kind %d changes after its user lost the right", kind);
	if ((kind == 0 ? semctl(id, 0, IPC_RMID) : msgctl(id, IPC_RMID, NULL)) < 0)
		fail("IPC_RMID of kind %d: %m", kind);
	await(pid, "nobody");
}

/* A sleeper learns of the removal of what it sleeps on. */
void churn_round(void)
{
	static struct message m;
	struct sembuf ops[] = {{1, -1, SEM_UNDO}, {0, 1, 0}};
	int kind = (int)random_below(3);
	int id = kind == 0 ? semget(IPC_PRIVATE, 2, 0600)
		 : kind == 1 ? msgget(IPC_PRIVATE, 0600)
			     : shmget(IPC_PRIVATE, 100000, 0600);

	if (id < 0)
		fail("get %d: %m", kind);
	uint8_t *p = kind == 2 ? attach(id, 0) : NULL;
	pid_t pid = fork_life();
	if (pid == 0) {
		long r = -1;

		/* Nobody else removes the object. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);

		if (kind == 2) {
			for (int i = 0; p[0] == 0 && i < 200000; i++)
				pause_for(100);
			_exit(p[0] == 1 || ledger->stop ? 0 : 5);
		}
		if (kind == 0)
			AGAIN(r, semop(id, ops, 1 + random_below(2)));
		else
			AGAIN(r, msgrcv(id, &m, sizeof m.body, 0, 0));
		if (r >= 0 || (errno != EIDRM && errno != EINVAL && errno != EINTR))
			fail("sleep of kind %d on what is removed: %ld, %m", kind, r);
		_exit(0);
	}
	if (random_below(2))
		pause_for(random_below(3000));
	int r = kind == 0 ? semctl(id, 0, IPC_RMID)
		: kind == 1 ? msgctl(id, IPC_RMID, NULL)
			    : shmctl(id, IPC_RMID, NULL);
	if (r < 0)
		fail("IPC_RMID of kind %d: %m", kind);
	if (p != NULL)
		p[0] = 1;
	if (pid > 0)
		await(pid, "removal");
	if (p != NULL && shmdt(p) < 0)
		fail("shmdt: %m");
	for (int i = 0; i < 4; i++)
		loose_round();
	if (random_below(2) == 0)
		narrow_round();
}
