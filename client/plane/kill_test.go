package plane

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipcspace/ipcspace/client/abi"
)

// killer ends sessions at random steps, as deaths would: the goroutine is gone
// and leaves everything as it stands. Only goroutines in a session's own calls
// are counted.
type killer struct {
	mu    sync.Mutex
	steps map[uint32]int // steps a session has left to live
	f     *file
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
