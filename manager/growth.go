package manager

import (
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// growth keeps clients from making files longer. No kernel refuses a pwrite
// past the end to who may map the file for writing, so it is undone as soon as
// it has happened: fanotify tells of each write(2) to a marked file, and who
// did it. The library only maps files; nobody who means well writes.
//
// Until then there is headroom in the file system, so that what was promised
// to others is still theirs (storage.headroom).
type growth struct {
	fan  *os.File // nil: the kernel does not tell
	log  *slog.Logger
	done sync.WaitGroup

	mu    sync.Mutex
	files map[inode]*file
	told  time.Time // when the log last heard of it
}

type inode struct{ dev, ino uint64 }

func newGrowth(log *slog.Logger) *growth {
	g := &growth{log: log, files: map[inode]*file{}}
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		log.Warn("files that members make longer are not cut back", keyError, err)
		return g
	}
	g.fan = os.NewFile(uintptr(fd), "fanotify")
	g.done.Go(g.run)
	return g
}

func (g *growth) close() {
	if g.fan != nil {
		_ = g.fan.Close()
		g.done.Wait()
	}
}

// watch begins to keep f, which fd is a descriptor of, at its size.
func (g *growth) watch(f *file, fd int) {
	if g == nil || g.fan == nil || f.watched != (inode{}) {
		return
	}
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil {
		err = g.mark(fd)
	}
	if err != nil {
		g.log.Warn("a file that a member makes longer would not be cut back", "file", f.path, keyError, err)
		return
	}
	f.watched = inode{st.Dev, st.Ino}
	g.mu.Lock()
	g.files[f.watched] = f
	g.mu.Unlock()
}

// forget ends it. The kernel's mark goes with the file.
func (g *growth) forget(f *file) {
	if g == nil || f.watched == (inode{}) {
		return
	}
	g.mu.Lock()
	if g.files[f.watched] == f {
		delete(g.files, f.watched)
	}
	g.mu.Unlock()
	f.watched = inode{}
}

func (g *growth) mark(fd int) error {
	raw, err := g.fan.SyscallConn()
	if err != nil {
		return err
	}
	var opErr error
	err = raw.Control(func(fan uintptr) {
		opErr = unix.FanotifyMark(int(fan), unix.FAN_MARK_ADD, unix.FAN_MODIFY, fd, "")
	})
	return errorsFirst(err, opErr)
}

func (g *growth) run() {
	self := os.Getpid()
	eachEvent(g.fan, func(fd, pid int) {
		for _, f := range g.named(fd) {
			if pid != self {
				g.restore(f, pid)
			}
		}
	})
}

// restore cuts a file back, in a goroutine that nothing waits for: a member
// may keep the file busy. One for each file at most.
func (g *growth) restore(f *file, pid int) {
	if g == nil {
		return
	}
	if f.appended.Add(1) > 1 {
		return // somebody is at it, and looks again
	}
	go func() {
		for seen := int32(1); seen > 0; seen = f.appended.Add(-seen) {
			cut, err := f.cut()
			if !cut && err == nil {
				continue
			}
			g.mu.Lock()
			tell := time.Since(g.told) > time.Second
			if tell {
				g.told = time.Now()
			}
			g.mu.Unlock()
			if tell {
				g.log.Warn("a member made a file longer; it was cut back", keyPID, pid, "file", f.path, keyError, err)
			}
		}
	}()
}

// named are the files that an event tells of; it closes the event's
// descriptor. Without one events were lost: it may be any file.
func (g *growth) named(fd int) (out []*file) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if fd < 0 {
		for _, f := range g.files {
			out = append(out, f)
		}
		return out
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil && g.files[inode{st.Dev, st.Ino}] != nil {
		out = append(out, g.files[inode{st.Dev, st.Ino}])
	}
	return out
}
