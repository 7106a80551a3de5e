package client_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client"
)

func TestView(t *testing.T) {
	memory := make([]byte, 64) // of 8 bytes' alignment at least
	n, err := client.View[uint32](memory, 4)
	check(t, err)
	*n = 0x01020304
	if memory[4]+memory[5]+memory[6]+memory[7] != 10 {
		t.Fatal(memory[:8])
	}
	all, err := client.Slice[[2]uint16](memory, 0, 16)
	check(t, err)
	if len(all) != 16 {
		t.Fatal(len(all))
	}
	_, err = client.Slice[struct{}](memory, 64, 3)
	check(t, err)
	bad := func(err error) {
		t.Helper()
		want(t, err, unix.EINVAL)
	}
	view := func(offset int) error { _, err := client.View[uint64](memory, offset); return err }
	for _, offset := range []int{-8, 4, 57, 60, 64, 1 << 62} {
		bad(view(offset))
	}
	_, err = client.Slice[uint64](memory, 8, 8)
	bad(err)
	_, err = client.Slice[uint64](memory, 0, -1)
	bad(err)
	_, err = client.Slice[uint64](memory, 0, 1<<61)
	bad(err)
	_, err = client.View[*int](memory, 0)
	bad(err)
	_, err = client.View[struct{ name string }](memory, 0)
	bad(err)
	_, err = client.View[[2]struct{ f func() }](memory, 0)
	bad(err)
	_, err = client.View[byte](nil, 0)
	bad(err)
}
