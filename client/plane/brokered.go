package plane

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// A brokered call outlives the manager that does it in place of a session: what
// becomes of it stands in its cell, with the Seq of its request as a ticket,
// from the transaction that brings it about until the client has its answer
// (Forget). When the manager is killed, the next one ends calls that wait
// still (Recover), and keeps those that were carried out; clients ask again,
// and learn what came of theirs (Resume), or begin anew. What they will not ask
// any more, for they had the answer, is dropped (DropTickets).

const ticketMask = 1<<32 - 1<<abi.SleeperSeqShift | abi.SleeperBrokered

// kept is a cell and the state in which it tells what became of a call: of those
// who free it, the one that changes that state does.
type kept struct {
	cell int
	st   state
}

// ticketOf is how cells of the host's brokered call are known; 0: it is none.
func ticketOf(h Host) uint32 {
	seq, brokered := h.Brokered()
	if !brokered {
		return 0
	}
	return seq<<abi.SleeperSeqShift | abi.SleeperBrokered
}

// receipt has the cell of a brokered call that need not wait say so, once the
// transaction commits.
func (o *object) receipt(t *transaction, cell int) bool {
	if o.ticket == 0 {
		return false
	}
	st := o.state(cell)
	t.setState(cell, st, st.to(abi.CellDone, 0))
	return true
}

// orphaned tells whether a manager that is gone waits on the cell.
func (o *object) orphaned(cell int, _ state) bool {
	return uint32(o.load(cell+offFlags))&abi.SleeperBrokered != 0
}

// ticketed finds the cell of the host's call once it is over; 0: it is not.
func (o *object) ticketed(kind uint64) int {
	for i := range o.present() {
		off := o.cellsOff + i*abi.CellSize
		if st := o.state(off); st.kind() == kind && st.session() == o.me && st.phase() == abi.CellDone &&
			uint32(o.load(off+offFlags))&ticketMask == o.ticket {
			return off
		}
	}
	return 0
}

// outcome is what became of the call of a cell. Not over: nothing.
func (o *object) outcome(cell int) (over bool, err error) {
	if cell == 0 {
		return false, nil
	}
	errno := o.state(cell).errno()
	return errno != unix.EINTR && errno != ErrStale, errnoError(errno)
}

// end is release for a call that is over, unless its cell is to tell the next
// manager that it is.
func (q *Queue) end(cell int, err error) {
	if err != nil || q.ticket == 0 {
		q.release(cell)
	} else {
		q.keep(cell)
	}
}

func (o *object) keep(cell int) { o.kept = kept{cell, o.state(cell)} }

// unkeep takes the cell back from the host's session; false: somebody has.
func (o *object) unkeep(k kept) bool {
	return k.cell != 0 && o.shift(k.cell, k.st, k.st.to(abi.CellOwned, 0))
}

// tickets are the cells that tell what became of brokered calls, of any session.
func (o *object) tickets(yield func(k kept, seq uint32) bool) {
	for i := range o.present() {
		off := o.cellsOff + i*abi.CellSize
		st := o.state(off)
		if !st.waits() || st.phase() != abi.CellDone {
			continue
		}
		flags := uint32(o.load(off + offFlags))
		if flags&abi.SleeperBrokered != 0 && !yield(kept{off, st}, flags>>abi.SleeperSeqShift) {
			return
		}
	}
}

// before says whether one request was made before another, by the bits of their
// Seqs that tickets have.
func before(a, b uint32) bool { return int32((a-b)<<abi.SleeperSeqShift) < 0 }

// dropTickets drops those of the host's session that are older than its request of
// the Seq open; 0: all. left: there are others.
func (o *object) dropTickets(open uint32, drop func(kept)) (left bool) {
	for k, seq := range o.tickets {
		if k.st.session() == o.me && (open == 0 || before(seq, open)) {
			drop(k)
		} else {
			left = true
		}
	}
	return left
}

