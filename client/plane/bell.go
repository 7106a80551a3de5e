package plane

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipcspace/ipcspace/client/abi"
)

// Bell lets thousands of calls of one session wait without a thread for each:
// their cells say SleeperDoorbell, and who serves them rings the session's
// doorbell. One thread listens to it for all.
type Bell struct {
	word    *uint32
	most    int32
	threads atomic.Int32 // calls that sleep on their cells, most at most

	mu    sync.Mutex
	calls []*call // that wait, with and without a thread
	ended bool
}

// NewBell makes the bell of the session whose PulseDoorbell word is. So many
// calls at a time sleep on their cells, each with a thread, for that is the
// quickest way to be woken; the others cost a goroutine each.
func NewBell(word *uint32, threads int) *Bell { return &Bell{word: word, most: int32(threads)} }

// Listen wakes calls whenever the doorbell rings, until End.
func (b *Bell) Listen() {
	for {
		seen := atomic.LoadUint32(b.word)
		if b.look() {
			return
		}
		wait(b.word, seen, far)
	}
}

// look wakes the calls that were served, or are to look for themselves.
func (b *Bell) look() (ended bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.calls {
		if c.threaded {
			continue
		}
		// Who claims a cell rings again when he is through with it.
		if st := c.o.state(c.cell); st != c.asleep && st.phase() != abi.CellClaimed {
			c.nudge()
		}
	}
	return b.ended
}

// End ends all calls that wait with EINTR, those to come as well, and Listen.
func (b *Bell) End() {
	b.mu.Lock()
	b.ended = true
	for _, c := range b.calls {
		c.interrupt()
	}
	b.mu.Unlock()
	atomic.AddUint32(b.word, 1)
	wakeAll(b.word) // a session's process and its manager may both listen
}

// take gives a call a thread, if there is one left for it.
func (b *Bell) take() (threaded bool) {
	if b.threads.Add(1) <= b.most {
		return true
	}
	b.threads.Add(-1)
	return false
}

// add begins to wake a call.
func (b *Bell) add(c *call) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c.at = len(b.calls)
	b.calls = append(b.calls, c)
	if b.ended {
		c.interrupt()
	}
}

func (b *Bell) remove(c *call) {
	b.mu.Lock()
	defer b.mu.Unlock()
	last := len(b.calls) - 1
	b.calls[c.at] = b.calls[last]
	b.calls[c.at].at = c.at
	b.calls[last] = nil
	b.calls = b.calls[:last]
}

// await sleeps until the cell is not in that state any more, without a thread.
//
// asleep is noted before the cell is looked at a last time, and who serves it
// changes it before the bell rings: the listener sees the change, or we do.
func (b *Bell) await(ctx context.Context, c *call, st state, d time.Duration) {
	b.mu.Lock()
	c.asleep = st
	b.mu.Unlock()
	if c.o.state(c.cell) != st {
		return
	}
	var late <-chan time.Time
	if d < far {
		timer := time.NewTimer(d)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-c.nudged:
	case <-ctx.Done():
	case <-late:
	}
}
