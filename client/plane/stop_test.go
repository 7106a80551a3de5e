package plane

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// patient is how long calls of others may take beside a stopped one: some 2 ms
// each, or what a busy machine makes of them; it will not do so again and again
// at the same step.
const (
	patient   = 100 * time.Millisecond
	slowTries = 6
)

// stoppedCall is a call of session 7 that stands still at its nth step, as SIGSTOP
// would have it do.
type stoppedCall struct {
	reached chan string   // the step, when it comes to it
	goOn    chan struct{} // closed: it continues
	done    chan error
}

func stopAt(nth int, act func() error) *stoppedCall {
	s := &stoppedCall{make(chan string, 1), make(chan struct{}), make(chan error, 1)}
	steps := 0
	setFailPoint(func(session uint32, step string) {
		if session != 7 {
			return
		}
		if steps++; steps == nth {
			s.reached <- step
			<-s.goOn
		}
	})
	go func() { s.done <- act() }()
	return s
}

// await waits for its step, its end, or a sleep. ended: err is the call's.
func (s *stoppedCall) await(limit time.Duration) (step string, ended bool, err error) {
	select {
	case step = <-s.reached:
	case err = <-s.done:
		ended = true
	case <-time.After(limit):
	}
	return step, ended, err
}

// stopEach stops a call at each of its steps. others is what must go on
// meanwhile, after what the call may be asleep for; check is told the call's
// result.
func stopEach(t *testing.T, name string, fresh func() (act func() error, give, others func(), check func(err error, where string))) {
	t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
		worst, points := time.Duration(0), map[string]bool{}
		for nth, slow := 1, 0; ; nth++ {
			act, give, others, check := fresh()
			s := stopAt(nth, act)
			where, ended, err := s.await(10 * time.Millisecond)
			if where == "" && !ended { // asleep
				give()
				give = func() {}
				where, ended, err = s.await(10 * time.Second)
			}
			begun := time.Now()
			if where != "" {
				give()
				others()
			}
			took := time.Since(begun)
			close(s.goOn)
			if !ended {
				select {
				case err = <-s.done:
				case <-time.After(10 * time.Second):
					t.Fatalf("step %d (%s): it does not go on", nth, where)
				}
			}
			setFailPoint(nil)
			if where == "" {
				give()
			}
			check(err, where)
			if took > patient {
				if slow++; slow < slowTries {
					nth--
					continue
				}
				t.Errorf("step %d (%s): others waited %v, %d times", nth, where, took, slow)
			}
			slow = 0
			if where == "" {
				if nth < 4 {
					t.Errorf("only %d steps", nth)
				}
				t.Logf("%-24s %3d stops at %2d points, longest wait of others %v", name, nth-1, len(points), worst.Round(10*time.Microsecond))
				return
			}
			points[where] = true
			worst = max(worst, took)
		}
	})
}

