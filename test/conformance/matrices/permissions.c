/* Who may do what: callers of all classes by modes by calls. The object is made by root and given to user 1001
 * and group 2001. */
#include "matrix.h"
#include <grp.h>
#include <sys/fsuid.h>

#define KEY 0x5000
enum { OWNER = 1001, GROUP = 2001, STRANGER = 1003, OTHERS = 9 };

static void as_owner(void) { setgroups(0, NULL); setgid(OTHERS); setuid(OWNER); }
static void as_group(void) { setgroups(0, NULL); setgid(GROUP); setuid(STRANGER); }
static void as_supplementary(void) { setgroups(1, (gid_t[]){ GROUP }); setgid(OTHERS); setuid(STRANGER); }
static void as_other(void) { setgroups(0, NULL); setgid(OTHERS); setuid(STRANGER); }
static void as_effective_other(void) { setgroups(0, NULL); (void)!setegid(OTHERS); (void)!seteuid(STRANGER); }
static void as_creators_group(void) { setgroups(0, NULL); (void)!setegid(0); (void)!seteuid(STRANGER); }
static void as_fsgid(void)
{
	setgroups(0, NULL);
	(void)!setresgid(OTHERS, OTHERS, GROUP);
	(void)!seteuid(STRANGER);
	setfsgid(GROUP);
}
static void as_other_fsgid(void)
{
	setgroups(0, NULL);
	(void)!setresgid(OTHERS, GROUP, OTHERS);
	setfsgid(OTHERS);
	(void)!seteuid(STRANGER);
}

static const struct { const char *name; void (*become)(void); } callers[] = {
	{ "owner", as_owner }, { "group", as_group }, { "supplementary group", as_supplementary }, { "other", as_other },
	{ "effective other", as_effective_other }, { "creator's group", as_creators_group }, { "fsgid", as_fsgid },
	{ "group, other fsgid", as_other_fsgid },
};
static const int modes[] = { 0, 0400, 0200, 0100, 0600, 0700, 0040, 0020, 0060, 0004, 0002, 0006, 0444, 0222, 0666,
	0640, 0604, 0777 };

static char row[128];
#define T(...) TRY_IN(row, __VA_ARGS__)

static void by_key(enum family f)
{
	static const int asked[] = { 0, 0400, 0200, 0600, 0100, 0044, 0006, 0777 };
	for (size_t i = 0; i < COUNT(asked); i++) {
		printf("%04o: ", asked[i]);
		T(get(f, KEY, 0, asked[i]) >= 0 ? 0 : -1);
	}
	T(get(f, KEY, 9, IPC_CREAT | IPC_EXCL));
	T(get(f, KEY, 9999, 0600) >= 0 ? 0 : -1);
}

static void segment(int id)
{
	static const int flags[] = { 0, SHM_RDONLY, SHM_EXEC, SHM_RDONLY | SHM_EXEC };
	for (size_t i = 0; i < COUNT(flags); i++) {
		void *p = NULL;
		printf("%#x: ", flags[i]);
		T((p = shmat(id, NULL, flags[i])) == (void *)-1 ? -1 : 0);
		if (p != (void *)-1)
			T(shmdt(p));
	}
	T(shmctl(id, SHM_LOCK, NULL));
	T(shmctl(id, SHM_UNLOCK, NULL));
}

static void semaphores(int id)
{
	struct sembuf up = { 0, 1, IPC_NOWAIT }, zero = { 1, 0, IPC_NOWAIT }, down = { 1, -1, IPC_NOWAIT }, big = { 9, 1, 0 };
	struct sembuf both[2] = { zero, up };
	unsigned short v[2] = { 1, 1 };
	T(semop(id, &up, 1));
	T(semop(id, &zero, 1));
	T(semop(id, &down, 1));
	T(semop(id, &big, 1));
	T(semop(id, both, 2));
	T(semctl(id, 0, GETVAL));
	T(semctl(id, 9, GETVAL));
	T(semctl(id, 0, SETVAL, 3));
	T(semctl(id, 9, SETVAL, 3));
	T(semctl(id, 0, GETALL, v));
	T(semctl(id, 0, SETALL, v));
	T(semctl(id, 0, GETALL, nowhere));
	T(semctl(id, 0, SETALL, nowhere));
	T(semctl(id, 0, GETNCNT));
	T(semctl(id, 0, GETZCNT));
	T(semctl(id, 0, GETPID) >= 0 ? 0 : -1);
}

