package plane

// granuleShift makes a granule of the time stamp counter, of 1 GHz or more, a
// millisecond or less.
const granuleShift = 20

// ticks is the CPU's time stamp counter.
func ticks() uint64

// relax is the CPU's hint that it waits in a loop.
func relax()

// storeRelease stores v after all that was done before it. Here any store does, and
// costs a tenth of an atomic one. The race detector takes it for an access of
// its own, which it is not: the word is the caller's.
//
//go:norace
func storeRelease(word *int64, v int64) { *word = v }
