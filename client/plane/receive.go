package plane

import (
	"context"
	"math"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// Flags of msgrcv.
const (
	msgNoError = 0o10000
	msgExcept  = 0o20000
)

const (
	offRecvType       = int(unsafe.Offsetof(abi.ReceiverCell{}.Type))
	offRecvSize       = int(unsafe.Offsetof(abi.ReceiverCell{}.Size))
	offReceiverThread = int(unsafe.Offsetof(abi.ReceiverCell{}.Thread))
	offRecvMessage    = int(unsafe.Offsetof(abi.ReceiverCell{}.Message))
	offSendSize       = int(unsafe.Offsetof(abi.SenderCell{}.Size))
)

// mode is convert_mode (ipc/msg.c).
func mode(typ int64, flags int) (uint32, int64) {
	switch {
	case typ == 0:
		return abi.ReceiveAny, 0
	case typ == math.MinInt64:
		return abi.ReceiveLessEq, math.MaxInt64
	case typ < 0:
		return abi.ReceiveLessEq, -typ
	case flags&msgExcept != 0:
		return abi.ReceiveNotEqual, typ
	}
	return abi.ReceiveEqual, typ
}

// wanted is testmsg (ipc/msg.c).
func wanted(typ int64, mode uint32, asked int64) bool {
	switch mode {
	case abi.ReceiveAny:
		return true
	case abi.ReceiveEqual:
		return typ == asked
	case abi.ReceiveNotEqual:
		return typ != asked
	case abi.ReceiveLessEq:
		return typ <= asked
	}
	return false
}

// search is find_msg (ipc/msg.c): a cursor at the message.
func (q *Queue) search(t *transaction, mode uint32, asked int64) (best cursor, ok bool) {
	c := t.walk(messages)
	for c.next() {
		st := q.state(c.cell)
		if st.kind() != abi.KindMessage || st.phase() != abi.CellQueued {
			// One that this transaction itself queues, which wakes no receiver
			// twice; or a damaged list.
			continue
		}
		if !t.spend(1) {
			break
		}
		typ := q.msgType(c.cell)
		if !wanted(typ, mode, asked) {
			continue
		}
		best = *c
		if mode != abi.ReceiveLessEq || typ == 1 {
			break
		}
		asked = typ - 1
	}
	return best, best.cell != 0
}

// Receive is msgrcv into a buffer of room len(buf), without MSG_COPY. It
// returns the bytes received and the message's type.
// ENOMSG, E2BIG, EIDRM, ErrStale, ENOMEM, and EINTR when ctx ends.
func (q *Queue) Receive(ctx context.Context, buf []byte, typ int64, flags int) (n int, mtype int64, err error) {
	mode, asked := mode(typ, flags)
	room := uint64(len(buf))
	if flags&msgNoError != 0 {
		room = math.MaxUint64
	}
	noWait, direct := flags&unix.IPC_NOWAIT != 0, q.ticket == 0
	if direct {
		n, mtype, done, err := q.receivePlain(mode, asked, room, buf)
		if !done && !noWait && q.await(mode, asked) {
			n, mtype, done, err = q.receivePlain(mode, asked, room, buf)
		}
		if done {
			return n, mtype, err
		}
	}
	if err := q.usable(); err != nil {
		return 0, 0, err
	}
	if !direct {
		return q.receiveTicketed(ctx, buf, mode, asked, room, noWait)
	}
	message, err := q.receiveNow(mode, asked, room, noWait)
	if err == errCell {
		message, err = q.receiveWaiting(ctx, mode, asked, room, false)
	}
	if err != nil {
		return 0, 0, err
	}
	fail(q.host, "taken")
	return q.unpack(message, buf)
}

// receiveNow takes a message that is there. errCell: it has to wait.
func (q *Queue) receiveNow(mode uint32, asked int64, room uint64, noWait bool) (message int, err error) {
	err = q.locked(func(t *transaction) error {
		message, err = q.pick(t, mode, asked, room, 0)
		switch {
		case err != nil || message != 0:
			return err
		case noWait:
			return unix.ENOMSG
		}
		return errCell
	})
	return message, err
}

// pick takes a message that is there for a call, with a cell or none, and
// commits; 0: there is none.
func (q *Queue) pick(t *transaction, mode uint32, asked int64, room uint64, cell int) (message int, err error) {
	m, found := q.search(t, mode, asked)
	switch {
	case found && room < uint64(q.msgSize(m.cell)):
		return 0, unix.E2BIG
	case found:
		message = m.cell
		if cell != 0 && q.receipt(t, cell) {
			t.setLink(cell+offRecvMessage, q.number(message))
		}
		q.take(t, &m, q.me, 0)
		q.admit(t)
		return message, q.commitOn(t)
	case !t.holds():
		return 0, errRevoked
	}
	return 0, nil
}

func (q *Queue) receiveWaiting(ctx context.Context, mode uint32, asked int64, room uint64, noWait bool) (message int, err error) {
	c, waits := q.newCall(waiters), false
	defer c.close()
	cell, err := q.makeReceiver(mode, asked, room, c.flags())
	if err != nil {
		return 0, err
	}
	err = q.locked(func(t *transaction) error {
		message, err = q.pick(t, mode, asked, room, cell)
		if waits = err == nil && message == 0; !waits {
			return err
		} else if noWait {
			waits = false
			return unix.ENOMSG
		}
		st := q.state(cell)
		t.add(waiters, cell)
		t.setState(cell, st, st.to(abi.CellWaiting, 0))
		return t.commit(false)
	})
	if err == nil && waits {
		fail(q.host, "queued")
		c.cell = cell
		c.serve = func(giveUp unix.Errno) error { return q.serveReceiver(cell, mode, asked, room, giveUp) }
		c.leave = func() error { return q.leave(waiters, cell) }
		if err = c.sleep(ctx); err == nil {
			message, _ = q.cell(q.load(cell + offRecvMessage))
		}
		q.goOn()
	}
	q.end(cell, err)
	return message, err
}

// unpack reads a message that is ours and frees it.
func (q *Queue) unpack(message int, buf []byte) (n int, mtype int64, err error) {
	if n, mtype, err = q.look(message, buf); err == nil {
		fail(q.host, "read")
		q.freeMessage(message)
	}
	return n, mtype, err
}

// look reads a message that is ours.
func (q *Queue) look(message int, buf []byte) (n int, mtype int64, err error) {
	if message == 0 {
		return 0, 0, unix.EIO
	}
	if st := q.state(message); st.kind() != abi.KindMessage || st.session() != q.me {
		return 0, 0, unix.EIO // a hostile member took it
	}
	size := q.msgSize(message)
	if size <= abi.MessageInline {
		return copy(buf, q.mem[message+offText:][:size]), q.msgType(message), nil
	}
	return q.text(message, size, buf), q.msgType(message), nil
}

func (q *Queue) makeReceiver(mode uint32, asked int64, room, flags uint64) (int, error) {
	cell, err := q.allocGrow(abi.KindReceiver)
	if err != nil {
		return 0, err
	}
	q.setNext(cell, 0)
	q.store(cell+offFlags, uint64(mode)<<32|flags)
	q.store(cell+offRecvType, uint64(asked))
	q.store(cell+offRecvSize, room)
	q.store(cell+offReceiverThread, uint64(q.host.Thread()))
	// The version is of this life of the cell alone, see setNext.
	seed := uint64(q.state(cell)) >> abi.CellVersionShift << 1
	q.store(cell+offRecvMessage, seed<<abi.LinkVersionShift)
	return cell, nil
}

// serveReceiver receives for a call that sleeps, and was found awake.
func (q *Queue) serveReceiver(cell int, mode uint32, asked int64, room uint64, giveUp unix.Errno) error {
	return q.serveSelf(cell, waiters, giveUp, func(t *transaction) (unix.Errno, func()) {
		m, found := q.search(t, mode, asked)
		switch {
		case !found:
			return 0, nil
		case room < uint64(q.msgSize(m.cell)):
			return unix.E2BIG, func() {}
		}
		return 0, func() {
			t.setLink(cell+offRecvMessage, q.number(m.cell))
			q.take(t, &m, q.me, uint32(q.load(cell+offReceiverThread)))
			q.admit(t)
		}
	})
}

// Copy is msgrcv with MSG_COPY: the message at the index, counted from 0,
// stays in the queue. flags are checked as the kernel does: EINVAL without
// IPC_NOWAIT or with MSG_EXCEPT.
func (q *Queue) Copy(buf []byte, index int64, flags int) (n int, mtype int64, err error) {
	if flags&unix.IPC_NOWAIT == 0 || flags&msgExcept != 0 {
		return 0, 0, unix.EINVAL
	}
	if err := q.usable(); err != nil {
		return 0, 0, err
	}
	err = q.locked(func(t *transaction) error {
		left := index
		for c := t.walk(messages); left >= 0 && c.next(); left-- {
			if left > 0 {
				continue
			}
			size := q.msgSize(c.cell)
			if size > len(buf) {
				if flags&msgNoError != 0 {
					return unix.EINVAL // copy_msg (ipc/msgutil.c) does not cut
				}
				return unix.E2BIG
			}
			mtype = q.msgType(c.cell)
			n = q.text(c.cell, size, buf)
			if !t.holds() {
				return errRevoked
			}
			return nil
		}
		return unix.ENOMSG
	})
	if err != nil {
		return 0, 0, err
	}
	return n, mtype, nil
}
