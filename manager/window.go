package manager

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// openWindow lets only this process open a file while its immutable flag is
// off: holders of descriptors could spin on /proc/self/fd until a manager
// needs the file again. fanotify asks before each open of a marked file
// (FAN_OPEN_PERM), and others are refused.
//
// Should the manager be killed in the window, the kernel lets waiting openers
// in; recovery seals all files again.
type openWindow struct {
	fan  *os.File // nil: the kernel has no permission events, and the window is unguarded
	done sync.WaitGroup
}

func newOpenWindow() *openWindow {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return &openWindow{}
	}
	w := &openWindow{fan: os.NewFile(uintptr(fd), "fanotify")}
	w.done.Go(w.answer)
	return w
}

func (w *openWindow) close() {
	if w.fan != nil {
		_ = w.fan.Close()
		w.done.Wait()
	}
}

// mark begins or ends to guard the file at path.
func (w *openWindow) mark(path string, on bool) error {
	if w.fan == nil {
		return nil
	}
	flags := uint(unix.FAN_MARK_REMOVE)
	if on {
		flags = unix.FAN_MARK_ADD
	}
	raw, err := w.fan.SyscallConn()
	if err != nil {
		return err
	}
	var opErr error
	err = raw.Control(func(fd uintptr) {
		opErr = unix.FanotifyMark(int(fd), flags, unix.FAN_OPEN_PERM, unix.AT_FDCWD, path)
	})
	if err = errorsFirst(err, opErr); err != nil {
		return fmt.Errorf("watch opens of %s: %w", path, err)
	}
	return nil
}

func (w *openWindow) answer() {
	self := os.Getpid()
	eachEvent(w.fan, func(fd, pid int) {
		if fd < 0 {
			return
		}
		verdict := uint32(unix.FAN_DENY)
		if pid == self {
			verdict = unix.FAN_ALLOW
		}
		var r [8]byte
		binary.NativeEndian.PutUint32(r[:], uint32(fd))
		binary.NativeEndian.PutUint32(r[4:], verdict)
		_, _ = w.fan.Write(r[:])
		_ = unix.Close(fd)
	})
}
