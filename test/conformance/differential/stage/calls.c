/* The calls of System V IPC, with all that they show. Ids are named by slots, pids by the order of
 * birth, times by whether they are of this program. */
#include "actor.h"
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <unistd.h>

union semun { int val; void *buf; unsigned short *array; };

/* ---- names for what differs from run to run ---- */

static void say_pid(const char *field, int pid)
{
	int i = atomic_load(&board->pids);
	while (i > 0 && atomic_load(&board->pid[i - 1]) != pid)
		i--;
	if (pid == 0)
		say(" %s=none", field);
	else if (i > 0)
		say(" %s=p%d", field, i - 1);
	else
		say(" %s=stranger", field);
}

static void say_time(const char *field, time_t t)
{
	int now = t >= atomic_load(&board->begun) - 1 && t <= time(NULL) + 1;
	say(" %s=%s", field, t == 0 ? "0" : now ? "now" : "wrong");
}

static void say_id(int family, int id)
{
	for (int i = 0; i < SLOTS; i++)
		if (atomic_load(&board->id[family][i]) == id) {
			say(" slot%d", i);
			return;
		}
	say(" another");
}

/* ---- calls ---- */

int id_of(int family) { return atomic_load(&board->id[family][arg[0]]); }

/* slot key size flags */
static void do_get(int family)
{
	key_t key = arg[1] ? 0x49440000 + (key_t)arg[1] : IPC_PRIVATE;
	int flags = (int)arg[3];
	int id = family == SHM ? shmget(key, (size_t)arg[2], flags)
	       : family == SEM ? semget(key, (int)arg[2], flags) : msgget(key, flags);
	if (id < 0) {
		result(-1);
		return;
	}
	int n = atomic_load(&board->ids), known = 0;
	for (int i = 0; i < n; i++)
		known |= board->made[i].family == family && board->made[i].id == id;
	if (!known && n < IDS) {
		board->made[n].family = family;
		board->made[n].id = id;
		board->made[n].size = (int)arg[2];
		atomic_store(&board->ids, n + 1);
		say(" new");
	} else {
		say_id(family, id);
	}
	atomic_store(&board->id[family][arg[0]], id);
}

static void say_perm(const struct ipc_perm *p)
{
	say(" key=%x mode=%o uid=%u gid=%u cuid=%u cgid=%u", p->__key, p->mode, p->uid, p->gid, p->cuid, p->cgid);
}

union any_ds { struct shmid_ds shm; struct semid_ds sem; struct msqid_ds msg; };
static long ctl(int family, int id, int cmd, union any_ds *d)
{
	return family == SHM ? shmctl(id, cmd, &d->shm)
	     : family == SEM ? semctl(id, 0, cmd, (union semun){ .buf = d }) : msgctl(id, cmd, &d->msg);
}

static void do_stat(int family)
{
	static const int any[] = { 15, 20, 13 };	/* *_STAT_ANY, in the order of the families */
	union any_ds d;
	memset(&d, 0x5a, sizeof d);
	long r = ctl(family, arg[1] ? id_of(family) & 0x7fff : id_of(family), arg[1] ? any[family] : IPC_STAT, &d);
	if (r == -1) {
		result(r);
		return;
	}
	if (family == SHM) {
		say_perm(&d.shm.shm_perm);
		say(" segsz=%zu nattch=%lu", d.shm.shm_segsz, (unsigned long)d.shm.shm_nattch);
		say_time("atime", d.shm.shm_atime);
		say_time("dtime", d.shm.shm_dtime);
		say_time("ctime", d.shm.shm_ctime);
		say_pid("cpid", d.shm.shm_cpid);
		say_pid("lpid", d.shm.shm_lpid);
	} else if (family == SEM) {
		say_perm(&d.sem.sem_perm);
		say(" nsems=%lu", (unsigned long)d.sem.sem_nsems);
		say_time("otime", d.sem.sem_otime);
		say_time("ctime", d.sem.sem_ctime);
	} else {
		say_perm(&d.msg.msg_perm);
		say(" cbytes=%lu qnum=%lu qbytes=%lu", (unsigned long)d.msg.__msg_cbytes,
		    (unsigned long)d.msg.msg_qnum, (unsigned long)d.msg.msg_qbytes);
		say_time("stime", d.msg.msg_stime);
		say_time("rtime", d.msg.msg_rtime);
		say_time("ctime", d.msg.msg_ctime);
		say_pid("lspid", d.msg.msg_lspid);
		say_pid("lrpid", d.msg.msg_lrpid);
	}
}

