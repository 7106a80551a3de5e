package manager

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"

	"github.com/ipcspace/ipcspace/client/abi"
)

// check refuses limits that Linux would refuse: shmmni and msgmni over 32768
// (EINVAL there), semmni over 32768 (ERANGE).
func (l Limits) check() error {
	for _, c := range []struct {
		name  string
		value uint64
		most  uint64
	}{
		{"shmmni", l.ShmMni, abi.MaxObjects},
		{"semmni", l.SemMni, abi.MaxObjects},
		{"msgmni", l.MsgMni, abi.MaxObjects},
		{"semmsl", l.SemMsl, 65536},
		{"semmns", l.SemMns, 1<<31 - 1},
		{"semopm", l.SemOpm, 1<<16 - 1},
		{"msgmax", l.MsgMax, 1<<31 - 1},
		{"msgmnb", l.MsgMnb, 1<<31 - 1},
		{"shm_rmid_forced", l.ShmRmidForced, 1},
	} {
		if c.value > c.most {
			return fmt.Errorf("%s %d is more than %d: %w", c.name, c.value, c.most, ErrInvalid)
		}
	}
	return nil
}

func (t *table) setLimits(l Limits) {
	h := t.header
	for _, s := range []struct {
		word  *uint64
		value uint64
	}{
		{&h.ShmMax, l.ShmMax}, {&h.ShmAll, l.ShmAll}, {&h.ShmMni, l.ShmMni},
		{&h.SemMsl, l.SemMsl}, {&h.SemMns, l.SemMns}, {&h.SemOpm, l.SemOpm}, {&h.SemMni, l.SemMni},
		{&h.MsgMax, l.MsgMax}, {&h.MsgMnb, l.MsgMnb}, {&h.MsgMni, l.MsgMni},
	} {
		atomic.StoreUint64(s.word, s.value)
	}
	atomic.StoreUint32(&h.Flags, h.Flags&^abi.TableFlagRmidForced|uint32(l.ShmRmidForced)*abi.TableFlagRmidForced)
}

func (t *table) limits() Limits {
	h := t.header
	return Limits{
		ShmMax: h.ShmMax, ShmAll: h.ShmAll, ShmMni: h.ShmMni,
		SemMsl: h.SemMsl, SemMns: h.SemMns, SemOpm: h.SemOpm, SemMni: h.SemMni,
		MsgMax: h.MsgMax, MsgMnb: h.MsgMnb, MsgMni: h.MsgMni,
		ShmRmidForced: uint64(h.Flags & abi.TableFlagRmidForced / abi.TableFlagRmidForced),
	}
}

// SetLimits changes limits of a space and chooses ids. All that change or next
// ask for is done, or nothing. ErrNoSpace, ErrInvalid.
func (m *Manager) SetLimits(ctx context.Context, name string, change func(*Limits), next NextIDs) (SpaceInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.findLocked(name)
	if err != nil {
		return SpaceInfo{}, err
	}
	if err := s.changeLimits(change, next); err != nil {
		return SpaceInfo{}, fmt.Errorf("limits of space %q: %w", name, err)
	}
	return s.info(), nil
}

func (s *space) changeLimits(change func(*Limits), next NextIDs) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f, id := range next {
		if f >= abi.Families || id > math.MaxInt32 {
			return fmt.Errorf("%d cannot be the next id of %s: %w", id, f, ErrInvalid)
		}
	}
	l := s.table.limits()
	change(&l)
	if err := s.setLimits(l); err != nil {
		return err
	}
	for f, id := range next {
		s.table.setNextID(f, int64(id))
	}
	return nil
}

// setLimits changes the limits of a space in use. What exists stays as it is,
// but for the orphans that shm_rmid_forced takes. space.mu is held.
func (s *space) setLimits(l Limits) error {
	if err := l.check(); err != nil {
		return err
	}
	if err := s.storage.moreInodes(l.inodes(int(s.state.header.MaxSessions))); err != nil {
		return err
	}
	s.table.setLimits(l)
	if l.ShmRmidForced != 0 {
		s.destroyOrphans()
	}
	return nil
}

// inodes is how many files a space with these limits may need.
func (l Limits) inodes(sessions int) uint64 {
	return l.ShmMni + l.SemMni + 2*l.MsgMni + uint64(sessions) + 1024
}

// forced tells whether segments go with their last attach (shm_rmid_forced).
func (t *table) forced() bool { return t.header.Flags&abi.TableFlagRmidForced != 0 }
