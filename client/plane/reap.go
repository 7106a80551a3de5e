package plane

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// ReapSession cleans up after a session whose process is dead: its undo is
// applied, exactly once, its sleepers leave the queue and all its cells are
// freed. It may be called again after a crash in the middle, or for a session
// that never touched the set.
func (s *Set) ReapSession(session uint32) error { return s.reap(session, sleepers|undo) }

// ApplyUndo applies the adjustments of a session that lives on
// (unshare(CLONE_SYSVSEM)): it starts with none, as after a fork.
func (s *Set) ApplyUndo(session uint32) error { return s.reap(session, undo) }

// Recover is for the start of a manager: it finishes a committed transaction,
// takes the lock from whoever has it, frees the cells of this Host's own
// session, goes on with a pending scan, ends brokered calls that wait, and reaps
// the sessions that are none as known says.
func (s *Set) Recover(known func(session uint32) bool) error {
	s.settle(s.load(offLock))
	if err := s.reap(s.me, sleepers); err != nil {
		return err
	}
	for _, session := range s.strangers(known) {
		if err := s.ReapSession(session); err != nil {
			return err
		}
	}
	t, err := s.begin()
	if err != nil {
		return err
	}
	err = s.ejectAll(t, s.orphaned)
	t.end()
	return err
}

// What of a session reap ends.
const (
	sleepers = 1 << iota // its sleepers, and all cells but those of its undo
	undo                 // its adjustments, and their cells
)

func (s *Set) reap(session uint32, what int) error {
	t, err := s.beginReaping(session)
	if err != nil {
		return err
	}
	if what&sleepers != 0 {
		err = s.ejectAll(t, func(_ int, st state) bool { return st.session() == session })
	}
	if err == nil && what&undo != 0 {
		err = s.applyUndo(t, session)
	}
	kept := map[int]bool{}
	if err == nil {
		// Also if there was nothing to do: the lock was ours once, so that
		// no transaction of the dead is under way any more.
		err = t.attempt(func() error {
			if err := s.catchUp(t); err != nil {
				return err
			}
			clear(kept)
			for _, c := range t.loadUndo() {
				kept[c.off] = true
			}
			if !t.holds() {
				return errRevoked
			}
			return nil
		})
	}
	if err == nil {
		fail(s.host, "reaping cells")
		s.freeAll(t, session, func(off int, st state) bool {
			return !kept[off] && (what&sleepers != 0 || st.kind() == abi.KindUndo)
		})
	}
	t.end()
	return err
}

// ejectAll takes sleepers off the list.
func (s *Set) ejectAll(t *transaction, of func(cell int, st state) bool) error {
	return t.ejectAll(waiters, of, unix.EINTR, s.catchUp, func(cells []int) error {
		for _, cell := range cells {
			if t.limit == roomy { // SLOW for longer does no harm
				s.touch(t, s.sleeperOps(t, cell))
			}
		}
		return s.commit(t, false)
	})
}

// applyUndo is exit_sem (ipc/sem.c): each adjustment is added to its
// semaphore, within 0 and SEMVMX, and sleepers are served. All in one
// transaction, unless there is no room for its log: then a few at a time.
func (s *Set) applyUndo(t *transaction, session uint32) error {
	most := len(s.mem)
	for {
		rest := false
		err := t.attempt(func() error {
			if err := s.catchUp(t); err != nil {
				return err
			}
			var err error
			if rest, err = s.undoSome(t, session, most); err != nil || len(t.entries) == 0 {
				return err
			}
			s.scan(t, true)
			if err := s.commit(t, true); err != nil {
				return err
			}
			s.setTime(offOTime)
			s.finish(t)
			return nil
		})
		switch {
		case err != nil && most > 3 && (err == unix.ENOMEM || err == unix.ENOSPC):
			most = 3 // with an unlinking and Pending they fit one log cell
		case err != nil || !rest:
			return err
		}
	}
}

// undoSome applies most adjustments and unlinks the cells that have no more.
func (s *Set) undoSome(t *transaction, session uint32, most int) (rest bool, err error) {
	done := map[int]bool{}
	for _, c := range t.loadUndo() {
		if c.session != session {
			continue
		}
		done[c.off] = true
		for i := range abi.UndoWords {
			off := c.off + offUndoWords + 8*i
			w := t.get(off)
			adj, num := undoAdj(w), undoSem(w)
			if adj == 0 {
				continue
			}
			if most--; most < 0 {
				done[c.off] = false
				break
			}
			t.put(off, w, undoWord(w, num, 0))
			if num >= s.sems {
				continue
			}
			sem, err := s.freeze(t, num)
			if err != nil {
				return false, err
			}
			value := min(max(int(sem&abi.SemValueMask)+adj, 0), abi.SemVMX)
			t.put(semOff(num), sem, semWord(sem, value, session))
		}
		if !t.spend(abi.UndoWords) && t.held == 0 {
			return false, errRevoked
		}
		if !done[c.off] {
			break
		}
	}
	unlinks := 0
	for c := t.walk(undoList); c.next(); {
		st := s.state(c.cell)
		if st.kind() != abi.KindUndo || st.session() != session {
			continue
		}
		if done[c.cell] && (most > 0 || unlinks == 0) {
			c.remove()
			unlinks++
		} else {
			rest = true
		}
	}
	t.undo, t.seen = t.undo[:0], false
	return rest, nil
}

