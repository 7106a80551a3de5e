/* Rows 22 to 30: permissions. Rows 31 to 41 are in ctl.c. */
#include "case.h"

#include <sys/fsuid.h>

/* One object of each family with this mode, owned by STRANGER, group OTHER. */
static void make_all(int id[3], int mode)
{
	EACH_FAMILY(f) {
		union any_ds ds;
		id[f] = MUST(get(f, IPC_PRIVATE, 1, mode));
		MUST(ctl(f, id[f], IPC_STAT, &ds));
		perm_of(f, &ds)->uid = STRANGER;
		perm_of(f, &ds)->gid = OTHER;
		MUST(ctl(f, id[f], IPC_SET, &ds));
	}
}

static int try_read(enum family f, int id)
{
	union any_ds ds;
	return ctl(f, id, IPC_STAT, &ds);
}

static int try_write(enum family f, int id)
{
	if (f == SEM)
		return semctl(id, 0, SETVAL, (union semun){ .val = 0 });
	if (f == MSG)
		return send_text(id, 1, "", 0);
	void *p = shmat(id, NULL, 0);	/* read and write; the cases give both or none */
	if (p == (void *)-1)
		return -1;
	return shmdt(p);
}

static void expect_access(const int id[3], bool reads, bool writes)
{
	EACH_FAMILY(f) {
		if (reads)
			EXPECT_OK(try_read(f, id[f]));
		else
			EXPECT_ERR(try_read(f, id[f]), EACCES);
		if (writes && (f != SHM || reads))
			EXPECT_OK(try_write(f, id[f]));
		else
			EXPECT_ERR(try_write(f, id[f]), EACCES);
	}
}

static void as_user_expect(uid_t uid, gid_t gid, gid_t extra, const int id[3], bool reads, bool writes)
{
	pid_t p;
	CHILD(p) {
		if (extra) {
			MUST(setgroups(1, &extra));
			MUST(setresgid(gid, gid, gid));
			MUST(setresuid(uid, uid, uid));
		} else {
			become(uid, gid);
		}
		expect_access(id, reads, writes);
	}
	JOIN(p);
}

ROW(22, "owner, group and other bits each for their class")
{
	NEED_ROOT();
	int id[3];
	make_all(id, 0640);
	as_user_expect(STRANGER, 7, 0, id, true, true);
	as_user_expect(777, OTHER, 0, id, true, false);
	as_user_expect(777, 7, OTHER, id, true, false);
	as_user_expect(777, 7, 0, id, false, false);
	make_all(id, 0606);
	as_user_expect(777, 7, 0, id, true, true);
	as_user_expect(777, OTHER, 0, id, false, false);
	make_all(id, 0060);
	as_user_expect(777, 7, OTHER, id, true, true);
}

ROW(22, "the creator's group counts as the owner's does")
{
	NEED_ROOT();
	int id[3];
	MUST(setresgid(4242, 4242, 0));
	make_all(id, 0060);
	MUST(setresgid(0, 0, 0));
	as_user_expect(777, 4242, 0, id, true, true);
	as_user_expect(777, OTHER, 0, id, true, true);
	as_user_expect(777, 7, 4242, id, true, true);
}

ROW(22, "the group that counts is that of setfsgid")
{
	NEED_ROOT();
	int id[3];
	pid_t p;
	make_all(id, 0060);
	CHILD(p) {
		MUST(setgroups(0, NULL));
		MUST(setresgid(7, 7, OTHER));
		MUST(setresuid(777, 777, 777));
		expect_access(id, false, false);
		setfsgid(OTHER);
		expect_access(id, true, true);
		setfsgid(7);
		expect_access(id, false, false);
	}
	JOIN(p);
	CHILD(p) {
		MUST(setgroups(0, NULL));
		MUST(setresgid(7, OTHER, 7));
		setfsgid(7);
		MUST(setresuid(777, 777, 777));
		expect_access(id, false, false);
	}
	JOIN(p);
}

ROW(23, "an owner without the bit is not rescued by group or other bits")
{
	NEED_ROOT();
	int id[3];
	make_all(id, 0066);
	as_user_expect(STRANGER, OTHER, 0, id, false, false);
	make_all(id, 0466);
	as_user_expect(STRANGER, OTHER, 0, id, true, false);
	make_all(id, 0206);
	as_user_expect(STRANGER, OTHER, 0, id, false, true);
}

