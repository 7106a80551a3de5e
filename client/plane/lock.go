package plane

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// patience is how long one holder may keep others waiting before it is
// revoked. Far more than a transaction takes, so revoking is rare.
const patience = 2 * time.Millisecond

// patienceSteps bounds every loop that the doings of others could prolong. It
// counts steps and not time, which passes for a stopped process too.
const patienceSteps = 100_000

// tries is how often a call starts again whose transactions are revoked.
const tries = 2_000

func lockWord(epoch, cell, st uint64) uint64 {
	return epoch<<abi.LockEpochShift | cell&abi.LockCellMask<<abi.LockCellShift | st
}

func lockEpoch(w uint64) uint64 { return w >> abi.LockEpochShift }
func lockCell(w uint64) uint64  { return w >> abi.LockCellShift & abi.LockCellMask }
func lockState(w uint64) uint64 { return w & abi.LockStateMask }

// released is the lock word after w's holder.
func released(w uint64) uint64 { return lockWord(lockEpoch(w)+1, 0, abi.LockFree) }

// settle finishes what w says is committed, or revokes what it says is held.
func (o *object) settle(w uint64) {
	switch lockState(w) {
	case abi.LockFree:
	case abi.LockCommitted:
		o.help(w)
	default:
		o.cas(offLock, w, released(w))
	}
}

// help carries out the transaction that w, COMMITTED, names.
//
// The entries are copied before the lock word is looked at again: their owner
// does not write its log cells until that word has changed, so if it has not,
// the copy is the committed one. If it has, somebody finished.
func (o *object) help(w uint64) {
	var entries []abi.LogEntry
	number := lockCell(w)
	for range o.present() {
		off, ok := o.cell(number)
		if !ok {
			break
		}
		n := min(o.load(off+offLogCount), abi.LogEntries)
		for i := range int(n) {
			at := off + offLogEntries + i*logEntrySize
			entries = append(entries, abi.LogEntry{Off: o.load(at), Old: o.load(at + 8), New: o.load(at + 16)})
		}
		number = o.load(off + offNext)
	}
	if o.load(offLock) != w {
		return
	}
	fail(o.host, "helping")
	o.apply(entries)
	o.noteOutcome(w)
	o.cas(offLock, w, released(w))
	o.ringFor(entries)
}

// ringFor rings the doorbells of those whose cells became DONE, for who
// committed them died, perhaps, before he did.
func (o *object) ringFor(entries []abi.LogEntry) {
	for i := range entries {
		off, st := int(entries[i].Off), state(entries[i].New)
		if off >= o.cellsOff && (off-o.cellsOff)%abi.CellSize == 0 && st.phase() == abi.CellDone && st.waits() &&
			uint32(o.load(off+offFlags))&abi.SleeperDoorbell != 0 {
			o.host.RingDoorbell(st.session())
		}
	}
}

// noteOutcome tells the owner of a transaction that was offered to a sleeper
// (abi.LogCell.Outcome) that it was carried out, before the lock is released.
func (o *object) noteOutcome(w uint64) {
	if off, ok := o.cell(lockCell(w)); ok {
		mark := uint64(abi.OutcomeMark) | lockEpoch(w)<<abi.OutcomeShift
		o.cas(off+offLogOutcome, mark|abi.OutcomeReady, mark|abi.OutcomeDone)
	}
}

// apply changes each word that is still old, in order.
func (o *object) apply(entries []abi.LogEntry) {
	for i := range entries {
		e := entries[i]
		if off := int(e.Off); off < 8 || !o.inside(off) || !o.swap(off, e.Old, e.New) {
			o.applyOdd(e)
		}
		fail(o.host, "applied one")
	}
}

// applyOdd is for a word that has changed already, or that we do not know yet.
//
// DEAD may come into a semaphore's word at any time, and does not change its
// version: the rest of the change is carried out all the same, for it is
// committed, and a set that moves takes it along.
func (o *object) applyOdd(e abi.LogEntry) {
	off := int(e.Off)
	if !o.inside(off) {
		o.refresh() // the file has grown since we looked
		if !o.inside(off) {
			return
		}
	}
	words := uint64(abi.WordsOff + 8*o.sems)
	if off >= 8 && !o.swap(off, e.Old, e.New) && e.Off >= abi.WordsOff && e.Off < words {
		o.swap(off, e.Old|abi.SemDead, e.New|abi.SemDead)
	}
}

// lock takes the object's lock for t. EIDRM or ErrStale: the object ended, the
// lock is not held. EIO: the members keep it from everybody.
func (t *transaction) lock() error {
	o := t.o
	t.reset()
	var seen uint64
	var since time.Time
	for step := range patienceSteps {
		w := o.load(offLock)
		switch lockState(w) {
		case abi.LockFree:
			held := lockWord(lockEpoch(w), o.number(t.log.off), abi.LockHeld)
			if !o.cas(offLock, w, held) {
				continue
			}
			t.held = held
			fail(o.host, "locked")
			// Looked at under the lock: who takes it after the object was
			// poisoned sees it here, who had it before could not commit.
			if o.ended() {
				t.unlock()
				return o.gone()
			}
			return nil
		case abi.LockCommitted:
			o.help(w)
			continue
		case abi.LockHeld:
		default:
			o.settle(w) // no state of ours: a hostile member's noise
			continue
		}
		if w != seen {
			seen, since = w, time.Now()
		} else if impatient(step, since) {
			o.settle(w)
			continue
		}
		pause(step)
	}
	return unix.EIO
}

// holds says whether the lock is still ours. A true answer vouches for what
// was loaded before: nobody else had the lock by then.
func (t *transaction) holds() bool {
	return t.held != 0 && t.o.load(offLock) == t.held
}

// unlock gives up: nothing of the transaction happens.
func (t *transaction) unlock() {
	if t.held != 0 {
		t.o.cas(offLock, t.held, released(t.held))
		t.held = 0
	}
}

// renew starts the patience of others anew, in the midst of long work.
func (t *transaction) renew() bool {
	if t.held == 0 {
		return false
	}
	next := lockWord(lockEpoch(t.held)+1, lockCell(t.held), abi.LockHeld)
	if !t.o.cas(offLock, t.held, next) {
		t.held = 0
		return false
	}
	t.held = next
	return true
}
