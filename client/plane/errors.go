package plane

import "golang.org/x/sys/unix"

// ErrStale means that the handle is no longer good: its slot word does not
// stand in the table any more, because the object was removed, moved to a
// fresh file or has changed its rights. Nothing was done. The caller looks at
// the table again: the object is gone (EIDRM for a call that had begun), or it
// opens it anew and starts the call again with the time that is left.
const ErrStale = unix.Errno(255)

// What callers never see. No errno of the kernel's has these numbers.
const (
	// errRevoked: another took the lock before the commit. Nothing happened,
	// the call starts again.
	errRevoked = unix.Errno(254)
	// errRoom: the log has no room for the transaction.
	errRoom = unix.Errno(253)
	// errAgain has attempt start again.
	errAgain = unix.Errno(252)
	// errCell asks for a sleeper's cell, which is made without the lock.
	errCell = unix.Errno(251)
	// errNoUndo: another session has no room for an adjustment.
	errNoUndo = unix.Errno(250)
	// errWork: the call has done its share of what is pending, the rest is for
	// others.
	errWork = unix.Errno(249)
)
