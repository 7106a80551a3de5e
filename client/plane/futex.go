//go:build !explore

package plane

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Operations of futex(2), shared between processes.
const (
	futexWait = 0
	futexWake = 1
)

// wait sleeps while *word is value, for the duration at most.
// EINTR and EAGAIN are no news for the caller, who looks at the word again.
func wait(word *uint32, value uint32, d time.Duration) unix.Errno {
	ts := unix.NsecToTimespec(int64(d))
	_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWait,
		uintptr(value), uintptr(unsafe.Pointer(&ts)), 0, 0)
	return errno
}

// wake wakes one sleeper and says whether there was one.
func wake(word *uint32) bool {
	if word == nil {
		return false
	}
	n, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWake, 1, 0, 0, 0)
	return errno == 0 && n > 0
}

// wakeAll wakes all that sleep on the word.
func wakeAll(word *uint32) {
	_, _, _ = unix.Syscall(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWake, 1<<30)
}
