package client

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	futexWaitOp = 0
	futexWakeOp = 1
)

// futexWait sleeps while *word is value, for the duration at most. Why it
// returned is of no interest: the caller looks at the word.
func futexWait(word *uint32, value uint32, d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWaitOp,
		uintptr(value), uintptr(unsafe.Pointer(&ts)), 0, 0)
}

// futexWake wakes all that sleep on the word.
func futexWake(word *uint32) {
	_, _, _ = unix.Syscall(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWakeOp, 1<<30)
}
