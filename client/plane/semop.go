package plane

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

const semUndo = 0x1000 // SEM_UNDO

const (
	offSleeperUndo = int(unsafe.Offsetof(abi.SleeperCell{}.Undo))
	offCount       = int(unsafe.Offsetof(abi.SleeperCell{}.Count))
	offMore        = int(unsafe.Offsetof(abi.SleeperCell{}.More))
	offOps         = int(unsafe.Offsetof(abi.SleeperCell{}.Ops))
	offMoreOps     = int(unsafe.Offsetof(abi.OpsCell{}.Ops))
	opSize         = int(unsafe.Sizeof(abi.SemOp{}))
)

// maxOps bounds the operations of a sleeper, as found in its cell.
const maxOps = 1 << 15

// Op is semtimedop. A negative timeout means none. Checks of nsops against
// SEMOPM and of permissions are the caller's.
// EINVAL (no operation), EFBIG, ERANGE, EAGAIN, EIDRM, ErrStale, ENOMEM, and
// EINTR when ctx ends.
func (s *Set) Op(ctx context.Context, ops []abi.SemOp, timeout time.Duration) error {
	if len(ops) == 0 {
		return unix.EINVAL
	}
	if len(ops) > maxOps {
		return unix.E2BIG
	}
	if err := s.usable(); err != nil {
		return err
	}
	for i := range ops {
		if int(ops[i].Num) >= s.sems {
			s.Refused(ops)
			return unix.EFBIG
		}
	}
	if len(ops) == 1 && ops[0].Flag&semUndo == 0 && s.ticket == 0 {
		if done, errno := s.fast(ops[0]); done {
			return errnoError(errno)
		}
		if timeout != 0 && ops[0].Flag&unix.IPC_NOWAIT == 0 {
			if done, err := s.spin(ops[0]); done {
				return err
			}
		}
	}
	err := s.slow(ctx, ops, timeout)
	if err == unix.EAGAIN || err == unix.ERANGE {
		s.Refused(ops)
	}
	return err
}

// Refused sees to it that operations that did not happen leave what they leave
// in the kernel: it has made the process's list of adjustments for the set before
// it looks at rights and values (find_alloc_undo in ipc/sem.c), and a process that
// has one sets otime when it ends.
func (s *Set) Refused(ops []abi.SemOp) {
	if !slices.ContainsFunc(ops, func(op abi.SemOp) bool { return op.Flag&semUndo != 0 }) {
		return
	}
	_ = s.locked(func(t *transaction) error { // for want of room: otime stays as it is
		for _, c := range t.loadUndo() {
			for i := range abi.UndoWords {
				if c.session == s.me && undoUsed(t.get(c.off+offUndoWords+8*i)) {
					return nil
				}
			}
		}
		if _, err := t.makeUndo(s.me, 0); err != nil {
			return err
		}
		return s.commit(t, false)
	})
}

// fast is one compare-and-swap on a word that is neither SLOW nor DEAD, or the
// one load that shows an error. Not done: the slow way.
func (s *Set) fast(op abi.SemOp) (done bool, errno unix.Errno) {
	off := semOff(int(op.Num))
	for range 64 {
		w := s.fetch(off)
		if w&(abi.SemSlow|abi.SemDead) != 0 {
			return false, 0
		}
		value := int(w & abi.SemValueMask)
		switch result := value + int(op.Op); {
		case op.Op == 0 && value != 0 || result < 0:
			return op.Flag&unix.IPC_NOWAIT != 0, unix.EAGAIN
		case result > abi.SemVMX:
			return true, unix.ERANGE
		default:
			if s.swap(off, w, semWord(w, result, s.me)) {
				s.setTime(offOTime)
				return true, 0
			}
		}
	}
	return false, 0
}

// spin waits a moment for an operation that blocks, before it queues.
func (s *Set) spin(op abi.SemOp) (done bool, err error) {
	off := semOff(int(op.Num))
	for s.spinner.until(func() bool {
		w := s.load(off)
		value := int(w & abi.SemValueMask)
		return w&(abi.SemSlow|abi.SemDead) != 0 || op.Op == 0 && value == 0 || op.Op < 0 && value+int(op.Op) >= 0
	}) {
		if s.load(off)&(abi.SemSlow|abi.SemDead) != 0 {
			return false, nil
		}
		if done, errno := s.fast(op); done {
			return true, errnoError(errno)
		}
	}
	return false, nil
}