// mostStrangers is more than the calls that are cut at once, and bounds what cells of
// nonsense cost.
const mostStrangers = 100

// strangers lists the sessions that hold cells and are none. A call that a manager
// makes for a session may go on after that was reaped, to its own end, or the manager's.
func (o *object) strangers(known func(session uint32) bool) (sessions []uint32) {
	for i := range o.present() {
		st := o.state(o.cellsOff + i*abi.CellSize)
		n := st.session()
		switch {
		case len(sessions) == mostStrangers:
			return sessions
		case n == o.me || st.phase() == abi.CellFree || st.phase() == abi.CellQueued || st.kind() == abi.KindIndex:
		case !known(n) && !slices.Contains(sessions, n):
			sessions = append(sessions, n)
		}
	}
	return sessions
}

// beginReaping is begin for when the dead may have all cells.
func (o *object) beginReaping(session uint32) (*transaction, error) {
	t, err := o.begin()
	if err != nil && o.freeLogs(session) {
		t, err = o.begin()
	}
	return t, err
}

// freeLogs frees the log cells of a session that uses none any more.
func (o *object) freeLogs(session uint32) (some bool) {
	for range patienceSteps {
		w := o.load(offLock)
		off, ok := o.cell(lockCell(w))
		if lockState(w) == abi.LockFree || !ok || o.state(off).session() != session {
			break
		}
		o.settle(w)
	}
	for i := range o.present() {
		off := o.cellsOff + i*abi.CellSize
		if st := o.state(off); st.session() == session && st.kind() == abi.KindLog && st.phase() != abi.CellFree {
			some = o.shift(off, st, st.owned(abi.CellFree, abi.KindNone, 0)) || some
		}
	}
	return some
}

// freeAll frees the cells of a session that which says, but not those of t.
func (o *object) freeAll(t *transaction, session uint32, which func(off int, st state) bool) {
	keep := map[int]bool{t.log.off: true}
	for _, off := range t.more {
		keep[off] = true
	}
	for i := range o.present() {
		off := o.cellsOff + i*abi.CellSize
		st := o.state(off)
		if st.session() == session && st.phase() != abi.CellFree && !keep[off] && which(off, st) {
			o.shift(off, st, st.owned(abi.CellFree, abi.KindNone, 0))
		}
	}
}

// ejectAll takes sleepers off a list, in as many transactions as it takes, and
// wakes those that live.
func (t *transaction) ejectAll(l list, which func(cell int, st state) bool, errno unix.Errno,
	catchUp func(t *transaction) error, commit func(cells []int) error) error {
	for {
		var cells []int
		err := t.attempt(func() (err error) {
			if err = catchUp(t); err != nil {
				return err
			}
			if cells, err = t.eject(l, which, errno); err != nil || len(cells) == 0 {
				return err
			}
			return commit(cells)
		})
		if err == unix.ENOMEM && t.limit > abi.LogEntries {
			t.limit = abi.LogEntries // one at a time fits the log cell that there is
			continue
		}
		if err != nil || len(cells) == 0 {
			return err
		}
		for _, cell := range cells {
			wake(t.o.futex(cell))
			if t.doorbell(cell) {
				t.o.host.RingDoorbell(t.o.state(cell).session())
			}
		}
	}
}

// eject takes sleepers off a list, whatever state they are in: they end with
// the errno. As many as the transaction has room for; their cells.
func (t *transaction) eject(l list, which func(cell int, st state) bool, errno unix.Errno) (cells []int, err error) {
	for c := t.walk(l); c.next(); {
		st := t.o.state(c.cell)
		if !st.waits() || !which(c.cell, st) {
			continue
		}
		if len(cells) > 0 && t.full(16) {
			break
		}
		cell := c.cell
		if st.phase() != abi.CellCancelled {
			claimed, ok := t.claim(cell)
			if !ok {
				return nil, errAgain
			}
			st = claimed
		}
		c.remove()
		t.setState(cell, st, st.to(abi.CellDone, errno))
		cells = append(cells, cell)
	}
	return cells, nil
}
