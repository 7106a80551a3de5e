package abi

// SessionPage is one session's own file of one page: the manager and the
// session's process map it, nobody else can.
//
// A spare page is mapped by the parent ahead of a fork. The fork handlers
// fill it: prepare copies Uses and stores PageReserved, the child stores its
// pid and PageClaimed, so that the attaches of a child count from its first
// instant with no message.
type SessionPage struct {
	Cookie  [16]byte // proves, on a new channel, whose session it is
	Session uint32   // written by the manager
	Parent  uint32   // session mapped ahead for, 0: registered by itself
	State   uint32   // Page*, written by the session, in a spare by its parent until it is claimed, or given up
	PID     uint32   // tgid of the claiming process in its own pid namespace
	// Claimed is when a child claimed the page: ns of CLOCK_BOOTTIME, stored
	// before PID and State. A process of that pid that started later is
	// another one; one that started before is the child, whatever became of
	// its parent and its memory (exec) since. A process that is about to call
	// exec stores that moment instead, with ClaimedExec.
	Claimed uint64
	// Address is where the process has this page mapped, 0: it does not say. Written by the
	// session, in a spare by the parent, whose child has it there too. Where it is not
	// mapped any more, the process called exec: its attaches are gone.
	Address uint64
	// Answer and Value are a short answer: the errno and Val[0] of a reply that has nothing
	// else, given without a packet. The session stores AnswerAwaited with the request's Seq
	// before it sends it. The manager stores Value and makes that AnswerGiven by
	// compare-and-swap; where it finds anything else, it sends a packet. A session that
	// does not look here any longer takes the word back by compare-and-swap, too.
	Answer uint64 // Seq << 32 | errno << 8 | Answer*
	Value  int64
	Uses   [PageUses]Use
}

// PageUses is how many segments one process can use at once.
const PageUses = 126

// SessionPage.State.
const (
	PageSpare    = 0
	PageReserved = 1 // a fork is under way
	PageClaimed  = 2
	PageForked   = 3 // stored by the parent, which is back from fork, over PageReserved
	// PageGivenUp is what the manager, which found no child, makes of the last two: should
	// there be one, it registers.
	PageGivenUp = 4
)

// ClaimedExec is the bit of SessionPage.Claimed that says: since then the process
// has called exec, if it has not got the page mapped any more.
const ClaimedExec = 1

// SessionPage.Answer.
const (
	AnswerNone       = 0
	AnswerAwaited    = 1
	AnswerGiven      = 2
	AnswerStateMask  = 3
	AnswerErrnoShift = 8
	AnswerErrnoMask  = 0xffff
	AnswerSeqShift   = 32
)

// Use counts one process's attaches of one segment. Only that process's
// threads write it. Serial is stored first and Count incremented before the
// memory is mapped; a use with Count 0 may be taken for another segment once
// the manager has folded its times (MsgFold).
type Use struct {
	Serial uint64 // Record.Serial of the segment, 0: free
	Count  uint32
	_      uint32
	ATime  int64 // ns since 1970 of the last attach, 0: none
	DTime  int64 // ns since 1970 of the last detach, 0: none
}
