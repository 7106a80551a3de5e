package abi_test

import (
	"testing"
	"unsafe"

	"github.com/ipcspace/ipcspace/client/abi"
)

// The C header asserts the same numbers, computed by the generator.
func TestLayout(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"TableHeader fits its page", min(unsafe.Sizeof(abi.TableHeader{}), abi.PageSize), unsafe.Sizeof(abi.TableHeader{})},
		{"Record", unsafe.Sizeof(abi.Record{}), 128},
		{"SessionRecord", unsafe.Sizeof(abi.SessionRecord{}), 32},
		{"SessionPage", unsafe.Sizeof(abi.SessionPage{}), abi.PageSize},
		{"Use", unsafe.Sizeof(abi.Use{}), 32},
		{"ControlHeader", unsafe.Sizeof(abi.ControlHeader{}), abi.HeaderSize},
		{"SemOp is struct sembuf", unsafe.Sizeof(abi.SemOp{}), 6},
		{"Request", unsafe.Sizeof(abi.Request{}), 64},
		{"Reply", unsafe.Sizeof(abi.Reply{}), 64},
		{"Lock", unsafe.Offsetof(abi.ControlHeader{}.Lock), 0},
		{"State", unsafe.Offsetof(abi.ControlHeader{}.State), 8},
		{"ReceiverCell.Message stands over LogEntry.Off", unsafe.Offsetof(abi.ReceiverCell{}.Message),
			unsafe.Offsetof(abi.LogCell{}.Entries) + unsafe.Sizeof(abi.LogEntry{})},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", c.name, c.got, c.want)
		}
	}
	for name, size := range map[string]uintptr{
		"LogCell": unsafe.Sizeof(abi.LogCell{}), "SleeperCell": unsafe.Sizeof(abi.SleeperCell{}),
		"OpsCell": unsafe.Sizeof(abi.OpsCell{}), "UndoCell": unsafe.Sizeof(abi.UndoCell{}),
		"MessageCell": unsafe.Sizeof(abi.MessageCell{}), "IndexCell": unsafe.Sizeof(abi.IndexCell{}),
		"ReceiverCell": unsafe.Sizeof(abi.ReceiverCell{}), "SenderCell": unsafe.Sizeof(abi.SenderCell{}),
	} {
		if size > abi.CellSize {
			t.Errorf("%s has %d bytes, a cell %d", name, size, abi.CellSize)
		}
	}
	// Second in every cell is a link word, in all its lives.
	for name, off := range map[string]uintptr{
		"LogCell": unsafe.Offsetof(abi.LogCell{}.Next), "SleeperCell": unsafe.Offsetof(abi.SleeperCell{}.Next),
		"OpsCell": unsafe.Offsetof(abi.OpsCell{}.Next), "UndoCell": unsafe.Offsetof(abi.UndoCell{}.Next),
		"MessageCell": unsafe.Offsetof(abi.MessageCell{}.Next), "IndexCell": unsafe.Offsetof(abi.IndexCell{}.Next),
		"ReceiverCell": unsafe.Offsetof(abi.ReceiverCell{}.Next), "SenderCell": unsafe.Offsetof(abi.SenderCell{}.Next),
	} {
		if off != 8 {
			t.Errorf("%s.Next at %d, want 8", name, off)
		}
	}
}
