package manager

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// guard opens the files that clients get, so that no holder of a descriptor
// can shrink, reopen for writing or unlink them (design, invariant 3):
//   - a thread under a Landlock ruleset without TRUNCATE opens them, and its
//     descriptors keep the restriction when they are passed on;
//   - then FS_IMMUTABLE_FL refuses reopening, hole punching and unlinking.
type guard struct {
	requests chan guardRequest
	done     chan struct{}
}

type guardRequest struct {
	path  string
	reply chan guardReply
}

type guardReply struct {
	file *os.File
	err  error
}

var errNoGuard = errors.New("files cannot be sealed here")

// newGuard starts the opener thread. errNoGuard: the kernel or the manager's
// rights do not allow it.
func newGuard() (*guard, error) {
	g := &guard{requests: make(chan guardRequest), done: make(chan struct{})}
	ready := make(chan error)
	go g.run(ready)
	if err := <-ready; err != nil {
		return nil, err
	}
	return g, nil
}

func (g *guard) run(ready chan<- error) {
	defer close(g.done)
	// Never unlocked: the thread ends with the goroutine, and its restriction
	// with it.
	runtime.LockOSThread()
	if err := forbidTruncate(); err != nil {
		ready <- err
		return
	}
	ready <- nil
	for r := range g.requests {
		f, err := os.OpenFile(r.path, os.O_RDWR, 0)
		r.reply <- guardReply{f, err}
	}
}

func (g *guard) close() {
	close(g.requests)
	<-g.done
}

// forbidTruncate restricts the calling thread.
func forbidTruncate() error {
	attr := unix.LandlockRulesetAttr{Handled_access_fs: unix.LANDLOCK_ACCESS_FS_TRUNCATE}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return fmt.Errorf("%w: landlock_create_ruleset: %w", errNoGuard, errno)
	}
	defer unix.Close(int(fd))
	if _, _, errno = unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("%w: landlock_restrict_self: %w", errNoGuard, errno)
	}
	return nil
}

// seal opens a file that was just made and closes it against its holders.
func (g *guard) seal(path string) (*os.File, error) {
	r := guardRequest{path, make(chan guardReply)}
	g.requests <- r
	reply := <-r.reply
	if reply.err != nil {
		return nil, fmt.Errorf("open %s under landlock: %w", path, reply.err)
	}
	if err := setImmutable(path, true); err != nil {
		_ = reply.file.Close()
		return nil, err
	}
	return reply.file, nil
}

// reseal opens a file that the manager before this one sealed. The flag must
// be off for the time of one open, and others must not come in then: see
// openWindow.
func (g *guard) reseal(path string) (*os.File, error) {
	w, err := newOpenWindow(path)
	if err != nil {
		return nil, err
	}
	defer w.close()
	if err := setImmutable(path, false); err != nil {
		return nil, err
	}
	return g.seal(path)
}

// setImmutable sets or clears FS_IMMUTABLE_FL of the file at path.
func setImmutable(path string, on bool) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := setFlagsFd(fd, on); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func setFlagsFd(fd int, on bool) error {
	const immutable = 0x10 // FS_IMMUTABLE_FL
	flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return fmt.Errorf("%w: FS_IOC_GETFLAGS: %w", errNoGuard, err)
	}
	want := flags &^ immutable
	if on {
		want |= immutable
	}
	if want == flags {
		return nil
	}
	if err := unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, want); err != nil {
		return fmt.Errorf("%w: FS_IOC_SETFLAGS: %w", errNoGuard, err)
	}
	return nil
}
