package plane

import (
	"context"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

const offFlags = int(unsafe.Offsetof(abi.SleeperCell{}.Flags)) // of all that wait

// far stands for no time-out: FUTEX_WAIT with one is not restarted behind our
// back, and waking once in that time costs nothing.
const far = 24 * time.Hour

// claim makes a waiting call's cell the transaction's to change: while the
// lock is held, nobody else changes a CLAIMED state.
//
// The state is loaded before the lock is looked at, and exactly what was
// loaded is exchanged, for the next version even if it was CLAIMED already:
// so a holder that was revoked, and does not know yet, can neither undo the
// claim of another nor renew its own.
func (t *transaction) claim(off int) (state, bool) {
	st := t.o.state(off)
	if !st.sleeping() || !t.holds() {
		return 0, false
	}
	claimed := st.to(abi.CellClaimed, 0)
	return claimed, t.o.shift(off, st, claimed)
}

// rouse claims a cell that is to be served and wakes its thread. False: that
// thread is awake, in a handler or gone; it gets nothing, and serves itself
// when it comes back.
func (t *transaction) rouse(off int) (state, bool) {
	if t.o.state(off).phase() == abi.CellRetry {
		return 0, false
	}
	claimed, ok := t.claim(off)
	if !ok {
		return 0, false
	}
	fail(t.o.host, "claimed")
	if t.doorbell(off) {
		if !t.o.host.Died(claimed.session()) {
			t.ring = append(t.ring, claimed.session())
			return claimed, true
		}
	} else if wake(t.o.futex(off)) {
		fail(t.o.host, "woken")
		return claimed, true
	}
	t.refuse(off, claimed)
	return 0, false
}

// refuse leaves a claimed cell to its own thread.
func (t *transaction) refuse(off int, claimed state) {
	t.o.shift(off, claimed, claimed.to(abi.CellRetry, 0))
	if t.doorbell(off) {
		t.o.host.RingDoorbell(claimed.session())
	}
}

func (t *transaction) doorbell(off int) bool {
	return uint32(t.o.load(off+offFlags))&abi.SleeperDoorbell != 0
}

// call is one call that waits on a cell.
type call struct {
	o        *object
	l        list
	cell     int
	deadline time.Time // zero: none

	// serve does for the call, under the lock, what others do for sleepers.
	// With giveUp it ends in any case, at worst with that error.
	serve func(giveUp unix.Errno) error
	// leave takes the cancelled cell off its list.
	leave func() error

	bell     *Bell
	threaded bool          // a thread sleeps on the cell
	nudged   chan struct{} // else: look at the cell
	asleep   state         // what the goroutine waits for to change; bell.mu
	at       int           // in bell.calls; bell.mu

	mu    sync.Mutex
	ended bool // from outside: it is to give up
	over  bool
}

// newCall makes a call that is going to wait; its cell has the call's flags.
func (o *object) newCall(l list) *call {
	c := &call{o: o, l: l, bell: o.host.Bell(), threaded: true}
	if c.bell != nil && !c.bell.take() {
		c.threaded, c.nudged = false, make(chan struct{}, 1)
	}
	return c
}

// flags are those of the cell (abi.Sleeper*).
func (c *call) flags() uint64 {
	flags := uint64(c.o.ticket)
	if !c.threaded {
		flags |= abi.SleeperDoorbell
	}
	return flags
}

// close gives back what newCall took.
func (c *call) close() {
	if c.bell != nil && c.threaded {
		c.bell.threads.Add(-1)
	}
}

// sleep waits until the call is served, by others or by itself. The error is
// the call's. The cell is the caller's again, and on no list.
func (c *call) sleep(ctx context.Context) error {
	defer c.watch(ctx)()
	for claims := 0; ; {
		st := c.o.state(c.cell)
		if st.session() != c.o.me || !st.waits() {
			return unix.EIDRM // taken from us: the session counts as dead
		}
		switch st.phase() {
		case abi.CellDone:
			return errnoError(st.errno())
		case abi.CellWaiting:
			if giveUp := c.giveUp(ctx); giveUp != 0 {
				if c.o.shift(c.cell, st, st.to(abi.CellCancelled, 0)) {
					return c.cancelled(giveUp)
				}
				continue
			}
			fail(c.o.host, "about to sleep")
			if c.threaded {
				wait(c.o.futex(c.cell), uint32(st), c.rest())
			} else {
				c.bell.await(ctx, c, st, c.rest())
			}
			fail(c.o.host, "awake")
		case abi.CellCancelled:
			return c.cancelled(unix.EINTR)
		case abi.CellClaimed:
			// Somebody is about to serve us, most likely.
			if claims++; claims < 200 {
				pause(claims)
				continue
			}
			fallthrough
		case abi.CellRetry:
			claims = 0
			if err := c.serve(c.giveUp(ctx)); err != nil {
				if st := c.o.state(c.cell); st.phase() == abi.CellDone {
					return errnoError(st.errno())
				}
				return err
			}
		default:
			return unix.EIDRM
		}
	}
}

func (c *call) cancelled(giveUp unix.Errno) error {
	fail(c.o.host, "cancelled")
	if err := c.leave(); err != nil && giveUp == unix.EINTR {
		return err // the object ended: say that
	}
	return giveUp
}

// giveUp says why the call should not sleep on; 0: it should.
//
// The slot word is looked at after the cell became WAITING, and a remover
// looks at cells after it cleared the slot word: one sees the other.
func (c *call) giveUp(ctx context.Context) unix.Errno {
	c.mu.Lock()
	ended := c.ended || !c.threaded && ctx.Err() != nil
	c.mu.Unlock()
	switch {
	case ended:
		return unix.EINTR
	case !c.o.host.Valid() || c.o.ended():
		return c.o.gone().(unix.Errno)
	case !c.deadline.IsZero() && !time.Now().Before(c.deadline):
		return unix.EAGAIN
	}
	return 0
}

func (c *call) rest() time.Duration {
	if c.deadline.IsZero() {
		return far
	}
	return max(min(time.Until(c.deadline), far), 0)
}

// watch has the end of ctx, and the bell, wake the call, until the function
// that it returns is called.
func (c *call) watch(ctx context.Context) (over func()) {
	stop := func() bool { return true }
	if c.threaded && ctx.Done() != nil {
		stop = context.AfterFunc(ctx, c.interrupt)
	}
	if c.bell != nil {
		c.bell.add(c)
	}
	return func() {
		if c.bell != nil {
			c.bell.remove(c)
		}
		stop()
		c.mu.Lock()
		c.over = true
		c.mu.Unlock()
	}
}

// interrupt has the call give up.
func (c *call) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return // the cell may be another's
	}
	c.ended = true
	if !c.threaded {
		c.nudge()
		return
	}
	st := c.o.state(c.cell)
	if p := st.phase(); p == abi.CellWaiting || p == abi.CellRetry {
		c.o.shift(c.cell, st, st.to(abi.CellCancelled, 0))
	}
	// CLAIMED by one who died before waking us, perhaps: then we serve
	// ourselves a last time.
	wake(c.o.futex(c.cell))
}

// nudge has a goroutine look at its cell.
func (c *call) nudge() {
	select {
	case c.nudged <- struct{}{}:
	default:
	}
}

// errnoError makes an errno of the memory an error; 0 is none.
func errnoError(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// release frees a call's cell after the call. One that could not be taken off
// its list stays there, CANCELLED, until its session is reaped.
func (o *object) release(cell int) {
	if cell == 0 {
		return
	}
	if st := o.state(cell); st.phase() == abi.CellOwned || st.phase() == abi.CellDone || o.usable() != nil {
		o.free(cell)
	}
}
