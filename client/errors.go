package client

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Errors to compare with by errors.Is. Those with an errno are also equal to
// it: errors.Is(err, client.ErrNoMessage) and errors.Is(err, unix.ENOMSG) say
// the same, and so do fs.ErrNotExist, fs.ErrExist and fs.ErrPermission for
// their errnos.
var (
	ErrNotExist   error = sentinel(unix.ENOENT) // no object has that key
	ErrExist      error = sentinel(unix.EEXIST) // CreateNew, and the key is taken
	ErrPermission error = sentinel(unix.EACCES) // the object's mode does not allow it
	ErrInvalid    error = sentinel(unix.EINVAL) // no such object, or an argument is out of its range
	ErrRemoved    error = sentinel(unix.EIDRM)  // the object was removed during the call
	ErrWouldBlock error = sentinel(unix.EAGAIN) // NoWait, and the call would have to wait
	ErrNoMessage  error = sentinel(unix.ENOMSG) // NoWait, and no message matches
	ErrTooBig     error = sentinel(unix.E2BIG)  // the message is longer than the buffer; too many operations
	ErrRange      error = sentinel(unix.ERANGE) // a semaphore beyond 32767, or its adjustment
	ErrNoRoom     error = sentinel(unix.ENOSPC) // a limit of the space on objects or memory is reached
)

var (
	// ErrNoSpace is Open's: there is no space in that folder.
	ErrNoSpace = errors.New("no space")
	// ErrUntrusted is Open's: the folder is not mounted read-only.
	ErrUntrusted = errors.New("not mounted read-only")
	// ErrNoManager says that the space's manager was away for 30 s. What takes
	// no message goes on without it.
	ErrNoManager = errors.New("no answer from the space's manager; is ipcspace-manager running?")
	// ErrLayout is Open's: manager and client are of different layouts.
	ErrLayout = errors.New("another layout")
	// ErrClosed says that the space was closed by this program.
	ErrClosed = errors.New("space is closed")
	// ErrLost says that the manager does not know this process any more: the
	// space was removed, perhaps made again. Open finds the new one.
	ErrLost = errors.New("space is gone")
)

// sentinel is an errno under the name that it has in this package.
type sentinel unix.Errno

func (s sentinel) Error() string        { return unix.Errno(s).Error() }
func (s sentinel) Unwrap() error        { return unix.Errno(s) }
func (s sentinel) Is(target error) bool { return target == unix.Errno(s) }

// Error is a call that failed. It is equal (errors.Is) to its errno, to the
// errors of this package and of io/fs for that errno, and to its cause.
type Error struct {
	Call  string // as in the manual pages: "msgrcv"
	On    string // what it was done on: "queue 32769"
	Errno unix.Errno
	Cause error // of a call that a context or Close ended (EINTR), or that found no manager; else nil
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s %s: %v", e.Call, e.On, e.Cause)
	}
	return fmt.Sprintf("%s %s: %v", e.Call, e.On, e.Errno)
}

// Unwrap gives errno and cause.
func (e *Error) Unwrap() []error {
	if e.Cause != nil {
		return []error{e.Errno, e.Cause}
	}
	return []error{e.Errno}
}

// Is makes the errors of this package equal to those of their errno.
func (e *Error) Is(target error) bool {
	s, ok := target.(sentinel)
	return ok && unix.Errno(s) == e.Errno
}

// failed makes the error of a call: nil, or an *Error. What has no errno is of
// the way to the manager: it is gone (ECONNREFUSED), or ctx or Close ended the
// call (EINTR).
func (s *session) failed(ctx context.Context, call, on string, err error) error {
	if err == nil {
		return nil
	}
	e := &Error{Call: call, On: on}
	if !errors.As(err, &e.Errno) {
		e.Errno, e.Cause = unix.ECONNREFUSED, err
	}
	switch {
	case e.Cause == nil && e.Errno != unix.EINTR:
	case ctx.Err() != nil:
		e.Errno, e.Cause = unix.EINTR, context.Cause(ctx)
	case s.closed.Load():
		e.Errno, e.Cause = unix.EINTR, ErrClosed
	case e.Cause == nil:
		e.Errno, e.Cause = unix.ECONNREFUSED, ErrNoManager // the data plane needed it
	}
	return e
}
