package client

import (
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/client/plane"
)

// Flags of operations (sembuf.sem_flg).
const (
	OpNoWait = 0o4000 // IPC_NOWAIT: ErrWouldBlock instead of waiting
	OpUndo   = 0x1000 // SEM_UNDO: taken back when this process ends
)

// Op is one operation on one semaphore, struct sembuf. See Add, Sub and Zero.
type Op struct {
	Num  uint16 // which semaphore of the set, from 0
	Op   int16  // what is added, or 0: wait until it is 0
	Flag uint16
}

// Add adds n to a semaphore. It never waits.
func Add(num, n int) Op { return Op{Num: uint16(num), Op: int16(n)} }

// Sub takes n from a semaphore, once it is at least n.
func Sub(num, n int) Op { return Op{Num: uint16(num), Op: int16(-n)} }

// Zero waits until a semaphore is 0.
func Zero(num int) Op { return Op{Num: uint16(num)} }

// Undo is the operation with SEM_UNDO: when this process ends, however it
// does, the operation is taken back. Not when a goroutine ends, nor at Close.
func (o Op) Undo() Op { o.Flag |= OpUndo; return o }

// NoWait is the operation with IPC_NOWAIT: ErrWouldBlock instead of waiting.
func (o Op) NoWait() Op { o.Flag |= OpNoWait; return o }

// Set is a semaphore set. Safe for use by many goroutines.
type Set struct{ object }

// Set finds or makes a set of so many semaphores (semget); with 0 any number
// will do for one that is there. Without a message if the key is in the table
// and its mode allows it by owner or group.
func (s *Space) Set(ctx context.Context, key Key, semaphores int, options ...GetOption) (*Set, error) {
	id, err := s.s.get(ctx, abi.Sem, key, int64(semaphores), options)
	if err != nil {
		return nil, err
	}
	return s.SetByID(int(id)), nil
}

// SetByID is the set of an id, which the first call on it looks for.
func (s *Space) SetByID(id int) *Set {
	return &Set{object{s: s.s, family: abi.Sem, id: uint32(id)}}
}

// Op does operations, all at once or none (semop): if one has to wait, the
// call waits with nothing done until all are possible. The first that fails
// decides how the call fails.
//
// A single operation without Undo on a semaphore that nobody waits for is one
// compare-and-swap. When ctx ends, the call ends with ctx's error and nothing
// is done; with a deadline Op is semtimedop.
//
// ErrWouldBlock, ErrRemoved, ErrRange, ErrPermission; unix.EFBIG: no such
// semaphore; ErrTooBig: more operations than Limits.SemOpm.
func (s *Set) Op(ctx context.Context, ops ...Op) error {
	if len(ops) == 1 {
		if h := s.good(); h != nil && h.set != nil && h.rights&(abi.AccessRead|abi.AccessWrite) == abi.AccessRead|abi.AccessWrite {
			s.begin()
			done, err := h.set.Now(abi.SemOp(ops[0]))
			s.end()
			runtime.KeepAlive(h)
			if done {
				if err == 0 {
					return nil
				}
				return s.failed(ctx, "semop", err)
			}
		}
	}
	few := make([]abi.SemOp, len(ops))
	for i, op := range ops {
		few[i] = abi.SemOp(op)
	}
	return s.failed(ctx, "semop", s.op(ctx, few))
}

func (s *Set) op(ctx context.Context, ops []abi.SemOp) error {
	switch {
	case len(ops) < 1:
		return unix.EINVAL
	case uint64(len(ops)) > s.s.table.header.SemOpm:
		return unix.E2BIG
	}
	rights, top, undo := uint32(abi.AccessRead), 0, false
	for _, op := range ops {
		top, undo = max(top, int(op.Num)), undo || op.Flag&OpUndo != 0
		if op.Op != 0 {
			rights = abi.AccessWrite
		}
	}
	rec, _, ok := s.s.table.record(abi.Sem, s.id)
	absent := ok && uint64(top) >= rec.Size
	// EFBIG comes before EACCES. What has SEM_UNDO leaves a list of adjustments
	// when it is refused: whoever does the call looks at the rights.
	if absent || undo {
		rights = 0
	}
	err := s.on(ctx, rights, func(h *handle) error {
		if h.set == nil {
			_, err := s.s.broker(ctx, abi.MsgSemOp, opBytes(ops), int64(s.id), int64(len(ops)), -1)
			return err
		}
		return h.set.Op(ctx, ops, -1)
	})
	if absent && errors.Is(err, unix.EACCES) {
		return unix.EFBIG
	}
	return err
}

func opBytes(ops []abi.SemOp) []byte {
	le := binary.LittleEndian
	var b []byte
	for _, op := range ops {
		b = le.AppendUint16(b, op.Num)
		b = le.AppendUint16(b, uint16(op.Op))
		b = le.AppendUint16(b, op.Flag)
	}
	return b
}

// value is one of semctl's GET commands on one semaphore.
func (s *Set) value(num int, command int64, direct func(p *plane.Set) (int, error)) (v int, err error) {
	ctx := context.Background()
	err = s.on(ctx, abi.AccessRead, func(h *handle) (err error) {
		if h.set != nil {
			v, err = direct(h.set)
			return err
		}
		r, err := s.s.broker(ctx, abi.MsgSemCtl, nil, int64(s.id), int64(num), command)
		if err == nil {
			v = int(r.Val[0])
		}
		return err
	})
	return v, s.failed(ctx, "semctl", err)
}

