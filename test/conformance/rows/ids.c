/* Rows 1 to 18 and 21: identifiers, keys, and what the three *get calls have in common. */
#include "case.h"

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
