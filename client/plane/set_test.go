package plane

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// values checks all values of a set, and its invariants.
func (s *Set) check(t testing.TB, values ...uint16) {
	t.Helper()
	got, err := s.All()
	ok(t, err)
	for i, v := range values {
		if got[i] != v {
			t.Fatalf("values are %v, want %v", got, values)
		}
	}
	if err := s.Verify(); err != nil {
		t.Fatal(err)
	}
}

// asleep starts a semop that is to sleep, and waits until it does.
func (s *Set) asleep(t testing.TB, ctx context.Context, timeout time.Duration, ops ...abi.SemOp) chan error {
	t.Helper()
	before := s.sleepers()
	done := make(chan error, 1)
	go func() { done <- s.Op(ctx, ops, timeout) }()
	eventually(t, "a sleeper", func() bool { return s.sleepers() > before })
	time.Sleep(2 * time.Millisecond) // into the futex, most likely
	return done
}

// The C library lets a word be fast again when all that name it are CANCELLED, though not yet off
// the list.
func TestVerifyCancelled(t *testing.T) {
	s := newFile(t, 1, 16, 0).set(1, 7)
	sleeper := s.asleep(t, bg, -1, op(0, -1))
	for i := range s.cells() {
		off := s.cellsOff + i*abi.CellSize
		st := s.state(off)
		if !st.sleeping() {
			continue
		}
		s.shift(off, st, st.to(abi.CellCancelled, 0))
		w := s.load(semOff(0))
		s.cas(semOff(0), w, w&^abi.SemSlow)
		ok(t, s.Verify())
		wake(s.futex(off))
	}
	want(t, <-sleeper, unix.EINTR)
	s.check(t, 0)
}

func (s *Set) sleepers() (n int) {
	for i := range s.cells() {
		if st := s.state(s.cellsOff + i*abi.CellSize); st.sleeping() {
			n++
		}
	}
	return n
}

func TestOpErrors(t *testing.T) {
	s := newFile(t, 2, 16, 0).set(2, 7)
	s.Init()
	for _, c := range []struct {
		rule string
		ops  []abi.SemOp
		err  error
	}{
		{"row 112: no operation", nil, unix.EINVAL},
		{"row 116: no such semaphore", []abi.SemOp{op(0, 1), op(2, 1)}, unix.EFBIG},
		{"row 119: would block, IPC_NOWAIT", []abi.SemOp{op(0, -1, unix.IPC_NOWAIT)}, unix.EAGAIN},
		{"row 118: passes SEMVMX", []abi.SemOp{op(0, 32767), op(0, 1)}, unix.ERANGE},
		{"row 120: the flag of another operation does not count", []abi.SemOp{op(1, 1, unix.IPC_NOWAIT), op(0, -1)}, unix.EAGAIN},
		{"row 146: passes SEMAEM", []abi.SemOp{op(0, 20000, semUndo), op(0, -20000), op(0, 20000, semUndo)}, unix.ERANGE},
		{"row 108: array order", []abi.SemOp{op(0, 1), op(0, -1), op(0, 0)}, nil},
	} {
		if err := s.Op(bg, c.ops, 0); err != c.err {
			t.Errorf("%s: got %v, want %v", c.rule, err, c.err)
		}
	}
	s.check(t, 0, 0)
}

func TestFastAndSlow(t *testing.T) {
	f := newFile(t, 3, 16, 0)
	a, b := f.set(3, 7), f.set(3, 8)
	ok(t, a.Op(bg, []abi.SemOp{op(0, 5)}, -1))
	ok(t, b.Op(bg, []abi.SemOp{op(0, -2), op(1, 3), op(2, 0)}, -1))
	a.check(t, 3, 3, 0)
	for num, session := range []uint32{8, 8, 8} {
		if got, err := a.PID(num); err != nil || got != session {
			t.Errorf("row 135: sempid of %d is %d, %v", num, got, err)
		}
	}
	if w := a.load(semOff(0)); w&abi.SemSlow != 0 {
		t.Error("SLOW is left behind")
	}
	if a.OTime() == 0 || a.CTime() != 0 {
		t.Error("otime or ctime is wrong")
	}
	ok(t, a.SetAll([]uint16{1, 2, 3}))
	ok(t, a.SetValue(1, 9))
	want(t, a.SetValue(1, 32768), unix.ERANGE)
	b.check(t, 1, 9, 3)
	if a.CTime() == 0 {
		t.Error("row 160: SETVAL sets ctime")
	}
}