static void queue(int id)
{
	struct { long type; char text[8]; } m = { 1, "abc" };
	T(msgsnd(id, &m, 3, IPC_NOWAIT));
	T(msgrcv(id, &m, 3, 0, IPC_NOWAIT | MSG_COPY));
	T(msgrcv(id, &m, 3, 0, IPC_NOWAIT));
	T(msgrcv(id, &m, 3, 0, IPC_NOWAIT));
	m.type = 0;
	T(msgsnd(id, &m, 3, IPC_NOWAIT));
}

static void control(enum family f, int id)
{
	union any_ds ds = { 0 };
	T(ctl(f, id, IPC_STAT, &ds));
	T(ctl(f, id, IPC_STAT, nowhere));
	T(ctl(f, id & 0x7fff, stat_cmd(f), &ds) >= 0 ? 0 : -1);
	T(ctl(f, id & 0x7fff, stat_any_cmd(f), &ds) >= 0 ? 0 : -1);
	if (f == MSG)
		ds.msg.msg_qbytes = 16385;
	T(ctl(f, id, IPC_SET, &ds));
	if (f == MSG)
		ds.msg.msg_qbytes = 100;
	perm_of(f, &ds)->uid = (uid_t)-1;
	T(ctl(f, id, IPC_SET, &ds));
	perm_of(f, &ds)->uid = OWNER;
	perm_of(f, &ds)->mode = 0600;
	T(ctl(f, id, IPC_SET, &ds));
	T(ctl(f, id, IPC_SET, nowhere));
	T(ctl(f, id, IPC_STAT, &ds));
	T(ctl(f, id, IPC_RMID, nowhere));
	T(ctl(f, id, IPC_RMID, NULL));
}

static void one(size_t caller, int mode)
{
	int ids[3];
	EACH_FAMILY(f) {
		union any_ds ds = { 0 };
		ids[f] = make(f, KEY, f == SEM ? 2 : 100, IPC_CREAT | mode);
		ctl(f, ids[f], IPC_STAT, &ds);
		perm_of(f, &ds)->uid = OWNER;
		perm_of(f, &ds)->gid = GROUP;
		ctl(f, ids[f], IPC_SET, &ds);
	}
	callers[caller].become();
	EACH_FAMILY(f) {
		snprintf(row, sizeof row, "%s, %04o, %s: ", callers[caller].name, mode, family_names[f]);
		by_key(f);
		f == SHM ? segment(ids[f]) : f == SEM ? semaphores(ids[f]) : queue(ids[f]);
		control(f, ids[f]);
	}
}

int main(void)
{
	map_pages();
	for (size_t c = 0; c < COUNT(callers); c++)
		for (size_t m = 0; m < COUNT(modes); m++) {
			fflush(stdout);
			pid_t p = fork();
			if (p == 0) {
				one(c, modes[m]);
				fflush(stdout);
				_exit(0);
			}
			int status;
			waitpid(p, &status, 0);
			printf("%s, %04o: ended with %#x, left", callers[c].name, modes[m], status);
			EACH_FAMILY(f) {
				int id = get(f, KEY, 0, 0);
				printf(" %s", id >= 0 ? family_names[f] : "-");
				if (id >= 0)
					ctl(f, id, IPC_RMID, NULL);
			}
			printf("\n");
		}
	return 0;
}
