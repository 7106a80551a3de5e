package plane

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// Queue is a message queue, msgop(2), as one session sees it. It is cheap to
// make: one for each session that the manager acts for.
type Queue struct {
	object
	data    memory
	chunks  atomic.Int64 // that may be touched; data's limit covers them
	spinner spinner
}

// QueueStat is what a queue itself knows of msqid_ds.
type QueueStat struct {
	Bytes    uint64 // msg_cbytes
	Messages uint64 // msg_qnum
	// Who sent and received last, as session numbers (0: nobody), and when,
	// in seconds since 1970.
	Sender, Receiver     uint32
	SendTime, RecvedTime int64
	// Thread is the receiver's number in its own pid namespace, if it slept and
	// is not its process's first thread; or 0.
	Thread uint32
}

// NewQueue makes a handle of the queue in control and data, which span the
// largest possible files; what Host.Capacity does not cover is not touched.
// EINVAL: the memory is too short or misaligned.
func NewQueue(control, data []byte, h Host) (*Queue, error) {
	q := &Queue{}
	if err := q.open(control, 0, h, q.rest); err != nil {
		return nil, err
	}
	if len(data) > 0 && !aligned(data) {
		return nil, unix.EINVAL
	}
	q.data.mem = data
	q.learn()
	return q, nil
}

// Stat reads the counters. It needs no write access to the file.
func (q *Queue) Stat() QueueStat {
	var st QueueStat
	for range 64 {
		lock := q.load(offLock)
		sent, taken := q.load(offSent), q.load(offTaken)
		st.Bytes, st.Messages = held(sent, taken)
		if lockState(lock) != abi.LockCommitted && q.load(offLock) == lock {
			break
		}
		pause(128)
	}
	send, recv := q.load(offLastSend), q.load(offLastRecv)
	st.Sender, st.SendTime = uint32(send&abi.LastSessionMask), int64(send>>abi.LastTimeShift)
	st.Receiver, st.RecvedTime = uint32(recv&abi.LastSessionMask), int64(recv>>abi.LastTimeShift)
	if thread := q.load(offRecvThread); recv&abi.LastThread != 0 && uint32(thread&abi.LastSessionMask) == st.Receiver {
		st.Thread = uint32(thread >> abi.LastTimeShift)
	}
	return st
}

// held is what the queue holds, of counters of all sent and all taken.
func held(sent, taken uint64) (bytes, messages uint64) {
	bytes = (sent - taken) & abi.CounterBytesMask
	messages = (sent>>abi.CounterCountShift - taken>>abi.CounterCountShift) & (1<<(64-abi.CounterCountShift) - 1)
	return bytes, messages
}

// counted is a counter after one more message.
func counted(w uint64, size int) uint64 {
	return (w>>abi.CounterCountShift+1)<<abi.CounterCountShift | (w+uint64(size))&abi.CounterBytesMask
}

// fits is msg_fits_inqueue (ipc/msg.c).
func (q *Queue) fits(t *transaction, size int) bool {
	return fit(t.get(offSent), t.get(offTaken), size, q.host.QueueBytes())
}

func fit(sent, taken uint64, size int, limit uint64) bool {
	bytes, messages := held(sent, taken)
	return bytes+uint64(size) <= limit && messages+1 <= limit
}

// stamp notes who sent or received last, and when.
func (t *transaction) stamp(off int, session uint32) {
	if w, now := t.get(off), lastWord(session); w != now {
		t.put(off, w, now)
	}
}

// lastWord is the word that says that the session did something just now.
func lastWord(session uint32) uint64 {
	return uint64(Seconds())<<abi.LastTimeShift | uint64(session)
}

// stampReceiver notes who received last, and with which thread it had slept.
func (q *Queue) stampReceiver(t *transaction, session, thread uint32) {
	if thread != 0 {
		q.store(offRecvThread, uint64(thread)<<abi.LastTimeShift|uint64(session))
		session |= abi.LastThread
	}
	t.stamp(offLastRecv, session)
}

// deliver is the second half of do_msgsnd (ipc/msg.c), for a message that
// fits: to the first receiver that wants it, past those whose room is too
// small, or else into the queue. from is the state of the message's cell.
func (q *Queue) deliver(t *transaction, message int, sender uint32) {
	from := q.state(message)
	typ, size := q.msgType(message), q.msgSize(message)
	t.stamp(offLastSend, sender)
	for c := t.walk(waiters); c.next(); {
		r := c.cell
		st := q.state(r)
		if st.kind() != abi.KindReceiver || st.phase() != abi.CellWaiting && st.phase() != abi.CellClaimed ||
			!wanted(typ, uint32(q.load(r+offFlags)>>32), int64(q.load(r+offRecvType))) {
			continue
		}
		if !t.spend(1) || t.full(12) && len(t.states) > 0 {
			t.setPending(1) // receivers are left, the message waits for them
			break
		}
		claimed, ok := t.rouse(r)
		if !ok {
			continue
		}
		c.remove()
		if q.load(r+offRecvSize) < uint64(size) {
			t.setState(r, claimed, claimed.to(abi.CellDone, unix.E2BIG))
			continue
		}
		q.stampReceiver(t, st.session(), uint32(q.load(r+offReceiverThread)))
		t.setLink(r+offRecvMessage, q.number(message))
		t.setState(message, from, from.owned(abi.CellOwned, abi.KindMessage, st.session()))
		t.setState(r, claimed, claimed.to(abi.CellDone, 0))
		return
	}
	t.add(messages, message)
	w := t.get(offSent)
	t.put(offSent, w, counted(w, size))
	t.setState(message, from, from.to(abi.CellQueued, 0))
}