ROW(24, "the creator keeps the owner's class after giving the object away")
{
	NEED_ROOT();
	pid_t p;
	CHILD(p) {
		become(777, 7);
		int id[3];
		make_all(id, 0600);
		expect_access(id, true, true);
		EACH_FAMILY(f)	/* IPC_SET as well */
			EXPECT_OK(ctl(f, id[f], IPC_RMID, NULL));
	}
	JOIN(p);
}

ROW(25, "CAP_IPC_OWNER passes every check of read and write")
{
	NEED_ROOT();
	int id[3];
	make_all(id, 0000);
	pid_t p;
	CHILD(p) {
		MUST(setresuid(-1, 777, -1));
		only_capability(-1);
		expect_access(id, false, false);
		only_capability(CAP_OWN_IPC);
		expect_access(id, true, true);
		only_capability(CAP_ADMIN);
		expect_access(id, false, false);
	}
	JOIN(p);
}

ROW(25, "a capability in a user namespace that the caller made is none here")
{
	NEED_ROOT();
	int id[3];
	make_all(id, 0000);
	pid_t p;
	CHILD(p) {
		become(777, 7);
		if (unshare(CLONE_NEWUSER) < 0)
			SKIP("no user namespace: %s", errno_name(errno));
		EXPECT(has_cap(CAP_OWN_IPC));
		expect_access(id, false, false);
		EACH_FAMILY(f)
			EXPECT_ERR(ctl(f, id[f], IPC_RMID, NULL), EPERM);
	}
	JOIN(p);
}

ROW(26, "IPC_SET and IPC_RMID are for owner, creator and CAP_SYS_ADMIN; mode bits do not matter")
{
	NEED_ROOT();
	int id[3];
	union any_ds ds[3];
	pid_t p;
	make_all(id, 0666);
	EACH_FAMILY(f)
		MUST(ctl(f, id[f], IPC_STAT, &ds[f]));
	CHILD(p) {
		become(777, OTHER);
		EACH_FAMILY(f) {
			EXPECT_ERR(ctl(f, id[f], IPC_SET, &ds[f]), EPERM);
			EXPECT_ERR(ctl(f, id[f], IPC_RMID, NULL), EPERM);
		}
	}
	JOIN(p);
	CHILD(p) {
		MUST(setresuid(-1, 777, -1));
		only_capability(CAP_OWN_IPC);
		EACH_FAMILY(f) {
			EXPECT_ERR(ctl(f, id[f], IPC_SET, &ds[f]), EPERM);
			EXPECT_ERR(ctl(f, id[f], IPC_RMID, NULL), EPERM);
		}
		only_capability(CAP_ADMIN);
		EACH_FAMILY(f) {
			EXPECT_OK(ctl(f, id[f], IPC_SET, &ds[f]));
			EXPECT_OK(ctl(f, id[f], IPC_RMID, NULL));
		}
	}
	JOIN(p);
	make_all(id, 0000);
	CHILD(p) {
		become(STRANGER, 7);
		EACH_FAMILY(f) {
			perm_of(f, &ds[f])->mode = 0;
			EXPECT_OK(ctl(f, id[f], IPC_SET, &ds[f]));
			EXPECT_OK(ctl(f, id[f], IPC_RMID, NULL));
		}
	}
	JOIN(p);
}

ROWS("27,28", "IPC_STAT and *_STAT need read permission, *_STAT_ANY none")
{
	NEED_ROOT();
	int id[3];
	pid_t p;
	make_all(id, 0222);
	CHILD(p) {
		become(777, 7);
		EACH_FAMILY(f) {
			union any_ds ds;
			memset(&ds, 0, sizeof ds);
			EXPECT_ERR(ctl(f, id[f], IPC_STAT, &ds), EACCES);
			EXPECT_ERR(ctl(f, id[f] & 0x7fff, stat_cmd(f), &ds), EACCES);
			EXPECT_EQ_OR_ERRNO(ctl(f, id[f] & 0x7fff, stat_any_cmd(f), &ds), id[f]);
			EXPECT_EQ(perm_of(f, &ds)->uid, STRANGER);
		}
	}
	JOIN(p);
}

ROW(29, "IPC_INFO and *_INFO need no permission")
{
	NEED_ROOT();
	int id[3];
	pid_t p;
	make_all(id, 0000);
	CHILD(p) {
		become(777, 7);
		EACH_FAMILY(f) {
			union any_ds room;
			MUST(ctl(f, 0, IPC_INFO, &room));
			MUST(ctl(f, 0, info_cmd(f), &room));
		}
	}
	JOIN(p);
}

