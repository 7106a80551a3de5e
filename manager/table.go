package manager

import (
	"fmt"
	"math/bits"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/client/plane"
)

// table is the writer's side of a space's key space (abi/table.go). Callers
// hold space.mu.
type table struct {
	mem    []byte
	header *abi.TableHeader
	state  *state // persists the generation

	keys    [abi.Families]map[uint32]uint32 // key -> index; the entries in mem are hints for clients
	records []uint32                        // free record numbers, a stack
}

// mapTable maps a table file of full size for writing.
func mapTable(f *os.File, st *state) (*table, error) {
	mem, err := unix.Mmap(int(f.Fd()), 0, abi.TableSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map table: %w", err)
	}
	t := &table{mem: mem, header: (*abi.TableHeader)(unsafe.Pointer(&mem[0])), state: st}
	for f := range t.keys {
		t.keys[f] = map[uint32]uint32{}
	}
	return t, nil
}

// format fills the header of a new table.
func (t *table) format(id uint64, l Limits, flags uint32) {
	h := t.header
	h.LayoutMajor, h.LayoutMinor = abi.LayoutMajor, abi.LayoutMinor
	h.SpaceID, h.Flags = id, flags
	t.setLimits(l)
	atomic.StoreUint64(&h.Magic, abi.Magic)
	t.findFreeRecords(nil)
}

// check refuses a table of another layout.
func (t *table) check() error {
	h := t.header
	if h.Magic != abi.Magic {
		return fmt.Errorf("not a table: magic %#x: %w", h.Magic, ErrVersion)
	}
	if h.LayoutMajor != abi.LayoutMajor {
		return fmt.Errorf("table has layout %d, this manager knows %d; use the manager that made the space, or remove it: %w",
			h.LayoutMajor, abi.LayoutMajor, ErrVersion)
	}
	return nil
}

func (t *table) close() {
	if t.mem != nil {
		_ = unix.Munmap(t.mem)
		t.mem = nil
	}
}

func (t *table) findFreeRecords(used map[uint32]bool) {
	t.records = t.records[:0]
	for i := abi.MaxRecords - 1; i >= 0; i-- {
		if !used[uint32(i)] {
			t.records = append(t.records, uint32(i))
		}
	}
}

func (t *table) slot(f Family, index uint32) *uint64 {
	return (*uint64)(unsafe.Pointer(&t.mem[abi.TableSlotsOff+(int(f)*abi.MaxObjects+int(index))*8]))
}

func (t *table) word(f Family, index uint32) uint64 {
	return atomic.LoadUint64(t.slot(f, index))
}

func (t *table) record(n uint32) *abi.Record {
	return (*abi.Record)(unsafe.Pointer(&t.mem[abi.TableRecordsOff+int(n)*int(unsafe.Sizeof(abi.Record{}))]))
}

func (t *table) session(n uint32) *abi.SessionRecord {
	return (*abi.SessionRecord)(unsafe.Pointer(&t.mem[abi.TableSessionsOff+int(n)*int(unsafe.Sizeof(abi.SessionRecord{}))]))
}

// writeRecord stores word by word with release order, so that a reader that
// still sees the slot word of the record's former use never sees parts of the
// new one.
func (t *table) writeRecord(n uint32, r *abi.Record) {
	const words = int(unsafe.Sizeof(abi.Record{}) / 8)
	dst := (*[words]uint64)(unsafe.Pointer(t.record(n)))
	src := (*[words]uint64)(unsafe.Pointer(r))
	for i := range src {
		atomic.StoreUint64(&dst[i], src[i])
	}
}

func (t *table) newWord(record uint32, closing bool) uint64 {
	w := t.state.nextGeneration()<<abi.SlotGenShift | uint64(record)
	if closing {
		w |= abi.SlotClosing
	}
	return w
}

// publish makes r the current record of the object at index and returns the
// new slot word. Cut anywhere before the store of the slot word, nothing has
// happened: an unnamed record is free.
func (t *table) publish(f Family, index uint32, r *abi.Record) (uint64, error) {
	if len(t.records) == 0 {
		return 0, unix.ENOSPC // cannot be: there are more records than slots
	}
	n := t.records[len(t.records)-1]
	t.records = t.records[:len(t.records)-1]
	t.writeRecord(n, r)
	word := t.newWord(n, false)
	t.store(f, index, word)
	return word, nil
}

// closing sets abi.SlotClosing under a fresh generation.
func (t *table) closing(f Family, index uint32) uint64 {
	word := t.newWord(uint32(t.word(f, index)&abi.SlotRecordMask), true)
	t.store(f, index, word)
	return word
}

// withdraw ends the existence of the object at index.
func (t *table) withdraw(f Family, index uint32) {
	t.store(f, index, 0)
}

func (t *table) store(f Family, index uint32, word uint64) {
	slot := t.slot(f, index)
	old := atomic.LoadUint64(slot)
	atomic.StoreUint64(slot, word)
	if old != 0 && (word == 0 || old&abi.SlotRecordMask != word&abi.SlotRecordMask) {
		t.records = append(t.records, uint32(old&abi.SlotRecordMask))
	}
	// Clients wait only for what is CLOSING.
	atomic.AddUint32(&t.header.Changes, 1)
	if old&abi.SlotClosing != 0 {
		futexWake(&t.header.Changes, 1<<30)
	}
}

// bump wakes all who wait on a futex word of the table. Clients map it
// read-only from other processes: a shared futex.
func (t *table) bump(word *uint32) {
	atomic.AddUint32(word, 1)
	futexWake(word, 1<<30)
}

// count changes the totals in a header when an object comes or goes.
func count(h *abi.TableHeader, f Family, r *abi.Record, came bool) {
	sign := uint64(1)
	if !came {
		sign = ^uint64(0)
	}
	atomic.AddUint32(&h.InUse[f], uint32(sign))
	switch f {
	case Sem:
		atomic.AddUint64(&h.Sems, sign*r.Size)
	case Shm:
		atomic.AddUint64(&h.ShmPages, sign*pages(r.Size))
	}
}

// account changes the usage counters when an object comes or goes.
func (t *table) account(f Family, r *abi.Record, came bool) {
	count(t.header, f, r, came)
	index := r.ID & abi.IndexMask
	top := atomic.LoadUint32(&t.header.MaxIndex[f])
	if came && index >= top {
		atomic.StoreUint32(&t.header.MaxIndex[f], index+1)
	} else if !came && index+1 == top {
		for top > 0 && t.word(f, top-1) == 0 {
			top--
		}
		atomic.StoreUint32(&t.header.MaxIndex[f], top)
	}
}

// pages is how many pages of 4 KiB size bytes take.
func pages(size uint64) uint64 {
	p, carry := bits.Add64(size, abi.PageSize-1, 0)
	return p/abi.PageSize | carry<<52
}

func now() int64 { return plane.Seconds() }

func futexWake(word *uint32, n int) {
	const futexWake = 1
	_, _, _ = unix.Syscall(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWake, uintptr(n))
}
