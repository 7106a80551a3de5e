package manager

import (
	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// minCycle is the kernel's ipc_min_cycle: indices go round at least so many.
const minCycle = 64

// idState is what the allocation of ids of one family remembers. It lives in
// the state file and is written before the slot word: a cut in between skips
// an id.
type idState struct {
	Next uint32 // idr_next
	Last int32  // last_idx, -1: none yet
	Seq  uint32
	Wish uint32 // *_next_id + 1, 0: none
}

// newID chooses the id of a new object as ipc_idr_alloc (ipc/util.c) does:
// the index cyclically in [0, max(64, in_use*3/2)), and a new sequence number
// only when the index does not grow.
//
// "ENOSPC: All possible shared memory IDs have been taken (SHMMNI)"
func (t *table) newID(f Family, limit uint64) (uint32, error) {
	inUse := uint64(t.header.InUse[f])
	if inUse >= min(limit, abi.MaxObjects) {
		return 0, unix.ENOSPC
	}
	end := uint32(min(max(inUse*3/2, minCycle), abi.MaxObjects))
	ids := t.state.ids(f)
	if ids.Wish != 0 {
		return t.wishedID(f)
	}
	index, ok := t.freeIndex(f, ids.Next, end)
	if !ok {
		if index, ok = t.freeIndex(f, 0, end); !ok {
			return 0, unix.ENOSPC
		}
	}
	ids.Next = index + 1
	if int64(index) <= int64(ids.Last) {
		ids.Seq++
		if ids.Seq >= abi.SeqMax {
			ids.Seq = 0
		}
	}
	ids.Last = int32(index)
	return ids.Seq<<abi.IndexBits | index, nil
}

func (t *table) freeIndex(f Family, start, end uint32) (uint32, bool) {
	for i := start; i < end; i++ {
		if t.word(f, i) == 0 {
			return i, true
		}
	}
	return 0, false
}

// wishedID is the id that *_next_id asks for, once; if its index is taken, the
// next free one with the same sequence number.
func (t *table) wishedID(f Family) (uint32, error) {
	ids := t.state.ids(f)
	id := ids.Wish - 1
	ids.Wish = 0
	index, ok := t.freeIndex(f, id&abi.IndexMask, abi.MaxObjects)
	if !ok {
		return 0, unix.ENOSPC
	}
	return id&^abi.IndexMask | index, nil
}

// nextID is *_next_id: -1 if the next id is as it comes.
func (t *table) nextID(f Family) int64 { return int64(t.state.ids(f).Wish) - 1 }

func (t *table) setNextID(f Family, id int64) { t.state.ids(f).Wish = uint32(id + 1) }
