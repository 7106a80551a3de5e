package client

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"unsafe"
	"weak"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// session is this process as the manager of one space knows it. There is one
// for each space, however often the program opens it, and it lives as long as
// the process: adjustments (SEM_UNDO) and attached segments are the process's
// and outlive Close, as they would in the kernel.
//
// Lock order: mu, then turn, then handlesMu, then usesMu. The data plane holds none.
type session struct {
	dir    string
	table  *table
	closed atomic.Bool // no Space of it is open
	lost   atomic.Bool // the manager does not know it any more

	number uint32
	pid    uint32 // of this process in its own pid namespace
	pidns  uint64
	page   []byte
	pulse  []byte

	mu    sync.Mutex // opening and closing
	opens int        // Spaces

	turn    chan struct{} // holds one element: whose turn it is to ask the manager
	conn    atomic.Pointer[connection]
	readers sync.WaitGroup
	seq     atomic.Uint32
	calls   openCalls

	alive atomic.Pointer[liveness]

	handlesMu sync.Mutex
	handles   map[handleKey]weak.Pointer[handle]

	usesMu sync.Mutex // session page's Uses

	who atomic.Pointer[identity]
	// doubt grows when rights may have changed: handles of before are opened anew.
	doubt atomic.Uint32
}

// sessions are those of this process, by the inode and device of the table.
var sessions struct {
	sync.Mutex
	byTable map[[2]uint64]*session
}

// sessionIn finds or makes the session in a space, and registers it.
func sessionIn(ctx context.Context, dir string, writable bool) (*session, error) {
	t, err := openTable(dir, writable)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, abi.TableName), &st); err != nil {
		return nil, errors.Join(fmt.Errorf("space in %s: %w", dir, err), unix.Munmap(t.mem))
	}
	id := [2]uint64{st.Dev, st.Ino}
	sessions.Lock()
	s := sessions.byTable[id]
	if s == nil || s.lost.Load() {
		s = &session{dir: dir, table: t, turn: make(chan struct{}, 1), handles: map[handleKey]weak.Pointer[handle]{}}
		s.closed.Store(true)
		s.turn <- struct{}{}
		if sessions.byTable == nil {
			sessions.byTable = map[[2]uint64]*session{}
		}
		sessions.byTable[id] = s
	} else {
		_ = unix.Munmap(t.mem)
	}
	sessions.Unlock()
	if err := s.enter(ctx, dir); err != nil {
		return nil, err
	}
	return s, nil
}

// enter counts one Space more; the first connects.
func (s *session) enter(ctx context.Context, dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opens == 0 {
		if dir != "" {
			s.dir = dir // the same space, perhaps by another path
		}
		s.closed.Store(false)
		if err := s.begin(ctx); err != nil {
			s.closed.Store(true)
			return err
		}
	}
	s.opens++
	return nil
}

func (s *session) begin(ctx context.Context) error {
	if err := s.takeTurn(ctx); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeoutCause(ctx, managerPatience, ErrNoManager)
	defer cancel()
	_, err := s.connected(waiting)
	s.turn <- struct{}{}
	if err != nil {
		return err
	}
	alive, err := s.live()
	if err != nil {
		s.hangUp()
		return err
	}
	s.alive.Store(alive)
	return nil
}

// leave counts one Space less. With the last, blocked calls end, and so do the
// goroutines; the session stays.
func (s *session) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opens--; s.opens > 0 {
		return
	}
	s.closed.Store(true)
	s.alive.Load().end()
	s.hangUp()
}

// hangUp ends the connection and waits for its reader.
func (s *session) hangUp() {
	if c := s.conn.Load(); c != nil {
		_ = c.conn.Close()
	}
	<-s.turn // who has it finds out, and leaves no connection behind
	if c := s.conn.Swap(nil); c != nil {
		_ = c.conn.Close()
	}
	s.readers.Wait()
	s.turn <- struct{}{}
}

