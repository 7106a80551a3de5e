package abi

// A channel is a SOCK_SEQPACKET connection. Each packet is a Request or a
// Reply and what follows it; credentials come with every request
// (SCM_CREDENTIALS with the effective ids), descriptors with some replies.
//
// To register, a process writes one line to the FIFO, RegisterFormat with a
// nonce of 16 lower-case hex digits, waits on TableHeader.Registrations until
// channels/<nonce> exists and connects to it. channels/any is there always,
// for when the FIFO is abused.
const (
	RegisterFormat = "\nipcspace %d %s\n" // LayoutMajor, nonce
	NonceDigits    = 16
	RegisterName   = "register"
	ChannelsName   = "channels"
	AnyChannelName = "any"
	TableName      = "table"
	LibraryName    = "lib/libipcspace.so"
)

// MaxPacket bounds a packet in both directions, its head included.
const MaxPacket = 128 << 10

// Request heads every packet to the manager. Seq is chosen by the client and
// grows by one with each request of a session: after a manager's death the
// same request is sent again under the same Seq and is carried out once.
type Request struct {
	Kind uint32 // Msg*
	Seq  uint32
	TID  uint32 // calling thread, in its own pid namespace
	Len  uint32 // bytes that follow
	Arg  [6]int64
}

// Reply heads every packet to the client.
type Reply struct {
	Kind  uint32
	Seq   uint32
	Errno uint32 // 0: done
	Len   uint32 // bytes that follow
	Val   [6]int64
}

// BrokeredAgain is the argument of MsgSemOp, MsgSend and MsgReceive that is 1
// when a manager that was killed was asked before, under the same Seq.
const BrokeredAgain = 4

// BrokeredOpen is the argument of the same that is the lowest Seq of such calls of
// the session that are not over, this one among them; 0: not told. What became of
// those before it nobody will ask.
const BrokeredOpen = 5

// Requests: arguments -> values, descriptors and bytes of the reply.
const (
	// MsgHello: layout major, session to resume or 0, session page state
	// (1: claims a spare of its parent); 16 bytes cookie if a session is named
	// -> session, inode of the caller's pid namespace, caller's tgid there,
	// whether its user namespace is another than the manager's;
	// descriptors table, pulse, session page.
	MsgHello = 1
	// MsgSpare: session of the spare that was used for a fork, or 0; spares wanted,
	// at most MaxSpares (0: 1) -> session of the first, how many; descriptor of
	// their pages.
	MsgSpare = 2
	// MsgGet: family, key, flags, size or semaphores or 0 -> id.
	MsgGet = 3
	// MsgOpen: family, id, segment: access asked (Access*)
	// -> slot word, rights held (Access*), brokered 0 or 1; descriptors:
	// segment; or control file (and data file), unless brokered.
	MsgOpen = 4
	// MsgCtl: family, id, command; IPC_SET: uid, gid, mode, and qbytes as 8
	// bytes after the head -> result; IPC_STAT and *_STAT*: a Stat follows.
	// SHM_INFO: pages resident, pages swapped. MSG_INFO: messages, bytes.
	MsgCtl = 5
	// MsgGrow: family, id, cells and chunks wanted in all -> slot word.
	MsgGrow = 6
	// MsgReap: session, and where it was met: family, id -> 1: it was dead and its undo is
	// applied; 0: it lives.
	MsgReap = 7
	// MsgWho: session, thread of it or 0 -> its number in the caller's pid namespace,
	// 0: not visible.
	MsgWho = 8
	// MsgDetached: id of a segment marked for destruction -> nothing.
	MsgDetached = 9
	// MsgFold: nothing. Times of the session's uses with Count 0 are kept by
	// the manager, which frees those uses.
	MsgFold = 10
	// MsgSemOp (brokered): id, operations, time-out in ns or -1; SemOps follow.
	MsgSemOp = 11
	// MsgSemCtl (brokered): id, semaphore, command, value; SETALL: uint16s
	// follow -> result; GETALL: uint16s follow.
	MsgSemCtl = 12
	// MsgSend (brokered): id, type, flags, 1 if the call slept when an IPC_SET
	// came; text follows.
	MsgSend = 13
	// MsgReceive (brokered): id, room in bytes, type, flags
	// -> bytes, type; text follows.
	MsgReceive = 14
	// MsgCancel: Seq of a brokered call that sleeps. That call is answered
	// with EINTR, or with what it has come to before; this one is not.
	MsgCancel = 15
	// MsgCreds: nothing. The process changed its credentials -> nothing.
	MsgCreds = 16
	// MsgUndo: nothing. The session's adjustments are applied now, as when it
	// ends (unshare(CLONE_SYSVSEM), setns to an IPC namespace) -> nothing.
	MsgUndo = 17
	// MsgPunch: id of a segment, offset, bytes. Frees these pages, which read as
	// zeros then (MADV_REMOVE) -> nothing.
	MsgPunch = 18
	// MsgForked: session of the spare that was used for a fork. Not answered; sent
	// where TableHeader.Forks does not say that the manager looks anyway.
	MsgForked = 19
)

// Commands of semctl that MsgSemCtl takes, in linux/sem.h's numbers.
const (
	SemGetPID  = 11
	SemGetVal  = 12
	SemGetAll  = 13
	SemGetNcnt = 14
	SemGetZcnt = 15
	SemSetVal  = 16
	SemSetAll  = 17
)

// MaxSpares is how many unused spares a parent may have.
const MaxSpares = 32

// Access rights, as in a mode's class bits.
const (
	AccessRead  = 4
	AccessWrite = 2
	AccessExec  = 1
)

// Stat answers the STAT commands for all families.
type Stat struct {
	ID, Key              uint32
	UID, GID, CUID, CGID uint32
	Mode, Seq            uint32
	Size                 uint64 // bytes, semaphores, or msg_qbytes
	// Times in seconds: shm atime dtime ctime; sem otime - ctime; msg stime rtime ctime.
	Time [3]int64
	// Pids in the caller's pid namespace: shm lpid cpid; msg lspid lrpid.
	PID [2]uint32
	// Counts: shm nattch; msg cbytes qnum.
	Count [2]uint64
}
