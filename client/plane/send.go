package plane

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// Send is msgsnd; of the flags IPC_NOWAIT counts. Checks of the length
// against MSGMAX and of permissions are the caller's.
// EINVAL (type below 1), EAGAIN, EIDRM, ErrStale, ENOMEM, and EINTR when ctx
// ends.
func (q *Queue) Send(ctx context.Context, typ int64, text []byte, flags int) error {
	if typ < 1 {
		return unix.EINVAL
	}
	message, err := q.makeMessage(typ, text)
	if err != nil {
		return err
	}
	fail(q.host, "filled")
	direct := q.ticket == 0
	if direct && q.sendPlain(message, len(text)) {
		return nil
	}
	err = q.sendSlowly(ctx, message, len(text), flags&unix.IPC_NOWAIT != 0, direct)
	if err != nil {
		q.freeMessage(message)
	}
	return err
}

// sendSlowly sends with the lock, and waits if need be. direct: without a cell,
// if the message fits.
func (q *Queue) sendSlowly(ctx context.Context, message, size int, noWait, direct bool) error {
	err := q.usable()
	if err == nil && direct {
		err = q.sendNow(message, size, noWait)
	}
	if err == errCell || err == nil && !direct {
		err = q.sendWaiting(ctx, message, size, noWait, nil)
	}
	return err
}

// Refuse is msgsnd of a caller that lost the right of sending while it slept:
// do_msgsnd (ipc/msg.c) looks at rights again when there is room for the
// message. EACCES then; ErrStale after an IPC_SET, that may have changed them.
//
// still says whether they are those that the caller was refused by. It is asked
// under the lock: an IPC_SET before that is seen, one after it finds the call in
// the list.
func (q *Queue) Refuse(ctx context.Context, size int, still func() bool) error {
	if err := q.usable(); err != nil {
		return err
	}
	return q.sendWaiting(ctx, 0, size, false, still)
}

// sendNow sends a message that fits. errCell: it has to wait.
func (q *Queue) sendNow(message, size int, noWait bool) error {
	me := q.me
	return q.locked(func(t *transaction) error {
		switch {
		case q.fits(t, size):
			q.deliver(t, message, me)
			return q.commitOn(t)
		case noWait:
			return unix.EAGAIN
		}
		return errCell
	})
}

// sendWaiting sends when the message fits. 0 is the message of a call that is
// refused then, unless still says no.
func (q *Queue) sendWaiting(ctx context.Context, message, size int, noWait bool, still func() bool) error {
	c, me, waits := q.newCall(senders), q.me, false
	defer c.close()
	flags := c.flags()
	if message == 0 {
		flags |= abi.SenderRefused
	} else {
		flags |= q.number(message) << 32
	}
	cell, err := q.makeSender(size, flags)
	if err != nil {
		return err
	}
	err = q.locked(func(t *transaction) error {
		waits = !q.fits(t, size)
		switch {
		case message == 0 && !still():
			return ErrStale
		case !waits && message == 0:
			return unix.EACCES
		case !waits:
			q.receipt(t, cell)
			q.deliver(t, message, me)
			return q.commitOn(t)
		case noWait:
			return unix.EAGAIN
		}
		st := q.state(cell)
		t.add(senders, cell)
		t.setState(cell, st, st.to(abi.CellWaiting, 0))
		return t.commit(false)
	})
	if err == nil && waits {
		fail(q.host, "queued")
		c.cell = cell
		c.serve = func(giveUp unix.Errno) error { return q.serveSender(cell, message, size, giveUp) }
		c.leave = func() error { return q.leave(senders, cell) }
		err = c.sleep(ctx)
		q.goOn()
	}
	q.end(cell, err)
	return err
}

// commitOn commits, and goes on with what that leaves pending.
func (q *Queue) commitOn(t *transaction) error {
	pending := t.get(offPending)&1 != 0
	if err := t.commit(pending); err != nil || !pending {
		return err
	}
	q.finish(t)
	return nil
}

func (q *Queue) makeSender(size int, flags uint64) (int, error) {
	cell, err := q.allocGrow(abi.KindSender)
	if err != nil {
		return 0, err
	}
	q.setNext(cell, 0)
	q.store(cell+offFlags, flags)
	q.store(cell+offSendSize, uint64(size))
	return cell, nil
}

// serveSender sends the message of a call that sleeps, and was found awake, if
// it fits now. It ends the call, or makes it WAITING again.
func (q *Queue) serveSender(cell, message, size int, giveUp unix.Errno) error {
	return q.serveSelf(cell, senders, giveUp, func(t *transaction) (unix.Errno, func()) {
		switch {
		case !q.fits(t, size):
			return 0, nil
		case message == 0:
			return unix.EACCES, func() {}
		}
		return 0, func() { q.deliver(t, message, q.me) }
	})
}

// serveSelf has a call that was found awake try again: it ends, or sleeps on.
// try says with what errno it ends and how, or nil if it still has to wait.
func (q *Queue) serveSelf(cell int, l list, giveUp unix.Errno, try func(t *transaction) (unix.Errno, func())) error {
	return q.locked(func(t *transaction) error {
		claimed, ok := t.claim(cell)
		if !ok {
			if t.holds() && !q.state(cell).sleeping() {
				return nil // it has come to an end
			}
			return errAgain
		}
		errno, act := try(t)
		if act == nil && giveUp == 0 {
			t.setState(cell, claimed, claimed.to(abi.CellWaiting, 0))
			return t.commit(false)
		}
		// Off the list before anything else: who is served next would find
		// this call there, and claim it a second time.
		if c := t.walk(l); c.find(cell) {
			c.remove()
		}
		if act != nil {
			act()
		} else {
			errno = giveUp
		}
		t.setState(cell, claimed, claimed.to(abi.CellDone, errno))
		return q.commitOn(t)
	})
}

// leave takes a cancelled sleeper off its list.
func (q *Queue) leave(l list, cell int) error {
	return q.locked(func(t *transaction) error {
		st := q.state(cell)
		if st.phase() != abi.CellCancelled {
			return nil
		}
		if c := t.walk(l); c.find(cell) {
			c.remove()
		}
		t.setState(cell, st, st.to(abi.CellDone, unix.EINTR))
		return t.commit(false)
	})
}
