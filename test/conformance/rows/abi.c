/* Rows 239 to 242: structures, symbol versions, and system calls past libc. */
#include "case.h"
#include <dlfcn.h>

#if defined __GLIBC__ && defined __x86_64__
ROW(239, "the structures' layouts")
{
	EXPECT_EQ(sizeof(struct ipc_perm), 48);
	EXPECT_EQ(offsetof(struct ipc_perm, uid), 4);
	EXPECT_EQ(offsetof(struct ipc_perm, cuid), 12);
	EXPECT_EQ(offsetof(struct ipc_perm, mode), 20);
	EXPECT_EQ(offsetof(struct ipc_perm, __seq), 24);
	EXPECT_EQ(sizeof(struct shmid_ds), 112);
	EXPECT_EQ(offsetof(struct shmid_ds, shm_segsz), 48);
	EXPECT_EQ(offsetof(struct shmid_ds, shm_atime), 56);
	EXPECT_EQ(offsetof(struct shmid_ds, shm_dtime), 64);
	EXPECT_EQ(offsetof(struct shmid_ds, shm_ctime), 72);
	EXPECT_EQ(offsetof(struct shmid_ds, shm_cpid), 80);
	EXPECT_EQ(offsetof(struct shmid_ds, shm_lpid), 84);
	EXPECT_EQ(offsetof(struct shmid_ds, shm_nattch), 88);
	EXPECT_EQ(sizeof(struct semid_ds), 104);
	EXPECT_EQ(offsetof(struct semid_ds, sem_otime), 48);
	EXPECT_EQ(offsetof(struct semid_ds, sem_ctime), 64);
	EXPECT_EQ(offsetof(struct semid_ds, sem_nsems), 80);
	EXPECT_EQ(sizeof(struct msqid_ds), 120);
	EXPECT_EQ(offsetof(struct msqid_ds, msg_stime), 48);
	EXPECT_EQ(offsetof(struct msqid_ds, msg_ctime), 64);
	EXPECT_EQ(offsetof(struct msqid_ds, __msg_cbytes), 72);
	EXPECT_EQ(offsetof(struct msqid_ds, msg_qnum), 80);
	EXPECT_EQ(offsetof(struct msqid_ds, msg_qbytes), 88);
	EXPECT_EQ(offsetof(struct msqid_ds, msg_lspid), 96);
	EXPECT_EQ(offsetof(struct msqid_ds, msg_lrpid), 100);
	EXPECT_EQ(sizeof(struct shminfo), 72);
	EXPECT_EQ(sizeof(struct shm_info), 48);
	EXPECT_EQ(sizeof(struct seminfo), 40);
	EXPECT_EQ(sizeof(struct msginfo), 32);
}
#endif

static void expect_writes_up_to(enum family f, int id, int cmd, size_t size)
{
	unsigned char room[512];
	memset(room, 0xa5, sizeof room);
	MUST(ctl(f, id, cmd, room));
	for (size_t i = size; i < sizeof room; i++)
		if (room[i] != 0xa5)
			FAIL("family %d, command %d: byte %zu written, the structure has %zu", f, cmd, i, size);
}

ROW(239, "no byte past the end of a structure is written")
{
	int id[3] = { new_segment(1), new_set(1), new_queue() };
	static const size_t ds[] = { sizeof(struct shmid_ds), sizeof(struct semid_ds), sizeof(struct msqid_ds) };
	static const size_t limits[] = { sizeof(struct shminfo), sizeof(struct seminfo), sizeof(struct msginfo) };
	static const size_t infos[] = { sizeof(struct shm_info), sizeof(struct seminfo), sizeof(struct msginfo) };
	EACH_FAMILY(f) {
		expect_writes_up_to(f, id[f], IPC_STAT, ds[f]);
		expect_writes_up_to(f, id[f] & 0x7fff, stat_cmd(f), ds[f]);
		expect_writes_up_to(f, id[f] & 0x7fff, stat_any_cmd(f), ds[f]);
		expect_writes_up_to(f, 0, IPC_INFO, limits[f]);
		expect_writes_up_to(f, 0, info_cmd(f), infos[f]);
	}
}

#if defined __GLIBC__ && defined __x86_64__
static int (*versioned(const char *name, const char *version))(int, int, int)
{
	void *f = dlvsym(RTLD_DEFAULT, name, version);
	if (!f)
		FAIL("no %s@%s", name, version);
	return (int (*)(int, int, int))f;
}

ROW(240, "the symbols have their versions, and lead to the same objects")
{
	static const char *const base[] = { "shmget", "shmat", "shmdt", "shmctl", "semget", "semop",
		"semctl", "msgget", "msgsnd", "msgrcv", "msgctl" };
	for (int i = 0; i < 11; i++)
		versioned(base[i], "GLIBC_2.2.5");
	versioned("semtimedop", "GLIBC_2.3.3");
	key_t key = free_key();
	int set = keep(SEM, MUST(semget(key, 1, IPC_CREAT | 0600)));
	int q = keep(MSG, MUST(msgget(key, IPC_CREAT | 0600)));
	EXPECT_EQ(versioned("semget", "GLIBC_2.2.5")(key, 0, 0), set);
	EXPECT_EQ(versioned("msgget", "GLIBC_2.2.5")(key, 0, 0), q);
	set_value(set, 0, 9);
	EXPECT_EQ(versioned("semctl", "GLIBC_2.2.5")(set, 0, GETVAL), 9);
}

ROW(240, "a program that looks them up itself gets the same")
{
	key_t key = free_key();
	int set = keep(SEM, MUST(semget(key, 1, IPC_CREAT | 0600)));
	int (*get_set)(key_t, int, int) = (int (*)(key_t, int, int))dlsym(RTLD_DEFAULT, "semget");
	EXPECT(get_set != NULL);
	EXPECT_EQ(get_set(key, 0, 0), set);
}
#endif

#ifdef SYS_semget
ROW(241, "raw system calls reach the same objects")
{
	key_t key = free_key();
	int set = keep(SEM, MUST(semget(key, 1, IPC_CREAT | 0600)));
	int id = keep(SHM, MUST(shmget(key, 4096, IPC_CREAT | 0600)));
	int q = keep(MSG, MUST(msgget(key, IPC_CREAT | 0600)));
	EXPECT_EQ_OR_ERRNO(syscall(SYS_semget, key, 0, 0), set);
	EXPECT_EQ_OR_ERRNO(syscall(SYS_shmget, key, 0, 0), id);
	EXPECT_EQ_OR_ERRNO(syscall(SYS_msgget, key, 0), q);
	struct sembuf up = { 0, 1, 0 };
	EXPECT_OK(syscall(SYS_semop, set, &up, 1));
	EXPECT_EQ(value(set, 0), 1);
	char *m = MUST(shmat(id, NULL, 0));
	char *raw = (char *)syscall(SYS_shmat, id, NULL, 0);
	EXPECT(raw != (void *)-1);
	raw[7] = 'r';
	EXPECT_EQ(m[7], 'r');
	EXPECT_OK(syscall(SYS_shmdt, raw));
}
#endif

#if defined __x86_64__
ROW(242, "the 64-bit calls know no IPC_64 flag")
{
	EACH_FAMILY(f) {
		union any_ds ds;
		int id = MUST(get(f, IPC_PRIVATE, 1, 0600));
		EXPECT_ERR(ctl(f, id, IPC_STAT | 0x100, &ds), EINVAL);
		EXPECT_ERR(ctl(f, id, IPC_RMID | 0x100, NULL), EINVAL);
		MUST(ctl(f, id, IPC_STAT, &ds));
	}
}
#endif
