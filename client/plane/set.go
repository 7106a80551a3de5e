package plane

import (
	"context"
	"time"

	"github.com/ipcspace/ipcspace/client/abi"
	"golang.org/x/sys/unix"
)

// Set is a semaphore set, semop(2) and semctl(2), as one session sees it.
// It is cheap to make: one for each session that the manager acts for.
type Set struct{}

// NewSet makes a handle of the set in control, which spans the largest
// possible control file; what Host.Capacity does not cover is not touched.
// sems comes from the record. EINVAL: the memory is too short or misaligned.
func NewSet(control []byte, sems int, h Host) (*Set, error) { return nil, unix.ENOSYS }

// Init makes a fresh file of zeros a set of semaphores of value 0. Nobody else
// may have the file yet.
func (s *Set) Init() {}

// Op is semtimedop. A negative timeout means none. Checks of nsops against
// SEMOPM and of permissions are the caller's.
// EINVAL (no operation), EFBIG, ERANGE, EAGAIN, EIDRM, ErrStale, ENOMEM, and
// EINTR when ctx ends.
func (s *Set) Op(ctx context.Context, ops []abi.SemOp, timeout time.Duration) error {
	return unix.ENOSYS
}

// Value is GETVAL. EINVAL: no such semaphore.
func (s *Set) Value(num int) (int, error) { return 0, unix.ENOSYS }

// PID is GETPID, as a session number; 0: nobody yet.
func (s *Set) PID(num int) (session uint32, err error) { return 0, unix.ENOSYS }

// NCount is GETNCNT: sleepers whose first blocking operation decrements num.
func (s *Set) NCount(num int) (int, error) { return 0, unix.ENOSYS }

// ZCount is GETZCNT: sleepers whose first blocking operation waits for num to be 0.
func (s *Set) ZCount(num int) (int, error) { return 0, unix.ENOSYS }

// All is GETALL, one consistent picture of all values.
func (s *Set) All() ([]uint16, error) { return nil, unix.ENOSYS }

// SetValue is SETVAL. ERANGE, EINVAL.
func (s *Set) SetValue(num, value int) error { return unix.ENOSYS }

// SetAll is SETALL; values has one element for each semaphore.
func (s *Set) SetAll(values []uint16) error { return unix.ENOSYS }

// OTime is sem_otime in seconds, 0: never.
func (s *Set) OTime() int64 { return 0 }

// CTime is the time of the last SETVAL or SETALL, 0: see the record.
func (s *Set) CTime() int64 { return 0 }

// Remove ends the set after its slot word was cleared: words get DEAD, all
// sleepers end with EIDRM. It takes no lock and needs no help of anybody.
func (s *Set) Remove() {}

// Poison, CopyTo and WakeMoved move a set to a fresh file, in this order:
// Poison (after Closing was published) ends all changes of the old file,
// CopyTo carries values, undo and times over, and WakeMoved (after the fresh
// file is published) has all sleepers start their calls again there.
func (s *Set) Poison() error { return unix.ENOSYS }

// CopyTo copies a poisoned set to one whose file nobody else has yet.
// fresh's Host is asked to Grow. See Poison.
func (s *Set) CopyTo(fresh *Set) error { return unix.ENOSYS }

// WakeMoved ends all sleepers with ErrStale. See Poison.
func (s *Set) WakeMoved() {}

// ReapSession cleans up after a session whose process is dead: its undo is
// applied, exactly once, its sleepers leave the queue and all its cells are
// freed. It may be called again after a crash in the middle, or for a session
// that never touched the set.
func (s *Set) ReapSession(session uint32) error { return unix.ENOSYS }

// Abandon ends and frees all that a session holds in the set except its undo.
// It is for the sleepers that a manager had there for a brokered session that
// outlives it.
func (s *Set) Abandon(session uint32) error { return unix.ENOSYS }

// Recover is for the start of a manager: it finishes a committed transaction,
// takes the lock from whoever has it, frees the cells of this Host's own
// session and goes on with a pending scan.
func (s *Set) Recover() error { return unix.ENOSYS }

// SessionsNamed calls f with each session number that any word of the set
// names, some perhaps more than once.
func (s *Set) SessionsNamed(f func(session uint32)) {}

// Verify checks all invariants of a set that nobody changes meanwhile. The
// error says which does not hold and where; it is not an errno.
func (s *Set) Verify() error { return unix.ENOSYS }
