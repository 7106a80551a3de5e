package plane

import (
	"fmt"

	"github.com/ipcspace/ipcspace/client/abi"
)

// Verify checks all invariants of a set that nobody changes meanwhile. The
// error says which does not hold and where; it is not an errno.
func (s *Set) Verify() error {
	if err := s.verifyLock(); err != nil {
		return err
	}
	listed, err := s.verifyList(waiters, abi.KindSleeper)
	if err != nil {
		return err
	}
	undo, err := s.verifyList(undoList, abi.KindUndo)
	if err != nil {
		return err
	}
	if err := s.verifyCells(listed); err != nil {
		return err
	}
	t := &transaction{o: &s.object, work: maxWork, limit: roomy}
	slow := map[int]string{}
	for cell := range listed {
		if !s.state(cell).sleeping() {
			continue // CANCELLED: nobody waits for these words
		}
		// Those that were looked at, up to the one for which it waits.
		values := map[int]int{}
		for _, op := range s.sleeperOps(t, cell) {
			n := int(op.Num)
			if n >= s.sems {
				break
			}
			slow[n] = "a sleeper"
			if _, known := values[n]; !known {
				values[n] = int(s.load(semOff(n)) & abi.SemValueMask)
			}
			if values[n] += int(op.Op); values[n] < 0 || op.Op == 0 && values[n] != 0 {
				break
			}
		}
	}
	seen := map[[2]int]bool{}
	for cell := range undo {
		st := s.state(cell)
		if st.phase() != abi.CellOwned {
			return fmt.Errorf("undo cell %d is in state %d", s.number(cell), st.phase())
		}
		for i := range abi.UndoWords {
			w := s.load(cell + offUndoWords + 8*i)
			if !undoUsed(w) {
				continue
			}
			key := [2]int{int(st.session()), undoSem(w)}
			if seen[key] || undoSem(w) >= s.sems {
				return fmt.Errorf("session %d: a second or impossible undo word for semaphore %d", key[0], key[1])
			}
			seen[key] = true
			if undoAdj(w) != 0 {
				slow[undoSem(w)] = "an adjustment"
			}
		}
	}
	for i := range s.sems {
		w := s.load(semOff(i))
		if w&abi.SemValueMask > abi.SemVMX {
			return fmt.Errorf("semaphore %d has value %d", i, w&abi.SemValueMask)
		}
		if why := slow[i]; why != "" && w&abi.SemSlow == 0 {
			return fmt.Errorf("semaphore %d is not SLOW, but %s names it", i, why)
		}
	}
	return s.verifyWaiting(t)
}

// verifyWaiting finds sleepers that could go on: lost wake-ups.
func (s *Set) verifyWaiting(t *transaction) error {
	if s.load(offPending)&1 != 0 {
		return nil
	}
	for c := t.walk(waiters); c.next(); {
		st := s.state(c.cell)
		if st.phase() != abi.CellWaiting {
			continue
		}
		var tr trial
		if v := s.try(t, &tr, st.session(), s.sleeperOps(t, c.cell)); v != blocked {
			return fmt.Errorf("sleeper %d of session %d sleeps, but its operations could be done (%d)",
				s.number(c.cell), st.session(), v)
		}
	}
	return nil
}

func (o *object) verifyLock() error {
	if w := o.load(offLock); lockState(w) != abi.LockFree {
		return fmt.Errorf("the lock is not free: %#x", w)
	}
	return nil
}

// verifyList checks a list's form; the cells that are on it.
func (o *object) verifyList(l list, kind uint64) (map[int]bool, error) {
	cells := map[int]bool{}
	last := uint64(0)
	for at := uint64(uint32(o.load(l.head))); at != 0; {
		off, ok := o.cell(at)
		if !ok {
			return nil, fmt.Errorf("list %d leads to cell %d, which is not there", l.head, at)
		}
		if cells[off] {
			return nil, fmt.Errorf("list %d comes back to cell %d", l.head, at)
		}
		if st := o.state(off); st.kind() != kind {
			return nil, fmt.Errorf("list %d has cell %d of kind %d, state %d", l.head, at, st.kind(), st.phase())
		}
		cells[off], last = true, at
		at = uint64(uint32(o.load(off + offNext)))
	}
	if l == messages && last == 0 {
		return cells, nil // its tail does not count
	}
	if l.tail != 0 && uint64(uint32(o.load(l.tail))) != last {
		return nil, fmt.Errorf("list %d ends at cell %d, not at its tail %d", l.head, last, uint32(o.load(l.tail)))
	}
	return cells, nil
}

// verifyCells checks that calls wait if and only if they are on a list.
func (o *object) verifyCells(listed map[int]bool) error {
	for i := range o.present() {
		off := o.cellsOff + i*abi.CellSize
		st := o.state(off)
		waits := st.waits() && (st.sleeping() || st.phase() == abi.CellCancelled)
		if waits != listed[off] {
			return fmt.Errorf("cell %d: kind %d, state %d, session %d, on the list: %v",
				i+1, st.kind(), st.phase(), st.session(), listed[off])
		}
		if st.phase() == abi.CellFree && st.kind() != abi.KindNone {
			return fmt.Errorf("cell %d is free and of kind %d", i+1, st.kind())
		}
	}
	return nil
}
