package plane

import (
	"testing"

	"github.com/ipcspace/ipcspace/client/abi"
)

func BenchmarkSet(b *testing.B) {
	for _, c := range []struct {
		name     string
		down, up []abi.SemOp
	}{
		{"fast", []abi.SemOp{op(0, -1)}, []abi.SemOp{op(0, 1)}},
		{"several", []abi.SemOp{op(0, -1), op(1, 1)}, []abi.SemOp{op(0, 1), op(1, -1)}},
		{"undo", []abi.SemOp{op(0, -1, semUndo)}, []abi.SemOp{op(0, 1, semUndo)}},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := newFile(b, 2, 64, 0).set(2, 7)
			ok(b, s.SetValue(0, 1))
			b.ReportAllocs()
			for b.Loop() {
				_ = s.Op(bg, c.down, -1)
				_ = s.Op(bg, c.up, -1)
			}
		})
	}
}

func BenchmarkQueue(b *testing.B) {
	for _, size := range []int{64, 8192} {
		b.Run(map[int]string{64: "short", 8192: "long"}[size], func(b *testing.B) {
			q := newFile(b, 0, 64, 64).queue(7)
			text := make([]byte, size)
			b.ReportAllocs()
			for b.Loop() {
				_ = q.Send(bg, 1, text, 0)
				_, _, _ = q.Receive(bg, text, 0, 0)
			}
		})
	}
}
