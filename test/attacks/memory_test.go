package attacks_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

const during = 700 * time.Millisecond

// openShared opens the set and the queue that witnesses use.
func (h *hostile) openShared() error {
	if _, err := h.open("set", sem, h.Set, 6); err != nil {
		return fmt.Errorf("open the set: %w", err)
	}
	if _, err := h.open("queue", msg, h.Queue, 6); err != nil {
		return fmt.Errorf("open the queue: %w", err)
	}
	return nil
}

// provoke makes the manager itself read what was spoilt.
func (h *hostile) provoke() {
	for _, r := range [][]int64{
		{abi.MsgCtl, sem, h.Set, unix.IPC_STAT}, {abi.MsgCtl, msg, h.Queue, unix.IPC_STAT}, {abi.MsgCtl, msg, 0, 12},
		{abi.MsgSemCtl, h.Set, 1, abi.SemGetVal}, {abi.MsgSemCtl, h.Set, 1, abi.SemGetNcnt}, {abi.MsgSemCtl, h.Set, 1, abi.SemSetVal, 3},
		{abi.MsgReceive, h.Queue, 100, 0, unix.IPC_NOWAIT}, {abi.MsgGrow, sem, h.Set, 200, 0}, {abi.MsgUndo}, {abi.MsgReap, 3},
	} {
		_, _ = h.call(uint32(r[0]), nil, r[1:]...)
	}
}

func noiseOver(names ...string) func(*hostile) (string, error) {
	return func(h *hostile) (string, error) {
		if err := h.openShared(); err != nil {
			return "", err
		}
		if _, err := h.call(abi.MsgGrow, nil, msg, h.Queue, 100, 64); err != nil {
			return "", fmt.Errorf("grow: %w", err)
		}
		var mems [][]byte
		for _, name := range names {
			mem, err := h.mapped(name)
			if err != nil {
				return "", err
			}
			mems = append(mems, mem)
		}
		stores := 0
		for end := time.Now().Add(during); time.Now().Before(end); {
			for _, mem := range mems {
				for off := 0; off < len(mem); off += 8 {
					v := rand.Uint64()
					if v%3 == 0 {
						v %= 300 // what looks like an index, a state or a count
					}
					store(mem, off, v)
					stores++
				}
			}
			h.provoke()
		}
		return fmt.Sprintf("%d stores", stores), nil
	}
}

// classes are values that a word may be given: each kind of wrong.
func classes(old uint64) []uint64 {
	return []uint64{
		0, 1, 2, ^uint64(0), 1 << 63, old + 1, old ^ 1<<32, old &^ 0xffffffff, old | 0xffffffff, old<<32 | old>>32,
		rand.Uint64(), uint64(rand.IntN(64)), 7<<36 | 2<<8 | 3<<4 | 2, 7<<36 | 2<<8 | 5<<4 | 7, 1<<32 | 1, 9<<24 | 1<<2 | 1, 9<<24 | 3<<2 | 2,
	}
}

func wordByWord(name string) func(*hostile) (string, error) {
	return func(h *hostile) (string, error) {
		if err := h.openShared(); err != nil {
			return "", err
		}
		mem, err := h.mapped(name)
		if err != nil {
			return "", err
		}
		tried := 0
		for off := 0; off < len(mem); off += 8 {
			if name == "set" && off > 4096 && off < abi.CellsOff(2000)-64 {
				continue // one semaphore is like another
			}
			for _, v := range classes(load(mem, off)) {
				old := load(mem, off)
				store(mem, off, v)
				tried++
				if tried%16 == 0 {
					h.provoke()
				}
				time.Sleep(20 * time.Microsecond)
				if tried%2 == 0 {
					store(mem, off, old)
				}
			}
		}
		return fmt.Sprintf("%d words spoilt", tried), nil
	}
}

func noiseOverPage(h *hostile) (string, error) {
	before, err := h.call(abi.MsgCtl, nil, shm, h.Small, unix.IPC_STAT)
	if err != nil {
		return "", err
	}
	for end := time.Now().Add(during); time.Now().Before(end); {
		for off := 0; off < len(h.page); off += 8 {
			store(h.page, off, rand.Uint64())
		}
		h.provoke()
		_, _ = h.call(abi.MsgFold, nil)
		_, _ = h.call(abi.MsgSpare, nil, int64(rand.IntN(20)))
	}
	clear(h.page)
	after, err := h.call(abi.MsgCtl, nil, shm, h.Small, unix.IPC_STAT)
	if err != nil {
		return "", err
	}
	const nattch = 32 + 8 + 24 + 8 // of abi.Stat
	if load(before.body, nattch) != load(after.body, nattch) {
		return "", fmt.Errorf("nattch %d became %d", load(before.body, nattch), load(after.body, nattch))
	}
	return "nattch as before", nil
}

