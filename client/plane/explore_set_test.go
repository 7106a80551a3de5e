//go:build explore

package plane

import (
	"context"
	"fmt"

	"github.com/ipcspace/ipcspace/client/abi"
)

// ops has a worker carry out operations.
func (b *bench) ops(name string, session uint32, ops ...abi.SemOp) *worker {
	s := b.set(session)
	var w *worker
	w = b.x.add(name, session, func() {
		w.doing = "?"
		if w.err = s.Op(context.Background(), ops, -1); w.err == nil {
			w.doing = ""
		}
	})
	w.ops = ops
	return w
}

// setHolds checks values against what the workers were told. Who died may have
// changed them, but for its adjustments.
func (b *bench) setHolds(start ...int) error {
	s := b.set(abi.ManagerSession)
	if b.moved {
		s.mem = b.fresh
		s.memory.limit.Store(0)
		s.refresh()
	}
	for _, w := range b.x.workers {
		if w.way == asleep && b.x.removed {
			return fmt.Errorf("%s sleeps in what is gone", w.name)
		}
	}
	if b.x.removed && !b.moved {
		return nil
	}
	b.x.removed = false
	if err := s.locked(func(*transaction) error { return nil }); err != nil {
		return err
	}
	if err := s.Verify(); err != nil {
		return err
	}
	values, err := s.All()
	if err != nil {
		return err
	}
	type change = map[int]int
	possible := []change{{}}
	for _, w := range b.x.workers {
		if len(w.ops) == 0 {
			continue
		}
		undo, c := false, change{}
		for _, op := range w.ops {
			c[int(op.Num)] += int(op.Op)
			undo = undo || op.Flag&semUndo != 0
		}
		var next []change
		for _, p := range possible {
			sum := change{}
			for k, v := range p {
				sum[k] += v
			}
			for k, v := range c {
				sum[k] += v
			}
			switch {
			case w.way == over && w.err == nil:
				next = append(next, sum)
			case w.way == dead && !undo:
				next = append(next, p, sum)
			default:
				next = append(next, p)
			}
		}
		possible = next
	}
	right := false
	for _, p := range possible {
		same := true
		for i, v := range start {
			same = same && int(values[i]) == v+p[i]
		}
		right = right || same
	}
	if !right {
		return fmt.Errorf("values are %v, from %v", values, start)
	}
	return b.sleepersSleep(s)
}

// sleepersSleep finds calls that sleep, though they could go on: those that were
// claimed by one who did not come back, too.
func (b *bench) sleepersSleep(s *Set) error {
	t := &transaction{o: &s.object, work: maxWork, limit: roomy}
	for _, w := range b.x.workers {
		if w.way != asleep {
			continue
		}
		var tr trial
		if v := s.try(t, &tr, w.session, w.ops); v != blocked {
			return fmt.Errorf("%s sleeps, but could go on", w.name)
		}
	}
	return nil
}

// Scenarios of sets.
func twoPairs(x *exploration) func() error {
	b := newBench(x, 2, 0)
	setValues(b, 3, 3)
	mortal(b.ops("a", 7, op(0, -1), op(1, 1)), b.ops("b", 8, op(1, -1), op(0, 2)))
	return func() error { return b.setHolds(3, 3) }
}

func withUndo(x *exploration) func() error {
	b := newBench(x, 1, 0)
	setValues(b, 1)
	mortal(b.ops("a", 7, op(0, -1, semUndo)), b.ops("b", 8, op(0, -1, semUndo)))
	return func() error { return b.setHolds(1) }
}

func wakes(x *exploration) func() error {
	b := newBench(x, 1, 0)
	mortal(b.ops("down", 8, op(0, -1)), b.ops("up", 7, op(0, 1)))
	return func() error { return b.setHolds(0) }
}

func wakesTwo(x *exploration) func() error {
	b := newBench(x, 1, 0)
	roomy = 8
	mortal(b.ops("first", 8, op(0, -1)), b.ops("second", 9, op(0, -1, semUndo)), b.ops("up", 7, op(0, 2)))
	return func() error { return b.setHolds(0) }
}

func interruptedSemop(x *exploration) func() error {
	b := newBench(x, 1, 0)
	bell := NewBell(new(uint32), 8)
	w := b.ops("down", 8, op(0, -1))
	b.bells[8].bell = bell
	mortal(w, b.ops("up", 7, op(0, 1)))
	b.interrupts(bell)
	return func() error { return b.setHolds(0) }
}

func removedSet(x *exploration) func() error {
	b := newBench(x, 1, 0)
	mortal(b.ops("down", 8, op(0, -1)), b.ops("up", 7, op(0, 1)))
	m := b.set(abi.ManagerSession)
	x.add("remover", abi.ManagerSession, func() {
		x.step()
		x.removed = true
		m.Remove()
	})
	return func() error { return b.setHolds(0) }
}

func movedSet(x *exploration) func() error {
	b := newBench(x, 1, 0)
	mortal(b.ops("down", 8, op(0, -1), op(0, 0)), b.ops("up", 7, op(0, 1)))
	m := b.set(abi.ManagerSession)
	fresh, _ := NewSet(b.fresh, 1, b.host(abi.ManagerSession))
	x.add("mover", abi.ManagerSession, func() {
		x.step()
		x.removed = true
		err := m.Poison()
		if err == nil {
			err = m.CopyTo(fresh)
		}
		if err != nil {
			x.wrong = err.Error()
		}
		b.moved = true
		m.WakeMoved()
	})
	return func() error { return b.setHolds(0) }
}

func setValues(b *bench, values ...uint16) {
	if err := b.set(abi.ManagerSession).SetAll(values); err != nil {
		panic(err)
	}
}