func TestSleepAndWake(t *testing.T) {
	f := newFile(t, 2, 4, 0) // it must grow
	a, b := f.set(2, 7), f.set(2, 8)
	one := b.asleep(t, bg, -1, op(0, -1))
	zero := b.asleep(t, bg, -1, op(1, 1), op(1, -1), op(0, -3))
	if n, err := a.NCount(0); n != 2 || err != nil {
		t.Errorf("row 161: NCount is %d, %v", n, err)
	}
	ok(t, a.Op(bg, []abi.SemOp{op(0, 1)}, -1))
	ok(t, <-one)
	a.check(t, 0, 0)
	ok(t, a.Op(bg, []abi.SemOp{op(0, 4)}, -1))
	ok(t, <-zero)
	a.check(t, 1, 0)
	if pid, _ := a.PID(0); pid != 8 {
		t.Errorf("row 135: sempid is the sleeper, got %d", pid)
	}
	z := b.asleep(t, bg, -1, op(0, 0))
	if n, _ := a.ZCount(0); n != 1 {
		t.Errorf("ZCount is %d", n)
	}
	ok(t, a.SetValue(0, 0))
	ok(t, <-z)
	if w := a.load(semOff(0)); w&abi.SemSlow != 0 {
		t.Error("SLOW is left behind")
	}
	a.check(t, 0, 0)
}

func TestTimeoutAndCancel(t *testing.T) {
	f := newFile(t, 1, 16, 0)
	a := f.set(1, 7)
	want(t, a.Op(bg, []abi.SemOp{op(0, -1)}, 5*time.Millisecond), unix.EAGAIN)
	ctx, cancel := context.WithCancel(bg)
	done := a.asleep(t, ctx, -1, op(0, -1))
	cancel()
	want(t, <-done, unix.EINTR)
	if n, _ := a.NCount(0); n != 0 {
		t.Errorf("row 162: NCount is %d after EINTR", n)
	}
	if w := a.load(semOff(0)); w&abi.SemSlow != 0 {
		t.Error("SLOW is left behind")
	}
	a.check(t, 0)
}

func TestScanOrder(t *testing.T) {
	f := newFile(t, 2, 64, 0)
	a, b := f.set(2, 7), f.set(2, 8)
	// check_restart: S2 makes semaphore 0 zero, which lets S1 go on, though
	// S2 is a single operation.
	ok(t, a.SetAll([]uint16{1, 0}))
	s1 := b.asleep(t, bg, -1, op(0, 0), op(1, 1))
	s2 := b.asleep(t, bg, -1, op(0, -2))
	ok(t, a.Op(bg, []abi.SemOp{op(0, 1)}, -1))
	ok(t, <-s2)
	ok(t, <-s1)
	a.check(t, 0, 1)

	// Row 130: who cannot go on does not hold up later ones, and the first
	// who can is the first served.
	ok(t, a.SetAll([]uint16{0, 0}))
	big := b.asleep(t, bg, -1, op(0, -2))
	first := b.asleep(t, bg, -1, op(0, -1))
	second := b.asleep(t, bg, -1, op(0, -1))
	ok(t, a.Op(bg, []abi.SemOp{op(0, 1)}, -1))
	ok(t, <-first)
	ok(t, a.Op(bg, []abi.SemOp{op(0, 1)}, -1))
	ok(t, <-second)
	ok(t, a.Op(bg, []abi.SemOp{op(0, 2)}, -1))
	ok(t, <-big)
	a.check(t, 0, 0)

	// Row 134: a chain.
	x := b.asleep(t, bg, -1, op(0, -1), op(1, 1))
	y := b.asleep(t, bg, -1, op(1, -1))
	ok(t, a.Op(bg, []abi.SemOp{op(0, 1)}, -1))
	ok(t, <-x)
	ok(t, <-y)
	a.check(t, 0, 0)

	// Row 121: the blocking operation changes to one with IPC_NOWAIT.
	n := b.asleep(t, bg, -1, op(0, -1), op(1, -1, unix.IPC_NOWAIT))
	ok(t, a.Op(bg, []abi.SemOp{op(0, 1)}, -1))
	want(t, <-n, unix.EAGAIN)
	a.check(t, 1, 0)
}

func TestManyOperations(t *testing.T) {
	const sems = 200
	f := newFile(t, sems, 8, 0)
	a, b := f.set(sems, 7), f.set(sems, 8)
	var down, up []abi.SemOp
	for i := range sems {
		down = append(down, op(i, -1, semUndo))
		up = append(up, op(i, 1))
	}
	done := b.asleep(t, bg, -1, down...)
	ok(t, a.Op(bg, up, -1))
	ok(t, <-done)
	a.check(t, make([]uint16, sems)...)
	f.dead.Store(uint32(8), true)
	ok(t, a.ReapSession(8))
	ones := make([]uint16, sems)
	for i := range ones {
		ones[i] = 1
	}
	a.check(t, ones...)
	if free := a.inUse(); free != 0 {
		t.Errorf("%d cells are left", free)
	}
}

