package plane

import (
	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// Set is a semaphore set, semop(2) and semctl(2), as one session sees it.
// It is cheap to make: one for each session that the manager acts for.
type Set struct {
	object
	spinner spinner
}

// NewSet makes a handle of the set in control, which spans the largest
// possible control file; what Host.Capacity does not cover is not touched.
// sems comes from the record. EINVAL: the memory is too short or misaligned.
func NewSet(control []byte, sems int, h Host) (*Set, error) {
	s := &Set{}
	if sems < 1 || sems > 1<<16 {
		return nil, unix.EINVAL
	}
	if err := s.open(control, sems, h, s.rest); err != nil {
		return nil, err
	}
	return s, nil
}

func semOff(num int) int { return abi.WordsOff + 8*num }

func semSession(w uint64) uint32 {
	return uint32(w>>abi.SemSessionShift) & (1<<abi.SessionBits - 1)
}

// semWord is the word after w: another value and session, the same flags, the
// next version.
func semWord(w uint64, value int, session uint32) uint64 {
	return (w>>abi.SemVersionShift+1)<<abi.SemVersionShift |
		uint64(session&(1<<abi.SessionBits-1))<<abi.SemSessionShift |
		w&(abi.SemSlow|abi.SemDead) | uint64(value)&abi.SemValueMask
}

// renewed is the word after w with nothing changed but the version.
func renewed(w uint64) uint64 { return semWord(w, int(w&abi.SemValueMask), semSession(w)) }

// Value is GETVAL. EINVAL: no such semaphore.
func (s *Set) Value(num int) (int, error) {
	if num < 0 || num >= s.sems {
		return 0, unix.EINVAL
	}
	if err := s.usable(); err != nil {
		return 0, err
	}
	s.settleCommitted()
	w := s.load(semOff(num))
	if w&abi.SemSlow != 0 {
		if err := s.reapHolders(func(n int) bool { return n == num }); err != nil {
			return 0, err
		}
		w = s.load(semOff(num))
	}
	if w&abi.SemDead != 0 {
		return 0, s.gone()
	}
	return int(w & abi.SemValueMask), nil
}

// settleCommitted finishes what is committed, so that a plain load sees it.
func (s *Set) settleCommitted() {
	if w := s.load(offLock); lockState(w) == abi.LockCommitted {
		s.help(w)
	}
}

// PID is GETPID, as a session number; 0: nobody yet.
func (s *Set) PID(num int) (session uint32, err error) {
	if num < 0 || num >= s.sems {
		return 0, unix.EINVAL
	}
	if err := s.usable(); err != nil {
		return 0, err
	}
	s.settleCommitted()
	return semSession(s.load(semOff(num))), nil
}

// OTime is sem_otime in seconds, 0: never.
func (s *Set) OTime() int64 { return int64(s.load(offOTime)) }

// CTime is the time of the last SETVAL or SETALL, 0: see the record.
func (s *Set) CTime() int64 { return int64(s.load(offCTime)) }

func (s *Set) setTime(off int) {
	if now := uint64(Seconds()); s.fetch(off) != now {
		s.put(off, now)
	}
}

// All is GETALL, one consistent picture of all values: two equal readings one
// after the other, with no commit under way. If that does not come about, the
// lock brings it about.
func (s *Set) All() ([]uint16, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	if err := s.reapHolders(func(int) bool { return true }); err != nil {
		return nil, err
	}
	words := make([]uint64, s.sems)
	for range 8 {
		s.settleCommitted()
		lock := s.load(offLock)
		for i := range words {
			words[i] = s.load(semOff(i)) &^ abi.SemSlow
		}
		same := lockState(lock) != abi.LockCommitted
		for i := 0; i < len(words) && same; i++ {
			same = s.load(semOff(i))&^abi.SemSlow == words[i]
		}
		if same && s.load(offLock) == lock {
			return s.values(words)
		}
	}
	err := s.locked(func(t *transaction) error {
		for i := range words {
			w, err := s.freeze(t, i)
			if err != nil {
				return err
			}
			words[i] = w
			t.put(semOff(i), w, renewed(w))
			if i%1024 == 1023 && !t.renew() {
				return errRevoked
			}
		}
		return s.commit(t, false) // nothing but to clear SLOW, and to know that nobody came between
	})
	if err != nil {
		return nil, err
	}
	return s.values(words)
}

func (s *Set) values(words []uint64) ([]uint16, error) {
	vals := make([]uint16, len(words))
	for i, w := range words {
		if w&abi.SemDead != 0 {
			return nil, s.gone()
		}
		vals[i] = uint16(w)
	}
	return vals, nil
}

// NCount is GETNCNT: sleepers whose first blocking operation decrements num.
func (s *Set) NCount(num int) (int, error) { return s.count(num, false) }

// ZCount is GETZCNT: sleepers whose first blocking operation waits for num to be 0.
func (s *Set) ZCount(num int) (int, error) { return s.count(num, true) }

func (s *Set) count(num int, zero bool) (n int, err error) {
	if num < 0 || num >= s.sems {
		return 0, unix.EINVAL
	}
	if err := s.usable(); err != nil {
		return 0, err
	}
	if uint32(s.load(offWaitHead)) == 0 && lockState(s.load(offLock)) == abi.LockFree {
		return 0, nil
	}
	err = s.locked(func(t *transaction) error {
		n = 0
		for c := t.walk(waiters); c.next(); {
			st := s.state(c.cell)
			if st.kind() != abi.KindSleeper || !st.sleeping() {
				continue
			}
			var tr trial
			ops := s.sleeperOps(t, c.cell)
			if !t.spend(len(ops) + 1) {
				break
			}
			v := s.try(t, &tr, st.session(), ops)
			if v == blocked && int(ops[tr.blocking].Num) == num && (ops[tr.blocking].Op == 0) == zero {
				n++
			}
		}
		if !t.holds() {
			return errRevoked
		}
		return nil
	})
	return n, err
}

// SetValue is SETVAL. ERANGE, EINVAL.
func (s *Set) SetValue(num, value int) error {
	if value < 0 || value > abi.SemVMX {
		return unix.ERANGE
	}
	if num < 0 || num >= s.sems {
		return unix.EINVAL
	}
	return s.set(func(n int) bool { return n == num }, func(t *transaction) error {
		return s.assign(t, num, value)
	})
}

// SetAll is SETALL; values has one element for each semaphore.
func (s *Set) SetAll(values []uint16) error {
	if len(values) != s.sems {
		return unix.EINVAL
	}
	for _, v := range values {
		if v > abi.SemVMX {
			return unix.ERANGE
		}
	}
	return s.set(func(int) bool { return true }, func(t *transaction) error {
		for i, v := range values {
			if err := s.assign(t, i, int(v)); err != nil {
				return err
			}
			if i%1024 == 1023 && !t.renew() {
				return errRevoked
			}
		}
		return nil
	})
}

func (s *Set) assign(t *transaction, num, value int) error {
	w, err := s.freeze(t, num)
	if err != nil {
		return err
	}
	t.put(semOff(num), w, semWord(w, value, s.me))
	return nil
}

// set changes values at will: everybody's adjustments of them become 0.
func (s *Set) set(which func(num int) bool, change func(t *transaction) error) error {
	if err := s.usable(); err != nil {
		return err
	}
	if err := s.reapHolders(which); err != nil {
		return err
	}
	return s.locked(func(t *transaction) error {
		if err := change(t); err != nil {
			return err
		}
		t.clearUndo(which)
		completed := s.scan(t, true)
		if err := s.commit(t, true); err != nil {
			return err
		}
		s.setTime(offCTime)
		if completed {
			s.setTime(offOTime)
		}
		s.finish(t)
		return nil
	})
}
