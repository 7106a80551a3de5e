package plane

import (
	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// verdict of trying operations: proceed, blocked, or an errno.
type verdict int

const (
	proceed verdict = 0
	blocked verdict = -1
)

// touched is one semaphore of a trial.
type touched struct {
	num, value int
	adj        int // semadj of the session
	adjusted   bool
	undo       int // offset of the undo word, 0: the session has none for num
}

// trial is what operations would do, not yet part of any transaction.
type trial struct {
	sems     []touched
	at       map[int]int // where in sems a number is, when they are many
	blocking int         // index of the first operation that blocks
}

func (tr *trial) find(num int) (*touched, bool) {
	if len(tr.sems) < 16 {
		for i := range tr.sems {
			if tr.sems[i].num == num {
				return &tr.sems[i], true
			}
		}
		return nil, false
	}
	if tr.at == nil {
		tr.at = map[int]int{}
		for i := range tr.sems {
			tr.at[tr.sems[i].num] = i
		}
	}
	if i, ok := tr.at[num]; ok {
		return &tr.sems[i], true
	}
	return nil, false
}

func (tr *trial) add(s touched) *touched {
	if tr.at != nil {
		tr.at[s.num] = len(tr.sems)
	}
	tr.sems = append(tr.sems, s)
	return &tr.sems[len(tr.sems)-1]
}

// try is perform_atomic_semop (ipc/sem.c): operations in array order on the
// values as the transaction sees them. Semaphores are frozen as they are met.
func (s *Set) try(t *transaction, tr *trial, session uint32, ops []abi.SemOp) verdict {
	tr.sems, tr.at = tr.sems[:0], nil
	for i := range ops {
		op := &ops[i]
		if int(op.Num) >= s.sems {
			return verdict(unix.EFBIG) // a sleeper's cell is anybody's to write
		}
		sem, ok := tr.find(int(op.Num))
		if !ok {
			w, err := s.freeze(t, int(op.Num))
			if err != nil {
				return verdict(err.(unix.Errno))
			}
			sem = tr.add(touched{num: int(op.Num), value: int(w & abi.SemValueMask)})
		}
		result := sem.value + int(op.Op)
		if op.Op == 0 && sem.value != 0 || result < 0 {
			tr.blocking = i
			if op.Flag&unix.IPC_NOWAIT != 0 {
				return verdict(unix.EAGAIN)
			}
			return blocked
		}
		if result > abi.SemVMX {
			return verdict(unix.ERANGE)
		}
		if op.Flag&semUndo != 0 && op.Op != 0 {
			if !sem.adjusted {
				sem.adjusted = true
				sem.undo, sem.adj = t.findUndo(session, sem.num)
			}
			sem.adj -= int(op.Op)
			if sem.adj < -abi.SemVMX-1 || sem.adj > abi.SemVMX {
				return verdict(unix.ERANGE)
			}
		}
		sem.value = result
	}
	return proceed
}

// freeze makes a semaphore SLOW, so that none but a committed transaction
// changes it, and returns its word as the transaction sees it. Also done by a
// holder that was revoked; it is harmless then.
func (s *Set) freeze(t *transaction, num int) (uint64, error) {
	off := semOff(num)
	if i, ok := t.find(off); ok {
		return t.entries[i].New, nil
	}
	for range patienceSteps {
		w := s.load(off)
		switch {
		case w&abi.SemDead != 0:
			return 0, s.gone()
		case w&abi.SemSlow != 0:
			return w, nil
		case s.cas(off, w, w|abi.SemSlow):
			return w | abi.SemSlow, nil
		}
	}
	return 0, unix.EIO
}

// write makes a trial's outcome part of the transaction.
func (s *Set) write(t *transaction, tr *trial, session uint32) error {
	for i := range tr.sems {
		sem := &tr.sems[i]
		if !sem.adjusted {
			continue
		}
		if sem.undo == 0 {
			off, err := t.makeUndo(session, sem.num)
			if err != nil {
				return err
			}
			sem.undo = off
		}
		w := t.get(sem.undo)
		t.put(sem.undo, w, undoWord(w, sem.num, sem.adj))
	}
	for i := range tr.sems {
		sem := &tr.sems[i]
		w := t.get(semOff(sem.num))
		t.put(semOff(sem.num), w, semWord(w, sem.value, session))
	}
	return nil
}

// touch has the commit look at whether semaphores must stay SLOW that a
// sleeper named which leaves.
func (s *Set) touch(t *transaction, ops []abi.SemOp) {
	for i := range ops {
		if int(ops[i].Num) >= s.sems {
			continue
		}
		off := semOff(int(ops[i].Num))
		if _, ok := t.find(off); ok {
			continue
		}
		if w := s.load(off); w&abi.SemSlow != 0 && w&abi.SemDead == 0 {
			t.put(off, w, renewed(w))
		}
	}
}

// names says whether any of the operations is on num.
func names(ops []abi.SemOp, num int) bool {
	for i := range ops {
		if int(ops[i].Num) == num {
			return true
		}
	}
	return false
}

// errnoOf is the errno of a verdict other than blocked.
func errnoOf(v verdict) unix.Errno { return unix.Errno(v) }
