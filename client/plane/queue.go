package plane

import (
	"context"

	"golang.org/x/sys/unix"
)

// Queue is a message queue, msgop(2), as one session sees it. It is cheap to
// make: one for each session that the manager acts for.
type Queue struct{}

// QueueStat is what a queue itself knows of msqid_ds.
type QueueStat struct {
	Bytes    uint64 // msg_cbytes
	Messages uint64 // msg_qnum
	// Who sent and received last, as session numbers (0: nobody), and when,
	// in seconds since 1970.
	Sender, Receiver     uint32
	SendTime, RecvedTime int64
}

// NewQueue makes a handle of the queue in control and data, which span the
// largest possible files; what Host.Capacity does not cover is not touched.
// EINVAL: the memory is too short or misaligned.
func NewQueue(control, data []byte, h Host) (*Queue, error) { return nil, unix.ENOSYS }

// Init makes fresh files of zeros an empty queue. Nobody else may have them yet.
func (q *Queue) Init() {}

// Send is msgsnd; of the flags IPC_NOWAIT counts. Checks of the length
// against MSGMAX and of permissions are the caller's.
// EINVAL (type below 1), EAGAIN, EACCES (expelled), EIDRM, ErrStale, ENOMEM,
// and EINTR when ctx ends.
func (q *Queue) Send(ctx context.Context, typ int64, text []byte, flags int) error {
	return unix.ENOSYS
}

// Receive is msgrcv into a buffer of room len(buf), without MSG_COPY. It
// returns the bytes received and the message's type.
// ENOMSG, E2BIG, EACCES (expelled), EIDRM, ErrStale, ENOMEM, and EINTR when
// ctx ends.
func (q *Queue) Receive(ctx context.Context, buf []byte, typ int64, flags int) (n int, mtype int64, err error) {
	return 0, 0, unix.ENOSYS
}

// Copy is msgrcv with MSG_COPY: the message at the index, counted from 0,
// stays in the queue. flags are checked as the kernel does: EINVAL without
// IPC_NOWAIT or with MSG_EXCEPT.
func (q *Queue) Copy(buf []byte, index int64, flags int) (n int, mtype int64, err error) {
	return 0, 0, unix.ENOSYS
}

// Stat reads the counters. It needs no write access to the file.
func (q *Queue) Stat() QueueStat { return QueueStat{} }

// Rescan serves who can go on after an IPC_SET: senders that fit into a larger
// msg_qbytes.
func (q *Queue) Rescan() error { return unix.ENOSYS }

// Expel ends with EACCES the sleepers that lose says have lost their right
// (IPC_SET); the others sleep on. sender tells which right it is.
func (q *Queue) Expel(lose func(session uint32, sender bool) bool) error { return unix.ENOSYS }

// Remove ends the queue after its slot word was cleared: all sleepers end with
// EIDRM. It takes no lock and needs no help of anybody.
func (q *Queue) Remove() {}

// Poison, CopyTo and WakeMoved move a queue to fresh files, see Set.Poison.
func (q *Queue) Poison() error { return unix.ENOSYS }

// CopyTo carries messages, counters and times over to a queue whose files
// nobody else has yet. fresh's Host is asked to Grow.
func (q *Queue) CopyTo(fresh *Queue) error { return unix.ENOSYS }

// WakeMoved ends all sleepers with ErrStale.
func (q *Queue) WakeMoved() {}

// ReapSession cleans up after a session whose process is dead: its sleepers
// leave the queue, all its cells and chunks are freed. Messages that it sent
// stay. It may be called again after a crash in the middle.
func (q *Queue) ReapSession(session uint32) error { return unix.ENOSYS }

// Abandon does the same for a brokered session that lives, see Set.Abandon.
func (q *Queue) Abandon(session uint32) error { return unix.ENOSYS }

// Recover is for the start of a manager, see Set.Recover.
func (q *Queue) Recover() error { return unix.ENOSYS }

// SessionsNamed calls f with each session number that any word of the queue
// names, some perhaps more than once.
func (q *Queue) SessionsNamed(f func(session uint32)) {}

// Verify checks all invariants of a queue that nobody changes meanwhile. The
// error says which does not hold and where; it is not an errno.
func (q *Queue) Verify() error { return unix.ENOSYS }
