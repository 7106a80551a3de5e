package plane

import (
	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// ReapSession cleans up after a session whose process is dead: its sleepers
// leave the queue, all its cells and chunks are freed. Messages that it sent
// stay. It may be called again after a crash in the middle.
func (q *Queue) ReapSession(session uint32) error {
	t, err := q.beginReaping(session)
	if err != nil {
		return err
	}
	err = q.ejectAll(t, func(_ int, st state) bool { return st.session() == session }, unix.EINTR, waiters, senders)
	if err == nil {
		// Also if there was nothing to do: the lock was ours once, so that
		// no transaction of the dead is under way any more.
		err = t.attempt(func() error {
			if err := q.catchUp(t); err != nil {
				return err
			}
			if !t.holds() {
				return errRevoked
			}
			return nil
		})
	}
	if err == nil {
		fail(q.host, "reaping cells")
		q.freeSession(t, session)
	}
	t.end()
	return err
}

// Recover is for the start of a manager, see Set.Recover.
func (q *Queue) Recover(known func(session uint32) bool) error {
	q.settle(q.load(offLock))
	for _, session := range append(q.strangers(known), q.me) {
		if err := q.ReapSession(session); err != nil {
			return err
		}
	}
	return q.recall(q.orphaned, unix.EINTR, waiters, senders)
}

// recallRefused has the senders that are to be refused start their calls again.
func (q *Queue) recallRefused() error {
	return q.recall(func(cell int, _ state) bool {
		return uint32(q.load(cell+offFlags))&abi.SenderRefused != 0
	}, ErrStale, senders)
}

// recall ends calls that wait, with an errno.
func (q *Queue) recall(which func(cell int, st state) bool, errno unix.Errno, from ...list) error {
	t, err := q.begin()
	if err != nil {
		return err
	}
	err = q.ejectAll(t, which, errno, from...)
	t.end()
	return err
}

func (q *Queue) ejectAll(t *transaction, which func(cell int, st state) bool, errno unix.Errno, from ...list) error {
	for _, l := range from {
		err := t.ejectAll(l, which, errno, q.catchUp, func([]int) error { return t.commit(false) })
		if err != nil {
			return err
		}
	}
	return nil
}

// freeSession frees what a session holds, not under the lock: nobody acts for
// it, and nothing of it is on a list but messages that are queued.
func (q *Queue) freeSession(t *transaction, session uint32) {
	mine := map[uint64]bool{} // numbers of its messages, owners of chunks
	used := map[int]bool{}    // index cells of everybody else's messages
	for i := range q.present() {
		off := q.cellsOff + i*abi.CellSize
		st := q.state(off)
		if st.kind() != abi.KindMessage {
			continue
		}
		if st.phase() == abi.CellOwned && st.session() == session {
			mine[q.number(off)] = true
			continue
		}
		_, index := q.numbers(nil, off, q.msgSize(off))
		for _, off := range index {
			used[off] = true
		}
	}
	for number := range mine {
		// As long as the message leads to them, they are its own.
		cell, _ := q.cell(number)
		_, index := q.numbers(nil, cell, q.msgSize(cell))
		for _, off := range index {
			if st := q.state(off); !used[off] && st.session() != session {
				q.shift(off, st, st.owned(abi.CellOwned, abi.KindIndex, session))
			}
		}
	}
	if len(mine) > 0 {
		for i := range q.learn() {
			off := abi.ChunkWordOff(i)
			if w := q.data.load(off); mine[w] {
				q.data.cas(off, w, 0)
			}
		}
	}
	q.freeAll(t, session, func(off int, st state) bool {
		return st.phase() != abi.CellQueued && !(st.kind() == abi.KindIndex && used[off])
	})
}

// SessionsNamed calls f with each session number that any word of the queue
// names, some perhaps more than once.
func (q *Queue) SessionsNamed(f func(session uint32)) {
	st := q.Stat()
	f(st.Sender)
	f(st.Receiver)
	q.cellSessions(f)
}

// Remove ends the queue after its slot word was cleared: all sleepers end with
// EIDRM. It takes no lock and needs no help of anybody.
func (q *Queue) Remove() {
	q.mark(abi.ObjectRemoved)
	q.dismiss(unix.EIDRM)
}

// Poison, CopyTo and WakeMoved move a queue to fresh files, see Set.Poison.
func (q *Queue) Poison() error {
	q.mark(abi.ObjectMoved)
	return q.still()
}

// WakeMoved ends all sleepers with ErrStale.
func (q *Queue) WakeMoved() { q.dismiss(ErrStale) }

// CopyTo carries messages, counters and times over to a queue whose files
// nobody else has yet. fresh's Host is asked to Grow. A message that does not
// own all its chunks is a hostile member's, and is dropped.
func (q *Queue) CopyTo(fresh *Queue) error {
	for cell := range q.chain(offMsgHead) {
		st := q.state(cell)
		if st.kind() != abi.KindMessage || st.phase() != abi.CellQueued || !q.owns(cell) {
			continue
		}
		text := make([]byte, q.msgSize(cell))
		q.text(cell, len(text), text)
		if err := fresh.adopt(q.msgType(cell), text, st.session()); err != nil {
			return err
		}
	}
	fresh.store(offLastSend, q.load(offLastSend))
	fresh.store(offRecvThread, q.load(offRecvThread))
	fresh.store(offLastRecv, q.load(offLastRecv))
	carried := map[int]bool{}
	return q.carryTickets(&fresh.object, func(from, cell int) error { return q.carryReceived(from, fresh, cell, carried) })
}

// carryReceived copies the message that a brokered call has received, if no other has.
func (q *Queue) carryReceived(from int, fresh *Queue, cell int, carried map[int]bool) error {
	if q.state(from).kind() != abi.KindReceiver {
		return nil
	}
	fresh.store(cell+offRecvMessage, 0)
	message, ok := q.cell(q.load(from + offRecvMessage))
	if !ok || carried[message] {
		return nil
	}
	carried[message] = true
	st := q.state(message)
	if st.kind() != abi.KindMessage || st.phase() != abi.CellOwned || st.session() != q.state(from).session() || !q.owns(message) {
		return nil // a hostile member's
	}
	text := make([]byte, q.msgSize(message))
	q.text(message, len(text), text)
	copied, err := fresh.makeMessage(q.msgType(message), text)
	if err != nil {
		return err
	}
	fresh.store(copied, uint64(fresh.state(copied).owned(abi.CellOwned, abi.KindMessage, st.session())))
	fresh.store(cell+offRecvMessage, link(0, fresh.number(copied)))
	return nil
}

// owns says whether a message has the chunks that its size asks for, and they
// are its own: so all messages together are no more than all chunks.
func (q *Queue) owns(cell int) bool {
	size := q.msgSize(cell)
	chunks, _ := q.numbers(nil, cell, size)
	if size > abi.MessageInline && len(chunks)*abi.ChunkSize < size {
		return false
	}
	for _, number := range chunks {
		if !q.chunk(number) || q.data.load(abi.ChunkWordOff(int(number))) != q.number(cell) {
			return false
		}
	}
	return true
}

// adopt appends a message to a queue that nobody else has yet.
func (q *Queue) adopt(typ int64, text []byte, session uint32) error {
	cell, err := q.makeMessage(typ, text)
	if err != nil {
		return err
	}
	st := q.state(cell)
	q.store(cell, uint64(st.owned(abi.CellQueued, abi.KindMessage, session)))
	from := offMsgHead
	if last, ok := q.cell(q.load(offMsgTail)); ok {
		from = last + offNext
	}
	q.store(from, link(q.load(from), q.number(cell)))
	q.store(offMsgTail, link(q.load(offMsgTail), q.number(cell)))
	q.store(offSent, counted(q.load(offSent), len(text)))
	return nil
}
