package client

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/client/plane"
)

// liveness is a thread that does nothing but live: the kernel marks the
// session's word in the pulse when that thread ends, before any parent or peer
// can learn of the process's death (robust futexes, get_robust_list(2)).
// Meanwhile it listens to the session's doorbell, for all calls that wait.
//
// The list is the thread's own. Where the program uses cgo, libc gave the
// thread one, which is given up: no code but this file's runs on the thread.
type liveness struct {
	s     *session
	bell  *plane.Bell
	ended chan struct{}
}

// threads is how many calls of this process may sleep with a thread each.
const threads = 8

// robustList is a struct robust_list_head (linux/futex.h) and its one entry,
// in memory that does not move and that nobody else can write: a write into it
// would be a write into what the kernel follows.
type robustList struct {
	next    uintptr
	offset  int
	pending uintptr
	entry   uintptr
}

// live starts the thread and waits until the kernel knows its list.
func (s *session) live() (*liveness, error) {
	l := &liveness{s: s, ended: make(chan struct{})}
	l.bell = plane.NewBell(l.doorbell(), threads)
	started := make(chan error)
	go func() {
		defer close(l.ended)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		list, err := l.link()
		started <- err
		if err == nil {
			l.bell.Listen()
			l.unlink(list)
		}
	}()
	if err := <-started; err != nil {
		<-l.ended
		return nil, fmt.Errorf("liveness word: %w", err)
	}
	return l, nil
}

func (s *session) pulseWord(number uint32, off int) unsafe.Pointer {
	return unsafe.Pointer(&s.pulse[int(number)*abi.PageSize+off])
}

func (l *liveness) word() *uint32 {
	return (*uint32)(l.s.pulseWord(l.s.number, abi.PulseAlive))
}

func (l *liveness) ask() *uint64 {
	return (*uint64)(l.s.pulseWord(l.s.number, abi.PulseAsk))
}

func (l *liveness) doorbell() *uint32 {
	return (*uint32)(l.s.pulseWord(l.s.number, abi.PulseDoorbell))
}

// link tells the kernel of the word, and members that they need not ask.
func (l *liveness) link() ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, abi.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	list := (*robustList)(unsafe.Pointer(&mem[0]))
	head, entry := uintptr(unsafe.Pointer(list)), uintptr(unsafe.Pointer(&list.entry))
	list.next, list.entry = entry, head
	list.offset = int(uintptr(unsafe.Pointer(l.word())) - entry)
	atomic.StoreUint32(l.word(), uint32(unix.Gettid()))
	const size = 3 * unsafe.Sizeof(head)
	if _, _, errno := unix.RawSyscall(unix.SYS_SET_ROBUST_LIST, head, size, 0); errno != 0 {
		return nil, errno
	}
	atomic.StoreUint64(l.ask(), 0)
	return mem, nil
}

// unlink has members ask the manager from now on.
func (l *liveness) unlink(mem []byte) {
	atomic.StoreUint64(l.ask(), 1)
	list := (*robustList)(unsafe.Pointer(&mem[0]))
	list.next = uintptr(unsafe.Pointer(list))
	atomic.StoreUint32(l.word(), 0)
	_, _, _ = unix.RawSyscall(unix.SYS_SET_ROBUST_LIST, 0, 3*unsafe.Sizeof(uintptr(0)), 0)
	_ = unix.Munmap(mem)
}

// end ends the calls that wait, and the thread.
func (l *liveness) end() {
	l.bell.End()
	<-l.ended
}

// ring bumps and wakes a session's doorbell.
func (s *session) ring(number uint32) {
	if number < abi.MaxSessions && atomic.LoadUint32(&s.table.session(number).State) != abi.SessionFree {
		word := (*uint32)(s.pulseWord(number, abi.PulseDoorbell))
		atomic.AddUint32(word, 1)
		futexWake(word)
	}
}

// died is the pulse's hint that a session is dead, or must be asked for. Only
// of sessions that the table knows: their pages have memory.
func (s *session) died(number uint32) bool {
	if number >= abi.MaxSessions {
		return true
	}
	if st := atomic.LoadUint32(&s.table.session(number).State); st != abi.SessionLive && st != abi.SessionSpare {
		return number != abi.ManagerSession
	}
	return atomic.LoadUint64((*uint64)(s.pulseWord(number, abi.PulseAlive)))&abi.PulseDied != 0 ||
		atomic.LoadUint64((*uint64)(s.pulseWord(number, abi.PulseAsk))) != 0
}
