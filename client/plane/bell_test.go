package plane

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// What holds for calls that sleep on their cells holds for those that wait for
// the bell.
func TestWithoutThreads(t *testing.T) {
	withBells = true
	t.Cleanup(func() { withBells = false })
	for _, c := range []struct {
		name string
		test func(t *testing.T)
	}{
		{"SleepAndWake", TestSleepAndWake}, {"TimeoutAndCancel", TestTimeoutAndCancel}, {"ScanOrder", TestScanOrder},
		{"Undo", TestUndo}, {"Remove", TestRemove}, {"Move", TestMove}, {"CancelWhileClaimed", TestCancelWhileClaimed},
		{"HandOver", TestHandOver}, {"FullQueue", TestFullQueue}, {"QueueInterrupted", TestQueueInterrupted},
		{"DieAtEachStepSet", TestDieAtEachStepSet}, {"ServerDiesAtEachStep", TestServerDiesAtEachStep},
		{"DieAtEachStepQueue", TestDieAtEachStepQueue},
		{"StressSet", func(t *testing.T) { stressSet(t, rounds(1000)) }},
		{"StressQueue", func(t *testing.T) { stressQueue(t, rounds(1000)) }},
		{"StallSet", TestStallSet}, {"StallQueue", TestStallQueue},
	} {
		t.Run(c.name, c.test)
	}
}

// The end of a bell ends what waits, with a thread and without, and what is
// going to.
func TestBellEnd(t *testing.T) {
	b := NewBell(new(uint32), 1)
	over := make(chan struct{})
	go func() {
		defer close(over)
		b.Listen()
	}()
	f := newFile(t, 1, 32, 0)
	f.bells.Store(uint32(7), b)
	withBells = true
	defer func() { withBells = false }()
	s := f.set(1, 7)
	var calls []chan error
	for range 3 {
		calls = append(calls, s.asleep(t, context.Background(), -1, op(0, -1)))
	}
	eventually(t, "all wait", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.calls) == 3 && b.threads.Load() == 1
	})
	b.End()
	for _, c := range calls {
		want(t, <-c, unix.EINTR)
	}
	<-over
	want(t, s.Op(bg, []abi.SemOp{op(0, -1)}, -1), unix.EINTR)
	if n, err := s.NCount(0); n != 0 || err != nil {
		t.Fatalf("%d are left, %v", n, err)
	}
}

// Two may listen to one doorbell: a process, and the manager for its brokered
// calls. The end of one is heard by that one.
func TestBellOfTwo(t *testing.T) {
	word := new(uint32)
	bells := []*Bell{NewBell(word, 1), NewBell(word, 0)}
	over := make([]chan struct{}, len(bells))
	for i, b := range bells {
		over[i] = make(chan struct{})
		go func() {
			defer close(over[i])
			b.Listen()
		}()
		time.Sleep(20 * time.Millisecond) // the first one sleeps first
	}
	for i := range bells {
		last := len(bells) - 1 - i
		bells[last].End()
		select {
		case <-over[last]:
		case <-time.After(10 * time.Second):
			t.Fatalf("bell %d: still listening", last)
		}
	}
}

// Thousands that wait take no thread each, and each gets its own.
func TestThousandsWait(t *testing.T) {
	withBells = true
	defer func() { withBells = false }()
	const n = 5000
	f := newFile(t, 1, 64, 0)
	f.maxCells = 20000
	s := f.set(1, 7)
	var done sync.WaitGroup
	for range n {
		done.Go(func() { ok(t, s.Op(bg, []abi.SemOp{op(0, -1)}, -1)) })
	}
	deadline := time.Now().Add(time.Minute)
	for k := 0; k < n && time.Now().Before(deadline); {
		k, _ = s.NCount(0)
		runtime.Gosched()
	}
	for range n {
		ok(t, s.Op(bg, []abi.SemOp{op(0, 1)}, -1))
	}
	done.Wait()
	s.check(t, 0)
}
