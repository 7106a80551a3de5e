package plane

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipcspace/ipcspace/client/abi"
	"golang.org/x/sys/unix"
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

// killer ends sessions at random steps, as deaths would: the goroutine is gone
// and leaves everything as it stands. Only goroutines in a session's own calls
// are counted.
type killer struct {
	mu      sync.Mutex
	steps   map[uint32]int // steps a session has left to live
	victims map[uint32]bool
	f       *file
}

func (k *killer) step(session uint32, _ string) {
	k.mu.Lock()
	n, mortal := k.steps[session]
	if !mortal {
		k.mu.Unlock()
		return
	}
	n--
	k.steps[session] = n
	k.mu.Unlock()
	if n <= 0 {
		k.f.dead.Store(session, true)
		runtime.Goexit()
	}
}

func (k *killer) install(t testing.TB) {
	setFailPoint(k.step)
	t.Cleanup(func() { setFailPoint(nil) })
}

// One session after the other dies at some step of its operations, while
// others go on; its undo brings back all that it had.
func TestKillSet(t *testing.T) {
	const sems, start = 3, 10
	f := newFile(t, sems, 16, 0)
	k := &killer{steps: map[uint32]int{}, f: f}
	k.install(t)
	m := f.set(sems, abi.ManagerSession)
	f.reapBy(m)
	ok(t, m.SetAll([]uint16{start, start, start}))
	ctx, cancel := context.WithTimeout(bg, 100*time.Second)
	defer cancel()
	var stop atomic.Bool
	var wg sync.WaitGroup
	for id := range 3 {
		wg.Go(func() { // the immortal
			s := f.set(sems, uint32(10+id))
			rnd := rand.New(rand.NewPCG(uint64(id), 3))
			for !stop.Load() {
				a, n := rnd.IntN(sems), 1+rnd.IntN(start)
				err := s.Op(ctx, []abi.SemOp{op(a, -n)}, -1)
				if err == nil {
					err = s.Op(ctx, []abi.SemOp{op(a, n)}, -1)
				}
				if err != nil {
					t.Errorf("session %d: %v", 10+id, err)
					return
				}
			}
		})
	}
	rnd := rand.New(rand.NewPCG(4, 4))
	for i := range rounds(1500) {
		session := uint32(100 + i)
		k.mu.Lock()
		k.steps[session] = 1 + rnd.IntN(60)
		k.mu.Unlock()
		var life sync.WaitGroup
		life.Go(func() {
			s := f.set(sems, session)
			rnd := rand.New(rand.NewPCG(uint64(i), 5))
			for {
				a, b, n := rnd.IntN(sems), rnd.IntN(sems), 1+rnd.IntN(start/2)
				down := []abi.SemOp{op(a, -n, semUndo), op(b, -1, semUndo)}
				up := []abi.SemOp{op(a, n, semUndo), op(b, 1, semUndo)}
				if s.Op(ctx, down, -1) != nil || s.Op(ctx, up, -1) != nil {
					return
				}
			}
		})
		life.Wait()
		if _, dead := f.dead.Load(session); !dead {
			t.Fatal("a session could not go on")
		}
		ok(t, m.ReapSession(session))
	}
	stop.Store(true)
	wg.Wait()
	m.check(t, start, start, start)
	for id := range 3 {
		ok(t, m.ReapSession(uint32(10+id)))
	}
	if n := m.inUse(); n != 0 {
		t.Errorf("%d cells are left\n%s", n, m.describe())
	}
}

// Senders and receivers die at some step. A message is lost only if its
// receiver died, and never comes twice.
func TestKillQueue(t *testing.T) {
	f := newFile(t, 0, 16, 0)
	f.qbytes.Store(2000)
	k := &killer{steps: map[uint32]int{}, f: f}
	k.install(t)
	m := f.queue(abi.ManagerSession)
	ctx, cancel := context.WithTimeout(bg, 100*time.Second)
	defer cancel()
	var mu sync.Mutex
	seen := map[uint64]bool{}
	receive := func(q *Queue) error {
		buf := make([]byte, 4000)
		n, _, err := q.Receive(ctx, buf, 0, 0)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		id := binary.LittleEndian.Uint64(buf)
		if n < 8 || seen[id] {
			t.Errorf("message %d came twice", id)
		}
		seen[id] = true
		return nil
	}
	send := func(q *Queue, rnd *rand.Rand, id uint64) error {
		text := make([]byte, 8+rnd.IntN(900))
		binary.LittleEndian.PutUint64(text, id)
		return q.Send(ctx, 1+int64(id%7), text, 0)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	var sent atomic.Uint64
	recvCtx, stopReceiving := context.WithCancel(ctx)
	wg.Go(func() {
		q := f.queue(10)
		buf := make([]byte, 4000)
		for {
			n, _, err := q.Receive(recvCtx, buf, 0, 0)
			if err != nil {
				return
			}
			mu.Lock()
			id := binary.LittleEndian.Uint64(buf)
			if n < 8 || seen[id] {
				t.Errorf("message %d came twice", id)
			}
			seen[id] = true
			mu.Unlock()
		}
	})
	var sender sync.WaitGroup
	sender.Go(func() {
		q := f.queue(11)
		rnd := rand.New(rand.NewPCG(1, 6))
		for !stop.Load() {
			if err := send(q, rnd, 1<<40+sent.Add(1)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	rnd := rand.New(rand.NewPCG(4, 7))
	receivers := 0
	for i := range rounds(1500) {
		session := uint32(100 + i)
		k.mu.Lock()
		k.steps[session] = 1 + rnd.IntN(40)
		k.mu.Unlock()
		var life sync.WaitGroup
		life.Go(func() {
			q := f.queue(session)
			rnd := rand.New(rand.NewPCG(uint64(i), 8))
			for n := uint64(0); ; n++ {
				var err error
				if i%2 == 0 {
					err = send(q, rnd, uint64(i)<<20+n)
				} else {
					err = receive(q)
				}
				if err != nil {
					return
				}
			}
		})
		if i%2 == 1 {
			receivers++
		}
		life.Wait()
		if _, dead := f.dead.Load(session); !dead {
			t.Fatal("a session could not go on")
		}
		ok(t, m.ReapSession(session))
	}
	stop.Store(true)
	sender.Wait()
	eventually(t, "an empty queue", func() bool { return m.Stat().Messages == 0 && m.waiting() <= 1 })
	stopReceiving()
	wg.Wait()
	m.verify(t, 0, 0)
	mu.Lock()
	defer mu.Unlock()
	lost := 0
	for id := uint64(1); id <= sent.Load(); id++ {
		if !seen[1<<40+id] {
			lost++
		}
	}
	if lost > receivers {
		t.Errorf("%d messages are lost, %d receivers died", lost, receivers)
	}
	for _, session := range []uint32{10, 11} {
		ok(t, m.ReapSession(session))
	}
	if n := m.inUse(); n != 0 {
		t.Errorf("%d cells are left\n%s", n, m.describe())
	}
	for i := range m.learn() {
		if w := m.data.load(abi.ChunkWordOff(i)); w != 0 {
			t.Fatalf("chunk %d is left to %d", i, w)
		}
	}
}
