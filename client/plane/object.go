package plane

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// Offsets of abi.ControlHeader's words.
const (
	offLock       = int(unsafe.Offsetof(abi.ControlHeader{}.Lock))
	offState      = int(unsafe.Offsetof(abi.ControlHeader{}.State))
	offOTime      = int(unsafe.Offsetof(abi.ControlHeader{}.OTime))
	offCTime      = int(unsafe.Offsetof(abi.ControlHeader{}.CTime))
	offWaitHead   = int(unsafe.Offsetof(abi.ControlHeader{}.WaitHead))
	offWaitTail   = int(unsafe.Offsetof(abi.ControlHeader{}.WaitTail))
	offUndoHead   = int(unsafe.Offsetof(abi.ControlHeader{}.UndoHead))
	offPending    = int(unsafe.Offsetof(abi.ControlHeader{}.Pending))
	offHint       = int(unsafe.Offsetof(abi.ControlHeader{}.Hint))
	offMsgHead    = int(unsafe.Offsetof(abi.ControlHeader{}.MsgHead))
	offMsgTail    = int(unsafe.Offsetof(abi.ControlHeader{}.MsgTail))
	offSent       = int(unsafe.Offsetof(abi.ControlHeader{}.Sent))
	offTaken      = int(unsafe.Offsetof(abi.ControlHeader{}.Taken))
	offSendHead   = int(unsafe.Offsetof(abi.ControlHeader{}.SendHead))
	offSendTail   = int(unsafe.Offsetof(abi.ControlHeader{}.SendTail))
	offLastSend   = int(unsafe.Offsetof(abi.ControlHeader{}.LastSend))
	offLastRecv   = int(unsafe.Offsetof(abi.ControlHeader{}.LastRecv))
	offRecvThread = int(unsafe.Offsetof(abi.ControlHeader{}.RecvThread))
	offChunkHint  = int(unsafe.Offsetof(abi.ControlHeader{}.ChunkHint))
)

// object is what sets and queues have in common: a control file with a lock,
// cells and lists.
type object struct {
	memory
	host     Host
	me       uint32 // host.Session(), which does not change
	ticket   uint32 // see ticketOf; nor does this
	sems     int    // 0 for a queue
	cellsOff int
	spare    *Spare // nil: none is kept
	kept     kept   // by a brokered call that succeeded, until Forget

	// rest does what is Pending as far as one transaction has room, and commits it.
	rest func(t *transaction) error
}

func (o *object) open(control []byte, sems int, h Host, rest func(*transaction) error) error {
	o.mem, o.host, o.me, o.sems, o.cellsOff = control, h, h.Session(), sems, abi.CellsOff(sems)
	o.rest, o.ticket = rest, ticketOf(h)
	if sems < 0 || !aligned(control) || len(control) < o.cellsOff {
		return unix.EINVAL
	}
	o.refresh()
	return nil
}

// Init makes a fresh file of zeros an empty queue, or a set of semaphores of
// value 0. Nobody else may have the file yet.
func (o *object) Init() {
	for off := 0; off < o.cellsOff; off += 8 {
		if o.load(off) != 0 {
			o.store(off, 0)
		}
	}
}

// refresh learns the present capacity from the host.
func (o *object) refresh() {
	cells, _ := o.host.Capacity()
	cells = min(max(cells, 0), abi.MaxCells)
	o.extend(o.cellsOff + cells*abi.CellSize)
}

// cells is how many cells may be touched.
func (o *object) cells() int {
	return (int(o.limit.Load()) - o.cellsOff) / abi.CellSize
}

// present is cells as of now: for walks that must not miss a cell that another
// process had the file grow for.
func (o *object) present() int {
	o.refresh()
	return o.cells()
}

// cell is the offset of the cell that a link or an index + 1 leads to.
// ok is false for the end of a list and for what leads nowhere.
func (o *object) cell(link uint64) (off int, ok bool) {
	i := int(uint32(link)) - 1
	if i < 0 || i >= abi.MaxCells {
		return 0, false
	}
	if i >= o.cells() {
		o.refresh() // another process made the file grow
		if i >= o.cells() {
			return 0, false
		}
	}
	return o.cellsOff + i*abi.CellSize, true
}

// near is cell, without asking the host whether there are more by now.
func (o *object) near(link uint64) (off int, ok bool) {
	off = o.cellsOff + int(uint32(link)-1)*abi.CellSize // far outside for 0
	return off, int64(off)+abi.CellSize <= o.limit.Load()
}

// number is index + 1 of the cell at off, as links have it.
func (o *object) number(off int) uint64 {
	return uint64(off-o.cellsOff)/abi.CellSize + 1
}

// usable is nil while the object may be used through this handle.
func (o *object) usable() error {
	if !o.host.Valid() {
		return o.gone()
	}
	return nil
}

// gone says how an object ended that can not be used any more.
func (o *object) gone() error {
	if o.load(offState)&abi.ObjectRemoved != 0 {
		return unix.EIDRM
	}
	return ErrStale
}

func (o *object) ended() bool {
	return o.fetch(offState)&(abi.ObjectRemoved|abi.ObjectMoved) != 0
}

// link makes a link word that leads to the cell of that number, of the version
// after old's.
func link(old, number uint64) uint64 {
	return (old>>abi.LinkVersionShift+1)<<abi.LinkVersionShift | number&(1<<abi.LinkVersionShift-1)
}
