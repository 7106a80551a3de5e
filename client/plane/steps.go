//go:build !explore

package plane

import (
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// The steps of which all of this is made: the explorer (explore_test.go) has
// others in their place, and takes them one at a time in every order.

// roomy is how many entries a transaction gathers before it leaves further
// sleepers to the next one.
const roomy = 27 * abi.LogEntries

func (m *memory) fetch(off int) uint64 { return atomic.LoadUint64(m.word(off)) }

func (m *memory) put(off int, v uint64) { *m.word(off) = v }

func (m *memory) swap(off int, old, new uint64) bool {
	return atomic.CompareAndSwapUint64(m.word(off), old, new)
}

var manyCPUs = runtime.GOMAXPROCS(0) > 1 && runtime.NumCPU() > 1

// pause lets the time of one step pass in a loop that waits for another.
func pause(step int) {
	switch {
	case manyCPUs && step < 100:
		relax()
	case step < 256:
		// Who has what we wait for is a process that lost its CPU, or a
		// goroutine of ours.
		runtime.Gosched()
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	default:
		time.Sleep(20 * time.Microsecond) //nolint:forbidigo // a lock has no event: its holder may be stopped
	}
}

// impatient says whether a holder of the lock since then has had it too long.
func impatient(step int, since time.Time) bool {
	return step%16 == 0 && time.Since(since) > patience
}
