package manager

import (
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/client/plane"
)

// deaths watches all processes of all spaces by their pidfds. One goroutine
// waits, whatever their number.
type deaths struct {
	file *os.File // epoll
	raw  syscall.RawConn
	done sync.WaitGroup

	mu      sync.Mutex
	watched map[int32]*session // by pidfd
	told    []*session         // that died and may not be buried yet
}

func newDeaths() (*deaths, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	d := &deaths{file: os.NewFile(uintptr(fd), "pidfds"), watched: map[int32]*session{}}
	if d.raw, err = d.file.SyscallConn(); err != nil {
		_ = d.file.Close()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	d.done.Go(d.run)
	return d, nil
}

func (d *deaths) close() {
	_ = d.file.Close()
	d.done.Wait()
}

func (d *deaths) watch(x *session) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watched[int32(x.pidfd)] = x
	var opErr error
	err := d.raw.Control(func(fd uintptr) {
		ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(x.pidfd)}
		opErr = unix.EpollCtl(int(fd), unix.EPOLL_CTL_ADD, x.pidfd, &ev)
	})
	if err == nil {
		err = opErr
	}
	if err != nil {
		delete(d.watched, int32(x.pidfd))
	}
	return err
}

// forget must come before the pidfd is closed.
func (d *deaths) forget(x *session) {
	if x.pidfd < 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.watched, int32(x.pidfd))
	_ = d.raw.Control(func(fd uintptr) {
		_ = unix.EpollCtl(int(fd), unix.EPOLL_CTL_DEL, x.pidfd, nil)
	})
}

func (d *deaths) run() {
	events := make([]unix.EpollEvent, 64)
	for {
		var n int
		err := d.raw.Read(func(fd uintptr) bool {
			err := uninterrupted(func() (err error) {
				n, err = unix.EpollWait(int(fd), events, 0)
				return err
			})
			return n > 0 && err == nil
		})
		if err != nil {
			return // closed
		}
		d.mu.Lock()
		for _, ev := range events[:n] {
			if x := d.watched[ev.Fd]; x != nil {
				d.told = append(d.told, x)
			}
		}
		told := d.told
		d.mu.Unlock()
		for _, x := range told {
			x.space.died(x)
		}
		d.mu.Lock()
		d.told = nil
		d.mu.Unlock()
	}
}

// toldOf lists the sessions of a space of whose death a pidfd has told, but which
// are not buried yet, for the space is locked.
func (d *deaths) toldOf(s *space) (told []*session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, x := range d.told {
		if x.space == s && !x.dead {
			told = append(told, x)
		}
	}
	return told
}

// died is called when a pidfd says that its process ended.
func (s *space) died(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && !x.dead && x.pidfd >= 0 && !pidAlive(x.pidfd) {
		s.bury(x)
	}
}

// isDead tells whether a session's process runs no more code of its own. The
// kernel lets others know of a death (a pipe's end, the liveness word) before
// the pidfd says so.
func (s *space) isDead(x *session) bool {
	if x.dead {
		return true
	}
	if x.id == (processID{}) {
		return false
	}
	return !pidAlive(x.pidfd) || exited(x.id.pid)
}

// bury applies the undo of a dead session, frees what it held and folds its
// attaches.
//
// Cut anywhere, the next manager finds the session's process dead and starts
// over: each step can be repeated. Folding is last: until then the uses stand
// in the page.
func (s *space) bury(x *session) {
	x.dead = true
	step("death: begun")
	s.reapObjects(x)
	step("death: reaped")
	if x.page.names() {
		s.settleBefore(x)
	}
	s.foldPage(x, plane.Stamp(), true)
	step("death: folded")
	for c := range x.channels {
		c.close()
	}
	for _, b := range x.calls {
		b.cancel()
	}
	if x.parent {
		for _, y := range s.spares(func(y *session) bool { return y.state.Parent == x.number }) {
			y.inherit(x)
			y.heir = true
		}
	}
	s.dropSession(x)
	if x.parent {
		s.settleChildren(x)
	}
	s.destroyOrphans()
	s.left(x)
	s.log.Debug("session ended", keySession, x.number, keyPID, x.id.pid)
}

// settleBefore buries those who are dead, too, and ended before x (lastToEnd):
// the stamps of a segment are those of who leaves it last.
func (s *space) settleBefore(x *session) {
	born := x.page.claimed()
	for _, y := range s.spares(func(y *session) bool {
		if state, _ := y.page.state(); state != abi.PageClaimed {
			return false
		}
		return y.state.Parent == x.number || y.state.Parent == x.state.Parent && y.page.claimed() < born
	}) {
		s.settle(y)
	}
}

// reapObjects has the data plane clean up in all sets and queues that may hold
// something of the session.
func (s *space) reapObjects(x *session) {
	reap := func(o *object) {
		if err := s.reap(o, x.number); err != nil {
			s.log.Error("clean-up after a dead process failed",
				keySession, x.number, keyFamily, o.family.String(), keyID, o.rec.ID, keyError, err)
		}
	}
	if !x.everything {
		for o := range x.opened {
			if !o.gone && o.family != Shm {
				reap(o)
			}
		}
		return
	}
	for _, f := range []Family{Sem, Msg} {
		for _, o := range s.objects[f] {
			reap(o)
		}
	}
}