// Value is a semaphore's value (GETVAL).
func (s *Set) Value(num int) (int, error) {
	return s.value(num, abi.SemGetVal, func(p *plane.Set) (int, error) { return p.Value(num) })
}

// WaitingForMore counts those whose first operation that has to wait waits for
// the semaphore to grow (GETNCNT).
func (s *Set) WaitingForMore(num int) (int, error) {
	return s.value(num, abi.SemGetNcnt, func(p *plane.Set) (int, error) { return p.NCount(num) })
}

// WaitingForZero counts those whose first operation that has to wait waits for
// the semaphore to be 0 (GETZCNT).
func (s *Set) WaitingForZero(num int) (int, error) {
	return s.value(num, abi.SemGetZcnt, func(p *plane.Set) (int, error) { return p.ZCount(num) })
}

// PID is the process that changed or tested the semaphore last (GETPID), 0 if
// nobody did or it is not visible in this process's pid namespace.
func (s *Set) PID(num int) (int, error) {
	return s.value(num, abi.SemGetPID, func(p *plane.Set) (int, error) {
		session, err := p.PID(num)
		if err != nil {
			return 0, err
		}
		pid, err := s.s.pidOf(context.Background(), session, 0)
		return pid, errnoOf(err)
	})
}

// Values are all values at one moment (GETALL).
func (s *Set) Values() (values []uint16, err error) {
	ctx := context.Background()
	err = s.on(ctx, abi.AccessRead, func(h *handle) (err error) {
		if h.set != nil {
			values, err = h.set.All()
			return err
		}
		r, err := s.s.broker(ctx, abi.MsgSemCtl, nil, int64(s.id), 0, abi.SemGetAll)
		if err != nil {
			return err
		}
		values = make([]uint16, len(r.body)/2)
		for i := range values {
			values[i] = binary.LittleEndian.Uint16(r.body[2*i:])
		}
		return nil
	})
	return values, s.failed(ctx, "semctl", err)
}

// SetValue gives a semaphore a value (SETVAL). Everybody's adjustments of it
// become 0.
func (s *Set) SetValue(num, value int) error {
	switch { // in the kernel's order
	case int32(s.id) < 0:
		return s.failed(context.Background(), "semctl", unix.EINVAL)
	case value < 0 || value > abi.SemVMX:
		return s.failed(context.Background(), "semctl", unix.ERANGE)
	}
	if rec, _, ok := s.s.table.record(abi.Sem, s.id); ok && (num < 0 || uint64(num) >= rec.Size) {
		return s.failed(context.Background(), "semctl", unix.EINVAL)
	}
	return s.set(func(p *plane.Set) error { return p.SetValue(num, value) },
		nil, int64(s.id), int64(num), abi.SemSetVal, int64(value))
}

// SetValues gives all semaphores their values (SETALL), one for each.
func (s *Set) SetValues(values []uint16) error {
	var body []byte
	for _, v := range values {
		body = binary.LittleEndian.AppendUint16(body, v)
	}
	return s.set(func(p *plane.Set) error { return p.SetAll(values) }, body, int64(s.id), 0, abi.SemSetAll, 0)
}

func (s *Set) set(direct func(p *plane.Set) error, body []byte, args ...int64) error {
	ctx := context.Background()
	return s.failed(ctx, "semctl", s.on(ctx, abi.AccessWrite, func(h *handle) error {
		if h.set != nil {
			return direct(h.set)
		}
		_, err := s.s.broker(ctx, abi.MsgSemCtl, body, args...)
		return err
	}))
}

// SetPermissions changes owner and mode (IPC_SET). Those who wait in Op begin
// again when rights are taken away.
func (s *Set) SetPermissions(ctx context.Context, p Permissions) error {
	return s.setPermissions(ctx, p, nil)
}

// SetStat is what is known of a set (semid_ds).
type SetStat struct {
	Status
	Semaphores int
	Operated   time.Time // sem_otime
}

// Stat reads IPC_STAT; without a message if this process has used the set.
func (s *Set) Stat(ctx context.Context) (SetStat, error) {
	var st abi.Stat
	if h := s.good(); h != nil && h.set != nil {
		if rec, _, ok := s.s.table.record(abi.Sem, s.id); ok {
			st = statOf(&rec)
			st.Time[0], st.Time[2] = h.set.OTime(), max(st.Time[2], h.set.CTime())
			s.end()
			runtime.KeepAlive(h)
			return SetStat{status(&st), int(st.Size), seconds(st.Time[0])}, nil
		}
	}
	st, err := s.stat(ctx)
	if err != nil {
		return SetStat{}, err
	}
	return SetStat{status(&st), int(st.Size), seconds(st.Time[0])}, nil
}

// statOf is what a record says.
func statOf(rec *abi.Record) abi.Stat {
	st := abi.Stat{
		ID: rec.ID, Key: rec.Key, UID: rec.UID, GID: rec.GID, CUID: rec.CUID, CGID: rec.CGID,
		Mode: rec.Mode, Seq: rec.ID >> abi.IndexBits, Size: rec.Size,
	}
	st.Time[2] = rec.CTime
	return st
}

// Op and abi.SemOp are of one shape.
var _ [unsafe.Sizeof(Op{})]struct{} = [unsafe.Sizeof(abi.SemOp{})]struct{}{}
