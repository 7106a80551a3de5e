package abi

// A set or a queue has a control file: a header, the semaphores' words, then
// cells. A queue has a data file of chunks besides. Members with both read
// and write permission map them; what stands in them is only as good as those
// members, so every index read here is bounds-checked by its reader.
//
// Everything that a transaction changes is a versioned 64-bit word, so that a
// late compare-and-swap of a stalled helper fails instead of doing harm.

// ControlHeader begins a control file.
type ControlHeader struct {
	// Lock is the revocable lock, state 2 | log cell 22 | epoch 40:
	// FREE(e) -> LOCKED(e,c) -> COMMITTED(e,c) -> FREE(e+1), see
	// ARCHITECTURE.md. Anyone may revoke LOCKED(e,c) to FREE(e+1), anyone may
	// finish COMMITTED(e,c).
	Lock  uint64
	State uint64 // Object*; set by the manager
	OTime int64  // set: seconds of the last semop; a plain store of the clock
	CTime int64  // set: seconds of the last SETVAL or SETALL; 0: see the record

	// Lists of cells: link words (index 32 | version 32). A list is changed
	// by transactions alone.
	WaitHead uint64 // set: sleepers; queue: receivers
	WaitTail uint64
	UndoHead uint64 // set: UndoCells of all sessions
	// Pending is a versioned flag (flag 1 | version 63): values changed and
	// not all sleepers have been tried. Who takes the lock goes on with it.
	Pending uint64
	Hint    uint64 // where to look for a free cell next; any value is right

	// Queue only.
	MsgHead   uint64 // link: messages in the order of sending
	MsgTail   uint64 // link: the last of them; with none, any value is right
	Sent      uint64 // counter: all messages ever queued
	Taken     uint64 // counter: all messages ever taken out again
	SendHead  uint64 // link: sleeping senders
	SendTail  uint64
	LastSend  uint64 // last word: lspid and stime
	LastRecv  uint64 // last word: lrpid and rtime
	ChunkHint uint64
	// RecvThread is the thread that LastThread in LastRecv tells of: session 20 |
	// number 32. It counts while the session is the one in LastRecv; written
	// before that word, without a lock.
	RecvThread uint64
	_          [13]uint64
}

// ControlHeader.State.
const (
	ObjectRemoved = 1 << 0 // sleepers end with EIDRM
	ObjectMoved   = 1 << 1 // look at the table again
)

// Offsets in a control file.
const (
	HeaderSize = 256
	WordsOff   = HeaderSize // set: uint64 words of the semaphores
	CellSize   = 256
	MaxCells   = 1 << 16
	// LogReserve cells, the first ones, are for logs of calls under way alone:
	// so there is always one with which to take a message out of a full queue.
	LogReserve = 8
	ChunkSize  = 2048
	MaxChunks  = 1 << 15
	// Chunks stand in groups: a page of owner words, then the chunks.
	GroupChunks = PageSize / 8
	GroupSize   = PageSize + GroupChunks*ChunkSize
)

// Lock word: state 2 | log cell 22 | epoch 40.
const (
	LockFree       = 0
	LockHeld       = 1
	LockCommitted  = 2
	LockStateMask  = 3
	LockCellShift  = 2
	LockCellMask   = 1<<22 - 1
	LockEpochShift = 24
)

// Semaphore word: value 16 | slow 1 | dead 1 | session 20 | version 26.
//
// Slow: change it only under the lock (sleepers, undo adjustments, or a
// transaction under way). Dead: the set is removed or moved; set by the
// manager and never cleared. Session: who changed or tested it last (sempid).
// The version grows with every change.
const (
	SemValueMask    = 1<<16 - 1
	SemSlow         = 1 << 16
	SemDead         = 1 << 17
	SemSessionShift = 18
	SemVersionShift = 38
)

// Link word: cell index + 1 in the low 32 bits (0: end), version above.
const LinkVersionShift = 32

// Counter word: bytes 40 | messages 24, both growing modulo their width.
// Sent - Taken, field by field, is what the queue holds.
const (
	CounterBytesMask  = 1<<40 - 1
	CounterCountShift = 40
)

// Last word: session 19 | thread 1 | seconds since 1970 44.
//
// Thread: to whom slept in a thread other than the process's first, lrpid is
// that thread's number (pipelined_send, ipc/msg.c), and RecvThread has it.
const (
	LastSessionMask = LastThread - 1
	LastThread      = 1 << (SessionBits - 1)
	LastTimeShift   = SessionBits
)

// Cell state word, first in every cell:
// state 4 | kind 4 | session 20 | errno 8 | version 28.
// A waiter's futex is the low half. Session is who answers for the cell: when
// that process is dead, the manager frees it. Who allocates a cell does so by
// one compare-and-swap FREE -> OWNED, whatever any list or hint says.
const (
	CellStateMask    = 15
	CellKindShift    = 4
	CellKindMask     = 15
	CellSessionShift = 8
	CellErrnoShift   = 28
	CellErrnoMask    = 255
	CellVersionShift = 36
)

// Cell states.
const (
	CellFree      = 0
	CellOwned     = 1 // being filled, or kept, by its session
	CellWaiting   = 2 // a sleeper in a list, to be served by others
	CellRetry     = 3 // in the list, but found awake: it serves itself
	CellClaimed   = 4 // whoever holds the lock is about to serve it
	CellDone      = 5 // served: errno says how; off the list
	CellCancelled = 6 // the sleeper gave up; still in the list
	CellQueued    = 7 // a message in the queue
)

// Cell kinds.
const (
	KindNone     = 0
	KindLog      = 1
	KindOps      = 2 // more operations of a waiter
	KindSleeper  = 3 // semop
	KindUndo     = 4
	KindMessage  = 5
	KindReceiver = 6
	KindSender   = 7
	KindIndex    = 8 // more chunk numbers of a message
)

