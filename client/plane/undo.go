package plane

import (
	"unsafe"

	"github.com/ipcspace/ipcspace/client/abi"
)

const offUndoWords = int(unsafe.Offsetof(abi.UndoCell{}.Words))

// undoCell is a cell of UndoHead's list, which holds adjustments of a session.
//
// A word once used stays the session's for its semaphore, with semadj 0 too,
// so that a sleeper can rely on the word that it reserved.
type undoCell struct {
	off     int
	session uint32
}

func undoUsed(w uint64) bool { return w&abi.UndoUsed != 0 }
func undoSem(w uint64) int   { return int(uint16(w >> abi.UndoSemShift)) }

// undoAdj is semadj, 0 if the word is not used.
func undoAdj(w uint64) int {
	if !undoUsed(w) {
		return 0
	}
	return int(int16(w))
}

// undoWord is the word after w.
func undoWord(w uint64, num, adj int) uint64 {
	return (w>>abi.UndoVersionShift+1)<<abi.UndoVersionShift | abi.UndoUsed |
		uint64(uint16(num))<<abi.UndoSemShift | uint64(uint16(int16(adj)))
}

// loadUndo walks the undo cells, once for each time that the lock is taken.
func (t *transaction) loadUndo() []undoCell {
	if !t.seen {
		t.seen = true
		for c := t.walk(undoList); c.next(); {
			if st := t.o.state(c.cell); st.kind() == abi.KindUndo {
				t.undo = append(t.undo, undoCell{c.cell, st.session()})
			}
		}
	}
	return t.undo
}

// eachUndo calls f with each used undo word until it says stop.
func (t *transaction) eachUndo(f func(c undoCell, off int) bool) {
	for _, c := range t.loadUndo() {
		for i := range abi.UndoWords {
			off := c.off + offUndoWords + 8*i
			if !undoUsed(t.get(off)) {
				break
			}
			if !f(c, off) {
				return
			}
		}
	}
}

// findUndo is where the session's adjustment of num stands, and its value.
// The offset is 0 if it has none.
func (t *transaction) findUndo(session uint32, num int) (off, adj int) {
	for _, c := range t.loadUndo() {
		if c.session != session {
			continue
		}
		for i := range abi.UndoWords {
			off := c.off + offUndoWords + 8*i
			w := t.get(off)
			if !undoUsed(w) {
				break
			}
			if undoSem(w) == num {
				return off, undoAdj(w)
			}
		}
	}
	return 0, 0
}

// makeUndo finds the session a word for its adjustment of num, which has none.
// Its own session gets a further cell if need be.
func (t *transaction) makeUndo(session uint32, num int) (off int, err error) {
	for _, c := range t.loadUndo() {
		if c.session != session {
			continue
		}
		for i := range abi.UndoWords {
			off := c.off + offUndoWords + 8*i
			if w := t.get(off); !undoUsed(w) {
				t.put(off, w, undoWord(w, num, 0))
				return off, nil
			}
		}
	}
	if session != t.o.me {
		return 0, errNoUndo
	}
	cell, err := t.spareUndo()
	if err != nil {
		return 0, err
	}
	t.o.setNext(cell, uint64(uint32(t.get(offUndoHead))))
	t.setLink(offUndoHead, t.o.number(cell))
	t.undo = append(t.undo, undoCell{cell, session})
	off = cell + offUndoWords
	w := t.get(off)
	t.put(off, w, undoWord(w, num, 0))
	return off, nil
}

// spareUndo is an undo cell of ours that is on no list.
//
// Its words start with the lock's epoch for a version: it is later than any
// that an earlier life of the cell had, so the compare-and-swap of a helper
// that was stalled since then fails.
func (t *transaction) spareUndo() (cell int, err error) {
	if n := len(t.spare); n > 0 {
		cell, t.spare = t.spare[n-1], t.spare[:n-1]
	} else {
		off, ok := t.o.alloc(abi.KindUndo)
		if !ok {
			return 0, errRoom
		}
		cell = off
	}
	seed := lockEpoch(t.o.load(offLock)) << abi.UndoVersionShift
	for i := range abi.UndoWords {
		t.o.store(cell+offUndoWords+8*i, seed)
	}
	t.linking = append(t.linking, cell)
	return cell, nil
}

// clearUndo makes everybody's adjustments of some semaphores 0.
func (t *transaction) clearUndo(which func(num int) bool) {
	t.eachUndo(func(_ undoCell, off int) bool {
		if w := t.get(off); undoAdj(w) != 0 && which(undoSem(w)) {
			t.put(off, w, undoWord(w, undoSem(w), 0))
		}
		return true
	})
}

// reserve sees to it that a sleeper has a word for each adjustment that others
// will make on its behalf.
func (s *Set) reserve(t *transaction, cell int, ops []abi.SemOp) error {
	me := s.me
	first := uint64(0)
	for i := range ops {
		if ops[i].Flag&semUndo == 0 || ops[i].Op == 0 {
			continue
		}
		off, _ := t.findUndo(me, int(ops[i].Num))
		if off == 0 {
			var err error
			if off, err = t.makeUndo(me, int(ops[i].Num)); err != nil {
				return err
			}
		}
		if first == 0 {
			first = s.number(s.cellsOff + (off-s.cellsOff)/abi.CellSize*abi.CellSize)
			s.store(cell+offFlags, s.load(cell+offFlags)&(1<<32-1)|first<<32)
		}
	}
	return nil
}

// deadHolder finds a session that perhaps died with an adjustment of some
// semaphores, not counting those that were asked for already.
func (s *Set) deadHolder(asked map[uint32]bool, which func(num int) bool) (session uint32, found bool) {
	me := s.me
	number := s.load(offUndoHead)
	for range s.present() {
		cell, ok := s.cell(number)
		if !ok {
			break
		}
		number = s.load(cell + offNext)
		st := s.state(cell)
		if st.kind() != abi.KindUndo || st.session() == me || asked[st.session()] {
			continue
		}
		for i := range abi.UndoWords {
			w := s.load(cell + offUndoWords + 8*i)
			if undoAdj(w) == 0 || !which(undoSem(w)) {
				continue
			}
			if s.host.Died(st.session()) {
				return st.session(), true
			}
			break
		}
	}
	return 0, false
}

// reapHolders has the undo applied of all who died with an adjustment of some
// semaphores: nobody may act on their death before.
func (s *Set) reapHolders(which func(num int) bool) error {
	asked := map[uint32]bool{}
	for {
		dead, ok := s.deadHolder(asked, which)
		if !ok {
			return nil
		}
		asked[dead] = true
		if err := s.host.Reap(dead); err != nil {
			return err
		}
	}
}
