package manager

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
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
	// wants a CPU and gets none does not count: the machine may be busy. Nor does
	// time in which another thread of the manager does, up to jamLongest: it may
	// be the one that the call waits for (guard, openWindow).
	jamPatience = 250 * time.Millisecond
	jamLooks    = 10
	jamLongest  = 4 * jamLooks
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
	for asleep, looks := 0, 0; asleep < jamLooks && looks < jamLongest; {
		select {
		case err := <-done:
			return err
		case <-look.C:
			if !sleeps(thread.Load()) {
				continue
			}
			looks++
			if !othersRun() {
				asleep++
			}
		}
	}
	return errJammed
}

// sleeps says whether a thread of the manager waits in the kernel for anything
// but a CPU.
func sleeps(thread int64) bool {
	state := threadState(fmt.Sprintf("/proc/self/task/%d", thread))
	return state != 0 && state != 'R'
}

// othersRun says whether any thread but the calling one runs, or wants to, for
// longer than Go's threads look for work.
func othersRun() bool {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	self := fmt.Sprint(unix.Gettid())
	threads, _ := os.ReadDir("/proc/self/task")
	var run []string
	for _, thread := range threads {
		if folder := "/proc/self/task/" + thread.Name(); thread.Name() != self && threadState(folder) == 'R' {
			run = append(run, folder)
		}
	}
	if len(run) == 0 {
		return false
	}
	_ = unix.Nanosleep(&unix.Timespec{Nsec: int64(2 * time.Millisecond)}, nil)
	return slices.ContainsFunc(run, func(folder string) bool { return threadState(folder) == 'R' })
}

// threadState is the letter of proc(5); 0: it has not begun, or is over.
func threadState(folder string) byte {
	stat, err := os.ReadFile(folder + "/stat")
	if err != nil {
		return 0
	}
	_, fields, ok := bytes.Cut(stat, []byte(") "))
	if !ok || len(fields) == 0 {
		return 0
	}
	return fields[0]
}
