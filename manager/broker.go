package manager

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

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

	done  interface{ Forget() } // what the call was made on
	seq   uint32
	again bool // an earlier manager was asked for it
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
		_ = c.send(kind, seq, &r)
		over()
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
// called when the client has the answer, or never will.
func (s *space) carryOut(ctx context.Context, x *session, o *object, b *brokered, bell *plane.Bell) (r reply, over func()) {
	for {
		h := &host{o: o, session: x.number, bell: bell, seq: b.seq}
		err := b.do(ctx, h)
		if err == nil {
			return b.result(), func() {
				_ = guarded(b.done.Forget)
				s.mu.Lock()
				h.o.release()
				s.mu.Unlock()
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

func nothing() {}

// do runs the data plane for the session.
func (b *brokered) do(ctx context.Context, h *host) (err error) {
	fault := guarded(func() {
		if b.family == Sem {
			var p *plane.Set
			if p, err = plane.NewSet(h.o.mem, h.o.sems(), h); err == nil {
				err = b.onSet(ctx, p)
			}
			return
		}
		var p *plane.Queue
		if p, err = plane.NewQueue(h.o.mem, h.o.dataMem, h); err == nil {
			err = b.onQueue(ctx, p)
		}
	})
	if fault != nil {
		return unix.EIO
	}
	return err
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

// plan makes the call of a request. The request's body is copied.
func (s *space) plan(c *channel, req *request) (b *brokered, err error) {
	who := s.caller(c, req)
	switch req.Kind {
	case abi.MsgSemOp:
		b, err = s.planSemOp(who, req)
	case abi.MsgSemCtl:
		b, err = s.planSemCtl(c.session, who, req)
	case abi.MsgSend:
		b, err = s.planSend(who, req)
	default:
		b, err = s.planReceive(who, req)
	}
	if err == nil {
		b.seq, b.again = req.Seq, req.Kind != abi.MsgSemCtl && req.Arg[abi.BrokeredAgain] != 0
	}
	return b, err
}

// planSemOp is semtimedop.
func (s *space) planSemOp(who *caller, req *request) (*brokered, error) {
	count, timeout := req.Arg[1], req.Arg[2]
	// "EINVAL: The semaphore set doesn't exist, or semid is less than zero, or
	// nsops has a nonpositive value." "E2BIG: The argument nsops is greater
	// than SEMOPM." In this order.
	if count < 1 || req.Arg[0] < 0 {
		return nil, unix.EINVAL
	}
	if uint64(count) > s.table.header.SemOpm {
		return nil, unix.E2BIG
	}
	if len(req.body) != int(count)*6 {
		return nil, unix.EINVAL
	}
	ops := make([]abi.SemOp, count)
	top, access := 0, uint32(abi.AccessRead)
	le := binary.LittleEndian
	for i := range ops {
		b := req.body[i*6:]
		ops[i] = abi.SemOp{Num: le.Uint16(b), Op: int16(le.Uint16(b[2:])), Flag: le.Uint16(b[4:])}
		top = max(top, int(ops[i].Num))
		if ops[i].Op != 0 {
			access = abi.AccessWrite
		}
	}
	var refused error
	wait, start := time.Duration(timeout), time.Now()
	return &brokered{
		family: Sem, id: req.Arg[0],
		check: func(o *object) error {
			held := rights(&o.rec, who, abi.AccessRead|abi.AccessWrite)
			switch {
			// "EFBIG: For some operation, the value of sem_num is less than 0
			// or greater than or equal to the number of semaphores in the set."
			case top >= o.sems():
				refused = unix.EFBIG
			case held&access == 0:
				refused = unix.EACCES
			default:
				refused = nil
			}
			// Nobody leaves anything in a set that is closed to it.
			if held == 0 {
				return refused
			}
			return nil
		},
		set: func(ctx context.Context, p *plane.Set) error {
			if refused != nil {
				p.Refused(ops)
				return refused
			}
			left := wait
			if wait >= 0 {
				left = max(wait-time.Since(start), 0)
			}
			return p.Op(ctx, ops, left)
		},
		resumeSet: (*plane.Set).Resume,
		result:    func() reply { return reply{} },
	}, nil
}

// Commands of semctl that the data plane does (sem.h).
const (
	semGetPID  = 11
	semGetVal  = 12
	semGetAll  = 13
	semGetNCnt = 14
	semGetZCnt = 15
	semSetVal  = 16
	semSetAll  = 17
)

// planSemCtl is semctl's GET and SET commands.
func (s *space) planSemCtl(x *session, who *caller, req *request) (*brokered, error) {
	num, cmd, value := req.Arg[1], req.Arg[2]&^ipc64, req.Arg[3]
	if req.Arg[0] < 0 {
		return nil, unix.EINVAL
	}
	b := &brokered{family: Sem, id: req.Arg[0]}
	inSet := func(o *object) error {
		if num < 0 || num >= int64(o.sems()) {
			return unix.EINVAL
		}
		return nil
	}
	var result int
	var body []byte
	b.result = func() reply { return reply{val: [6]int64{int64(result)}, body: body} }
	switch cmd {
	case semGetVal, semGetPID, semGetNCnt, semGetZCnt:
		b.check = func(o *object) error {
			return errorsFirst(checkPermission(&o.rec, who, abi.AccessRead), inSet(o))
		}
		b.set = func(_ context.Context, p *plane.Set) (err error) {
			switch cmd {
			case semGetVal:
				result, err = p.Value(int(num))
			case semGetNCnt:
				result, err = p.NCount(int(num))
			case semGetZCnt:
				result, err = p.ZCount(int(num))
			default:
				var session uint32
				session, err = p.PID(int(num))
				s.mu.Lock()
				result = int(s.who(x, session))
				s.mu.Unlock()
			}
			return err
		}
	case semGetAll:
		b.check = func(o *object) error { return checkPermission(&o.rec, who, abi.AccessRead) }
		b.set = func(_ context.Context, p *plane.Set) error {
			all, err := p.All()
			body = make([]byte, 0, 2*len(all))
			for _, v := range all {
				body = binary.LittleEndian.AppendUint16(body, v)
			}
			return err
		}
	case semSetVal:
		// "ERANGE: […] SETVAL and the value to which semval is to be set […]
		// is less than 0 or greater than the implementation limit SEMVMX."
		// Before the set is looked for.
		if value < 0 || value > abi.SemVMX {
			return nil, unix.ERANGE
		}
		b.check = func(o *object) error {
			return errorsFirst(inSet(o), checkPermission(&o.rec, who, abi.AccessWrite))
		}
		b.set = func(_ context.Context, p *plane.Set) error { return p.SetValue(int(num), int(value)) }
	case semSetAll:
		values := make([]uint16, len(req.body)/2)
		for i := range values {
			values[i] = binary.LittleEndian.Uint16(req.body[2*i:])
		}
		b.check = func(o *object) error {
			if err := checkPermission(&o.rec, who, abi.AccessWrite); err != nil {
				return err
			}
			if len(values) != o.sems() {
				return unix.EINVAL
			}
			return nil
		}
		b.set = func(_ context.Context, p *plane.Set) error { return p.SetAll(values) }
	default:
		return nil, unix.EINVAL
	}
	return b, nil
}

// planSend is msgsnd.
func (s *space) planSend(who *caller, req *request) (*brokered, error) {
	// "EINVAL: Invalid msqid value, or nonpositive mtype value, or invalid
	// msgsz value (less than 0 or greater than the system value MSGMAX)."
	if req.Arg[0] < 0 || req.Arg[1] < 1 || uint64(len(req.body)) > s.table.header.MsgMax {
		return nil, unix.EINVAL
	}
	text, typ, flags := append([]byte(nil), req.body...), req.Arg[1], int(req.Arg[2])
	slept := req.Arg[3] != 0
	var refused error
	return &brokered{
		family: Msg, id: req.Arg[0],
		check: func(o *object) error {
			refused = checkPermission(&o.rec, who, abi.AccessWrite)
			if slept && flags&ipcNowait == 0 {
				return nil // it learns so when there is room
			}
			return refused
		},
		queue: func(ctx context.Context, p *plane.Queue) error {
			slept = true
			if refused != nil {
				return p.Refuse(ctx, len(text))
			}
			return p.Send(ctx, typ, text, flags)
		},
		resumeQueue: (*plane.Queue).ResumeSend,
		result:      func() reply { return reply{} },
	}, nil
}

const msgCopy = 0o40000 // MSG_COPY

// planReceive is msgrcv.
func (s *space) planReceive(who *caller, req *request) (*brokered, error) {
	room, typ, flags := req.Arg[1], req.Arg[2], int(req.Arg[3])
	// "EINVAL: msqid was invalid, or msgsz was less than 0."
	if req.Arg[0] < 0 || room < 0 {
		return nil, unix.EINVAL
	}
	buf := make([]byte, min(room, abi.MaxPacket-packetHead))
	var n int
	var mtype int64
	return &brokered{
		family: Msg, id: req.Arg[0],
		check: func(o *object) error { return checkPermission(&o.rec, who, abi.AccessRead) },
		queue: func(ctx context.Context, p *plane.Queue) (err error) {
			if flags&msgCopy != 0 { // changes nothing
				n, mtype, err = p.Copy(buf, typ, flags)
				return err
			}
			n, mtype, err = p.Receive(ctx, buf, typ, flags)
			return err
		},
		resumeQueue: func(p *plane.Queue) (over bool, err error) {
			n, mtype, over, err = p.ResumeReceive(buf)
			return over, err
		},
		result: func() reply { return reply{val: [6]int64{int64(n), mtype}, body: buf[:n]} },
	}, nil
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