// A process is stopped at each step of each operation on a set that has steps (one
// operation without undo is a single compare-and-swap): others go on, and when it continues it finds out, and its call happens once.
func TestStopAtEachStepSet(t *testing.T) {
	cases := []struct {
		name  string
		act   func(s *Set) error
		give  int // to semaphore 1
		after []uint16
		err   error
	}{
		{"semop of two", func(s *Set) error { return s.Op(bg, []abi.SemOp{op(0, -2), op(1, 5)}, -1) }, 0, []uint16{1, 5}, nil},
		{"semop, undo", func(s *Set) error {
			return s.Op(bg, []abi.SemOp{op(0, -2, semUndo), op(1, 5, semUndo)}, -1)
		}, 0, []uint16{1, 5}, nil},
		{"semop sleeps", func(s *Set) error { return s.Op(bg, []abi.SemOp{op(1, -2)}, -1) }, 2, []uint16{3, 0}, nil},
		{"semop sleeps, undo", func(s *Set) error {
			return s.Op(bg, []abi.SemOp{op(1, -2, semUndo), op(0, -1, semUndo)}, -1)
		}, 2, []uint16{2, 0}, nil},
		{"semtimedop", func(s *Set) error { return s.Op(bg, []abi.SemOp{op(0, -9)}, time.Millisecond) }, 0, []uint16{3, 0}, unix.EAGAIN},
		{"SETVAL", func(s *Set) error { return s.SetValue(0, 7) }, 0, []uint16{7, 0}, nil},
		{"SETALL", func(s *Set) error { return s.SetAll([]uint16{7, 8}) }, 0, []uint16{7, 8}, nil},
	}
	for _, c := range cases {
		stopEach(t, c.name, func() (func() error, func(), func(), func(error, string)) {
			f := newFile(t, 2, 16, 0)
			m, other := f.set(2, abi.ManagerSession), f.set(2, 8)
			f.reapBy(m)
			ok(t, m.SetAll([]uint16{3, 0}))
			give := func() {
				if c.give > 0 {
					ok(t, other.Op(bg, []abi.SemOp{op(1, c.give)}, -1))
				}
			}
			others := func() { // the kinds of lock, of undo, and a look
				ok(t, other.Op(bg, []abi.SemOp{op(0, 1), op(1, 1)}, -1))
				ok(t, other.Op(bg, []abi.SemOp{op(1, -1, semUndo), op(0, -1, semUndo)}, -1))
				ok(t, other.Op(bg, []abi.SemOp{op(1, 1, semUndo), op(0, 1, semUndo)}, -1))
				ok(t, other.Op(bg, []abi.SemOp{op(0, -1), op(1, -1)}, -1))
				_, err := other.All()
				ok(t, err)
			}
			return func() error { return c.act(f.set(2, 7)) }, give, others, func(err error, where string) {
				if err != c.err {
					t.Fatalf("at %s: %v", where, err)
				}
				got, err := m.All()
				ok(t, err)
				// SETVAL and SETALL may have come before or after others' changes, which add up to nothing.
				if fmt.Sprint(got) != fmt.Sprint(c.after) && (c.name[:3] != "SET" || where == "") {
					t.Fatalf("at %s: values are %v, want %v", where, got, c.after)
				}
				ok(t, m.ReapSession(7))
				ok(t, m.ReapSession(8))
				if err := m.Verify(); err != nil {
					t.Fatalf("at %s: %v", where, err)
				}
				if n := m.inUse(); n != 0 {
					t.Fatalf("at %s: %d cells are left\n%s", where, n, m.describe())
				}
			}
		})
	}
}

// The same of a queue: a message comes once and whole.
func TestStopAtEachStepQueue(t *testing.T) {
	long := bytes.Repeat([]byte("0123456789"), (abi.MessageChunks+3)*abi.ChunkSize/10)
	short := []byte("abc")
	receive := func(q *Queue, typ int64, text []byte) error {
		buf := make([]byte, len(long)+1)
		n, _, err := q.Receive(bg, buf, typ, 0)
		if err == nil && !bytes.Equal(buf[:n], text) {
			return fmt.Errorf("a damaged message of %d bytes", n)
		}
		return err
	}
	cases := []struct {
		name   string
		before []byte // a message of type 1
		act    func(q *Queue) error
		give   func(q *Queue) error
		after  []byte // of type 2
	}{
		{"msgsnd", nil, func(q *Queue) error { return q.Send(bg, 2, short, 0) }, nil, short},
		{"msgsnd, long", nil, func(q *Queue) error { return q.Send(bg, 2, long, 0) }, nil, long},
		{"msgrcv", short, func(q *Queue) error { return receive(q, 1, short) }, nil, nil},
		{"msgrcv, long", long, func(q *Queue) error { return receive(q, 1, long) }, nil, nil},
		{
			"msgrcv sleeps", nil, func(q *Queue) error { return receive(q, 1, short) },
			func(q *Queue) error { return q.Send(bg, 1, short, 0) }, nil,
		},
		{
			"msgsnd sleeps", long, func(q *Queue) error { return q.Send(bg, 2, long, 0) },
			func(q *Queue) error { return receive(q, 1, long) }, long,
		},
	}
	for _, c := range cases {
		stopEach(t, c.name, func() (func() error, func(), func(), func(error, string)) {
			f := newFile(t, 0, 32, 300)
			f.qbytes.Store(uint64(len(long)) + 200)
			m, other := f.queue(abi.ManagerSession), f.queue(8)
			if c.before != nil {
				ok(t, other.Send(bg, 1, c.before, 0))
			}
			give := func() {
				if c.give != nil {
					ok(t, c.give(other))
				}
			}
			others := func() {
				ok(t, other.Send(bg, 6, short, 0))
				ok(t, receive(other, 6, short))
			}
			return func() error { return c.act(f.queue(7)) }, give, others, func(err error, where string) {
				if err != nil {
					t.Fatalf("at %s: %v", where, err)
				}
				if c.after != nil {
					if err := receive(m, 2, c.after); err != nil {
						t.Fatalf("at %s: %v", where, err)
					}
				}
				m.verify(t, 0, 0)
				ok(t, m.ReapSession(7))
				ok(t, m.ReapSession(8))
				if n := m.inUse(); n != 0 {
					t.Fatalf("at %s: %d cells are left\n%s", where, n, m.describe())
				}
			}
		})
	}
}
