package plane

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// dieAt runs act as a session that dies at its nth step. It says whether it
// did, and where.
func dieAt(t *testing.T, f *file, session uint32, nth int, act func()) (died bool, where string) {
	t.Helper()
	steps := 0
	setFailPoint(func(s uint32, step string) {
		if s != session {
			return
		}
		if steps++; steps == nth {
			f.dead.Store(session, true)
			died, where = true, step
			runtime.Goexit()
		}
	})
	var wg sync.WaitGroup
	wg.Go(act)
	wg.Wait()
	setFailPoint(nil)
	return died, where
}

// A set of which session 7 dies at each step, one after the other, of each
// kind of call. It has happened or it has not, nothing in between; its undo
// is applied once; others go on, before and after it is reaped.
func TestDieAtEachStepSet(t *testing.T) {
	none := []uint16{3, 0}
	cases := []struct {
		name          string
		before, after []uint16 // values if it did not happen, and if it did, both after undo
		act           func(t *testing.T, f *file, s *Set)
	}{
		{"several", none, []uint16{1, 5}, func(t *testing.T, f *file, s *Set) {
			_ = s.Op(bg, []abi.SemOp{op(0, -2), op(1, 5)}, -1)
		}},
		{"undo", none, none, func(t *testing.T, f *file, s *Set) {
			_ = s.Op(bg, []abi.SemOp{op(0, -2, semUndo), op(1, 5, semUndo)}, -1)
		}},
		{"SETALL", none, []uint16{7, 8}, func(t *testing.T, f *file, s *Set) {
			_ = s.SetAll([]uint16{7, 8})
		}},
		{"time-out", none, none, func(t *testing.T, f *file, s *Set) {
			_ = s.Op(bg, []abi.SemOp{op(0, -9, semUndo)}, time.Millisecond)
		}},
		{"cancel", none, none, func(t *testing.T, f *file, s *Set) {
			ctx, cancel := context.WithTimeout(bg, time.Millisecond)
			defer cancel()
			_ = s.Op(ctx, []abi.SemOp{op(0, -9), op(1, 1)}, -1)
		}},
		{"many", none, []uint16{3, 40}, func(t *testing.T, f *file, s *Set) {
			ops := make([]abi.SemOp, 40)
			for i := range ops {
				ops[i] = op(1, 1)
			}
			_ = s.Op(bg, ops, -1)
		}},
	}
	for _, c := range cases {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			for nth := 1; ; nth++ {
				f := newFile(t, 2, 16, 0)
				m := f.set(2, abi.ManagerSession)
				f.reapBy(m)
				ok(t, m.SetAll(none))
				died, where := dieAt(t, f, 7, nth, func() { c.act(t, f, f.set(2, 7)) })
				if !died {
					if nth < 4 {
						t.Fatalf("only %d steps", nth)
					}
					return
				}
				// Others go on though nobody has reaped it yet.
				other := f.set(2, 8)
				ok(t, other.Op(bg, []abi.SemOp{op(0, 1), op(1, 1)}, -1))
				ok(t, other.Op(bg, []abi.SemOp{op(0, -1), op(1, -1)}, -1))
				ok(t, m.ReapSession(7))
				ok(t, m.ReapSession(7))
				got, err := m.All()
				ok(t, err)
				if s := fmt.Sprint(got); s != fmt.Sprint(c.before) && s != fmt.Sprint(c.after) {
					t.Fatalf("step %d (%s): values are %v", nth, where, got)
				}
				if err := m.Verify(); err != nil {
					t.Fatalf("step %d (%s): %v", nth, where, err)
				}
				if n := m.inUse(); n != 0 {
					t.Fatalf("step %d (%s): %d cells are left\n%s", nth, where, n, m.describe())
				}
			}
		})
	}
}

// Who serves sleepers dies at each step: none is lost, none served twice.
func TestServerDiesAtEachStep(t *testing.T) {
	for nth := 1; ; nth++ {
		f := newFile(t, 2, 32, 0)
		m := f.set(2, abi.ManagerSession)
		f.reapBy(m)
		sleeper := f.set(2, 8)
		var done []chan error
		for range 3 {
			done = append(done, sleeper.asleep(t, bg, -1, op(0, -1, semUndo), op(1, 1)))
		}
		died, where := dieAt(t, f, 7, nth, func() { _ = f.set(2, 7).Op(bg, []abi.SemOp{op(0, 3)}, -1) })
		ok(t, m.ReapSession(7))
		if v, _ := m.Value(1); v == 0 {
			// It had not happened.
			ok(t, m.Op(bg, []abi.SemOp{op(0, 3)}, -1))
		}
		for i, d := range done {
			select {
			case err := <-d:
				ok(t, err)
			case <-time.After(5 * time.Second):
				t.Fatalf("step %d (%s): sleeper %d is lost\n%s", nth, where, i, m.describe())
			}
		}
		m.check(t, 0, 3)
		ok(t, m.ReapSession(8))
		m.check(t, 3, 3)
		if n := m.inUse(); n != 0 {
			t.Fatalf("step %d (%s): %d cells are left\n%s", nth, where, n, m.describe())
		}
		if !died {
			return
		}
	}
}

