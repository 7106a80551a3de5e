//go:build explore

package plane

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// This is what steps.go, futex.go and clock.go are elsewhere, and a worker's Host.

func (m *memory) fetch(off int) uint64 {
	if exploring != nil {
		exploring.step()
	}
	v := *m.word(off)
	if off == offState && exploring != nil && exploring.planted == blind {
		return 0
	}
	if exploring != nil && exploring.current != nil {
		exploring.say("load %d: %#x", off, v)
	}
	return v
}

func (m *memory) put(off int, v uint64) {
	if exploring != nil {
		exploring.step()
		if exploring.current != nil {
			exploring.say("store %d: %#x", off, v)
		}
	}
	*m.word(off) = v
}

func (m *memory) swap(off int, old, new uint64) bool {
	x := exploring
	if x != nil {
		x.step()
		if off == offPending && new&1 == 1 && x.planted == "nothing is ever Pending" {
			return true
		}
		if off == offLock && lockState(old)|lockState(new) == abi.LockFree && x.planted == "a move leaves a free lock as it is" {
			return true
		}
	}
	p := m.word(off)
	done := *p == old
	if x != nil && x.planted == "the commit is not fenced" && off == offLock && lockState(new) == abi.LockCommitted {
		done = true
	}
	if done {
		*p = new
	}
	if x != nil && x.current != nil {
		x.say("cas %d: %#x -> %#x: %v", off, old, new, done)
	}
	return done
}

var manyCPUs = false

func pause(int) {
	x := exploring
	if x == nil || x.current == nil {
		return
	}
	w := x.current
	next := -1
	x.others(w, func(n int) {
		if next < 0 {
			next = n
		}
	})
	x.steps++
	if x.steps > longest {
		x.step()
	}
	if next >= 0 {
		x.say("pause")
		x.pass(x.workers[next])
	}
}

func impatient(int, time.Time) bool { return true }

func wait(word *uint32, value uint32, _ time.Duration) unix.Errno {
	x := exploring
	x.step()
	w := x.current
	if *word != value {
		return unix.EAGAIN
	}
	x.say("sleeps")
	w.way, w.on = asleep, word
	x.pass(nil)
	return 0
}

func wake(word *uint32) bool {
	x := exploring
	if word == nil || x == nil {
		return false
	}
	x.step()
	for _, w := range x.workers {
		if w.way == asleep && w.on == word {
			w.way, w.on = runnable, nil
			if x.current != nil {
				x.say("wakes %s", w.name)
			}
			return true
		}
	}
	if x.current != nil {
		x.say("wakes nobody")
	}
	return x.planted == "who is awake is served, too"
}

func wakeAll(word *uint32) {
	for wake(word) {
	}
}

func Seconds() int64 { return 1 }

func Stamp() int64 { return 1e9 }

const blind = "removal is not looked for before the sleep"

type explored struct {
	x       *exploration
	session uint32
	bell    *Bell
	qbytes  uint64
}

const exploredCells = 28

func (h *explored) Session() uint32      { return h.session }
func (h *explored) Capacity() (int, int) { return exploredCells, 0 }
func (h *explored) Grow(int, int) error  { return unix.ENOMEM }
func (h *explored) Valid() bool {
	h.x.step()
	return !h.x.removed || h.x.planted == blind
}
func (h *explored) Died(session uint32) bool { return h.x.dead[session] }
func (h *explored) Reap(uint32) error {
	for h.x.burying.way != over {
		pause(0)
	}
	return nil
}
func (h *explored) QueueBytes() uint64       { return h.qbytes }
func (h *explored) Brokered() (uint32, bool) { return 0, false }
func (h *explored) Thread() uint32           { return 0 }
func (h *explored) RingDoorbell(uint32)      {}
func (h *explored) Bell() *Bell              { return h.bell }
