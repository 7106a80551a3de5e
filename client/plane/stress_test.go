package plane

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// rounds makes a stress test longer outside of -short.
func rounds(n int) int {
	if testing.Short() {
		return n / 10
	}
	return n
}

func TestStressSet(t *testing.T)   { stressSet(t, rounds(3000)) }
func TestStressQueue(t *testing.T) { stressQueue(t, rounds(3000)) }

// Sessions are stopped, now and then, for longer than others are patient: they
// are revoked and helped, and go on where they were.
func TestStallSet(t *testing.T) {
	stall(t)
	stressSet(t, rounds(600))
}

func TestStallQueue(t *testing.T) {
	stall(t)
	stressQueue(t, rounds(600))
}

func stall(t *testing.T) {
	setFailPoint(func(uint32, string) {
		if rand.IntN(150) == 0 {
			time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
		}
	})
	t.Cleanup(func() { setFailPoint(nil) })
}

// Every unit that is added is taken by exactly one: what goes down at one
// semaphore goes up at another, in all the ways that there are.
func stressSet(t *testing.T, each int) {
	const sems, sessions, start = 4, 8, 20
	f := newFile(t, sems, 8, 0)
	first := f.set(sems, 2)
	ok(t, first.SetAll([]uint16{start, start, start, start}))
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(bg, 60*time.Second)
	defer cancel()
	for id := range sessions {
		wg.Go(func() {
			s := f.set(sems, uint32(10+id))
			rnd := rand.New(rand.NewPCG(uint64(id), 1))
			for range each {
				a, b := rnd.IntN(sems), rnd.IntN(sems)
				n := 1 + rnd.IntN(start/2)
				var err error
				switch rnd.IntN(4) {
				case 0:
					err = s.Op(ctx, []abi.SemOp{op(a, -n)}, -1)
					if err == nil {
						err = s.Op(ctx, []abi.SemOp{op(a, n)}, -1)
					}
				case 1:
					err = s.Op(ctx, []abi.SemOp{op(a, -n, semUndo)}, -1)
					if err == nil {
						err = s.Op(ctx, []abi.SemOp{op(a, n, semUndo)}, -1)
					}
				case 2:
					err = s.Op(ctx, []abi.SemOp{op(a, -n), op(b, n), op(b, -n), op(a, n)}, -1)
				case 3:
					err = s.Op(ctx, []abi.SemOp{op(a, -n), op(b, n)}, time.Duration(rnd.IntN(300))*time.Microsecond)
					if err == nil {
						err = s.Op(ctx, []abi.SemOp{op(b, -n), op(a, n)}, -1)
					} else if err == unix.EAGAIN {
						err = nil
					}
				}
				if err != nil {
					t.Errorf("session %d: %v", 10+id, err)
					return
				}
			}
		})
	}
	wg.Wait()
	first.check(t)
	sum := 0
	all, err := first.All()
	ok(t, err)
	for _, v := range all {
		sum += int(v)
	}
	if sum != sems*start || t.Failed() {
		t.Fatalf("values %v: %d in all, want %d\n%s", all, sum, sems*start, first.describe())
	}
	for id := range sessions {
		ok(t, first.ReapSession(uint32(10+id)))
	}
	first.check(t, all...)
	if n := first.inUse(); n != 0 {
		t.Errorf("%d cells are left\n%s", n, first.describe())
	}
}

// describe prints all cells in use, for a test that failed.
func (o *object) describe() string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "lock %#x pending %#x waiters %d %d senders %d %d messages %d %d sent %#x taken %#x\n",
		o.load(offLock), o.load(offPending), uint32(o.load(offWaitHead)), uint32(o.load(offWaitTail)),
		uint32(o.load(offSendHead)), uint32(o.load(offSendTail)), uint32(o.load(offMsgHead)),
		uint32(o.load(offMsgTail)), o.load(offSent), o.load(offTaken))
	for i := range o.cells() {
		st := o.state(o.cellsOff + i*abi.CellSize)
		if st.phase() != abi.CellFree {
			fmt.Fprintf(&b, "cell %d: kind %d state %d session %d version %d next %d: %x\n", i+1, st.kind(),
				st.phase(), st.session(), st>>abi.CellVersionShift, uint32(o.load(o.cellsOff+i*abi.CellSize+offNext)),
				o.mem[o.cellsOff+i*abi.CellSize+16:][:48])
		}
	}
	return b.String()
}

// Each message arrives once, and those of one sender and type in order.
func stressQueue(t *testing.T, each int) {
	const senders, types = 4, 3
	f := newFile(t, 0, 8, 0)
	f.qbytes.Store(3000)
	ctx, cancel := context.WithTimeout(bg, 60*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for id := range senders {
		wg.Go(func() {
			q := f.queue(uint32(10 + id))
			rnd := rand.New(rand.NewPCG(uint64(id), 2))
			var next [types]uint32
			for range each {
				typ := rnd.IntN(types)
				text := make([]byte, 8+rnd.IntN(600))
				binary.LittleEndian.PutUint32(text, uint32(id))
				binary.LittleEndian.PutUint32(text[4:], next[typ])
				next[typ]++
				if err := q.Send(ctx, int64(1+typ), text, 0); err != nil {
					t.Errorf("sender %d: %v", id, err)
					return
				}
			}
		})
	}
	var left atomic.Int64
	left.Store(int64(senders * each))
	done, stop := context.WithCancel(ctx)
	for typ := range types {
		// One receiver for each type: so order is seen.
		wg.Go(func() {
			q := f.queue(uint32(20 + typ))
			var next [senders]uint32
			buf := make([]byte, 1000)
			for {
				c, cancel := context.WithTimeout(done, time.Duration(1+typ)*time.Millisecond)
				n, mtype, err := q.Receive(c, buf, int64(1+typ), 0)
				cancel()
				if err == unix.EINTR && done.Err() == nil {
					continue
				}
				if err != nil {
					return
				}
				id, seq := binary.LittleEndian.Uint32(buf), binary.LittleEndian.Uint32(buf[4:])
				if mtype != int64(1+typ) || n < 8 || id >= senders || seq != next[id] {
					t.Errorf("type %d: message %d of %d, want %d", mtype, seq, id, next[id])
					stop()
					return
				}
				next[id]++
				if left.Add(-1) == 0 {
					stop()
				}
			}
		})
	}
	go func() {
		q, last := f.queue(2), int64(-1)
		for done.Err() == nil {
			if last == left.Load() {
				t.Errorf("nothing goes on:\n%s", q.describe())
				cancel()
				return
			}
			last = left.Load()
			select {
			case <-done.Done():
			case <-time.After(5 * time.Second):
			}
		}
	}()
	wg.Wait()
	stop()
	q := f.queue(2)
	if left.Load() != 0 {
		t.Fatalf("%d messages did not arrive\n%s", left.Load(), q.describe())
	}
	q.verify(t, 0, 0)
	if n := q.inUse(); n != 0 {
		t.Errorf("%d cells are left\n%s", n, q.describe())
	}
}
