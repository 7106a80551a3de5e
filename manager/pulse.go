package manager

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// pulse is the file of hints that all members map for writing.
type pulse struct {
	file  *os.File
	mem   []byte
	bound *file
}

func (s *storage) mapPulse(f *os.File) (*pulse, error) {
	mem, err := unix.Mmap(int(f.Fd()), 0, abi.PulseSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map pulse: %w", err)
	}
	p := &pulse{f, mem, &file{storage: s, path: f.Name(), made: true, size: abi.PulseSize, sealed: s.guard != nil}}
	s.growth.watch(p.bound, int(f.Fd()))
	return p, nil
}

func (p *pulse) close() {
	p.bound.storage.growth.forget(p.bound)
	p.bound.close()
	_ = unix.Munmap(p.mem)
	_ = p.file.Close()
}

// prepare gives a session's page memory and clears it. By stores, for a
// write(2) would wait for every member who writes; where something stands, for
// a store takes as long as many loads.
func (p *pulse) prepare(session uint32) error {
	return guarded(func() {
		atomic.StoreUint64(p.word64(session, 0), 0)
		words := unsafe.Slice(p.word64(session, 0), abi.PageSize/8)
		for i := range words {
			if atomic.LoadUint64(&words[i]) != 0 {
				atomic.StoreUint64(&words[i], 0)
			}
		}
	})
}

// executed is prepare for a process that called exec: its word is gone, but not
// what it adjusted, so it must be asked for until it links a fresh one.
func (p *pulse) executed(session uint32) error {
	return guarded(func() {
		atomic.StoreUint64(p.word64(session, abi.PulseAsk), 1)
		atomic.StoreUint64(p.word64(session, abi.PulseAlive), 0)
	})
}

func (p *pulse) word64(session uint32, off int) *uint64 {
	return (*uint64)(unsafe.Pointer(&p.mem[int(session)*abi.PageSize+off]))
}

func (p *pulse) word32(session uint32, off int) *uint32 {
	return (*uint32)(unsafe.Pointer(&p.mem[int(session)*abi.PageSize+off]))
}

// died says whether the session's word asks for a look.
func (p *pulse) died(session uint32) bool {
	died := true
	_ = guarded(func() {
		died = atomic.LoadUint64(p.word64(session, abi.PulseAlive))&abi.PulseDied != 0 ||
			atomic.LoadUint64(p.word64(session, abi.PulseAsk)) != 0
	})
	return died
}

// calm takes the hint of a session that was found alive: it has no word any
// more, so it must be asked for until its process links a fresh one and clears
// PulseAsk. By compare-and-swap: it may have done so meanwhile.
func (p *pulse) calm(session uint32) {
	_ = guarded(func() {
		w := p.word64(session, abi.PulseAlive)
		if v := atomic.LoadUint64(w); v&abi.PulseDied != 0 {
			atomic.StoreUint64(p.word64(session, abi.PulseAsk), 1)
			atomic.CompareAndSwapUint64(w, v, 0)
		}
	})
}

// ring bumps and wakes a session's doorbell.
func (p *pulse) ring(session uint32) {
	_ = guarded(func() {
		w := p.word32(session, abi.PulseDoorbell)
		atomic.AddUint32(w, 1)
		futexWake(w, 1<<30)
	})
}