func (s *session) takeTurn(ctx context.Context) error {
	select {
	case <-s.turn:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// connected is the connection to the manager, made if there is none. With the
// turn.
func (s *session) connected(ctx context.Context) (*connection, error) {
	if c := s.conn.Load(); c != nil {
		return c, nil
	}
	for {
		switch {
		case s.lost.Load():
			return nil, ErrLost
		case s.closed.Load():
			return nil, ErrClosed
		}
		conn, err := connect(ctx, s.dir, s.table)
		if err != nil {
			return nil, err
		}
		c := newConnection(conn, &s.readers)
		err = s.hello(ctx, c)
		if err == nil {
			s.conn.Store(c)
			return c, nil
		}
		_ = conn.Close()
		switch {
		case s.number != 0 && (errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EPERM)):
			s.lost.Store(true)
			return nil, fmt.Errorf("%w: the manager in %s does not know this process: %w", ErrLost, s.dir, err)
		case errors.Is(err, unix.EPROTO):
			return nil, fmt.Errorf("space in %s: %w than this program's, %d.%d: build it with the manager's version of ipcspace",
				s.dir, ErrLayout, abi.LayoutMajor, abi.LayoutMinor)
		case !errors.Is(err, errHungUp) && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.ESRCH):
			return nil, fmt.Errorf("register in %s: %w", s.dir, err)
		}
		// The manager went away while we talked to it.
	}
}

// hello names the session of this process, or asks for one.
func (s *session) hello(ctx context.Context, c *connection) error {
	q := &request{kind: abi.MsgHello, args: []int64{abi.LayoutMajor, int64(s.number)}}
	if s.number != 0 {
		q.body = append(q.body, s.sessionPage().Cookie[:]...)
	}
	r, err := c.ask(ctx, 0, q)
	if err != nil {
		return err
	}
	defer r.close()
	if r.Errno != 0 {
		return unix.Errno(r.Errno)
	}
	return s.adopt(r)
}

// adopt takes over what the reply to a hello brings.
func (s *session) adopt(r *reply) error {
	if len(r.fds) != 3 {
		return errHungUp
	}
	if s.number != 0 {
		return nil
	}
	pulse, err := unix.Mmap(r.fds[1], 0, abi.PulseSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("map the pulse: %w", err)
	}
	page, err := unix.Mmap(r.fds[2], 0, abi.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		_ = unix.Munmap(pulse)
		return fmt.Errorf("map the session page: %w", err)
	}
	s.pulse, s.page = pulse, page
	s.number, s.pidns, s.pid = uint32(r.Val[0]), uint64(r.Val[1]), uint32(r.Val[2])
	p := s.sessionPage()
	atomic.StoreUint64(&p.Address, uint64(uintptr(unsafe.Pointer(p))))
	atomic.StoreUint32(&p.PID, s.pid)
	atomic.StoreUint32(&p.State, abi.PageClaimed)
	return nil
}

func (s *session) sessionPage() *abi.SessionPage {
	return (*abi.SessionPage)(unsafe.Pointer(&s.page[0]))
}

// call asks the manager, one request at a time: it keeps few results. A
// manager that went away is waited for, and the same request under the same
// Seq is carried out once, whichever of two managers does it.
//
// When ctx ends first, the request may or may not have been carried out.
func (s *session) call(ctx context.Context, kind uint32, body []byte, args ...int64) (*reply, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, managerPatience, ErrNoManager)
	defer cancel()
	if err := s.takeTurn(ctx); err != nil {
		return nil, err
	}
	defer func() { s.turn <- struct{}{} }()
	q, seq := &request{kind, args, body}, s.nextSeq()
	for {
		c, err := s.connected(ctx)
		if err != nil {
			return nil, err
		}
		r, err := c.ask(ctx, seq, q)
		if err == nil && r.away() {
			err = errHungUp
		}
		if !errors.Is(err, errHungUp) {
			if err == nil && r.Errno != 0 {
				r.close()
				return nil, unix.Errno(r.Errno)
			}
			return r, err
		}
		s.conn.CompareAndSwap(c, nil)
	}
}