func (o *object) inUse() (n int) {
	for i := range o.cells() {
		if o.state(o.cellsOff+i*abi.CellSize).phase() != abi.CellFree {
			n++
		}
	}
	return n
}

func TestUndo(t *testing.T) {
	f := newFile(t, 2, 16, 0)
	a, b, m := f.set(2, 7), f.set(2, 8), f.set(2, abi.ManagerSession)
	f.reapBy(m)
	ok(t, a.Op(bg, []abi.SemOp{op(0, 3)}, -1))
	ok(t, b.Op(bg, []abi.SemOp{op(0, -2, semUndo)}, -1))
	ok(t, b.Op(bg, []abi.SemOp{op(1, 5, semUndo)}, -1))
	a.check(t, 1, 5)
	ok(t, a.SetValue(1, 4)) // row 144
	f.dead.Store(uint32(8), true)
	v, err := a.Value(0) // sees to it that the undo is applied before
	ok(t, err)
	if v != 3 {
		t.Fatalf("row 139: value is %d", v)
	}
	if pid, _ := a.PID(0); pid != 8 {
		t.Errorf("row 147: sempid is %d", pid)
	}
	ok(t, m.ReapSession(8))
	a.check(t, 3, 4)
	if n := a.inUse(); n != 0 {
		t.Errorf("%d cells are left", n)
	}
	if a.load(semOff(0))&abi.SemSlow != 0 {
		t.Error("SLOW is left behind")
	}
	// Row 150.
	ok(t, a.Op(bg, []abi.SemOp{op(0, -1, semUndo)}, -1))
	ok(t, a.Op(bg, []abi.SemOp{op(0, 1, semUndo)}, -1))
	if a.load(semOff(0))&abi.SemSlow != 0 {
		t.Error("SLOW is left behind")
	}
	// A sleeper's undo is made by who serves it.
	ok(t, a.SetValue(0, 0))
	c := f.set(2, 9)
	done := c.asleep(t, bg, -1, op(0, -1, semUndo))
	ok(t, a.Op(bg, []abi.SemOp{op(0, 1)}, -1))
	ok(t, <-done)
	ok(t, m.ReapSession(9))
	a.check(t, 1, 4)
}

// A process whose operations with SEM_UNDO were refused has a list of adjustments
// all the same: its end sets otime.
func TestUndoOfTheRefused(t *testing.T) {
	for _, c := range []struct {
		ops []abi.SemOp
		err error
	}{
		{[]abi.SemOp{op(1, -1, semUndo, unix.IPC_NOWAIT)}, unix.EAGAIN},
		{[]abi.SemOp{op(0, 20000, semUndo), op(0, 20000)}, unix.ERANGE},
		{[]abi.SemOp{op(2, 1, semUndo)}, unix.EFBIG},
	} {
		f := newFile(t, 2, 16, 0)
		a, m := f.set(2, 8), f.set(2, abi.ManagerSession)
		want(t, a.Op(bg, c.ops, -1), c.err)
		if a.OTime() != 0 {
			t.Errorf("%v sets otime", c.err)
		}
		ok(t, m.ReapSession(8))
		if a.OTime() == 0 {
			t.Errorf("%v: the end of the process does not set otime", c.err)
		}
		if n := a.inUse(); n != 0 {
			t.Errorf("%v: %d cells are left", c.err, n)
		}
	}
}

func TestAskedOncePerCall(t *testing.T) {
	f := newFile(t, 1, 16, 0)
	a, b := f.set(1, 7), f.set(1, 8)
	ok(t, b.Op(bg, []abi.SemOp{op(0, 5, semUndo)}, -1))
	f.dead.Store(uint32(8), true) // the hint; the manager says that it lives
	ok(t, a.Op(bg, []abi.SemOp{op(0, -1)}, -1))
	if n := f.asks.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	a.check(t, 4)
}

func TestRemove(t *testing.T) {
	f := newFile(t, 1, 16, 0)
	a, m := f.set(1, 7), f.set(1, abi.ManagerSession)
	done := a.asleep(t, bg, -1, op(0, -1))
	f.valid.Store(false)
	m.Remove()
	want(t, <-done, unix.EIDRM)
	want(t, a.Op(bg, []abi.SemOp{op(0, 1)}, -1), unix.EIDRM)
	if done, _ := a.fast(op(0, 1)); done {
		t.Error("DEAD does not fence the fast way")
	}
}