// carryTickets copies those of calls that were carried out to the same object's next
// file. text copies what comes with one.
func (o *object) carryTickets(to *object, text func(from, cell int) error) error {
	for k := range o.tickets {
		if k.st.errno() != 0 {
			continue // it changed nothing, and may begin anew
		}
		cell, err := to.allocGrow(k.st.kind())
		if err != nil {
			return err
		}
		to.setNext(cell, 0)
		to.store(cell+offFlags, o.load(k.cell+offFlags)&ticketMask)
		to.store(cell+offCount, 0)
		if err := text(k.cell, cell); err != nil {
			return err
		}
		st := to.state(cell)
		to.store(cell, uint64(st.owned(abi.CellDone, k.st.kind(), k.st.session())))
	}
	return nil
}

// Resume tells what became of a semop that an earlier manager was asked for.
// Not over: nothing, it may begin anew.
func (s *Set) Resume() (over bool, err error) {
	cell := s.ticketed(abi.KindSleeper)
	over, err = s.outcome(cell)
	s.endSleeper(cell, err)
	return over, err
}

// Forget ends a brokered call that succeeded, now that its client knows.
func (s *Set) Forget() {
	s.drop(s.kept)
	s.kept = kept{}
}

// DropTickets forgets calls that an earlier manager carried out, or whose cells a
// move carried over: those before the session's request of the Seq open; 0: all.
// left: cells of others tell of such calls.
func (s *Set) DropTickets(open uint32) (left bool) { return s.dropTickets(open, s.drop) }

func (s *Set) drop(k kept) {
	if s.unkeep(k) {
		s.freeSleeper(k.cell)
	}
}

// ResumeSend is Set.Resume for msgsnd.
func (q *Queue) ResumeSend() (over bool, err error) {
	cell := q.ticketed(abi.KindSender)
	if over, err = q.outcome(cell); err != nil {
		if message, ok := q.cell(q.messageOf(kept{cell, q.state(cell)})); ok {
			q.freeMessage(message)
		}
	}
	q.end(cell, err)
	return over, err
}

// ResumeReceive is Set.Resume for msgrcv, see Receive.
func (q *Queue) ResumeReceive(buf []byte) (n int, mtype int64, over bool, err error) {
	cell := q.ticketed(abi.KindReceiver)
	if over, err = q.outcome(cell); over && err == nil {
		message, _ := q.cell(q.load(cell + offRecvMessage))
		n, mtype, err = q.look(message, buf)
	}
	q.end(cell, err)
	return n, mtype, over, err
}

// Forget is Set.Forget. A message that was received is freed with it.
func (q *Queue) Forget() {
	q.drop(q.kept)
	q.kept = kept{}
}

// DropTickets is Set.DropTickets.
func (q *Queue) DropTickets(open uint32) (left bool) { return q.dropTickets(open, q.drop) }

func (q *Queue) drop(k kept) {
	if !q.unkeep(k) {
		return
	}
	if message, ok := q.cell(q.messageOf(k)); ok {
		q.freeMessage(message)
	}
	q.release(k.cell)
}

// messageOf is the number of the message that is left of a call: one received, or not
// sent; 0: none.
func (q *Queue) messageOf(k kept) uint64 {
	flags := q.load(k.cell + offFlags)
	switch {
	case k.st.kind() == abi.KindReceiver:
		return q.load(k.cell + offRecvMessage)
	case k.st.errno() != 0 && flags&abi.SenderRefused == 0:
		return flags >> 32
	}
	return 0
}

// receiveTicketed is Receive of a brokered call: the message stays until Forget.
func (q *Queue) receiveTicketed(ctx context.Context, buf []byte, mode uint32, asked int64, room uint64, noWait bool) (n int, mtype int64, err error) {
	message, err := q.receiveWaiting(ctx, mode, asked, room, noWait)
	if err != nil {
		return 0, 0, err
	}
	if n, mtype, err = q.look(message, buf); err != nil {
		q.Forget()
	}
	return n, mtype, err
}
