package client

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// table is the space's key space as the manager publishes it: mapped
// read-only, read without a message.
type table struct {
	mem    []byte
	header *abi.TableHeader
}

// openTable maps the table in the space's folder, which must be mounted
// read-only: the path on such a mount is the manager's only proof of itself.
func openTable(dir string, writable bool) (*table, error) {
	f, err := os.Open(filepath.Join(dir, abi.TableName))
	if err != nil {
		return nil, fmt.Errorf("%w in %s: %w; mount one there (-v /run/ipcspace/spaces/NAME:%s:ro), "+
			"say where it is with IPCSPACE_DIR, or start the program with: ipcspace run -- COMMAND", ErrNoSpace, dir, err, dir)
	}
	defer f.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return nil, fmt.Errorf("statfs %s: %w", dir, err)
	}
	if fs.Flags&unix.ST_RDONLY == 0 && !writable {
		return nil, fmt.Errorf("space in %s: %w; mount it read-only, or say that the folder is surely yours "+
			"with IPCSPACE_DIR_WRITABLE=ok or client.Writable()", dir, ErrUntrusted)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, abi.TableSize, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the table of %s: %w", dir, err)
	}
	t := &table{mem, (*abi.TableHeader)(unsafe.Pointer(&mem[0]))}
	if t.header.Magic != abi.Magic || t.header.LayoutMajor != abi.LayoutMajor {
		err := fmt.Errorf("space in %s: %w: its manager has version %d, this program %d; build the program with that version of ipcspace",
			dir, ErrLayout, t.header.LayoutMajor, abi.LayoutMajor)
		_ = unix.Munmap(mem)
		return nil, err
	}
	return t, nil
}

func (t *table) slot(family int, id uint32) *uint64 {
	return (*uint64)(unsafe.Pointer(&t.mem[abi.TableSlotsOff+(family*abi.MaxObjects+int(id&abi.IndexMask))*8]))
}

// tableWait is how long one look at a word of the table waits at most before
// the next: the word is looked at again whether or not anybody woke us.
const tableWait = 100 * time.Millisecond

// current reads the record of the object at an index, waiting while the manager
// is about to publish another. false: there is none.
func (t *table) current(family int, index uint32) (rec abi.Record, slot uint64, ok bool) {
	at := t.slot(family, index)
	for {
		w := atomic.LoadUint64(at)
		n := w & abi.SlotRecordMask
		switch {
		case w == 0 || n >= abi.MaxRecords:
			return rec, 0, false
		case w&abi.SlotClosing != 0:
			changes := atomic.LoadUint32(&t.header.Changes)
			if atomic.LoadUint64(at) == w {
				futexWait(&t.header.Changes, changes, tableWait)
			}
			continue
		}
		rec = *(*abi.Record)(unsafe.Pointer(&t.mem[abi.TableRecordsOff+int(n)*int(unsafe.Sizeof(rec))]))
		if atomic.LoadUint64(at) == w {
			return rec, w, true
		}
	}
}

// record is current for an id.
func (t *table) record(family int, id uint32) (rec abi.Record, slot uint64, ok bool) {
	rec, slot, ok = t.current(family, id)
	return rec, slot, ok && rec.ID == id
}

// find looks a key up.
func (t *table) find(family int, key uint32) (rec abi.Record, ok bool) {
	hash := key * abi.KeyHash >> 16
	for n := range uint32(abi.KeyBuckets) {
		i := abi.TableKeysOff + (family*abi.KeyBuckets+int((hash+n)%abi.KeyBuckets))*8
		e := atomic.LoadUint64((*uint64)(unsafe.Pointer(&t.mem[i])))
		if e == 0 {
			break
		}
		if e&abi.KeyUsed == 0 || uint32(e) != key {
			continue
		}
		rec, _, ok := t.current(family, uint32(e>>abi.KeyIndexShift)&abi.IndexMask)
		if ok && rec.Key == key {
			return rec, true
		}
	}
	return rec, false
}

// session is what the table says of a session number.
func (t *table) session(number uint32) *abi.SessionRecord {
	i := abi.TableSessionsOff + int(number)*int(unsafe.Sizeof(abi.SessionRecord{}))
	return (*abi.SessionRecord)(unsafe.Pointer(&t.mem[i]))
}
