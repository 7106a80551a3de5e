package manager

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
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
	// jamPatience is how long such a call may be seen asleep. Time in which it
	// wants a CPU and gets none does not count: the machine may be busy.
	jamPatience = 250 * time.Millisecond
	jamLooks    = 10
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
	var thread atomic.Int64 // in which f runs, as soon as it does
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread.Store(int64(unix.Gettid()))
		done <- j.within(f)
	}()
	look := time.NewTicker(jamPatience / jamLooks)
	defer look.Stop()
	for asleep := 0; asleep < jamLooks; {
		select {
		case err := <-done:
			return err
		case <-look.C:
			if sleeps(thread.Load()) {
				asleep++
			}
		}
	}
	return errJammed
}

// sleeps says whether a thread of the manager waits in the kernel for anything
// but a CPU.
func sleeps(thread int64) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/stat", thread))
	if err != nil {
		return false // it has not begun
	}
	_, fields, ok := bytes.Cut(stat, []byte(") "))
	return ok && len(fields) > 0 && fields[0] != 'R'
}
