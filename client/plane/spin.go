package plane

import "sync/atomic"

// spinner decides how long a call looks on before it queues: sleeping costs
// two system calls and a switch, so where another CPU is about to bring what
// is waited for, it pays. Where it does not, few calls try.
type spinner struct {
	credit  atomic.Int32 // rounds that the next call may take; 0: see probe
	skipped atomic.Int32
}

const (
	spinMost = 1000 // rounds, some 20 µs
	probe    = 32   // one call in so many tries all the same
)

// until waits for ready, for a moment.
func (s *spinner) until(ready func() bool) bool {
	if !manyCPUs {
		return false
	}
	rounds := s.credit.Load()
	if rounds == 0 {
		if s.skipped.Add(1)%probe != 0 {
			return false
		}
		rounds = spinMost
	}
	for range rounds {
		if ready() {
			s.credit.Store(spinMost)
			return true
		}
		relax()
	}
	s.credit.Store(max(s.credit.Load()-spinMost/4, 0))
	return false
}