/* slot uid gid mode qbytes */
static void do_set(int family)
{
	union any_ds d;
	memset(&d, 0, sizeof d);
	struct ipc_perm *p = family == SHM ? &d.shm.shm_perm : family == SEM ? &d.sem.sem_perm : &d.msg.msg_perm;
	p->uid = (uid_t)arg[1];
	p->gid = (gid_t)arg[2];
	p->mode = (unsigned short)arg[3];
	if (family == MSG)
		d.msg.msg_qbytes = (msglen_t)arg[4];
	result(ctl(family, id_of(family), IPC_SET, &d));
}

/* slot bits: IPC_SET that takes nothing away */
static void do_widen(int family)
{
	union any_ds d;
	if (ctl(family, id_of(family), IPC_STAT, &d) < 0) {
		result(-1);
		return;
	}
	struct ipc_perm *p = family == SHM ? &d.shm.shm_perm : family == SEM ? &d.sem.sem_perm : &d.msg.msg_perm;
	p->mode |= (unsigned short)arg[1];
	result(ctl(family, id_of(family), IPC_SET, &d));
}

/* slot timeout(ms; -1: none) {num op flags}... */
static void do_semop(void)
{
	struct sembuf ops[4];
	volatile size_t n = 0;
	for (int i = 2; i + 2 < args && n < 4; i += 3, n++)
		ops[n] = (struct sembuf){ (unsigned short)arg[i], (short)arg[i + 1], (short)arg[i + 2] };
	struct timespec t = { 0, arg[1] * 1000000 };
	int id = id_of(SEM), r = 0;
	if (SLEEPS(r = arg[1] < 0 ? semop(id, ops, n) : semtimedop(id, ops, n, &t)))
		result(r);
}

static void do_semctl(int cmd)
{
	int num = args > 1 ? (int)arg[1] : 0;
	unsigned short all[64] = { 0 };
	union semun u = { .array = all };
	if (cmd == SETVAL)
		u.val = (int)arg[2];
	if (cmd == SETALL)
		for (int i = 1; i < args; i++)
			all[i - 1] = (unsigned short)arg[i];
	int r = semctl(id_of(SEM), num, cmd, u);
	if (cmd == GETPID && r != -1)
		say_pid("pid", r);
	else if (result(r) && cmd == GETALL)
		for (int i = 0; i < 6; i++)
			say(" %u", all[i]);
}

struct message { long type; unsigned char text[9000]; };
static __thread struct message m;

/* slot type size flags seed */
static void do_send(void)
{
	m.type = arg[1];
	for (size_t i = 0; i < sizeof m.text; i++)
		m.text[i] = (unsigned char)(arg[4] * 31 + (long)(i * 7 + i / 251));
	int r = 0;
	if (SLEEPS(r = msgsnd(id_of(MSG), &m, (size_t)arg[2], (int)arg[3])))
		result(r);
}

/* slot type size flags */
static void do_receive(void)
{
	memset(&m, 0xee, sizeof m);
	long n = 0;
	volatile uint32_t sum = 0;
	if (!SLEEPS(n = msgrcv(id_of(MSG), &m, (size_t)arg[2], arg[1], (int)arg[3])) || !result(n))
		return;
	for (size_t i = 0; i < sizeof m.text; i++)	/* what lies behind the text, too */
		sum = sum * 31 + m.text[i];
	say(" type=%ld sum=%08x", m.type, sum);
}

/* family usage(0: the limits) */
static void do_info(void)
{
	union { struct shminfo shm; struct shm_info used; struct seminfo sem; struct msginfo msg; } u;
	memset(&u, 0x5a, sizeof u);
	if (arg[0] == SHM) {
		if (!result(shmctl(0, arg[1] ? SHM_INFO : IPC_INFO, (struct shmid_ds *)&u) < 0 ? -1 : 0))
			return;
		if (arg[1])
			say(" %d %lu %lu %lu", u.used.used_ids, u.used.shm_tot, u.used.swap_attempts, u.used.swap_successes);
		else
			say(" %lu %lu %lu %lu %lu", u.shm.shmmax, u.shm.shmmin, u.shm.shmmni, u.shm.shmseg, u.shm.shmall);
	} else if (arg[0] == SEM) {
		if (result(semctl(0, 0, arg[1] ? SEM_INFO : IPC_INFO, (union semun){ .buf = &u }) < 0 ? -1 : 0))
			say(" %d %d %d %d %d %d %d %d %d %d", u.sem.semmap, u.sem.semmni, u.sem.semmns, u.sem.semmnu,
			    u.sem.semmsl, u.sem.semopm, u.sem.semume, u.sem.semusz, u.sem.semvmx, u.sem.semaem);
	} else if (result(msgctl(0, arg[1] ? MSG_INFO : IPC_INFO, (struct msqid_ds *)&u) < 0 ? -1 : 0)) {
		say(" %d %d %d %d %d %d %d %u", u.msg.msgpool, u.msg.msgmap, u.msg.msgmax, u.msg.msgmnb, u.msg.msgmni,
		    u.msg.msgssz, u.msg.msgtql, u.msg.msgseg);
	}
}

