/* The structs that programs hand to the *ctl calls: asm-generic/ipcbuf.h,
 * sembuf.h, shmbuf.h, msgbuf.h and their x86 versions; linux/{sem,shm,msg}.h. */
#ifndef IPCSPACE_CTL_H
#define IPCSPACE_CTL_H

#include "object.h"

#define IPC_RMID 0
#define IPC_SET 1
#define IPC_STAT 2
#define IPC_INFO 3

struct user_perm {
	uint32_t key, uid, gid, cuid, cgid, mode;
	uint16_t seq, pad;
	uint32_t hole;
	uint64_t unused[2];
};
_Static_assert(sizeof(struct user_perm) == 48, "ipc64_perm");

struct user_semid {
	struct user_perm perm;
	int64_t otime;
#if defined(__x86_64__)
	uint64_t unused1;
#endif
	int64_t ctime;
#if defined(__x86_64__)
	uint64_t unused2;
#endif
	uint64_t nsems;
	uint64_t unused3[2];
};

struct user_shmid {
	struct user_perm perm;
	uint64_t segsz;
	int64_t atime, dtime, ctime;
	uint32_t cpid, lpid;
	uint64_t nattch;
	uint64_t unused[2];
};
_Static_assert(sizeof(struct user_shmid) == 112, "shmid64_ds");

struct user_msqid {
	struct user_perm perm;
	int64_t stime, rtime, ctime;
	uint64_t cbytes, qnum, qbytes;
	uint32_t lspid, lrpid;
	uint64_t unused[2];
};
_Static_assert(sizeof(struct user_msqid) == 120, "msqid64_ds");

/* Answers of the manager to the STAT commands, and IPC_SET, IPC_RMID. */
long ctl_stat(int family, int id, int cmd, struct abi_stat *stat);
long ctl_set(int family, int id, const struct user_perm *perm, const uint64_t *qbytes);
long ctl_remove(int family, int id);
/* The highest used index, 0 if none is used: what the INFO commands return. */
long ctl_max_index(int family);
void ctl_perm(struct user_perm *to, const struct abi_stat *stat);
/* The same from a record. Field by field where they stay: what is written in
 * small pieces and copied in large ones at once has to be waited for. */
static inline void ctl_record(struct user_perm *to, const struct abi_record *r)
{
	to->key = r->key;
	to->uid = r->uid;
	to->gid = r->gid;
	to->cuid = r->cuid;
	to->cgid = r->cgid;
	to->mode = r->mode;
	to->seq = (uint16_t)(r->id >> ABI_INDEX_BITS);
	to->pad = 0;
	to->hole = 0;
	to->unused[0] = to->unused[1] = 0;
}
/* A set or queue whose memory this process has, for IPC_STAT without a message
 * into size bytes at buf, and its record; NULL: not so. */
struct handle *ctl_here(struct call *c, int family, int id, void *buf, size_t size,
			const struct abi_record **r);
/* Copies a result to the program. */
long ctl_store(void *to, const void *from, size_t n, long result);
/* A *get call: the key space without a message where that decides it. */
long get_object(int family, uint32_t key, uint64_t size, int flags);

#endif
