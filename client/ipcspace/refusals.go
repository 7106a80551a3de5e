package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// notification is struct seccomp_notif: a thread waits for an answer.
type notification struct {
	ID    uint64
	PID   uint32 // of the thread, in this pid namespace
	Flags uint32
	Nr    int32
	Arch  uint32
	IP    uint64
	Args  [6]uint64
}

// answer is struct seccomp_notif_resp.
type answer struct {
	ID    uint64
	Val   int64
	Error int32
	Flags uint32
}

// The kernel's structs may have grown since: it fills what it knows.
const notificationRoom = 256

// maxRemembered bounds what is remembered of lines written.
const maxRemembered = 4096

// watchRefusals answers every refused call with ENOSYS and writes one line
// for each process and call. It ends when the last process under the filter
// has ended. begun is closed as soon as it is known whether there are calls to
// show.
func watchRefusals(socket *os.File, begun chan<- struct{}, log io.Writer) {
	listener, err := receiveListener(int(socket.Fd()))
	if errors.Is(err, io.EOF) {
		fmt.Fprintln(log, "ipcspace: run --strict: static programs and raw system calls are refused, "+
			"but not shown: a filter around this one has the kernel's only listener, or the kernel is older than 5.0")
	} else if err != nil {
		fmt.Fprintf(log, "ipcspace: run --strict: refused calls are not shown: %v\n", err)
	}
	close(begun)
	if err != nil {
		return
	}
	defer unix.Close(listener)
	shown := map[string]bool{}
	for {
		wait := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(wait, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil || wait[0].Revents&unix.POLLIN == 0 {
			return
		}
		n, err := receive(listener)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) {
			continue // the thread died or was called away meanwhile
		}
		if err != nil {
			fmt.Fprintf(log, "ipcspace: run --strict: refused calls are not shown any more: %v\n", err)
			return
		}
		// While it waits for the answer, its pid is surely its own.
		pid, name := processOf(n.PID)
		call := callName(n)
		if key := pid + call; !shown[key] {
			if len(shown) == maxRemembered {
				clear(shown)
			}
			shown[key] = true
			fmt.Fprintf(log, "ipcspace: pid %s (%s) called %s directly: a static program or a raw system call; "+
				"a space cannot serve it, refused with ENOSYS\n", pid, name, call)
		}
		reply := answer{ID: n.ID, Error: -int32(unix.ENOSYS)}
		// It fails when the thread is gone: nobody waits then.
		_ = ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&reply))
	}
}

// receiveListener takes the descriptor that installFilter sends; io.EOF if
// there was none to send.
func receiveListener(socket int) (int, error) {
	data, control := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(socket, data, control, unix.MSG_CMSG_CLOEXEC)
	switch {
	case err != nil:
		return -1, err
	case n == 0:
		return -1, io.EOF
	}
	messages, err := unix.ParseSocketControlMessage(control[:oobn])
	if err != nil || len(messages) != 1 {
		return -1, errors.New("the launcher sent no listener")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.New("the launcher sent no listener")
	}
	return fds[0], nil
}

func receive(listener int) (notification, error) {
	var n notification
	var room [notificationRoom]byte // zero, as the kernel demands
	if err := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&room[0])); err != nil {
		return n, err
	}
	err := binary.Read(bytes.NewReader(room[:]), binary.NativeEndian, &n)
	return n, err
}

func ioctl(fd int, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}

// processOf finds the process of a thread, and its name.
func processOf(tid uint32) (pid, name string) {
	pid, name = strconv.FormatUint(uint64(tid), 10), "?"
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return pid, name
	}
	for line := range strings.Lines(string(status)) {
		switch field, value, _ := strings.Cut(line, ":"); field {
		case "Name":
			name = strings.TrimSpace(value)
		case "Tgid":
			pid = strings.TrimSpace(value)
		}
	}
	return pid, name
}

func callName(n notification) string {
	for _, arch := range filteredArches {
		if arch.audit == n.Arch {
			if name := arch.calls[uint32(n.Nr)&arch.mask]; name != "" {
				return name
			}
		}
	}
	return "system call " + strconv.Itoa(int(n.Nr))
}
