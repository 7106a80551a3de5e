package plane

import "sync/atomic"

// granuleShift makes a granule of the virtual counter, of 24 MHz or more, a
// millisecond or less.
const granuleShift = 14

// ticks is the CPU's virtual counter.
func ticks() uint64

// relax is the CPU's hint that it waits in a loop.
func relax()

// storeRelease stores v after all that was done before it.
func storeRelease(word *int64, v int64) { atomic.StoreInt64(word, v) }