// slow is a transaction, and a wait if the operations block.
func (s *Set) slow(ctx context.Context, ops []abi.SemOp, timeout time.Duration) error {
	var deadline time.Time
	if timeout >= 0 {
		deadline = time.Now().Add(timeout)
	}
	asked := map[uint32]bool{}
	tr := trials.Get().(*trial)
	err := error(errCell)
	if s.ticket == 0 {
		err = s.attempt(tr, ops, timeout == 0, asked, nil)
	}
	if err == errCell {
		err = s.waiting(ctx, tr, ops, timeout == 0, deadline, asked)
	}
	trials.Put(tr)
	return err
}

// trials are kept for the room in their slices.
var trials = sync.Pool{New: func() any { return &trial{} }}

// attempt carries the operations out, or makes the sleeper of c WAITING.
// Without c that is errCell; EAGAIN if they are not to wait.
func (s *Set) attempt(tr *trial, ops []abi.SemOp, noWait bool, asked map[uint32]bool, c *sleeper) error {
	me := s.me
	return s.locked(func(t *transaction) error {
		if dead, ok := s.deadHolder(asked, func(n int) bool { return names(ops, n) }); ok {
			t.unlock()
			asked[dead] = true
			if err := s.host.Reap(dead); err != nil {
				return err
			}
			return errAgain
		}
		switch v := s.try(t, tr, me, ops); v {
		case proceed:
			if c != nil {
				c.waits = false
				s.receipt(t, c.cell)
			}
			return s.carryOut(t, tr, me, alters(ops))
		case blocked:
			switch {
			case noWait:
				return unix.EAGAIN
			case c == nil:
				return errCell
			}
			if err := s.reserve(t, c.cell, ops); err != nil {
				return err
			}
			st := s.state(c.cell)
			t.add(waiters, c.cell)
			t.setState(c.cell, st, st.to(abi.CellWaiting, 0))
			c.waits = true
			return s.commit(t, false)
		default:
			return unix.Errno(v)
		}
	})
}

// sleeper is a call of semop that has to wait.
type sleeper struct {
	*call
	waits bool // its cell is in the list
}

func (s *Set) waiting(ctx context.Context, tr *trial, ops []abi.SemOp, noWait bool, deadline time.Time, asked map[uint32]bool) error {
	c := &sleeper{call: s.newCall(waiters)}
	defer c.close()
	cell, err := s.makeSleeper(ops, c.flags())
	if err != nil {
		return err
	}
	c.cell, c.deadline = cell, deadline
	if err := s.attempt(tr, ops, noWait, asked, c); err != nil || !c.waits {
		s.endSleeper(cell, err)
		return err
	}
	fail(s.host, "queued")
	c.serve = func(giveUp unix.Errno) error { return s.serveSelf(cell, ops, giveUp) }
	c.leave = func() error { return s.leave(cell) }
	if err = c.sleep(ctx); err == nil {
		s.setTime(offOTime)
	}
	s.goOn()
	s.endSleeper(cell, err)
	return err
}

// endSleeper frees the cell of a call that is over, but not one that tells the
// next manager that it is.
func (s *Set) endSleeper(cell int, err error) {
	if err != nil || s.ticket == 0 {
		s.freeSleeper(cell)
	} else {
		s.keep(cell)
	}
}

// carryOut commits the caller's operations and serves whom they let go on.
func (s *Set) carryOut(t *transaction, tr *trial, session uint32, alters bool) error {
	if err := s.write(t, tr, session); err != nil {
		return err
	}
	if alters {
		s.scan(t, false)
	}
	if err := s.commit(t, true); err != nil {
		return err
	}
	s.setTime(offOTime)
	s.finish(t)
	return nil
}

// serveSelf tries the operations of a call that sleeps, and was found awake.
// It ends it, or makes it WAITING again.
func (s *Set) serveSelf(cell int, ops []abi.SemOp, giveUp unix.Errno) error {
	me := s.me
	var tr trial
	return s.locked(func(t *transaction) error {
		claimed, ok := t.claim(cell)
		if !ok {
			if t.holds() && !s.state(cell).sleeping() {
				return nil // it has come to an end
			}
			return errAgain
		}
		errno := giveUp
		switch v := s.try(t, &tr, me, ops); v {
		case proceed:
			if err := s.write(t, &tr, me); err != nil {
				return err
			}
			errno = 0
		case blocked:
			if giveUp == 0 {
				t.setState(cell, claimed, claimed.to(abi.CellWaiting, 0))
				return s.commit(t, false)
			}
		default:
			errno = unix.Errno(v)
		}
		if c := t.walk(waiters); c.find(cell) {
			c.remove()
		}
		t.setState(cell, claimed, claimed.to(abi.CellDone, errno))
		if errno == 0 && alters(ops) {
			s.scan(t, false)
		}
		s.touch(t, ops)
		if err := s.commit(t, true); err != nil {
			return err
		}
		s.finish(t)
		return nil
	})
}