// nextSeq numbers requests; 0 is hello's.
func (s *session) nextSeq() uint32 {
	for {
		if n := s.seq.Add(1); n != 0 {
			return n
		}
	}
}

// tell is a call of whose reply one value counts.
func (s *session) tell(ctx context.Context, kind uint32, args ...int64) (int64, error) {
	r, err := s.call(ctx, kind, nil, args...)
	if err != nil {
		return 0, err
	}
	defer r.close()
	return r.Val[0], nil
}

// broker has the manager do a call that may sleep, on an object of which this
// process has only part of the rights. When ctx ends the call is cancelled: it
// ends with EINTR, or with what it has come to before.
func (s *session) broker(ctx context.Context, kind uint32, body []byte, args ...int64) (*reply, error) {
	all := make([]int64, abi.BrokeredOpen+1)
	copy(all, args)
	seq := s.calls.begin(s.nextSeq)
	defer s.calls.end(seq)
	for {
		all[abi.BrokeredOpen] = int64(s.calls.first())
		r, err := s.brokerOnce(ctx, seq, &request{kind, all, body})
		switch {
		case errors.Is(err, unix.ECONNRESET):
			// It was killed: what it has come to, the next one knows.
			all[abi.BrokeredAgain] = 1
			continue
		case !errors.Is(err, errHungUp) && (err != nil || !r.away()):
			return r, err
		}
		if ctx.Err() != nil && all[abi.BrokeredAgain] == 0 {
			return nil, unix.EINTR
		}
	}
}

// openCalls are the brokered calls under way, by Seq. Whatever comes later has a
// higher one, so what is below the first is over for good.
type openCalls struct {
	mu   sync.Mutex
	seqs map[uint32]struct{}
}

func (o *openCalls) begin(next func() uint32) uint32 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.seqs == nil {
		o.seqs = map[uint32]struct{}{}
	}
	seq := next()
	o.seqs[seq] = struct{}{}
	return seq
}

func (o *openCalls) end(seq uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.seqs, seq)
}

func (o *openCalls) first() (first uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for seq := range o.seqs {
		if first == 0 || int32(seq-first) < 0 {
			first = seq
		}
	}
	return first
}

// brokerOnce asks the manager that is there now. errHungUp, or an answer that it is away: it has done
// nothing. ECONNRESET: it may have.
func (s *session) brokerOnce(ctx context.Context, seq uint32, q *request) (*reply, error) {
	asking := ctx
	if q.args[abi.BrokeredAgain] != 0 {
		asking = context.WithoutCancel(ctx) // also to cancel it
	}
	if err := s.takeTurn(asking); err != nil {
		return nil, err
	}
	waiting, cancel := context.WithTimeoutCause(asking, managerPatience, ErrNoManager)
	c, err := s.connected(waiting)
	cancel()
	s.turn <- struct{}{}
	if err != nil {
		return nil, err
	}
	ch, err := c.post(seq, q)
	if err != nil {
		s.conn.CompareAndSwap(c, nil)
		return nil, err
	}
	done := ctx.Done()
	for {
		select {
		case r, ok := <-ch:
			if !ok {
				s.conn.CompareAndSwap(c, nil)
				if s.closed.Load() {
					return nil, ErrClosed
				}
				return nil, unix.ECONNRESET // done or not: the manager that knew went away
			}
			if r.away() {
				s.conn.CompareAndSwap(c, nil)
				return r, nil
			}
			if r.Errno != 0 {
				r.close()
				return nil, unix.Errno(r.Errno)
			}
			return r, nil
		case <-done:
			done = nil
			_ = transmit(c.conn, s.nextSeq(), &request{abi.MsgCancel, []int64{int64(seq)}, nil})
		}
	}
}
