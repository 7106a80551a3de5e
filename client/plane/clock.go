//go:build !explore

package plane

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// reading is the second that the clock showed within a granule of the CPU's
// counter.
type reading struct {
	granule uint64
	second  int64
}

var lastReading atomic.Pointer[reading]

// tick is more than the kernel's clock tick and a granule take.
const tick = 12 * time.Millisecond

// Seconds is the present second since 1970 as the kernel puts it into objects
// (ktime_get_real_seconds) and as time(2) says it: that of its last tick, so
// that no stamp is of a second that has not begun for others. Where asking takes
// a system call, several times as long as a semop, an answer is kept for a granule
// (a millisecond at most), but for the last ones of a second.
func Seconds() int64 {
	if s, ok := vdsoSeconds(); ok {
		return s
	}
	granule := ticks() >> granuleShift
	if r := lastReading.Load(); r != nil && r.granule == granule {
		return r.second
	}
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now) != nil {
		return time.Now().Unix()
	}
	if now.Nsec < int64(time.Second-tick) {
		lastReading.Store(&reading{granule, now.Sec})
	}
	return now.Sec
}

// Stamp is the present time in nanoseconds since 1970, in a second that Seconds
// has seen begin: what happens before that is put into the last microseconds of
// the second before, in order, and what did happen in those makes room, as in the
// C library (now_real). What happens to segments is ordered by such stamps.
func Stamp() int64 { return StampOf(time.Now()) }

// StampOf is what Stamp was at a time that is not long ago.
func StampOf(t time.Time) int64 { return stamp(t, Seconds) }

func stamp(now time.Time, seconds func() int64) int64 {
	const room = int64(tick)/1000 + 2
	late := int64(now.Nanosecond())
	if early := int64(time.Second) - late; early < 2*room {
		return now.UnixNano() - (2*room-early)/2
	}
	if late < int64(tick) && seconds() < now.Unix() {
		return now.Unix()*int64(time.Second) - 1 - (int64(tick)-late)/1000
	}
	return now.UnixNano()
}
