package plane

import (
	"testing"

	"github.com/ipcspace/ipcspace/client/abi"
)

// A hostile member may make a ring of a list, or have many cells name one message. What a move copies
// is no more than the object held.
func TestMoveOfRings(t *testing.T) {
	t.Run("messages", func(t *testing.T) {
		f := newFile(t, 0, 16, 0)
		f.qbytes.Store(1 << 24)
		q := f.queue(7)
		for range 2 {
			ok(t, q.Send(bg, 1, make([]byte, 100_000), 0))
		}
		last, _ := q.cell(q.load(offMsgTail))
		q.store(last+offNext, link(q.load(last+offNext), q.load(offMsgHead)))
		fresh := newFile(t, 0, 16, 0).queue(abi.ManagerSession)
		ok(t, q.CopyTo(fresh))
		fresh.verify(t, 2, 200_000)
	})
	t.Run("received", func(t *testing.T) {
		f := newFile(t, 0, 16, 0)
		f.qbytes.Store(1 << 24)
		q, err := NewQueue(f.mem, f.dmem, &member{file: f, session: 7, seq: 5})
		ok(t, err)
		ok(t, q.Send(bg, 1, make([]byte, 100_000), 0))
		_, _, err = q.Receive(bg, make([]byte, 100_000), 0, 0)
		ok(t, err)
		for range 3 {
			cell, err := q.allocGrow(abi.KindReceiver)
			ok(t, err)
			for off := offFlags; off < abi.CellSize; off += 8 {
				q.store(cell+off, q.load(q.kept.cell+off))
			}
			st := q.state(cell)
			q.store(cell, uint64(st.to(abi.CellDone, 0)))
		}
		g := newFile(t, 0, 16, 0)
		fresh := g.queue(abi.ManagerSession)
		ok(t, q.CopyTo(fresh))
		if before, after := q.chunksInUse(), fresh.chunksInUse(); after != before || before == 0 {
			t.Errorf("%d chunks in use, %d before", after, before)
		}
		if left := g.queue(7).DropTickets(0); left || fresh.inUse() != 0 || fresh.chunksInUse() != 0 {
			t.Errorf("dropped: %v left, %d cells, %d chunks", left, fresh.inUse(), fresh.chunksInUse())
		}
	})
	t.Run("adjustments", func(t *testing.T) {
		f := newFile(t, 1, 16, 0)
		s := f.set(1, 7)
		ok(t, s.Op(bg, []abi.SemOp{op(0, 3, semUndo)}, -1))
		head := s.load(offUndoHead)
		cell, _ := s.cell(head)
		s.store(cell+offNext, link(s.load(cell+offNext), head))
		fresh := newFile(t, 1, 16, 0).set(1, abi.ManagerSession)
		ok(t, s.CopyTo(fresh))
		if n := fresh.inUse(); n != 1 {
			t.Errorf("%d cells of adjustments", n)
		}
		ok(t, fresh.ReapSession(7))
		fresh.check(t, 0)
	})
}

// chunksInUse counts them.
func (q *Queue) chunksInUse() (n int) {
	for i := range q.learn() {
		if q.data.load(abi.ChunkWordOff(i)) != 0 {
			n++
		}
	}
	return n
}
