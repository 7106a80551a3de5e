/* What session.c, connect.c, channel.c, packet.c, spare.c and fork.c share. */
#ifndef IPCSPACE_SESSION_H
#define IPCSPACE_SESSION_H

#include "ipcspace.h"

#define DIR_MAX 256

/* Spares that came at once: pages in a place for so many. But for the child that gets it,
 * none is in the memory of a child. */
struct spares {
	struct abi_session_page *page;
	uint32_t room, count, used;
};

/* The control side of the session. Guarded by control_lock(). */
struct control {
	char dir[DIR_MAX];     /* the space's public folder */
	int channel;	       /* descriptor, -1: none */
	uint64_t channel_inode; /* of the socket: a descriptor can be closed or
				   replaced by the program at any time */
	int other_channel;     /* a vfork child's, or its parent's: they share this, but
				   not their descriptors */
	uint64_t other_inode;
	int pulse;
	uint64_t pulse_inode;
	uint32_t seq;
	uint32_t spare_asked; /* the number of a MsgSpare whose reply is not read, 0: none */
	struct spares spares[2]; /* those that the next forks use, and those that come then */
	/* The session's page, once no child has it, not even one of a raw clone: a mapping
	 * less to copy, and one less for the child to let go of. */
	struct abi_session_page *page_kept;
	struct abi_session_page *child_page; /* the spare that the fork under way takes, NULL: none */
	uint32_t used_spare;		     /* its session */
	bool forking;	     /* a fork waits for its spare */
	bool hasty;	     /* nobody waits for a manager that is away */
	bool may_sleep;	     /* the call that waits for the manager is none that blocks */
};
extern OURS struct control control;

/* The value of a variable of the process's environment, NULL: it has none. */
const char *environment_value(const char *name);
const char *environment_of(char *const envp[], const char *name);

/* What the environment said when the library was loaded. */
struct configured {
	bool dir_named, required, writable_ok;
	char **environment; /* where it stood then: what has been taken out since is not there */
};
extern OURS struct configured configured;

/* --- environment.c ------------------------------------------------------ */

#define ENVIRONMENT_PATH 1024
#define ENVIRONMENT_MOST 4

/* Room for what is added to an environment. */
struct environment {
	char preload[ENVIRONMENT_PATH + 16];
	char dir[DIR_MAX + 16];
	char home[40];
};

/* How many entries envp has; false: it cannot be read. */
bool environment_count(char *const envp[], size_t *count);
/* Whether they say nothing of this library, nor of the space. */
bool environment_is_new(char *const envp[], size_t count);
/* What it is to have besides, at most ENVIRONMENT_MOST entries; 0: nothing. */
size_t environment_add(struct environment *e, char *kept[]);
/* The same for what is executed away from the IPC namespace that home is the inode of, with
 * count entries in envp. */
size_t environment_add_home(struct environment *e, char *kept[], char *const envp[], size_t count,
			    uint64_t home);

/* The control lock: signals are blocked while it is held, so that no handler
 * can find it taken by its own thread. Nests within one thread. */
void control_lock(void);
void control_unlock(void);
uint32_t control_depth(void);
void control_abandoned(uint32_t depth);
void control_inherit(uint32_t tid);
void control_reset(void);

/* Connects and says HELLO for the session (or a new one), with control held.
 * 0 or -errno. */
int channel_open(void);
/* A further connection on which HELLO was answered, by x, or -errno. */
long channel_connect(struct exchange *x);
/* The same, unless this process has a connection. */
int channel_ready(void);
/* Closes what it has, in a child of fork. */
void channel_forget(void);
/* Numbers requests; 0 is HELLO's. */
uint32_t request_number(void);

/* --- spare.c ----------------------------------------------------------- */

/* Reads the reply of a MsgSpare on its way. */
void spares_settle(void);
/* The one that the next fork uses, NULL: there is none. */
struct abi_session_page *spare_next(void);
/* Asks for the next spares without waiting for the answer. used: a spare that a fork used
 * and that the manager is to be told of, or 0. False: not asked. */
bool spares_ask(uint32_t used);
/* A fork used the next spare. */
void spare_used(uint32_t used);
/* They are no more this process's. */
void spares_forget(void);

/* How long a wait for the manager does not sleep, in ns. It answers long before,
 * but tens of milliseconds late where others keep the CPUs busy.
 * A process that sleeps is taken to be blocked in semop, msgsnd or msgrcv: programs
 * and debuggers look at its state, then send the signal or remove the object. Other
 * calls leave the CPU to those who have a use for it. */
#define AWAKE INT64_C(250000000)

/* --- packet.c ---------------------------------------------------------- */

/* 0 or -errno. */
long packet_send(int fd, const struct abi_request *req, const void *data);
/* One packet. Returns its length, 0 at the end of the connection, or -errno. */
long packet_receive(int fd, struct exchange *x, int flags);
/* Waits for the reply to x's request, as packet_receive. One to another is nobody's:
 * a vfork child that was killed as it waited has left it. */
long packet_reply(int fd, struct exchange *x);
/* Sends x's request and waits for its answer: as packet_reply, but for the length. */
long packet_exchange(int fd, struct exchange *x);
/* Closes the descriptors that came. */
void packet_close(struct exchange *x);

/* A descriptor of that inode, or none. */
bool fd_is(int fd, uint64_t inode);
uint64_t fd_inode(int fd);
/* Moves fd out of the program's way, to OWN_FDS or above where that many may be. */
#define OWN_FDS 192
int fd_move(int fd);

/* In a child that the handlers of fork did not see being made. */
void fork_adopt(void);
/* The same, when its parent was about to register. */
void fork_forget(void);

/* --- borrow.c ---------------------------------------------------------- */

/* Runs f where it can open files, after it failed with EMFILE here. What it maps
 * is mapped here; what it opens is closed again, and so is looked at before its
 * next use (fd_is). Its result, or -EMFILE. */
long with_descriptors(long (*f)(void *), void *arg);

#endif