// A sleeper that was claimed by one who died before waking it can be cancelled.
func TestCancelWhileClaimed(t *testing.T) {
	f := newFile(t, 1, 16, 0)
	s := f.set(1, 8)
	ctx, cancel := context.WithCancel(bg)
	done := s.asleep(t, ctx, -1, op(0, -1))
	for i := range s.cells() {
		if off := s.cellsOff + i*abi.CellSize; s.state(off).sleeping() {
			st := s.state(off)
			s.shift(off, st, st.to(abi.CellClaimed, 0))
		}
	}
	cancel()
	want(t, <-done, unix.EINTR)
	s.check(t, 0)
}

// The manager itself dies at each step of applying undo.
func TestReaperDiesAtEachStep(t *testing.T) {
	for nth := 1; ; nth++ {
		f := newFile(t, 40, 32, 0)
		ok(t, f.set(40, 9).Op(bg, []abi.SemOp{op(39, 5)}, -1))
		victim := f.set(40, 7)
		var ops []abi.SemOp
		for i := range 40 {
			ops = append(ops, op(i, 1, semUndo))
		}
		ok(t, victim.Op(bg, ops, -1))
		f.dead.Store(uint32(7), true)
		died, where := dieAt(t, f, abi.ManagerSession, nth, func() {
			_ = f.set(40, abi.ManagerSession).ReapSession(7)
		})
		m := f.set(40, abi.ManagerSession)
		ok(t, m.Recover(yesSession))
		ok(t, m.ReapSession(7))
		values := make([]uint16, 40)
		values[39] = 5
		m.check(t, values...)
		if n := m.inUse(); n != 0 {
			t.Fatalf("step %d (%s): %d cells are left\n%s", nth, where, n, m.describe())
		}
		if !died {
			return
		}
	}
}

// Senders and receivers die at each step, with long texts in index cells.
func TestDieAtEachStepQueue(t *testing.T) {
	long := make([]byte, (abi.MessageChunks+abi.IndexChunks+3)*abi.ChunkSize)
	cases := []struct {
		name string
		act  func(q *Queue)
	}{
		{"send", func(q *Queue) { _ = q.Send(bg, 2, []byte("abc"), 0) }},
		{"send long", func(q *Queue) { _ = q.Send(bg, 2, long, 0) }},
		{"receive", func(q *Queue) { _, _, _ = q.Receive(bg, make([]byte, 9), 1, 0) }},
		{"receive long", func(q *Queue) { _, _, _ = q.Receive(bg, make([]byte, len(long)), 5, 0) }},
		{"receiver sleeps", func(q *Queue) {
			ctx, cancel := context.WithTimeout(bg, time.Millisecond)
			defer cancel()
			_, _, _ = q.Receive(ctx, nil, 9, 0)
		}},
	}
	for _, c := range cases {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			for nth := 1; ; nth++ {
				f := newFile(t, 0, 32, 300)
				f.qbytes.Store(1 << 20)
				m, a := f.queue(abi.ManagerSession), f.queue(8)
				ok(t, a.Send(bg, 1, []byte("first"), 0))
				ok(t, a.Send(bg, 5, long, 0))
				ok(t, a.Send(bg, 6, []byte("last"), 0))
				died, where := dieAt(t, f, 7, nth, func() { c.act(f.queue(7)) })
				ok(t, a.Send(bg, 7, []byte("more"), 0)) // goes on before anybody is reaped
				if nth%2 == 0 {
					ok(t, m.ReapSession(8)) // the sender of it all dies first
				}
				ok(t, m.ReapSession(7))
				ok(t, m.ReapSession(7))
				if err := m.Verify(); err != nil {
					t.Fatalf("step %d (%s): %v\n%s", nth, where, err, m.describe())
				}
				for {
					if got := m.get(t, len(long), 0, 0); got.err == unix.ENOMSG {
						break
					} else if got.err != nil {
						t.Fatal(got.err)
					}
				}
				ok(t, m.ReapSession(8))
				m.verify(t, 0, 0)
				if n := m.inUse(); n != 0 {
					t.Fatalf("step %d (%s): %d cells are left\n%s", nth, where, n, m.describe())
				}
				for i := range m.learn() {
					if w := m.data.load(abi.ChunkWordOff(i)); w != 0 {
						t.Fatalf("step %d (%s): chunk %d is left to %d", nth, where, i, w)
					}
				}
				if !died {
					return
				}
			}
		})
	}
}

