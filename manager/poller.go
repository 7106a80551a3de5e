package manager

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// poller reads the requests of all channels of a space, in one goroutine: all
// but brokered calls need space.mu, and one goroutine that goes from request to
// request is woken, and wakes others, far less than one for each channel.
type poller struct {
	space *space
	file  *os.File // epoll
	raw   syscall.RawConn
	buf   [abi.MaxPacket + 1]byte
	oob   [ancillaryRoom]byte

	recent *channel // by which the last request came, whose client may soon have another

	mu       sync.Mutex
	channels map[int32]*channel
	closed   bool
}

// lookout is how long the poller looks for the next request without sleeping,
// if the one before came nearly as soon. A program that makes and removes
// objects, or begins with several, has its answers at once then; a quiet one
// costs nothing. Nearly: where waking up takes long, each request of such a
// program is late as long as the poller sleeps. A look in vain has it sleep
// without looking some times, twice as often with each, up to mostBlind.
const (
	lookout   = 50 * time.Microsecond
	nearly    = 4 * lookout
	mostBlind = 63
)

// looksPerPoll is how often the poller looks for the next request of the same
// client, which takes no system call, before it looks for others' again.
const looksPerPoll = 8

func newPoller(s *space) (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	p := &poller{space: s, file: os.NewFile(uintptr(fd), "channels"), channels: map[int32]*channel{}}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		_ = p.file.Close()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	s.work.Go(p.run)
	return p, nil
}

// close ends the poller, which drops all channels then.
func (p *poller) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	_ = p.file.Close()
}

// add has the poller serve a channel. false: the space ends.
func (p *poller) add(c *channel) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.channels[int32(c.fd)] = c
	if err := p.watch(c, unix.EPOLL_CTL_ADD); err != nil {
		delete(p.channels, int32(c.fd))
		return false
	}
	return true
}

func (p *poller) watch(c *channel, op int) error {
	var opErr error
	err := p.raw.Control(func(fd uintptr) {
		c.mu.Lock()
		defer c.mu.Unlock()
		opErr = unix.EpollCtl(int(fd), op, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(c.fd)})
	})
	return errorsFirst(err, opErr)
}

func (p *poller) run() {
	events := make([]unix.EpollEvent, 64)
	spins := runtime.NumCPU() > 1
	soon := false          // the last request came nearly within the lookout
	blind, penalty := 0, 0 // sleeps that are left without a look, and so many after the next in vain
	for last := time.Now(); ; last = time.Now() {
		n := 0
		looks := spins && soon && blind == 0
		err := p.raw.Read(func(fd uintptr) bool {
			for {
				if n = ready(int(fd), events); n > 0 || !looks || time.Since(last) > lookout {
					return n > 0
				}
				for range looksPerPoll {
					if p.expects(p.recent) && p.serve(p.recent) {
						last = time.Now()
					}
				}
			}
		})
		if err != nil {
			break // closed
		}
		gap := time.Since(last)
		switch soon = gap <= nearly; {
		case looks && gap <= lookout:
			penalty = 0
		case looks:
			penalty = min(2*penalty+1, mostBlind)
			blind = penalty
		case blind > 0:
			blind--
		}
		for _, ev := range events[:n] {
			p.mu.Lock()
			c := p.channels[ev.Fd]
			p.mu.Unlock()
			if c != nil {
				p.recent = c
				p.serve(c)
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.channels {
		c.drop()
	}
}

// ready is epoll_wait without waiting.
func ready(fd int, events []unix.EpollEvent) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(fd),
		uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// expects tells whether a client sends a request just now, as far as that can
// be seen without a system call.
func (p *poller) expects(c *channel) bool {
	if c == nil {
		return false
	}
	p.space.mu.Lock()
	defer p.space.mu.Unlock()
	return !p.space.closed && !c.session.dead && c.session.page.awaits()
}

// serve carries out a request. false: there was none.
func (p *poller) serve(c *channel) bool {
	served, err := p.serveOne(c)
	if err == nil {
		return served
	}
	c.report(err)
	p.mu.Lock()
	delete(p.channels, int32(c.fd))
	p.mu.Unlock()
	if p.recent == c {
		p.recent = nil
	}
	c.drop()
	return false
}

func (p *poller) serveOne(c *channel) (served bool, err error) {
	n, cred, err := receivePacket(c.fd, p.buf[:], p.oob[:])
	if errors.Is(err, unix.EAGAIN) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	req, err := parseRequest(p.buf[:n], cred)
	if err != nil {
		return false, err
	}
	r := c.space.handle(c, req)
	if r.later || r.given {
		r.done()
		return true, nil
	}
	sent, err := c.trySend(req.Kind, req.Seq, &r)
	if !sent {
		return true, p.sendLater(c, req.Kind, req.Seq, r)
	}
	r.done()
	if err == nil && r.hangUp {
		err = errRefused
	}
	return true, err
}

// sendLater sends a reply for which the client has made no room. Its requests
// are not read meanwhile.
func (p *poller) sendLater(c *channel, kind, seq uint32, r reply) error {
	if err := p.watch(c, unix.EPOLL_CTL_DEL); err != nil {
		r.done()
		return err
	}
	if p.recent == c {
		p.recent = nil // whatever it says that it awaits
	}
	p.space.work.Go(func() {
		err := c.send(kind, seq, &r)
		r.done()
		if err != nil || r.hangUp {
			c.close()
		}
		// If it is over, the poller finds that out.
		if err := p.watch(c, unix.EPOLL_CTL_ADD); err != nil {
			c.space.log.Debug("channel not watched", keyPID, c.pid, keyError, err)
		}
	})
	return nil
}