// LogEntry: the word at Off becomes New if it is still Old.
type LogEntry struct {
	Off uint64 // from the start of the control file
	Old uint64
	New uint64
}

// LogCell holds the redo record of one transaction, or a part of it.
// Written by its session between taking the lock and committing.
type LogCell struct {
	State uint64
	Next  uint64 // link: the cell with more entries
	// Outcome of the transaction whose first log cell this is: its epoch and
	// Outcome*, OutcomeMark always set. Only where a sleeper is to decide it.
	Outcome uint64
	Count   uint64 // entries in this cell
	Entries [LogEntries]LogEntry
}

// Outcome: a transaction whose log is complete, and which wants but the proof
// that the sleeper whom it serves really slept, is READY. The sleeper that was
// woken is that proof, and may commit it. Whoever carries it out makes READY
// DONE before the lock is released, so that the owner knows what happened.
//
// OutcomeMark keeps the word apart from what the other kinds of cells have at
// this place, where a late compare-and-swap might meet it.
const (
	OutcomeReady = 1
	OutcomeDone  = 2
	OutcomeShift = 2
	OutcomeMark  = 1 << 63
)

// LogEntries is how many entries one log cell has.
const LogEntries = 9

// SemOp is one operation, as struct sembuf.
type SemOp struct {
	Num  uint16
	Op   int16
	Flag uint16
}

// SleeperCell is a sleeping semop.
type SleeperCell struct {
	State uint64
	Next  uint64 // link
	Flags uint32 // Sleeper*
	Undo  uint32 // index + 1 of the session's first UndoCell, if any operation has SEM_UNDO
	Count uint32 // operations
	More  uint32 // index + 1 of an OpsCell with the operations after these
	Ops   [SleeperOps]SemOp
}

// Operations that fit a sleeper, and a cell of more of them.
const (
	SleeperOps = 36
	OpsCellOps = 38
)

// Flags of sleepers, receivers and senders.
const (
	// SleeperDoorbell: no thread sleeps on the cell itself. Who serves it
	// rings the doorbell of its session instead of probing a futex.
	SleeperDoorbell = 1 << 0
	// SenderRefused: the caller lost the right of sending while it slept, which
	// it learns when there is room: EACCES. It has no message.
	SenderRefused = 1 << 1
	// SleeperBrokered: the manager waits in place of the session, and the bits
	// from SleeperSeqShift on are those of the request's Seq. When that manager
	// is killed the next one finds out by them what became of the call.
	SleeperBrokered = 1 << 2
	SleeperSeqShift = 3
)

// OpsCell has the operations that did not fit the sleeper.
type OpsCell struct {
	State uint64
	Next  uint64 // link: a further one
	_     uint64
	Ops   [OpsCellOps]SemOp
	_     [4]byte
}

// UndoCell has some of one session's adjustments (semadj) of the set. Words are
// used from the first on, and stay so as long as the cell is one.
type UndoCell struct {
	State uint64
	Next  uint64 // link: next cell in UndoHead's list
	_     uint64
	Words [UndoWords]uint64
}

// UndoWords is how many adjustments one cell holds. An undo word:
// semadj 16 (two's complement) | semaphore 16 | used 1 | version 31.
const (
	UndoWords        = 29
	UndoSemShift     = 16
	UndoUsed         = 1 << 32
	UndoVersionShift = 33
)

// MessageCell is one message. Filled while CellOwned by the sender, changed
// by nobody while CellQueued, read and freed by the receiver, who owns it then.
type MessageCell struct {
	State uint64
	Next  uint64 // link: next message
	Type  int64
	Size  uint64 // bytes of text
	More  uint32 // index + 1 of an IndexCell with chunk numbers after these
	_     uint32
	_     uint64
	// Text: up to MessageInline bytes stand here. A longer text stands in
	// chunks, whose numbers (uint32) stand here, in order.
	Text [MessageInline]byte
}

// Capacities of messages.
const (
	MessageInline = 208
	MessageChunks = MessageInline / 4
	IndexChunks   = 56
)

// IndexCell has chunk numbers of a long message.
type IndexCell struct {
	State  uint64
	Next   uint64 // link: a further one
	_      uint64
	Chunks [IndexChunks]uint32
	_      uint64
}

// ReceiverCell is a sleeping msgrcv.
type ReceiverCell struct {
	State uint64
	Next  uint64 // link
	Flags uint32 // Sleeper*
	Mode  uint32 // Receive*
	Type  int64  // as Mode says, never negative
	Size  uint64 // room of the receiver; the largest uint64 with MSG_NOERROR
	// Thread is the number of the thread that sleeps, in its own pid namespace;
	// 0: the process's first.
	Thread uint32
	_      uint32
	_      uint64
	// Message is a link word: index + 1 of the message cell handed over,
	// written by the transaction that makes the receiver CellDone. It stands
	// where a LogCell has an offset: a late compare-and-swap meant for a link
	// cannot find its old word in a cell that became a log.
	Message uint64
	_       [24]uint64
}

// ReceiverCell.Mode, as the kernel's convert_mode (ipc/msg.c).
const (
	ReceiveAny      = 1
	ReceiveEqual    = 2
	ReceiveNotEqual = 3
	ReceiveLessEq   = 4 // lowest type <= Type
)

// SenderCell is a sleeping msgsnd with its message made ready.
type SenderCell struct {
	State   uint64
	Next    uint64 // link
	Flags   uint32 // Sleeper*, SenderRefused
	Message uint32 // index + 1 of its MessageCell
	Size    uint64
	_       [28]uint64
}