// lieAboutAttaches says in the session page that root's own segment is attached.
func lieAboutAttaches(h *hostile) (string, error) {
	const statAny = 15 // SHM_STAT_ANY
	stat := func() (string, error) {
		a, err := h.call(abi.MsgCtl, nil, shm, h.Secret&abi.IndexMask, statAny)
		if err != nil {
			return "", err
		}
		return string(a.body), nil
	}
	before, err := stat()
	if err != nil {
		return "", err
	}
	slot := load(h.table, abi.TableSlotsOff+(shm*abi.MaxObjects+int(h.Secret&abi.IndexMask))*8)
	record := (*abi.Record)(unsafe.Pointer(&h.table[abi.TableRecordsOff+int(slot&abi.SlotRecordMask)*int(unsafe.Sizeof(abi.Record{}))]))
	page := (*abi.SessionPage)(unsafe.Pointer(&h.page[0]))
	for _, use := range []abi.Use{{Count: 1}, {Count: 1 << 31}, {ATime: 1}, {DTime: time.Now().UnixNano()}} {
		use.Serial = record.Serial
		page.Uses[3] = use
		if _, err := h.call(abi.MsgFold, nil); err != nil {
			return "", err
		}
		if after, err := stat(); err != nil || after != before {
			return "", fmt.Errorf("%+v: %w, %x became %x", use, err, before, after)
		}
	}
	return "nothing changed", nil
}

func noiseOverPulse(h *hostile) (string, error) {
	for end := time.Now().Add(during); time.Now().Before(end); {
		for off := 0; off < 2000*abi.PageSize; off += 8 {
			if off%abi.PageSize == 8 {
				off += abi.PulseAsk - 8
			}
			store(h.pulse, off, rand.Uint64())
		}
		for n := range int64(40) {
			_, _ = h.call(abi.MsgReap, nil, n)
		}
	}
	return "done", nil
}

// against runs f in two threads for a while.
func against(f func(n int)) {
	var all sync.WaitGroup
	end := time.Now().Add(during)
	for range 2 {
		all.Go(func() {
			for n := 0; time.Now().Before(end); n++ {
				f(n)
			}
		})
	}
	all.Wait()
}

// lockAgain writes LOCKED by a fresh holder as soon as anybody frees the lock.
func lockAgain(h *hostile) (string, error) {
	if err := h.openShared(); err != nil {
		return "", err
	}
	set, err := h.mapped("set")
	if err != nil {
		return "", err
	}
	queue, err := h.mapped("queue")
	if err != nil {
		return "", err
	}
	against(func(n int) {
		for _, mem := range [][]byte{set, queue} {
			store(mem, 0, uint64(n)<<abi.LockEpochShift|uint64(n%50+1)<<abi.LockCellShift|abi.LockHeld)
		}
	})
	store(set, 0, 1<<40)
	store(queue, 0, 1<<40)
	return "for a while", nil
}

// commitNonsense has a log of wild entries, and commits it all the time.
func commitNonsense(h *hostile) (string, error) {
	if err := h.openShared(); err != nil {
		return "", err
	}
	mem, err := h.mapped("set")
	if err != nil {
		return "", err
	}
	const cell = 12
	log := abi.CellsOff(2000) + cell*abi.CellSize
	against(func(n int) {
		store(mem, log+8, uint64(cell+1)) // the next cell is itself
		store(mem, log+16, rand.Uint64N(12))
		for i := range abi.LogEntries {
			off := uint64(rand.IntN(len(mem))) * 8
			if n%2 == 0 {
				off = rand.Uint64()
			}
			store(mem, log+32+24*i, off)
			store(mem, log+40+24*i, rand.Uint64N(3))
			store(mem, log+48+24*i, rand.Uint64())
		}
		store(mem, 0, uint64(n)<<abi.LockEpochShift|(cell+1)<<abi.LockCellShift|abi.LockCommitted)
	})
	store(mem, 0, 1<<40)
	return "for a while", nil
}

func touchPulse(h *hostile) (string, error) {
	const pages = 64 << 10 // a quarter of what there is
	for n := range pages {
		store(h.pulse, n*abi.PageSize+64, 1)
	}
	_ = unix.Madvise(h.pulse, unix.MADV_DONTNEED)
	return fmt.Sprintf("%d pages", pages), nil
}
