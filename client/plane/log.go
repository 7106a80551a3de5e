package plane

import (
	"sync/atomic"
	"unsafe"

	"github.com/ipcspace/ipcspace/client/abi"
)

// Spare is a log cell that an object keeps between its transactions, so that few
// of them have to look for one. It outlives the object: Free gives it back.
type Spare struct {
	// off is the cell's offset; 0: there is none yet. Whoever changes it to
	// lent is the only one to change it again.
	off int64
	me  uint32 // whose it is
}

// lent is the offset while a transaction has the cell.
const lent = -1

// Keep has the object keep a log cell. For who uses it often, and calls Free
// before the memory is unmapped.
func (o *object) Keep() *Spare {
	o.spare = &Spare{me: o.me}
	return o.spare
}

// Free gives back what an object in that memory kept.
func (s *Spare) Free(control []byte) {
	off := atomic.SwapInt64(&s.off, 0)
	if off <= 0 {
		return
	}
	word := (*uint64)(unsafe.Pointer(&control[off]))
	if st := state(atomic.LoadUint64(word)); st.isLogOf(s.me) {
		atomic.CompareAndSwapUint64(word, uint64(st), uint64(st.owned(abi.CellFree, abi.KindNone, 0)))
	}
}

// logCell is a transaction's log cell.
type logCell struct {
	off  int  // 0: there is none, see grow
	kept bool // it is the object's spare, to which giveLog gives it back
}

// takeLog takes a log cell for a transaction.
func (o *object) takeLog() logCell {
	kept := false
	if s := o.spare; s != nil {
		off := atomic.LoadInt64(&s.off)
		kept = off >= 0 && atomic.CompareAndSwapInt64(&s.off, off, lent)
		if kept && off > 0 && state(o.fetch(int(off))).isLogOf(o.me) {
			return logCell{int(off), true}
		}
	}
	off, ok := o.alloc(abi.KindLog)
	if !ok && kept {
		storeRelease(&o.spare.off, 0)
	}
	return logCell{off, kept && ok}
}

// isLogOf says whether a cell is a log of the session still: not if that was taken
// for dead meanwhile.
func (s state) isLogOf(session uint32) bool {
	return s.kind() == abi.KindLog && s.phase() == abi.CellOwned && s.session() == session
}

// giveLog gives the cell of a transaction that is over back.
func (o *object) giveLog(l logCell) {
	if l.kept {
		storeRelease(&o.spare.off, int64(l.off))
		return
	}
	o.free(l.off)
}