// FuzzSet has calls meet memory full of anything. They return, soon enough,
// and nothing panics.
func FuzzSet(fz *testing.F) {
	for i := range uint64(rounds(300)) {
		fz.Add(i, i, []byte{})
	}
	fz.Fuzz(func(t *testing.T, seed, density uint64, raw []byte) {
		defer time.AfterFunc(20*time.Second, func() { panic("does not return") }).Stop()
		const sems = 3
		f := newFile(t, sems, 24, 0)
		f.maxCells = 40
		garbage(f.mem[:f.cellsOff+24*abi.CellSize], seed, density, raw)
		m, a := f.set(sems, abi.ManagerSession), f.set(sems, 7)
		f.reapBy(m)
		f.dead.Store(uint32(3), true)
		ctx, cancel := context.WithTimeout(bg, 2*time.Millisecond)
		defer cancel()
		_ = a.Op(ctx, []abi.SemOp{op(0, 1)}, time.Millisecond)
		_ = a.Op(ctx, []abi.SemOp{op(0, -1, semUndo), op(2, 0)}, time.Millisecond)
		_, _ = a.All()
		_, _ = a.Value(1)
		_, _ = a.NCount(0)
		_, _ = a.ZCount(1)
		_ = a.SetValue(1, 5)
		_ = a.SetAll([]uint16{1, 2, 3})
		_ = m.ReapSession(3)
		_ = m.reap(7, sleepers)
		_ = m.Recover(func(n uint32) bool { return n%2 == 0 })
		_, _ = m.Resume()
		_ = m.Verify()
		m.SessionsNamed(func(uint32) {})
		_ = m.Poison()
		_ = m.CopyTo(newFile(t, sems, 24, 0).set(sems, abi.ManagerSession))
		m.WakeMoved()
		m.Remove()
	})
}

// FuzzQueue is FuzzSet for queues.
func FuzzQueue(fz *testing.F) {
	for i := range uint64(rounds(300)) {
		fz.Add(i, i, []byte{})
	}
	fz.Fuzz(func(t *testing.T, seed, density uint64, raw []byte) {
		defer time.AfterFunc(20*time.Second, func() { panic("does not return") }).Stop()
		f := newFile(t, 0, 24, 8)
		f.maxCells = 40
		garbage(f.mem[:f.cellsOff+24*abi.CellSize], seed, density, raw)
		garbage(f.dmem[:128], seed+1, density, nil)
		m, a := f.queue(abi.ManagerSession), f.queue(7)
		ctx, cancel := context.WithTimeout(bg, 2*time.Millisecond)
		defer cancel()
		_ = a.Send(ctx, 1, make([]byte, 3000), 0)
		_, _, _ = a.Receive(ctx, make([]byte, 5000), -3, 0)
		_, _, _ = a.Receive(ctx, make([]byte, 10), 0, msgNoError)
		_, _, _ = a.Copy(make([]byte, 5000), 1, unix.IPC_NOWAIT)
		_ = a.Stat()
		_ = m.Rescan()
		_ = m.Refuse(ctx, 3000, yes)
		_ = m.ReapSession(3)
		_ = m.Recover(func(n uint32) bool { return n%2 == 0 })
		_, _ = m.ResumeSend()
		_, _, _, _ = m.ResumeReceive(make([]byte, 5000))
		_ = m.Verify()
		m.SessionsNamed(func(uint32) {})
		_ = m.Poison()
		_ = m.CopyTo(newFile(t, 0, 24, 8).queue(abi.ManagerSession))
		m.WakeMoved()
		m.Remove()
	})
}

// garbage fills memory with words that look like something: small numbers,
// links, states; density says how much, raw is laid over the beginning.
func garbage(mem []byte, seed, density uint64, raw []byte) {
	rnd := rand.New(rand.NewPCG(seed, 9))
	m := &memory{mem: mem}
	m.extend(len(mem))
	for off := 0; off < len(mem); off += 8 {
		if rnd.Uint64N(8) > density%9 {
			continue
		}
		var w uint64
		switch rnd.IntN(6) {
		case 0:
			w = rnd.Uint64N(40)
		case 1:
			w = rnd.Uint64N(40) | rnd.Uint64N(4)<<abi.LinkVersionShift
		case 2, 3:
			w = uint64(state(rnd.Uint64N(8)).owned(rnd.Uint64N(9), rnd.Uint64N(10), uint32(rnd.Uint64N(8))))
		case 4:
			w = abi.UndoUsed | rnd.Uint64N(5)<<abi.UndoSemShift | rnd.Uint64N(1<<16)
		case 5:
			w = rnd.Uint64()
		}
		m.store(off, w)
	}
	copy(mem, raw)
	// A removed or moved object is too easy.
	m.store(offState, 0)
}
