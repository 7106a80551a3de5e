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
// and learn what came of theirs (Resume), or begin anew.

const ticketMask = 1<<32 - 1<<abi.SleeperSeqShift | abi.SleeperBrokered

// ticket is how cells of the host's brokered call are known; 0: it is none.
func (o *object) ticket() uint32 {
	seq, brokered := o.host.Brokered()
	if !brokered {
		return 0
	}
	return seq<<abi.SleeperSeqShift | abi.SleeperBrokered
}

// receipt has the cell of a brokered call that need not wait say so, once the
// transaction commits.
func (o *object) receipt(t *transaction, cell int) bool {
	if o.ticket() == 0 {
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
			uint32(o.load(off+offFlags))&ticketMask == o.ticket() {
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
	if err != nil || q.ticket() == 0 {
		q.release(cell)
	} else {
		q.kept = cell
	}
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
	s.freeSleeper(s.kept)
	s.kept = 0
}

// ResumeSend is Set.Resume for msgsnd.
func (q *Queue) ResumeSend() (over bool, err error) {
	cell := q.ticketed(abi.KindSender)
	if over, err = q.outcome(cell); err != nil {
		if flags := q.load(cell + offFlags); flags&abi.SenderRefused == 0 {
			if message, ok := q.cell(flags >> 32); ok {
				q.freeMessage(message)
			}
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
	if q.kept == 0 {
		return
	}
	if q.state(q.kept).kind() == abi.KindReceiver {
		if message, ok := q.cell(q.load(q.kept + offRecvMessage)); ok {
			q.freeMessage(message)
		}
	}
	q.release(q.kept)
	q.kept = 0
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
