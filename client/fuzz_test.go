package client

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// FuzzReply reads packets of any form from a connection, with descriptors: a
// reply is what its head and its length say, and no descriptor stays open that
// its caller did not get.
func FuzzReply(f *testing.F) {
	head := func(seq, errno, n uint32) []byte {
		b := make([]byte, packetHead)
		binary.LittleEndian.PutUint32(b[4:], seq)
		binary.LittleEndian.PutUint32(b[8:], errno)
		binary.LittleEndian.PutUint32(b[12:], n)
		return b
	}
	f.Add(head(1, 0, 0), uint8(0))
	f.Add(head(1, 13, 5), uint8(3))
	f.Add(append(head(7, 0, 4), 1, 2, 3, 4), uint8(2))
	f.Add([]byte{1, 2, 3}, uint8(1))
	passed, err := os.Open("/dev/null")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, packet []byte, files uint8) {
		if len(packet) == 0 || len(packet) > abi.MaxPacket {
			return // an end, or what no packet can be
		}
		ours, theirs := socketPair(t)
		var readers sync.WaitGroup
		c := newConnection(ours, &readers)
		ch := make(chan *reply, 1)
		c.mu.Lock()
		c.waiting[1] = ch
		c.mu.Unlock()
		before := descriptors(t)
		fds := make([]int, files%20)
		for i := range fds {
			fds[i] = int(passed.Fd())
		}
		if _, _, err := theirs.WriteMsgUnix(packet, unix.UnixRights(fds...), nil); err != nil {
			t.Fatal(err)
		}
		_ = theirs.Close()
		readers.Wait()
		r, ok := <-ch
		if len(packet) < packetHead || binary.LittleEndian.Uint32(packet[4:]) != 1 {
			if ok {
				t.Fatalf("a reply of %d bytes to request %d", len(packet), r.Seq)
			}
		} else if !ok || len(r.body) != len(packet)-packetHead {
			t.Fatalf("no reply, or not of %d bytes", len(packet)-packetHead)
		}
		if ok {
			r.close()
		}
		if n := descriptors(t); n != before-2 { // the sockets' own
			t.Errorf("%d descriptors open, %d before", n, before)
		}
	})
}

func socketPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		conn, err := net.FileConn(file)
		if err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
		ends[i] = conn.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// FuzzTable looks everything up in a table with any words in it: what is found
// is what was asked for, and nothing outside of the table is read. Seven bytes
// are a store: place, value.
func FuzzTable(f *testing.F) {
	f.Add([]byte{}, uint32(1))
	f.Add([]byte{0, 0, 0, 1, 0, 1, 0, 3, 0, 0, 5, 0, 7, 9}, uint32(7))
	mem, err := unix.Mmap(-1, 0, abi.TableSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		f.Fatal(err)
	}
	tab := &table{mem, (*abi.TableHeader)(unsafe.Pointer(&mem[0]))}
	seven := uint32(7) // a key, whose bucket is often hit
	areas := []struct{ off, size int }{
		{abi.TableSlotsOff, 64}, {abi.TableRecordsOff, 1024}, {abi.TableKeysOff, abi.KeyBuckets * 8},
		{abi.TableKeysOff + int(seven*abi.KeyHash>>16)*8, 64},
	}
	f.Fuzz(func(t *testing.T, stores []byte, key uint32) {
		var stored []*uint64
		for ; len(stores) >= 7; stores = stores[7:] {
			area := areas[int(stores[0])%len(areas)]
			at := (area.off + int(binary.BigEndian.Uint16(stores[1:]))*8%area.size) % (abi.TableSize - 8)
			word := (*uint64)(unsafe.Pointer(&mem[at]))
			v := uint64(binary.BigEndian.Uint32(stores[3:])) << (stores[0] >> 3)
			if area.off == abi.TableSlotsOff {
				v &^= abi.SlotClosing // a manager ends each closing, in a while
			}
			atomic.StoreUint64(word, v)
			stored = append(stored, word)
		}
		for family := range abi.Families {
			if rec, ok := tab.find(family, key); ok && rec.Key != key {
				t.Errorf("key %d for %d", rec.Key, key)
			}
			for id := range uint32(8) {
				if rec, slot, ok := tab.record(family, id<<15|key%8); ok && (rec.ID != id<<15|key%8 || slot == 0) {
					t.Errorf("id %d for %d", rec.ID, id)
				}
			}
		}
		for _, word := range stored {
			atomic.StoreUint64(word, 0)
		}
	})
}

// A reply that nobody waits for is dropped, with its descriptors, and the next
// is its request's.
func TestStrayReply(t *testing.T) {
	ours, theirs := socketPair(t)
	var readers sync.WaitGroup
	c := newConnection(ours, &readers)
	defer readers.Wait()
	defer theirs.Close()
	ch, err := c.post(5, &request{kind: abi.MsgFold})
	if err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	packet := make([]byte, packetHead)
	for seq := uint32(3); seq <= 5; seq++ {
		binary.LittleEndian.PutUint32(packet[4:], seq)
		if _, _, err := theirs.WriteMsgUnix(packet, unix.UnixRights(0, 1), nil); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case r := <-ch:
		if r.Seq != 5 || len(r.fds) != 2 {
			t.Errorf("reply to %d with %d descriptors", r.Seq, len(r.fds))
		}
		r.close()
	case <-time.After(10 * time.Second):
		t.Fatal(errors.New("no reply"))
	}
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors open, %d before", n, before)
	}
}
