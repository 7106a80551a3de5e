// Package plane is the Go side of the data plane: semaphore sets and message
// queues in mapped memory that other processes, not all of them honest, change
// at the same time. The protocol is ARCHITECTURE.md's, the layouts are package
// abi's, and preload is the same in C.
//
// It owns transactions, lists, cells, waiting and waking inside one control
// file. It never opens or maps a file, never talks to the manager and holds no
// table: what it needs of these it asks its Host.
//
// Everything read from the memory is untrusted. Indices are checked against
// the capacity that the Host vouches for, loops are bounded by it, sizes are
// clamped, and no content whatever makes a call panic or run for ever; a call
// that makes no progress for too long fails with EIO.
//
// Any number of goroutines may use one Set or Queue at once: they share the
// revocable lock word of the object with other processes, and no Go mutex
// guards any of it.
//
// Errors are unix.Errno values, ErrStale among them.
package plane

// Host is what the data plane asks of its surroundings. One Host stands for
// one object as seen by one session. Its methods may be called by several
// goroutines, and must not call back into the same object, Reap excepted.
type Host interface {
	// Session says who acts; abi.ManagerSession for the manager's own work.
	// For a brokered call it is the session of the client.
	Session() uint32

	// Capacity says how many cells of the control file and how many chunks of
	// the data file may be touched. It comes from the table's record or from
	// the manager's own books, never from the object, and never shrinks.
	Capacity() (cells, chunks int)

	// Grow makes room for so many cells and chunks in all; both are at least
	// the present capacity. ENOMEM or ENOSPC, or EIDRM if the object went.
	// Capacity tells the new one afterwards. Called without the lock.
	Grow(cells, chunks int) error

	// Valid says whether the slot word that the handle was opened with still
	// stands in the table. It must be a load of that word, after a full
	// barrier.
	Valid() bool

	// Died is the pulse's hint: true if the session died or must be asked for.
	Died(session uint32) bool

	// Reap has the undo of the session applied if it is dead. Called without
	// the lock. No error means: look again. A session that lives is asked
	// for once per call.
	Reap(session uint32) error

	// QueueBytes is msg_qbytes of the current record. Queues only.
	QueueBytes() uint64

	// RingDoorbell bumps and wakes PulseDoorbell of the session: a sleeper of
	// it with SleeperDoorbell was served.
	RingDoorbell(session uint32)

	// Brokered is the Seq of the request for which the manager acts in place of
	// the session; false: the session acts itself. It does not change.
	Brokered() (seq uint32, yes bool)

	// Thread is the number of the calling thread in its own pid namespace, if
	// the call is brokered and the thread is not its process's first; or 0.
	Thread() uint32

	// Bell is where calls of the session wait without a thread; nil: each
	// that waits has one.
	Bell() *Bell
}
