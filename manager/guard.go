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
	window   *openWindow
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
	g := &guard{requests: make(chan guardRequest), done: make(chan struct{}), window: newOpenWindow()}
	ready := make(chan error)
	go g.run(ready)
	if err := <-ready; err != nil {
		g.window.close()
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
	g.window.close()
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

// open opens a file in the restricted thread.
func (g *guard) open(path string) (*os.File, error) {
	r := guardRequest{path, make(chan guardReply)}
	g.requests <- r
	reply := <-r.reply
	if reply.err != nil {
		return nil, fmt.Errorf("open under landlock: %w", reply.err)
	}
	return reply.file, nil
}

// seal opens a file that was just made and closes it against its holders.
func (g *guard) seal(path string) (*os.File, error) {
	f, err := g.open(path)
	if err != nil {
		return nil, err
	}
	if err := setFlagsFd(int(f.Fd()), true); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// unsealed runs f while the file at path, which is sealed, can be opened for
// writing, by this process alone.
func (g *guard) unsealed(path string, f func() error) error {
	flags, err := os.Open(path)
	if err != nil {
		return err
	}
	defer flags.Close()
	if err := g.window.mark(path, true); err != nil {
		return err
	}
	if err = setFlagsFd(int(flags.Fd()), false); err == nil {
		err = f()
	}
	return errors.Join(err, setFlagsFd(int(flags.Fd()), true), g.window.mark(path, false))
}

// reseal opens a file that was sealed before.
func (g *guard) reseal(path string) (f *os.File, err error) {
	err = g.unsealed(path, func() (err error) {
		f, err = g.open(path)
		return err
	})
	if err != nil && f != nil {
		_ = f.Close()
		f = nil
	}
	return f, err
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

const immutable = 0x10 // FS_IMMUTABLE_FL

func setFlagsFd(fd int, on bool) error {
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
