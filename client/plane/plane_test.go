package plane

import (
	"context"
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// file is a memfd that grows, mapped at its largest size: what the manager
// makes for an object. Touching beyond its present size is SIGBUS.
type file struct {
	t             testing.TB
	control, data *os.File
	mem, dmem     []byte
	mu            sync.Mutex
	cells, chunks int
	maxCells      int
	cellsOff      int
	qbytes        atomic.Uint64
	valid         atomic.Bool
	dead          sync.Map // session -> true once it was killed
	bells         sync.Map // session -> *Bell, see withBells
	reap          func(session uint32) error
	asks          atomic.Int32
}

func newFile(t testing.TB, sems, cells, chunks int) *file {
	t.Helper()
	f := &file{t: t, cells: cells, chunks: chunks, maxCells: abi.MaxCells, cellsOff: abi.CellsOff(sems)}
	f.valid.Store(true)
	f.qbytes.Store(16384)
	f.control, f.mem = mapFile(t, f.cellsOff+cells*abi.CellSize, f.cellsOff+abi.MaxCells*abi.CellSize)
	f.data, f.dmem = mapFile(t, abi.DataSize(chunks), abi.DataSize(abi.MaxChunks))
	return f
}

func mapFile(t testing.TB, size, room int) (*os.File, []byte) {
	t.Helper()
	fd, err := unix.MemfdCreate("object", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "object")
	if err := file.Truncate(int64(size)); err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(fd, 0, room, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = file.Close()
		// Sleepers of sessions that a test has killed may still look at it.
		if !t.Failed() {
			_ = unix.Munmap(mem)
		}
	})
	return file, mem
}

// member is one session's Host.
type member struct {
	*file
	session uint32
	seq     uint32 // of a brokered call
	thread  uint32 // that makes it
}

func (m *member) Session() uint32 { return m.session }
func (m *member) Valid() bool     { return m.valid.Load() }
func (m *member) Capacity() (cells, chunks int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cells, m.chunks
}

func (m *member) Grow(cells, chunks int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if cells > m.maxCells || chunks > abi.MaxChunks {
		return unix.ENOMEM
	}
	if cells > m.cells {
		if err := m.control.Truncate(int64(m.cellsOff + cells*abi.CellSize)); err != nil {
			return unix.ENOMEM
		}
		m.cells = cells
	}
	if chunks > m.chunks {
		if err := m.data.Truncate(int64(abi.DataSize(chunks))); err != nil {
			return unix.ENOMEM
		}
		m.chunks = chunks
	}
	return nil
}

func (m *member) Died(session uint32) bool {
	_, dead := m.dead.Load(session)
	return dead
}

func (m *member) Reap(session uint32) error {
	m.asks.Add(1)
	if m.reap != nil {
		return m.reap(session)
	}
	return nil
}
func (m *member) Brokered() (uint32, bool) { return m.seq, m.seq != 0 }
func (m *member) Thread() uint32           { return m.thread }
func (m *member) QueueBytes() uint64       { return m.qbytes.Load() }
func (m *member) RingDoorbell(session uint32) {
	if b := m.bell(session); b != nil {
		atomic.AddUint32(b.word, 1)
		wake(b.word)
	}
}

func (m *member) Bell() *Bell { return m.bell(m.session) }

// withBells has sessions wait without a thread for each call.
var withBells bool

func (f *file) bell(session uint32) *Bell {
	if !withBells || session == abi.ManagerSession {
		return nil
	}
	if b, ok := f.bells.Load(session); ok {
		return b.(*Bell)
	}
	b, known := f.bells.LoadOrStore(session, NewBell(new(uint32), 0))
	if !known {
		over := make(chan struct{})
		go func() {
			defer close(over)
			b.(*Bell).Listen()
		}()
		f.t.Cleanup(func() {
			b.(*Bell).End()
			<-over
		})
	}
	return b.(*Bell)
}

func (f *file) set(sems int, session uint32) *Set {
	f.t.Helper()
	s, err := NewSet(f.mem, sems, &member{f, session, 0, 0})
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

func (f *file) queue(session uint32) *Queue {
	f.t.Helper()
	q, err := NewQueue(f.mem, f.dmem, &member{f, session, 0, 0})
	if err != nil {
		f.t.Fatal(err)
	}
	return q
}

// reaper has the manager's part of Reap done by a set's own code.
func (f *file) reapBy(s *Set) {
	f.reap = func(session uint32) error {
		if _, dead := f.dead.Load(session); !dead {
			return nil
		}
		return s.ReapSession(session)
	}
}

var bg = context.Background()

func op(num, n int, flags ...int) abi.SemOp {
	o := abi.SemOp{Num: uint16(num), Op: int16(n)}
	for _, f := range flags {
		o.Flag |= uint16(f)
	}
	return o
}

func want(t testing.TB, err, wanted error) {
	t.Helper()
	if !errors.Is(err, wanted) {
		t.Fatalf("got %v, want %v", err, wanted)
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("never came about: %s", what)
		}
		runtime.Gosched()
		time.Sleep(50 * time.Microsecond)
	}
}

func setFailPoint(f func(session uint32, step string)) {
	if f == nil {
		failPoint.Store(nil)
		return
	}
	failPoint.Store(&f)
}