ROW(30, "checks use the credentials of the time of the call: setuid after the first use matters")
{
	NEED_ROOT();
	int id[3];
	pid_t p;
	make_all(id, 0600);
	CHILD(p) {
		expect_access(id, true, true);
		void *attached = MUST(shmat(id[SHM], NULL, 0));
		MUST(setgroups(0, NULL));
		MUST(setresgid(7, 7, 7));
		MUST(setresuid(777, 777, 0));
		expect_access(id, false, false);
		EXPECT_EQ(fault(attached, true), 0);	/* a mapping outlives setuid */
		MUST(setresuid(-1, 0, -1));
		expect_access(id, true, true);
		MUST(setresuid(STRANGER, STRANGER, STRANGER));
		expect_access(id, true, true);
	}
	JOIN(p);
}

ROW(30, "and so do setgroups and capset")
{
	NEED_ROOT();
	int id[3];
	pid_t p;
	make_all(id, 0060);
	CHILD(p) {
		gid_t group = OTHER;
		MUST(setgroups(0, NULL));
		MUST(setresgid(7, 7, 7));
		MUST(setresuid(-1, 777, -1));
		only_capability(CAP_OWN_IPC);
		expect_access(id, true, true);
		only_capability(-1);
		expect_access(id, false, false);
		MUST(setresuid(-1, 0, -1));
		MUST(setgroups(1, &group));
		MUST(setresuid(-1, 777, -1));
		only_capability(-1);
		expect_access(id, true, true);
	}
	JOIN(p);
}

/* Twice, a thread that gives up its rights to objects of this mode; the process keeps its own. */
static void expect_own_credentials(void *(*thread)(void *), int mode)
{
	NEED_ROOT();
	int id[3];
	pid_t p;
	make_all(id, mode);
	CHILD(p) {
		expect_access(id, true, true);
		for (int i = 0; i < 2; i++) {
			in_thread(thread, id);
			expect_access(id, true, true);
		}
	}
	JOIN(p);
}

static void *thread_with_own_uid(void *ids)
{
	/* The raw call changes this thread alone; libc's changes all. */
	MUST(syscall(SYS_setresuid, -1, 777, -1));
	expect_access(ids, false, false);
	return NULL;
}

ROW(30, "credentials are the calling thread's")
{
	expect_own_credentials(thread_with_own_uid, 0600);
}

static void *refused(void *ids)
{
	expect_access(ids, false, false);
	return NULL;
}

static void *makes_thread_with_own_uid(void *ids)
{
	MUST(syscall(SYS_setresuid, -1, 777, -1));
	in_thread(refused, ids);
	expect_access(ids, false, false);
	return NULL;
}

ROW(30, "a thread has the credentials of the one that made it")
{
	expect_own_credentials(makes_thread_with_own_uid, 0600);
}

static int capset_of_libc(void *head, void *data)
{
	extern int capset(void *, void *);
	return capset(head, data);
}

static void *without_capabilities(void *ids)
{
	struct cap_head h = { 0x20080522, 0 };
	struct cap_data d[2] = { { 0 } };
	MUST(capset_of_libc(&h, d));
	expect_access(ids, false, false);
	return NULL;
}

ROW(30, "capset is the calling thread's alone")
{
	expect_own_credentials(without_capabilities, 0);
}

static void *while_the_process_changes(void *ids)
{
	set_effective(CAP_LOCK_MEMORY, false);	/* this thread's own from now on */
	expect_access(ids, true, true);
	atomic_store(&board->n[0], 1);
	UNTIL(atomic_load(&board->n[0]) == 2);
	expect_access(ids, false, false);
	return NULL;
}

ROW(30, "setuid changes threads that have some of their own, too")
{
	NEED_ROOT();
	int id[3];
	pid_t p;
	make_all(id, 0600);
	CHILD(p) {
		pthread_t t;
		EXPECT_EQ(pthread_create(&t, NULL, while_the_process_changes, id), 0);
		UNTIL(atomic_load(&board->n[0]) == 1);
		MUST(setresuid(777, 777, 777));
		atomic_store(&board->n[0], 2);
		EXPECT_EQ(pthread_join(t, NULL), 0);
		expect_access(id, false, false);
	}
	JOIN(p);
}

ROWS("22,195", "who may only read a queue needs no longer a buffer than the message is")
{
	NEED_ROOT();
	int q = keep(MSG, MUST(msgget(IPC_PRIVATE, 0604)));
	pid_t p;
	EXPECT_OK(send_text(q, 7, "12345678", 0));
	EXPECT_OK(send_text(q, 9, "123456789", 0));
	CHILD(p) {
		become(STRANGER, OTHER);
		expect_short_buffer(q);
	}
	JOIN(p);
	EXPECT_EQ(queue_stat(q).msg_qnum, 0);
}
