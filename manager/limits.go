package manager

import (
	"fmt"
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
}

func (t *table) limits() Limits {
	h := t.header
	return Limits{
		ShmMax: h.ShmMax, ShmAll: h.ShmAll, ShmMni: h.ShmMni,
		SemMsl: h.SemMsl, SemMns: h.SemMns, SemOpm: h.SemOpm, SemMni: h.SemMni,
		MsgMax: h.MsgMax, MsgMnb: h.MsgMnb, MsgMni: h.MsgMni,
	}
}
