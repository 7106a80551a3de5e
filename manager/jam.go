package manager

import (
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Truncating a file, unlinking it and changing its flags wait for a lock of
// its inode, and whoever has a descriptor for writing can keep that lock as
// long as he likes: by a write whose source never arrives (userfaultfd, a
// mapped FUSE file), or by writes of gigabytes. So none of these calls is made
// on a file that clients hold but by jams.try, which does not wait long.

const (
	// jamPatience is long: on a busy machine a goroutine may have to wait.
	jamPatience = 250 * time.Millisecond
	// maxJams bounds the threads of a space that hang in such calls, and so
	// also how long its members have to wait for them in all.
	maxJams = 16
)

var errJammed = fmt.Errorf("a member keeps the file busy: %w", unix.ENOMEM)

// jams counts the calls of a space that hang.
type jams struct{ hanging atomic.Int64 }

// within runs f if not too many hang already.
func (j *jams) within(f func() error) error {
	defer j.hanging.Add(-1)
	if j.hanging.Add(1) > maxJams {
		return errJammed
	}
	return f()
}

// try runs f in a goroutine and waits for it a while. errJammed: f goes on by
// itself, so it must not touch what others guard, nor what is on the stack.
func (j *jams) try(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- j.within(f) }()
	late := time.NewTimer(jamPatience)
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-late.C:
		return errJammed
	}
}
