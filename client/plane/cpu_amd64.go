package plane

// granuleShift makes a granule of the time stamp counter, of 1 GHz or more, a
// millisecond or less.
const granuleShift = 20

// ticks is the CPU's time stamp counter.
func ticks() uint64

// relax is the CPU's hint that it waits in a loop.
func relax()
