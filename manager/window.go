package manager

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// openWindow lets only this process open a file while its immutable flag is
// off: holders of descriptors spin on /proc/self/fd otherwise until a manager
// restarts. fanotify asks before each open (FAN_OPEN_PERM), and others are
// refused. If the kernel has no permission events the window stays unguarded.
type openWindow struct {
	fan  *os.File
	done sync.WaitGroup
}

func newOpenWindow(path string) (*openWindow, error) {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return &openWindow{}, nil
	}
	if err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_OPEN_PERM, unix.AT_FDCWD, path); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("watch opens of %s: %w", path, err)
	}
	w := &openWindow{fan: os.NewFile(uintptr(fd), "fanotify")}
	w.done.Go(w.answer)
	return w, nil
}

func (w *openWindow) close() {
	if w.fan == nil {
		return
	}
	_ = w.fan.Close()
	w.done.Wait()
}

func (w *openWindow) answer() {
	const head = 24 // struct fanotify_event_metadata
	self := int32(os.Getpid())
	buf := make([]byte, 4096)
	for {
		n, err := w.fan.Read(buf)
		if err != nil {
			return
		}
		for b := buf[:n]; len(b) >= head; {
			size := binary.NativeEndian.Uint32(b)
			if size < head || int(size) > len(b) {
				return
			}
			fd := int32(binary.NativeEndian.Uint32(b[16:]))
			pid := int32(binary.NativeEndian.Uint32(b[20:]))
			verdict := uint32(unix.FAN_DENY)
			if pid == self {
				verdict = unix.FAN_ALLOW
			}
			if fd >= 0 {
				var r [8]byte
				binary.NativeEndian.PutUint32(r[:], uint32(fd))
				binary.NativeEndian.PutUint32(r[4:], verdict)
				_, _ = w.fan.Write(r[:])
				_ = unix.Close(int(fd))
			}
			b = b[size:]
		}
	}
}
