package plane

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// offNext is the link in every cell, whatever its kind. It is always written
// as a link word whose version grows, or a stalled helper could change a list
// that the cell joined in a later life.
const offNext = int(unsafe.Offsetof(abi.SleeperCell{}.Next))

// state is a cell's state word.
type state uint64

func (s state) phase() uint64   { return uint64(s) & abi.CellStateMask }
func (s state) kind() uint64    { return uint64(s) >> abi.CellKindShift & abi.CellKindMask }
func (s state) session() uint32 { return uint32(s>>abi.CellSessionShift) & (1<<abi.SessionBits - 1) }
func (s state) errno() unix.Errno {
	return unix.Errno(uint64(s) >> abi.CellErrnoShift & abi.CellErrnoMask)
}

// to is the state after s, of the same kind and session and the next version.
func (s state) to(phase uint64, errno unix.Errno) state {
	return s.owned(phase, s.kind(), s.session()) | state(errno&abi.CellErrnoMask)<<abi.CellErrnoShift
}

// owned is the state after s, of another kind or session.
func (s state) owned(phase, kind uint64, session uint32) state {
	return (s>>abi.CellVersionShift+1)<<abi.CellVersionShift |
		state(session&(1<<abi.SessionBits-1))<<abi.CellSessionShift |
		state(kind)<<abi.CellKindShift | state(phase)
}

// sleeping says whether a cell of that state stands for a call that waits.
func (s state) sleeping() bool {
	switch s.phase() {
	case abi.CellWaiting, abi.CellRetry, abi.CellClaimed:
		return s.waits()
	}
	return false
}

// waits says whether the kind is one of those that wait.
func (s state) waits() bool {
	switch s.kind() {
	case abi.KindSleeper, abi.KindReceiver, abi.KindSender:
		return true
	}
	return false
}

func (o *object) state(off int) state { return state(o.load(off)) }

// shift tries one step of a cell's state, outside of a transaction.
func (o *object) shift(off int, from, to state) bool {
	return o.cas(off, uint64(from), uint64(to))
}

// logReserve is how many cells, the first ones, are for logs alone: else a
// queue full of messages, whose file may not grow, had no room for the log of
// the transaction that takes one out.
const logReserve = 8

// alloc takes a free cell for this session. Its offset, or ok false if there
// is none: see grow.
func (o *object) alloc(kind uint64) (off int, ok bool) {
	first, n := logReserve, o.cells()
	if kind == abi.KindLog {
		first = 0
	}
	hint := int(o.fetch(offHint))
	if uint(hint) >= uint(n) || hint < first {
		hint = first
	}
	for at, tried := hint, first; tried < n; tried++ {
		off = o.cellsOff + at*abi.CellSize
		st := state(o.fetch(off))
		if st.phase() == abi.CellFree && o.swap(off, uint64(st), uint64(st.owned(abi.CellOwned, kind, o.me))) {
			if at != hint {
				o.put(offHint, uint64(at+1))
			}
			fail(o.host, "cell taken")
			return off, true
		}
		if at++; at == n {
			at = first
		}
	}
	return 0, false
}

// allocGrow takes a free cell, making room if need be. Not under the lock:
// the host may ask the manager.
func (o *object) allocGrow(kind uint64) (off int, err error) {
	for range 64 {
		if off, ok := o.alloc(kind); ok {
			return off, nil
		}
		if err := o.grow(1); err != nil {
			return 0, err
		}
	}
	return 0, unix.ENOMEM
}

// grow makes room for want more cells, and some to spare.
func (o *object) grow(want int) error {
	old := o.cells()
	o.refresh()
	if o.cells() > old {
		return nil
	}
	_, chunks := o.host.Capacity()
	total := min(old+max(want+logReserve, old/2, 16), abi.MaxCells)
	if total < old+want || total <= logReserve {
		return unix.ENOMEM
	}
	if err := o.host.Grow(total, chunks); err != nil {
		return err
	}
	o.refresh()
	if o.cells() == old {
		return unix.ENOMEM
	}
	return nil
}

// free gives back a cell that is off every list and belongs to the caller.
func (o *object) free(off int) {
	for range patienceSteps {
		st := o.state(off)
		if st.phase() == abi.CellFree {
			return
		}
		if o.shift(off, st, st.owned(abi.CellFree, abi.KindNone, 0)) {
			o.put(offHint, o.number(off)-1)
			return
		}
	}
}

// setNext leads a cell that is on no list to another one, or to none with 0.
func (o *object) setNext(off int, number uint64) {
	if w := o.load(off + offNext); uint64(uint32(w)) != number {
		o.store(off+offNext, link(w, number))
	}
}

// freeChain frees the cells of a kind that follow one another from number on.
func (o *object) freeChain(number, kind uint64) {
	for range o.present() {
		off, ok := o.cell(number)
		if !ok || o.state(off).kind() != kind {
			return
		}
		number = o.load(off + offNext)
		o.free(off)
	}
}