// leave takes a cancelled sleeper off the list.
func (s *Set) leave(cell int) error {
	return s.locked(func(t *transaction) error {
		st := s.state(cell)
		if st.phase() != abi.CellCancelled {
			return nil
		}
		if c := t.walk(waiters); c.find(cell) {
			c.remove()
		}
		t.setState(cell, st, st.to(abi.CellDone, unix.EINTR))
		s.touch(t, s.sleeperOps(t, cell))
		return s.commit(t, false)
	})
}

// makeSleeper fills a cell, and as many more as the operations take.
func (s *Set) makeSleeper(ops []abi.SemOp, flags uint64) (cell int, err error) {
	cell, err = s.allocGrow(abi.KindSleeper)
	if err != nil {
		return 0, err
	}
	head := ops[:min(len(ops), abi.SleeperOps)]
	s.setNext(cell, 0)
	s.store(cell+offFlags, flags)
	s.store(cell+offCount, uint64(len(ops))) // and no More
	s.writeOps(cell+offOps, head)
	link := cell + offMore
	for rest := ops[len(head):]; len(rest) > 0; {
		more, err := s.allocGrow(abi.KindOps)
		if err != nil {
			s.freeSleeper(cell)
			return 0, err
		}
		n := min(len(rest), abi.OpsCellOps)
		s.setNext(more, 0)
		s.writeOps(more+offMoreOps, rest[:n])
		rest = rest[n:]
		if link == cell+offMore {
			s.store(cell+offCount, uint64(len(ops))|s.number(more)<<32)
		} else {
			s.setNext(link-offNext, s.number(more))
		}
		link = more + offNext
	}
	return cell, nil
}

func (s *Set) freeSleeper(cell int) {
	if cell == 0 {
		return
	}
	s.freeChain(s.load(cell+offCount)>>32, abi.KindOps)
	s.release(cell)
}

func (s *Set) writeOps(off int, ops []abi.SemOp) {
	var p [abi.CellSize]byte
	for i, op := range ops {
		b := p[i*opSize:]
		binary.LittleEndian.PutUint16(b, op.Num)
		binary.LittleEndian.PutUint16(b[2:], uint16(op.Op))
		binary.LittleEndian.PutUint16(b[4:], op.Flag)
	}
	s.memory.write(off, p[:(len(ops)*opSize+7)&^7])
}

// sleeperOps reads the operations of a sleeper; valid until the next call.
func (s *Set) sleeperOps(t *transaction, cell int) []abi.SemOp {
	w := s.load(cell + offCount)
	n, more := min(int(uint32(w)), maxOps), w>>32
	t.ops = s.readOps(t.ops[:0], cell+offOps, min(n, abi.SleeperOps))
	for len(t.ops) < n {
		off, ok := s.cell(more)
		if !ok {
			break
		}
		t.ops = s.readOps(t.ops, off+offMoreOps, min(n-len(t.ops), abi.OpsCellOps))
		more = s.load(off + offNext)
	}
	return t.ops
}

func (s *Set) readOps(ops []abi.SemOp, off, n int) []abi.SemOp {
	var p [abi.CellSize]byte
	s.read(off, p[:n*opSize])
	for i := range n {
		b := p[i*opSize:]
		ops = append(ops, abi.SemOp{
			Num:  binary.LittleEndian.Uint16(b),
			Op:   int16(binary.LittleEndian.Uint16(b[2:])),
			Flag: binary.LittleEndian.Uint16(b[4:]),
		})
	}
	return ops
}

// Now does a single operation if that takes no more than a compare-and-swap,
// or the load that shows its error. Not done: Op will. It allocates nothing.
func (s *Set) Now(op abi.SemOp) (done bool, errno unix.Errno) {
	if int(op.Num) >= s.sems || op.Flag&semUndo != 0 {
		return false, 0
	}
	return s.fast(op)
}
