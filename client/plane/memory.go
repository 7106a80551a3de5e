package plane

import (
	"sync/atomic"
	"unsafe"
)

// memory is mapped memory that others write at any time. Every access is
// bounds-checked: a load outside yields 0, a store or compare-and-swap outside
// does nothing. fetch, put and swap are the same for words that are known to be
// inside: those of the header, semaphores of a checked number, and cells that
// alloc, cell or near led to.
//
// Invariant: limit is a multiple of 8, at most len(mem), and never beyond what
// the Host vouched for; it only grows.
type memory struct {
	mem   []byte
	limit atomic.Int64
}

// inside says whether the aligned 64-bit word at off may be touched.
func (m *memory) inside(off int) bool {
	return off&7 == 0 && uint64(off) < uint64(m.limit.Load())
}

// word is the one at off, which is inside.
func (m *memory) word(off int) *uint64 {
	return (*uint64)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(m.mem)), off))
}

func (m *memory) load(off int) uint64 {
	if !m.inside(off) {
		return 0
	}
	return m.fetch(off)
}

// store is for words that nobody looks at until a compare-and-swap has led
// there, and for those of which any value is right: it is one plain store,
// which orders nothing.
func (m *memory) store(off int, v uint64) {
	if m.inside(off) {
		m.put(off, v)
	}
}

func (m *memory) cas(off int, old, new uint64) bool {
	return m.inside(off) && m.swap(off, old, new)
}

// futex is the low half of the word at off, nil if it is outside.
func (m *memory) futex(off int) *uint32 {
	if !m.inside(off) {
		return nil
	}
	return (*uint32)(unsafe.Pointer(&m.mem[off]))
}

// read copies bytes out, once; what is outside reads as zeros.
func (m *memory) read(off int, p []byte) {
	limit := int(m.limit.Load())
	n := 0
	if off >= 0 && off < limit {
		n = copy(p, m.mem[off:limit])
	}
	clear(p[n:])
}

// write copies bytes in; what is outside is dropped.
func (m *memory) write(off int, p []byte) {
	limit := int(m.limit.Load())
	if off >= 0 && off < limit {
		copy(m.mem[off:limit], p)
	}
}

// extend raises the limit to n bytes at most.
func (m *memory) extend(n int) {
	if n > len(m.mem) {
		n = len(m.mem)
	}
	n &^= 7
	for {
		old := m.limit.Load()
		if int64(n) <= old || m.limit.CompareAndSwap(old, int64(n)) {
			return
		}
	}
}

// aligned says whether words of m may be accessed atomically.
func aligned(p []byte) bool {
	return len(p) > 0 && uintptr(unsafe.Pointer(&p[0]))&7 == 0
}
