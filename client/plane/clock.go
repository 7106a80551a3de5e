package plane

import (
	"sync/atomic"
	"time"
)

// reading is the second that the clock showed within a granule of the CPU's
// counter.
type reading struct {
	granule uint64
	second  int64
}

var lastReading atomic.Pointer[reading]

// seconds is the present second since 1970, late by a granule (a millisecond)
// at most, as the kernel's own are by a tick: asking the clock takes as long
// as a semop.
func seconds() int64 {
	granule := ticks() >> granuleShift
	if r := lastReading.Load(); r != nil && r.granule == granule {
		return r.second
	}
	now := time.Now().Unix()
	lastReading.Store(&reading{granule, now})
	return now
}
