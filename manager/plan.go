package manager

import (
	"context"
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/client/plane"
)

// What each brokered call does.

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
		b.seq = req.Seq
		if req.Kind != abi.MsgSemCtl {
			b.again, b.open = req.Arg[abi.BrokeredAgain] != 0, uint32(req.Arg[abi.BrokeredOpen])
		}
		if first := c.session.state.Levels[0].PID; first != 0 && req.TID != first {
			b.thread = req.TID
		}
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
	case abi.SemGetVal, abi.SemGetPID, abi.SemGetNcnt, abi.SemGetZcnt:
		b.check = func(o *object) error {
			return errorsFirst(checkPermission(&o.rec, who, abi.AccessRead), inSet(o))
		}
		b.set = func(_ context.Context, p *plane.Set) (err error) {
			switch cmd {
			case abi.SemGetVal:
				result, err = p.Value(int(num))
			case abi.SemGetNcnt:
				result, err = p.NCount(int(num))
			case abi.SemGetZcnt:
				result, err = p.ZCount(int(num))
			default:
				var session uint32
				session, err = p.PID(int(num))
				s.mu.Lock()
				result = int(s.who(x, session, 0))
				s.mu.Unlock()
			}
			return err
		}
	case abi.SemGetAll:
		b.check = func(o *object) error { return checkPermission(&o.rec, who, abi.AccessRead) }
		b.set = func(_ context.Context, p *plane.Set) error {
			all, err := p.All()
			body = make([]byte, 0, 2*len(all))
			for _, v := range all {
				body = binary.LittleEndian.AppendUint16(body, v)
			}
			return err
		}
	case abi.SemSetVal:
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
	case abi.SemSetAll:
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
	var still func() bool
	return &brokered{
		family: Msg, id: req.Arg[0],
		check: func(o *object) error {
			word := o.word.Load()
			still = func() bool { return o.word.Load() == word }
			refused = checkPermission(&o.rec, who, abi.AccessWrite)
			if slept && flags&unix.IPC_NOWAIT == 0 {
				return nil // it learns so when there is room
			}
			return refused
		},
		queue: func(ctx context.Context, p *plane.Queue) error {
			slept = true
			if refused != nil {
				return p.Refuse(ctx, len(text), still)
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