/* family usage: of what do_info says, all that package client has, too */
static void do_limits(void)
{
	union { struct shminfo shm; struct shm_info used; struct seminfo sem; struct msginfo msg; } u;
	if (arg[0] == SHM) {
		shmctl(0, arg[1] ? SHM_INFO : IPC_INFO, (struct shmid_ds *)&u);
		if (arg[1])
			say(" %d %lu", u.used.used_ids, u.used.shm_tot);
		else
			say(" %lu %lu %lu", u.shm.shmmax, u.shm.shmmni, u.shm.shmall);
	} else if (arg[0] == SEM) {
		semctl(0, 0, arg[1] ? SEM_INFO : IPC_INFO, (union semun){ .buf = &u });
		if (arg[1])
			say(" %d %d", u.sem.semusz, u.sem.semaem);
		else
			say(" %d %d %d %d", u.sem.semmni, u.sem.semmns, u.sem.semmsl, u.sem.semopm);
	} else {
		msgctl(0, arg[1] ? MSG_INFO : IPC_INFO, (struct msqid_ds *)&u);
		if (arg[1])
			say(" %d", u.msg.msgpool);
		else
			say(" %d %d %d", u.msg.msgmax, u.msg.msgmnb, u.msg.msgmni);
	}
}

void handler_calls(void)
{
	struct { long type; char text[4]; } note = { 3, "abc" };
	struct sembuf up = { 0, 1, IPC_NOWAIT };
	say(" handler:");
	result(semop(atomic_load(&board->id[SEM][0]), &up, 1));
	result(semctl(atomic_load(&board->id[SEM][0]), 0, GETNCNT));
	result(msgsnd(atomic_load(&board->id[MSG][0]), &note, 4, IPC_NOWAIT));
}

/* family slot: a vfork child, whose memory is the parent's, looks only: what it changed would be its
 * parent's doing in a space, a known difference (row 135). */
static void do_vfork(void)
{
	int family = (int)arg[0], slot = (int)arg[1];
	volatile int r = 0, e = 0;
	int id = atomic_load(&board->id[family][slot]);
	pid_t p = vfork();
	if (p == 0) {
		struct shmid_ds d;
		r = family == SHM ? shmctl(id, IPC_STAT, &d) : family == SEM ? semctl(id, 0, GETVAL) : msgget(0x49440001, 0) < 0 ? -1 : 0;
		e = errno;
		_exit(0);
	}
	errno = e;
	result(p < 0 ? -1 : r);
}

int perform_call(const char *name)
{
	static const char *const families[] = { "shm", "sem", "msg" };
	static const struct { const char *name; void (*run)(void); } calls[] = {
		{ "semop", do_semop }, { "msgsnd", do_send }, { "msgrcv", do_receive },
		{ "info", do_info }, { "limits", do_limits }, { "vfork", do_vfork },
	};
	static const struct { const char *name; int cmd; } commands[] = {
		{ "getval", GETVAL }, { "getpid", GETPID }, { "getncnt", GETNCNT }, { "getzcnt", GETZCNT },
		{ "getall", GETALL }, { "setval", SETVAL }, { "setall", SETALL },
	};
	for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
		if (strcmp(name, calls[i].name) == 0)
			return calls[i].run(), 1;
	for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
		if (strcmp(name, commands[i].name) == 0)
			return do_semctl(commands[i].cmd), 1;
	for (int f = SHM; f <= MSG; f++) {
		if (strncmp(name, families[f], 3) != 0)
			continue;
		if (strcmp(name + 3, "get") == 0)
			return do_get(f), 1;
		if (strcmp(name + 3, "stat") == 0)
			return do_stat(f), 1;
		if (strcmp(name + 3, "set") == 0)
			return do_set(f), 1;
		if (strcmp(name + 3, "widen") == 0)
			return do_widen(f), 1;
		if (strcmp(name + 3, "rmid") == 0)
			return result(ctl(f, id_of(f), IPC_RMID, NULL)), 1;
	}
	return perform_attach(name);
}
