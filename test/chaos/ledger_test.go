package chaos_test

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offsets and sizes of testdata/worker/ledger.h.
const (
	maxLives     = 65536
	messages     = 2048
	sections     = 3
	lifeSize     = 128
	livesOff     = 4096
	receivedOff  = livesOff + maxLives*lifeSize
	ledgerSize   = receivedOff + maxLives*messages/8
	roleUndo     = 0
	roleReceiver = 4
	roleSegment  = 5 // and those before it, Go programs have too
	roleChurn    = 6
	undoStart    = 10
)

var roleNames = []string{"undo", "lock", "count", "sender", "receiver", "segment", "churn", "signals"}

// life is testdata/worker/ledger.h's.
type life struct {
	pid, role, space, killed, ended, slept uint32
	progress, sentBegun, sentDone          uint64
	receiving                              uint64
	upBegun, upDone, downBegun, downDone   uint64
	sectionBegun                           [sections]uint64
	sectionDone, _                         uint64
}

// ledger is what the processes say of themselves.
type ledger struct {
	path string
	mem  []byte
}

func newLedger(t *testing.T) *ledger {
	t.Helper()
	if unsafe.Sizeof(life{}) != lifeSize {
		t.Fatal("the ledger's layout")
	}
	path := filepath.Join(scratch, "ledger")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(ledgerSize); err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(int(file.Fd()), 0, ledgerSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	return &ledger{path, mem}
}

func (l *ledger) count() *uint64    { return (*uint64)(unsafe.Pointer(&l.mem[0])) }
func (l *ledger) stop() *uint32     { return (*uint32)(unsafe.Pointer(&l.mem[8])) }
func (l *ledger) failures() *uint32 { return (*uint32)(unsafe.Pointer(&l.mem[12])) }
func (l *ledger) life(i int) *life {
	return (*life)(unsafe.Pointer(&l.mem[livesOff+i*lifeSize]))
}

func (l *ledger) received(i int, sequence uint64) bool {
	return l.mem[receivedOff+i*messages/8+int(sequence/8)]>>(sequence%8)&1 != 0
}
