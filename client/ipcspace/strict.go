package main

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A seccomp filter that refuses the kernel's own System V IPC: the library
// serves calls that come through libc, and what arrives at the kernel has gone
// around it. See seccomp(2), seccomp_unotify(2).

// filteredArch is one way to call the kernel, and the numbers of its IPC calls.
type filteredArch struct {
	audit uint32 // AUDIT_ARCH_*
	mask  uint32 // of the number; x32 calls are x86-64's with bit 30 set
	calls map[uint32]string
}

const x32Bit = 0x40000000

var filteredArches = []filteredArch{
	{unix.AUDIT_ARCH_X86_64, ^uint32(x32Bit), map[uint32]string{
		29: "shmget", 30: "shmat", 31: "shmctl", 67: "shmdt",
		64: "semget", 65: "semop", 66: "semctl", 220: "semtimedop",
		68: "msgget", 69: "msgsnd", 70: "msgrcv", 71: "msgctl",
	}},
	{unix.AUDIT_ARCH_I386, ^uint32(0), map[uint32]string{
		117: "ipc", 393: "semget", 394: "semctl", 395: "shmget", 396: "shmctl",
		397: "shmat", 398: "shmdt", 399: "msgget", 400: "msgsnd", 401: "msgrcv",
		402: "msgctl", 420: "semtimedop",
	}},
	{unix.AUDIT_ARCH_AARCH64, ^uint32(0), map[uint32]string{
		186: "msgget", 187: "msgctl", 188: "msgrcv", 189: "msgsnd",
		190: "semget", 191: "semctl", 192: "semtimedop", 193: "semop",
		194: "shmget", 195: "shmctl", 196: "shmat", 197: "shmdt",
	}},
	{unix.AUDIT_ARCH_ARM, ^uint32(0), map[uint32]string{
		117: "ipc", 298: "semop", 299: "semget", 300: "semctl", 301: "msgsnd",
		302: "msgrcv", 303: "msgget", 304: "msgctl", 305: "shmat", 306: "shmdt",
		307: "shmget", 308: "shmctl", 312: "semtimedop", 420: "semtimedop",
	}},
}

// Offsets in struct seccomp_data.
const (
	dataNumber = 0
	dataArch   = 4
)

// filterProgram is the filter: the calls above end in refusal, all else goes on.
func filterProgram(refusal uint32) []unix.SockFilter {
	statement := func(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }
	load := func(offset uint32) unix.SockFilter {
		return statement(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset)
	}
	equal := func(k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jt: yes, Jf: no}
	}
	var program []unix.SockFilter
	for _, arch := range filteredArches {
		block := []unix.SockFilter{load(dataNumber), statement(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, arch.mask)}
		left := len(arch.calls)
		for number := range arch.calls {
			// Over the comparisons that are left and the ALLOW after them.
			block = append(block, equal(number, uint8(left), 0))
			left--
		}
		block = append(block,
			statement(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ALLOW),
			statement(unix.BPF_RET|unix.BPF_K, refusal))
		program = append(program, load(dataArch), equal(arch.audit, 0, uint8(len(block))))
		program = append(program, block...)
	}
	return append(program, statement(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ALLOW))
}

// installFilter puts the calling thread under the filter and sends the
// listener, on which the kernel asks about refused calls, over socket. Where
// the kernel gives none (before 5.0, or inside another --strict), calls are
// refused all the same and socket only ends: watchRefusals says so.
func installFilter(socket int) error {
	listener, err := seccomp(filterProgram(unix.SECCOMP_RET_USER_NOTIF), unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINVAL) {
		_, err = seccomp(filterProgram(unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)), 0)
		listener = -1
	}
	if err != nil {
		return fmt.Errorf("install the filter of --strict: %w", err)
	}
	if listener < 0 {
		return nil
	}
	defer unix.Close(listener)
	if err := unix.Sendmsg(socket, []byte{0}, unix.UnixRights(listener), nil, 0); err != nil {
		return fmt.Errorf("hand over the listener of --strict: %w", err)
	}
	return nil
}

// seccomp installs a filter for the calling thread. no_new_privs is set only
// if the kernel insists: it takes setuid programs their rights.
func seccomp(program []unix.SockFilter, flags uintptr) (int, error) {
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	try := func() (int, error) {
		fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
		if errno != 0 {
			return -1, errno
		}
		return int(fd), nil
	}
	fd, err := try()
	if errors.Is(err, unix.EACCES) {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return -1, fmt.Errorf("set no_new_privs: %w", err)
		}
		return try()
	}
	return fd, err
}
