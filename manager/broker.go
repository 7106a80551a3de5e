package manager

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/client/plane"
)

// Brokered calls: a process with only part of an object's rights gets no
// descriptor, and the manager does the call in its place, after the check
// that the kernel makes for each. A call may sleep; it has a goroutine of its
// own, ends with its channel, and can be cancelled.

// The calls of a session that sleep have one thread together, which listens to
// its doorbell.

// call is a brokered call under way.
type call struct {
	channel *channel
	cancel  context.CancelFunc
}

// Most brokered calls at one time, and so also most threads: one for each
// session with any.
const (
	maxSessionCalls = 64
	maxSpaceCalls   = 512
	maxCalls        = 4096
)

// brokered is what a call does in the data plane. check is called with
// space.mu held, on the object as it is then; do without it. Both are called
// again after the object moved.
type brokered struct {
	family Family
	id     int64
	check  func(o *object) error
	set    func(ctx context.Context, p *plane.Set) error
	queue  func(ctx context.Context, p *plane.Queue) error
	result func() reply
	// resume looks for what an earlier manager has come to; nil: that does not
	// matter.
	resumeSet   func(p *plane.Set) (over bool, err error)
	resumeQueue func(p *plane.Queue) (over bool, err error)

	done   interface{ Forget() } // what the call was made on
	seq    uint32
	open   uint32 // see abi.BrokeredOpen
	thread uint32 // see plane.Host
	again  bool   // an earlier manager was asked for it
}

// broker starts a brokered call. The reply comes from its goroutine.
func (s *space) broker(c *channel, req *request) reply {
	b, err := s.plan(c, req)
	if err != nil {
		return refuse(err)
	}
	x := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || x.dead {
		return away
	}
	if _, twice := x.calls[req.Seq]; twice && b.again {
		return away // cut off just now, it is not over yet
	} else if twice {
		return reply{errno: unix.EINVAL, hangUp: true}
	}
	if len(x.calls) >= maxSessionCalls || s.calls >= maxSpaceCalls || s.m.calls.Load() >= maxCalls {
		return failed(unix.ENOMEM)
	}
	o, err := s.begin(x, b)
	if b.again && errors.Is(err, unix.EINVAL) {
		err = unix.EIDRM // it was there when the call began
	}
	if err != nil {
		return refuse(err)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	if len(x.calls) == 0 {
		x.bell = s.listen(x.number)
	}
	x.calls[req.Seq] = call{c, cancel}
	bell := x.bell
	s.calls++
	s.m.calls.Add(1)
	kind, seq := req.Kind, req.Seq
	s.work.Go(func() {
		defer cancel()
		r, over := s.carryOut(ctx, x, o, b, bell)
		s.mu.Lock()
		if delete(x.calls, seq); len(x.calls) == 0 {
			_ = guarded(bell.End)
		}
		s.calls--
		s.answers.Add(1)
		s.m.calls.Add(-1)
		s.mu.Unlock()
		err := c.send(kind, seq, &r)
		step("broker: answered")
		over(err == nil)
		s.answers.Add(-1)
	})
	return reply{later: true}
}

// listen wakes the brokered calls of a session.
func (s *space) listen(session uint32) *plane.Bell {
	bell := plane.NewBell(s.pulse.word32(session, abi.PulseDoorbell), 0)
	s.work.Go(func() { _ = guarded(bell.Listen) })
	return bell
}

// begin finds and checks the object and keeps it mapped. space.mu is held.
func (s *space) begin(x *session, b *brokered) (*object, error) {
	o, err := s.find(b.family, b.id)
	if err != nil {
		return nil, err
	}
	if err := b.check(o); err != nil {
		return nil, err
	}
	if err := o.use(); err != nil {
		return nil, unix.ENOMEM
	}
	x.opened[o] = struct{}{}
	o.shared = true
	return o, nil
}

// carryOut does the call, again if the object moved meanwhile. over is to be
// called when the answer was told, or could not be: then the client may ask again.
func (s *space) carryOut(ctx context.Context, x *session, o *object, b *brokered, bell *plane.Bell) (r reply, over func(told bool)) {
	for {
		h := &host{o: o, session: x.number, bell: bell, seq: b.seq, thread: b.thread}
		err := b.do(ctx, h)
		if err == nil {
			step("broker: carried out")
			return b.result(), func(told bool) {
				s.mu.Lock()
				defer s.mu.Unlock()
				if told || x.dead {
					_ = guarded(b.done.Forget)
				} else {
					h.o.tickets.Store(true)
				}
				h.o.release()
			}
		}
		s.mu.Lock()
		o.release()
		if !errors.Is(err, plane.ErrStale) {
			s.mu.Unlock()
			switch {
			case errors.Is(err, unix.EINTR) && s.ctx.Err() != nil:
				return away, nothing // it slept, and is off the list
			}
			return refuse(err), nothing
		}
		o, err = s.begin(x, b)
		s.mu.Unlock()
		if errors.Is(err, unix.EINVAL) {
			err = unix.EIDRM // it was there when the call began
		}
		if err != nil {
			return refuse(err), nothing
		}
	}
}

func nothing(bool) {}

// do runs the data plane for the session.
func (b *brokered) do(ctx context.Context, h *host) (err error) {
	fault := guarded(func() {
		if b.family == Sem {
			var p *plane.Set
			if p, err = plane.NewSet(h.o.mem, h.o.sems(), h); err == nil {
				b.dropTickets(h.o, p)
				err = b.onSet(ctx, p)
			}
			return
		}
		var p *plane.Queue
		if p, err = plane.NewQueue(h.o.mem, h.o.dataMem, h); err == nil {
			b.dropTickets(h.o, p)
			err = b.onQueue(ctx, p)
		}
	})
	if fault != nil {
		return unix.EIO
	}
	return err
}

// forgetCalls is for a session whose program is another now, which asks for nothing
// that it did not begin.
func (s *space) forgetCalls(x *session) {
	for _, f := range []Family{Sem, Msg} {
		for _, o := range s.objects[f] {
			if !o.tickets.Load() {
				continue
			}
			err := o.onPlaneAs(x.number,
				func(p *plane.Set) error { o.dropTickets(p, 0); return nil },
				func(p *plane.Queue) error { o.dropTickets(p, 0); return nil })
			if err != nil {
				s.log.Error("earlier calls not forgotten", keySession, x.number, keyID, o.rec.ID, keyError, err)
			}
		}
	}
}

// dropTickets forgets the session's calls whose answers it has.
func (b *brokered) dropTickets(o *object, p ticketed) {
	if b.open != 0 && o.tickets.Load() {
		o.dropTickets(p, b.open)
	}
}

// ticketed is a set or queue with what became of brokered calls.
type ticketed interface{ DropTickets(open uint32) (left bool) }

// dropTickets drops a session's before open. That there are none is said before it
// looks, so that one which comes meanwhile is not overlooked later.
func (o *object) dropTickets(p ticketed, open uint32) {
	o.tickets.Store(false)
	if p.DropTickets(open) {
		o.tickets.Store(true)
	}
}

func (b *brokered) onSet(ctx context.Context, p *plane.Set) error {
	b.done = p
	if b.again && b.resumeSet != nil {
		if over, err := b.resumeSet(p); over {
			return err
		}
	}
	return b.set(ctx, p)
}

func (b *brokered) onQueue(ctx context.Context, p *plane.Queue) error {
	b.done = p
	if b.again && b.resumeQueue != nil {
		if over, err := b.resumeQueue(p); over {
			return err
		}
	}
	return b.queue(ctx, p)
}

// errorsFirst is the first error there is.
func errorsFirst(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
