package plane

import (
	"iter"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// Remove ends the set after its slot word was cleared: words get DEAD, all
// sleepers end with EIDRM. It takes no lock and needs no help of anybody.
func (s *Set) Remove() {
	s.mark(abi.ObjectRemoved)
	s.kill()
	s.dismiss(unix.EIDRM)
}

// Poison, CopyTo and WakeMoved move a set to a fresh file, in this order:
// Poison (after Closing was published) ends all changes of the old file,
// CopyTo carries values, undo, times and what became of brokered calls over, and
// WakeMoved (after the fresh file is published) has all sleepers start their
// calls again there.
func (s *Set) Poison() error {
	s.mark(abi.ObjectMoved)
	s.kill()
	return s.still()
}

// mark sets a flag of the object's state.
func (o *object) mark(flag uint64) {
	for range patienceSteps {
		w := o.load(offState)
		if w&flag != 0 || o.cas(offState, w, w|flag) {
			return
		}
	}
	o.store(offState, flag) // a hostile member plays with it
}

// kill fences the compare-and-swaps of the fast way: no word changes any more
// but by a transaction that is committed already.
func (s *Set) kill() {
	for i := range s.sems {
		off := semOff(i)
		for range patienceSteps {
			w := s.load(off)
			if w&abi.SemDead != 0 || s.cas(off, w, w|abi.SemDead) {
				break
			}
		}
	}
}

// still ends what is under way on a marked object. Who takes the lock later
// sees the mark; who had it before, or saw it free (plain), can not commit: its
// epoch is over.
func (o *object) still() error {
	for range patienceSteps {
		w := o.load(offLock)
		if lockState(w) != abi.LockFree {
			o.settle(w)
		} else if o.cas(offLock, w, released(w)) {
			return nil
		}
	}
	return unix.EIO
}

// dismiss ends all sleepers with an errno, without the lock. Those that have their
// result are woken too: a dismissal before this one may have been cut off there.
func (o *object) dismiss(errno unix.Errno) {
	for i := range o.present() {
		off := o.cellsOff + i*abi.CellSize
		for range patienceSteps {
			st := o.state(off)
			if !st.sleeping() && !(st.waits() && st.phase() == abi.CellDone) {
				break
			}
			if st.sleeping() && !o.shift(off, st, st.to(abi.CellDone, errno)) {
				continue
			}
			wake(o.futex(off))
			if uint32(o.load(off+offFlags))&abi.SleeperDoorbell != 0 {
				o.host.RingDoorbell(st.session())
			}
			break
		}
	}
}

// WakeMoved ends all sleepers with ErrStale. See Poison.
func (s *Set) WakeMoved() { s.dismiss(ErrStale) }

// CopyTo copies a poisoned set to one whose file nobody else has yet.
// fresh's Host is asked to Grow. See Poison.
func (s *Set) CopyTo(fresh *Set) error {
	if fresh.sems != s.sems {
		return unix.EINVAL
	}
	for i := range s.sems {
		w := s.load(semOff(i))
		fresh.store(semOff(i), w&(abi.SemValueMask|(1<<abi.SessionBits-1)<<abi.SemSessionShift))
	}
	fresh.store(offOTime, s.load(offOTime))
	fresh.store(offCTime, s.load(offCTime))
	for off := range s.chain(offUndoHead) {
		if st := s.state(off); st.kind() == abi.KindUndo {
			if err := fresh.takeUndo(s, off, st.session()); err != nil {
				return err
			}
		}
	}
	return s.carryTickets(&fresh.object, func(int, int) error { return nil })
}

// chain visits the cells of a list that nobody changes any more, each once: a hostile
// member may have made it a ring.
func (o *object) chain(head int) iter.Seq[int] {
	return func(yield func(off int) bool) {
		seen := map[int]bool{}
		off, ok := o.cell(o.load(head))
		for ok && !seen[off] {
			seen[off] = true
			next := o.load(off + offNext)
			if !yield(off) {
				return
			}
			off, ok = o.cell(next)
		}
	}
}

// takeUndo copies an undo cell of another file, if any of it is in use. That an
// adjustment is 0 does not matter: its process's end sets otime all the same.
func (s *Set) takeUndo(from *Set, old int, session uint32) error {
	cell, used := 0, 0
	for i := range abi.UndoWords {
		w := from.load(old + offUndoWords + 8*i)
		if !undoUsed(w) || undoSem(w) >= s.sems {
			continue
		}
		if cell == 0 {
			var err error
			if cell, err = s.allocGrow(abi.KindUndo); err != nil {
				return err
			}
			st := s.state(cell)
			s.store(cell, uint64(st.owned(abi.CellOwned, abi.KindUndo, session)))
			s.setNext(cell, uint64(uint32(s.load(offUndoHead))))
			for k := range abi.UndoWords {
				s.store(cell+offUndoWords+8*k, 0)
			}
			s.store(offUndoHead, link(s.load(offUndoHead), s.number(cell)))
		}
		s.store(cell+offUndoWords+8*used, undoWord(0, undoSem(w), undoAdj(w)))
		used++
		if undoAdj(w) != 0 {
			sem := semOff(undoSem(w))
			s.store(sem, s.load(sem)|abi.SemSlow)
		}
	}
	return nil
}

// SessionsNamed calls f with each session number that any word of the set
// names, some perhaps more than once.
func (s *Set) SessionsNamed(f func(session uint32)) {
	for i := range s.sems {
		f(semSession(s.load(semOff(i))))
	}
	s.cellSessions(f)
}

func (o *object) cellSessions(f func(session uint32)) {
	for i := range o.present() {
		if st := o.state(o.cellsOff + i*abi.CellSize); st.phase() != abi.CellFree {
			f(st.session())
		}
	}
}