func TestMove(t *testing.T) {
	f, g := newFile(t, 2, 16, 0), newFile(t, 2, 1, 0)
	a, b, m := f.set(2, 7), f.set(2, 8), f.set(2, abi.ManagerSession)
	ok(t, a.SetAll([]uint16{3, 0}))
	ok(t, b.Op(bg, []abi.SemOp{op(0, -1, semUndo)}, -1))
	done := a.asleep(t, bg, -1, op(1, -1))
	ok(t, m.Poison())
	fresh := g.set(2, abi.ManagerSession)
	ok(t, m.CopyTo(fresh))
	f.valid.Store(false)
	m.WakeMoved()
	want(t, <-done, ErrStale)
	want(t, a.Op(bg, []abi.SemOp{op(0, 1)}, -1), ErrStale)
	fresh.check(t, 2, 0)
	ok(t, fresh.ReapSession(8))
	fresh.check(t, 3, 0)
}

func TestPoisonDuringCommit(t *testing.T) {
	f := newFile(t, 2, 16, 0)
	a, m := f.set(2, 7), f.set(2, abi.ManagerSession)
	setFailPoint(func(session uint32, step string) {
		if session == 7 && step == "committed" {
			setFailPoint(nil)
			ok(t, m.Poison())
		}
	})
	ok(t, a.Op(bg, []abi.SemOp{op(0, 1), op(1, 2)}, -1))
	fresh := newFile(t, 2, 16, 0).set(2, abi.ManagerSession)
	ok(t, m.CopyTo(fresh))
	fresh.check(t, 1, 2)
}

func TestRecover(t *testing.T) {
	f := newFile(t, 1, 16, 0)
	a, m := f.set(1, 7), f.set(1, abi.ManagerSession)
	_, err := m.begin() // a manager died with the lock, an operation and a sleeper
	ok(t, err)
	tr, err := m.begin()
	ok(t, err)
	ok(t, tr.lock())
	cell, err := m.makeSleeper([]abi.SemOp{op(0, -1)}, 0)
	ok(t, err)
	tr.add(waiters, cell)
	st := m.state(cell)
	tr.setState(cell, st, st.to(abi.CellWaiting, 0))
	ok(t, m.commit(tr, true))
	ok(t, f.set(1, abi.ManagerSession).Recover(yesSession))
	ok(t, a.Op(bg, []abi.SemOp{op(0, 1)}, -1))
	a.check(t, 1)
	if n := a.inUse(); n != 0 {
		t.Errorf("%d cells are left", n)
	}
}

func yesSession(uint32) bool { return true }

// What a call for a session holds that was reaped before is freed by the next manager.
func TestRecoverStrangers(t *testing.T) {
	f := newFile(t, 1, 16, 4)
	g := newFile(t, 0, 16, 4)
	a, q := f.set(1, 7), g.queue(7)
	m, mq := f.set(1, abi.ManagerSession), g.queue(abi.ManagerSession)
	for _, o := range []*object{&a.object, &q.object} {
		for _, kind := range []uint64{abi.KindLog, abi.KindMessage} {
			if _, took := o.alloc(kind); !took {
				t.Fatal("no cell")
			}
		}
	}
	ok(t, m.Recover(yesSession))
	ok(t, mq.Recover(yesSession))
	if n, nq := a.inUse(), q.inUse(); n != 2 || nq != 2 {
		t.Errorf("%d and %d cells of a session are left, of 2", n, nq)
	}
	nobody := func(uint32) bool { return false }
	ok(t, m.Recover(nobody))
	ok(t, mq.Recover(nobody))
	if n, nq := a.inUse(), q.inUse(); n != 0 || nq != 0 {
		t.Errorf("%d and %d cells are left", n, nq)
	}
}

// A sleeper makes those words SLOW that it looked at, and a set with one is whole.
func TestVerifySleeperOfTwo(t *testing.T) {
	f := newFile(t, 2, 16, 0)
	s := f.set(2, 7)
	ok(t, s.SetValue(1, 5))
	done := s.asleep(t, bg, -1, op(0, -1), op(1, -1))
	s.casSlow(t, 1)
	ok(t, s.Verify())
	ok(t, s.Op(bg, []abi.SemOp{op(0, 1)}, -1))
	ok(t, <-done)
	s.check(t, 0, 4)
}

// casSlow takes SLOW from a word, as it is where C's evaluation did not come to it.
func (s *Set) casSlow(t *testing.T, num int) {
	t.Helper()
	w := s.load(semOff(num))
	if !s.cas(semOff(num), w, w&^abi.SemSlow) {
		t.Fatal("the word changed")
	}
}
