package main

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernel does the calls as they are.
type kernel struct{}

func call(nr uintptr, a ...uintptr) uintptr {
	var arg [6]uintptr
	copy(arg[:], a)
	for {
		r, _, errno := unix.Syscall6(nr, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5])
		if errno == unix.EINTR {
			continue // the runtime's signals
		}
		if errno != 0 {
			must(errno)
		}
		return r
	}
}

func (kernel) newSet(n int) set {
	return kernelSet(call(unix.SYS_SEMGET, 0, uintptr(n), unix.IPC_CREAT|0o600))
}
func (kernel) newQueue() queue {
	return newKernelQueue(int(call(unix.SYS_MSGGET, 0, unix.IPC_CREAT|0o600)))
}
func (kernel) set(id int) set     { return kernelSet(id) }
func (kernel) queue(id int) queue { return newKernelQueue(id) }

type kernelSet int

func (s kernelSet) id() int { return int(s) }
func (s kernelSet) op(num, n int) {
	op := [3]int16{int16(num), int16(n), 0}
	call(unix.SYS_SEMOP, uintptr(s), uintptr(unsafe.Pointer(&op)), 1)
}
func (s kernelSet) remove() { call(unix.SYS_SEMCTL, uintptr(s), 0, unix.IPC_RMID) }

// kernelQueue has a buffer for a type and a text, as msgsnd wants them.
type kernelQueue struct {
	n   int
	buf []byte
}

func newKernelQueue(id int) *kernelQueue { return &kernelQueue{id, make([]byte, 8+8192)} }

func (q *kernelQueue) id() int { return q.n }
func (q *kernelQueue) send(typ int64, text []byte) {
	binary.NativeEndian.PutUint64(q.buf, uint64(typ))
	copy(q.buf[8:], text)
	call(unix.SYS_MSGSND, uintptr(q.n), uintptr(unsafe.Pointer(&q.buf[0])), uintptr(len(text)), 0)
}
func (q *kernelQueue) receive(typ int64, buf []byte) int {
	n := call(unix.SYS_MSGRCV, uintptr(q.n), uintptr(unsafe.Pointer(&q.buf[0])), uintptr(len(buf)), uintptr(typ), 0)
	return copy(buf, q.buf[8:8+n])
}
func (q *kernelQueue) remove() { call(unix.SYS_MSGCTL, uintptr(q.n), unix.IPC_RMID) }
