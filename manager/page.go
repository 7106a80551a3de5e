package manager

import (
	"crypto/rand"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// page is a session page as the manager sees it. Its process can write all of
// it, and where files are not sealed even cut it short: faults are caught.
type page struct {
	mem    []byte
	of     *pageFile
	offset uint64 // in the file
}

// use is a copy of an abi.Use.
type use struct {
	serial       uint64
	count        uint32
	atime, dtime int64
}

func (p *page) view() *abi.SessionPage { return (*abi.SessionPage)(unsafe.Pointer(&p.mem[0])) }

// state is the page's State and PID.
func (p *page) state() (state, pid uint32) {
	_ = guarded(func() {
		state, pid = atomic.LoadUint32(&p.view().State), atomic.LoadUint32(&p.view().PID)
	})
	return state, pid
}

// giveUp has no child claim the page any more, if none has. It returns state's results as of before.
func (p *page) giveUp() (state, pid uint32) {
	for range 8 { // the parent changes it once, if it is honest
		state, pid = p.state()
		if state != abi.PageReserved && state != abi.PageForked {
			break
		}
		over := true
		_ = guarded(func() { over = atomic.CompareAndSwapUint32(&p.view().State, state, abi.PageGivenUp) })
		if over {
			break
		}
	}
	return state, pid
}

// claimed is when the page's process claimed it, in ns of CLOCK_BOOTTIME; 0 if
// its library does not say.
func (p *page) claimed() (t uint64) {
	_ = guarded(func() { t = atomic.LoadUint64(&p.view().Claimed) })
	return t
}

// mappedBy tells whether a process has the page mapped: not so after exec, nor
// when its memory is gone. An error: that cannot be said, or the process ended.
func (p *page) mappedBy(pid int) (bool, error) { return p.mappedIn(&mappings{pid: pid}) }

// mappedIn is mappedBy for who asks about many pages of a process.
func (p *page) mappedIn(m *mappings) (bool, error) {
	if at := p.address(); at != 0 {
		mapped, err := mapsAt(m.pid, at, p.of.inode, p.offset)
		if !errors.Is(err, unix.ENOTTY) {
			return mapped, err
		}
	}
	text, err := m.read()
	return err == nil && mapsPage(text, p.of.inode, p.offset), err
}

// address is where its process says that it has the page; 0: nowhere yet.
func (p *page) address() (at uint64) {
	_ = guarded(func() { at = atomic.LoadUint64(&p.view().Address) })
	return at
}

// awaits tells whether the session looks for a short answer.
func (p *page) awaits() (awaits bool) {
	_ = guarded(func() {
		awaits = atomic.LoadUint64(&p.view().Answer)&abi.AnswerStateMask == abi.AnswerAwaited
	})
	return awaits
}

// answer gives r as a short answer. false: it is none, or is not awaited.
func (p *page) answer(seq uint32, r *reply) (given bool) {
	if len(r.files) > 0 || len(r.body) > 0 || r.hangUp || r.later || r.val != [6]int64{r.val[0]} {
		return false
	}
	_ = guarded(func() {
		word := &p.view().Answer
		awaited := uint64(seq)<<abi.AnswerSeqShift | abi.AnswerAwaited
		if atomic.LoadUint64(word) != awaited {
			return
		}
		atomic.StoreInt64(&p.view().Value, r.val[0])
		step("answer: value stored")
		given = atomic.CompareAndSwapUint64(word, awaited,
			uint64(seq)<<abi.AnswerSeqShift|uint64(r.errno)<<abi.AnswerErrnoShift|abi.AnswerGiven)
	})
	return given
}

// uses copies the uses that name a segment. Memory order: a Use.Count that
// was incremented before the slot word was seen open is seen here after the
// slot word was closed.
func (p *page) uses(yield func(i int, u use)) {
	var found [abi.PageUses]use
	n := 0
	_ = guarded(func() {
		for i := range found {
			v, u := &p.view().Uses[i], &found[i]
			if u.serial = atomic.LoadUint64(&v.Serial); u.serial != 0 {
				u.count = atomic.LoadUint32(&v.Count)
				u.atime = atomic.LoadInt64(&v.ATime)
				u.dtime = atomic.LoadInt64(&v.DTime)
			}
			n = i + 1
		}
	})
	for i, u := range found[:n] {
		if u.serial != 0 {
			yield(i, u)
		}
	}
}

// names tells whether the page names any segment.
func (p *page) names() (yes bool) {
	p.uses(func(int, use) { yes = true })
	return yes
}

// attached tells whether the page counts attaches of a segment.
func (p *page) attached(serial uint64) (yes bool) {
	p.uses(func(_ int, u use) { yes = yes || u.serial == serial && u.count > 0 })
	return yes
}

// free makes use i free again.
func (p *page) free(i int) {
	_ = guarded(func() { atomic.StoreUint64(&p.view().Uses[i].Serial, 0) })
}

// guarded runs f, which touches memory that a client may have cut short or
// that the file system may have no room for. A fault becomes an error, and so
// does whatever else what stands there may have led to.
func guarded(f func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if e, ok := r.(interface{ Addr() uintptr }); ok {
				err = fmt.Errorf("fault at %#x: %w", e.Addr(), unix.EIO)
			} else {
				err = fmt.Errorf("%v: %w", r, unix.EIO)
			}
		}
	}()
	f()
	return nil
}

func newCookie() (c [16]byte) {
	_, _ = rand.Read(c[:]) // never fails
	return c
}
