package plane

import (
	"sync/atomic"
	"unsafe"

	"github.com/ipcspace/ipcspace/client/abi"
)

// Spare is a log cell that an object keeps between its transactions, so that few
// of them have to look for one. It outlives the object: Free gives it back.
type Spare struct{ off atomic.Int64 } // 0: none, or in use

// Keep has the object keep a log cell. For who uses it often, and calls Free
// before the memory is unmapped.
func (o *object) Keep() *Spare {
	o.spare = &Spare{}
	return o.spare
}

// Free gives back what an object in that memory kept.
func (s *Spare) Free(control []byte) {
	off := s.off.Swap(0)
	if off == 0 {
		return
	}
	word := (*uint64)(unsafe.Pointer(&control[off]))
	if st := state(atomic.LoadUint64(word)); st.kind() == abi.KindLog {
		atomic.CompareAndSwapUint64(word, uint64(st), uint64(st.owned(abi.CellFree, abi.KindNone, 0)))
	}
}

// takeLog takes a log cell for a transaction. Not ok: there is none, see grow.
func (o *object) takeLog() (off int, ok bool) {
	if s := o.spare; s != nil {
		off := s.off.Load()
		if off != 0 && s.off.CompareAndSwap(off, 0) && o.isLog(int(off)) {
			return int(off), true
		}
	}
	return o.alloc(abi.KindLog)
}

// isLog says whether the cell is a log of this session: not if that was taken
// for dead meanwhile.
func (o *object) isLog(off int) bool {
	st := state(o.fetch(off))
	return st.kind() == abi.KindLog && st.phase() == abi.CellOwned && st.session() == o.me
}

// giveLog gives the cell of a transaction that is over back.
func (o *object) giveLog(off int) {
	if s := o.spare; s == nil || s.off.Load() != 0 || !s.off.CompareAndSwap(0, int64(off)) {
		o.free(off)
	}
}