// take takes the message at the cursor out of the queue for a session, of which
// thread slept, if any but the first.
func (q *Queue) take(t *transaction, c *cursor, receiver, thread uint32) {
	message := c.cell
	st := q.state(message)
	c.remove()
	q.stampReceiver(t, receiver, thread)
	w := t.get(offTaken)
	t.put(offTaken, w, counted(w, q.msgSize(message)))
	t.setState(message, st, st.owned(abi.CellOwned, abi.KindMessage, receiver))
}

// admit serves senders that fit, first come first served: ss_wakeup
// (ipc/msg.c). If the transaction has no room for all, Pending says so.
func (q *Queue) admit(t *transaction) {
	for c := t.walk(senders); c.next(); {
		cell := c.cell
		st := q.state(cell)
		if st.kind() != abi.KindSender || st.phase() != abi.CellWaiting && st.phase() != abi.CellClaimed {
			continue
		}
		message, size, ok := q.prepared(cell, st)
		if !ok {
			continue
		}
		if !t.spend(1) {
			t.setPending(1)
			return
		}
		if !q.fits(t, size) {
			continue
		}
		if t.full(12) && len(t.states) > 0 {
			t.setPending(1)
			return
		}
		claimed, ok := t.rouse(cell)
		if !ok {
			continue
		}
		c.remove()
		if message == 0 {
			t.setState(cell, claimed, claimed.to(abi.CellDone, unix.EACCES))
			continue
		}
		t.setState(cell, claimed, claimed.to(abi.CellDone, 0))
		q.deliver(t, message, st.session())
	}
}

// prepared is the message with which a sender sleeps, and its size; 0 is that of
// a call that is refused. ok is false for a damaged cell.
func (q *Queue) prepared(cell int, st state) (message, size int, ok bool) {
	flags := q.load(cell + offFlags)
	if flags&abi.SenderRefused != 0 {
		return 0, int(min(q.load(cell+offSendSize), maxText)), true
	}
	if message, ok = q.cell(flags >> 32); !ok {
		return 0, 0, false
	}
	m := q.state(message)
	ok = m.kind() == abi.KindMessage && m.phase() == abi.CellOwned && m.session() == st.session()
	return message, q.msgSize(message), ok
}

// rescan serves receivers for whom the queue has a message, then senders that
// fit. Pending says whether some are left.
func (q *Queue) rescan(t *transaction) {
	t.setPending(0)
	for c := t.walk(waiters); c.next(); {
		r := c.cell
		st := q.state(r)
		if st.kind() != abi.KindReceiver || st.phase() != abi.CellWaiting && st.phase() != abi.CellClaimed {
			continue
		}
		m, ok := q.search(t, uint32(q.load(r+offFlags)>>32), int64(q.load(r+offRecvType)))
		if !ok {
			continue
		}
		if t.full(12) && len(t.states) > 0 {
			t.setPending(1)
			return
		}
		claimed, ok := t.rouse(r)
		if !ok {
			continue
		}
		c.remove()
		if q.load(r+offRecvSize) < uint64(q.msgSize(m.cell)) {
			t.setState(r, claimed, claimed.to(abi.CellDone, unix.E2BIG))
			continue
		}
		t.setLink(r+offRecvMessage, q.number(m.cell))
		q.take(t, &m, st.session(), uint32(q.load(r+offReceiverThread)))
		t.setState(r, claimed, claimed.to(abi.CellDone, 0))
	}
	q.admit(t)
}

// rest rescans as far as one transaction has room, and commits.
func (q *Queue) rest(t *transaction) error {
	if t.work <= 0 {
		return errWork
	}
	q.rescan(t)
	return t.commit(true)
}

// Rescan serves who can go on after an IPC_SET: senders that fit into a larger
// msg_qbytes. Those that had lost their right begin again.
func (q *Queue) Rescan() error {
	if err := q.recallRefused(); err != nil {
		return err
	}
	return q.locked(func(t *transaction) error {
		q.rescan(t)
		if err := t.commit(true); err != nil {
			return err
		}
		q.finish(t)
		return nil
	})
}
