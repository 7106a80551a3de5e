package plane

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// commit commits, and clears SLOW of each changed semaphore that no sleeper
// and no adjustment names any more.
func (s *Set) commit(t *transaction, keep bool) error {
	s.loosen(t)
	return t.commit(keep)
}

// rest scans as far as one transaction has room, and commits.
func (s *Set) rest(t *transaction) error {
	completed := s.scan(t, false)
	if t.work <= 0 {
		return errWork
	}
	err := s.commit(t, true)
	if err == nil && completed {
		s.setTime(offOTime)
	}
	return err
}

// scan serves the sleepers that can go on after a change of values, in the
// order of do_smart_update (ipc/sem.c), and says whether any operation
// completed. If the transaction has no room for all, Pending says so. all: what
// changed counts as a change of every semaphore.
func (s *Set) scan(t *transaction, all bool) (completed bool) {
	sc := scanner{s: s, t: t}
	if uint32(t.get(offWaitHead)) != 0 {
		sc.zeroed = s.zeroed(t, all)
		sc.zero()
		sc.alter()
	}
	if sc.stopped {
		t.setPending(1)
	} else {
		t.setPending(0)
	}
	return sc.completed
}

// scanner is one scan. It stops when the transaction is full.
type scanner struct {
	s                  *Set
	t                  *transaction
	tr                 trial
	completed, stopped bool
	// zeroed: the last to change the set left a semaphore at 0. Only then does
	// the kernel look at those who wait for zeros (do_smart_wakeup_zero), which
	// matters to one that would fail now.
	zeroed bool
}

// zeroed tells whether a semaphore that the transaction has changed is 0, or any.
func (s *Set) zeroed(t *transaction, all bool) bool {
	if all {
		for i := range s.sems {
			if t.get(semOff(i))&abi.SemValueMask == 0 {
				return true
			}
		}
		return false
	}
	words := uint64(abi.WordsOff + 8*s.sems)
	for i := range t.entries {
		if e := &t.entries[i]; e.Off >= abi.WordsOff && e.Off < words && e.New&abi.SemValueMask == 0 {
			return true
		}
	}
	return false
}

// zeros tells whether a semaphore that ops name is 0.
func (s *Set) zeros(t *transaction, ops []abi.SemOp) bool {
	for i := range ops {
		if n := int(ops[i].Num); n < s.sems && t.get(semOff(n))&abi.SemValueMask == 0 {
			return true
		}
	}
	return false
}

// zero tries the sleepers that wait for zeros only, first come first served.
func (sc *scanner) zero() {
	for c := sc.t.walk(waiters); !sc.stopped && c.next(); {
		if ops := sc.sleeper(c); ops != nil && !alters(ops) {
			sc.serve(c, ops)
		}
	}
}

// alter tries the others, first come first served. Whoever goes on may let
// others go on, older ones too: from the beginning then, unless all that is
// left are single operations, which a decrement can not help (check_restart).
func (sc *scanner) alter() {
	for again := true; again && !sc.stopped; {
		again = false
		several := false
		for c := sc.t.walk(waiters); !again && !sc.stopped && c.next(); {
			ops := sc.sleeper(c)
			if ops == nil || !alters(ops) {
				continue
			}
			n := len(ops)
			if served, done := sc.serve(c, ops); done {
				sc.zeroed = sc.s.zeros(sc.t, ops)
				sc.zero()
				again = several || n > 1
			} else if !served && n > 1 {
				several = true
			}
		}
	}
}

// sleeper reads the operations of the cell at the cursor, nil if nobody sleeps
// there. An empty list of a damaged cell is nobody's.
func (sc *scanner) sleeper(c *cursor) []abi.SemOp {
	st := sc.s.state(c.cell)
	if st.kind() != abi.KindSleeper || st.phase() != abi.CellWaiting && st.phase() != abi.CellClaimed {
		return nil
	}
	ops := sc.s.sleeperOps(sc.t, c.cell)
	if !sc.t.spend(len(ops) + 1) {
		sc.stopped = true
		return nil
	}
	if len(ops) == 0 {
		return nil
	}
	return ops
}

// serve completes the sleeper at the cursor on its behalf, if it can go on or
// fails. served: it is off the list; done: its operations are carried out.
func (sc *scanner) serve(c *cursor, ops []abi.SemOp) (served, done bool) {
	s, t, cell := sc.s, sc.t, c.cell
	session := s.state(cell).session()
	v := s.try(t, &sc.tr, session, ops)
	if v == blocked {
		return false, false
	}
	if v == verdict(unix.EAGAIN) && !alters(ops) {
		// Not later: a scan that goes on does not know of the cause.
		if sc.zeroed {
			if claimed, ok := t.rouse(cell); ok {
				t.refuse(cell, claimed)
			}
		} else { // until any semaphore becomes 0
			for i := range s.sems {
				if _, err := s.freeze(t, i); err != nil {
					break
				}
			}
		}
		return false, false
	}
	if t.full(2*len(sc.tr.sems) + 4) {
		switch {
		case len(t.states) > 0:
			sc.stopped = true
			return false, false
		case t.limit < roomy: // too much for the log cells there are
			if claimed, ok := t.rouse(cell); ok {
				t.refuse(cell, claimed)
			}
			return false, false
		}
	}
	claimed, ok := t.rouse(cell)
	if !ok {
		return false, false
	}
	errno := errnoOf(v)
	if v == proceed {
		if s.write(t, &sc.tr, session) != nil {
			t.refuse(cell, claimed) // no undo word for it: it makes one itself
			return false, false
		}
		done, sc.completed = true, true
	}
	c.remove()
	s.touch(t, ops)
	t.setState(cell, claimed, claimed.to(abi.CellDone, errno))
	return true, done
}

// failsAtZero tells whether ops, of a sleeper, may have to fail when some semaphore becomes 0 that
// they do not name.
func failsAtZero(ops []abi.SemOp) bool {
	return !alters(ops) && slices.ContainsFunc(ops, func(op abi.SemOp) bool { return op.Flag&unix.IPC_NOWAIT != 0 })
}

func alters(ops []abi.SemOp) bool {
	for i := range ops {
		if ops[i].Op != 0 {
			return true
		}
	}
	return false
}

// loosen clears SLOW in the new words of semaphores that nobody names.
func (s *Set) loosen(t *transaction) {
	words := uint64(abi.WordsOff + 8*s.sems)
	slow := map[int]int{} // semaphore: index of its entry
	for i := range t.entries {
		if e := &t.entries[i]; e.Off >= abi.WordsOff && e.Off < words && e.New&abi.SemSlow != 0 {
			slow[(int(e.Off)-abi.WordsOff)/8] = i
		}
	}
	if len(slow) == 0 {
		return
	}
	for c := t.walk(waiters); len(slow) > 0 && c.next(); {
		if s.state(c.cell).kind() != abi.KindSleeper {
			continue
		}
		ops := s.sleeperOps(t, c.cell)
		if !t.spend(len(ops)+1) || failsAtZero(ops) {
			return
		}
		for i := range ops {
			delete(slow, int(ops[i].Num))
		}
	}
	t.eachUndo(func(_ undoCell, off int) bool {
		if w := t.get(off); undoAdj(w) != 0 {
			delete(slow, undoSem(w))
		}
		return len(slow) > 0
	})
	for _, i := range slow {
		t.entries[i].New &^= abi.SemSlow
	}
}
