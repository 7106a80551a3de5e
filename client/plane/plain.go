package plane

import (
	"unsafe"

	"github.com/ipcspace/ipcspace/client/abi"
)

// plain is a transaction of a few words that serves nobody: a message into a
// queue or out of it while nobody waits, which is what most calls are. Each
// word is put once, and the lock is not taken: it goes from FREE to COMMITTED
// when all was read and recorded. If it still is as begin saw it, nobody has
// committed since, for every transaction takes an epoch, and so all that was
// read holds at one moment, which is this one. The C library does the same, and
// its quick.h says at length why that is as good as holding the lock.
//
// It gives up where anything is out of the ordinary, with nothing done, and
// the caller begins a transaction.
type plain struct {
	o    *object
	cell int    // of the log
	free uint64 // the lock word
	log  *abi.LogCell
	n    int
}

// begin sees the lock free, and takes a log cell.
func (p *plain) begin(o *object) (ok bool) {
	p.o, p.free = o, o.load(offLock)
	if lockState(p.free) != abi.LockFree || o.load(offPending)&1 != 0 || o.ended() {
		return false
	}
	if p.cell, ok = o.alloc(abi.KindLog); ok {
		p.log = (*abi.LogCell)(unsafe.Pointer(o.word(p.cell)))
	}
	return ok
}

// giveUp ends it: nothing happened.
func (p *plain) giveUp() { p.o.free(p.cell) }

// put changes a word. States of cells come last, as in every log.
func (p *plain) put(off int, old, new uint64) {
	p.log.Entries[p.n] = abi.LogEntry{Off: uint64(off), Old: old, New: new}
	p.n++
}

func (p *plain) setLink(off int, number uint64) {
	old := p.o.load(off)
	p.put(off, old, link(old, number))
}

// stamp is transaction.stamp.
func (p *plain) stamp(off int, session uint32) {
	w := p.o.load(off)
	if now := uint64(Seconds())<<abi.LastTimeShift | uint64(session); w != now {
		p.put(off, w, now)
	}
}

// commit makes everything happen, or nothing: then others were faster.
func (p *plain) commit() bool {
	o := p.o
	p.log.Count = uint64(p.n)
	o.setNext(p.cell, 0)
	fail(o.host, "recorded")
	committed := lockWord(lockEpoch(p.free), o.number(p.cell), abi.LockCommitted)
	if !o.cas(offLock, p.free, committed) {
		o.free(p.cell)
		return false
	}
	fail(o.host, "committed")
	o.apply(p.log.Entries[:p.n])
	fail(o.host, "applied")
	o.cas(offLock, committed, released(committed))
	o.free(p.cell)
	return true
}

// sendPlain queues a message that fits, while no receiver waits.
func (q *Queue) sendPlain(message, size int) (done bool) {
	var p plain
	if uint32(q.load(offWaitHead)) != 0 || !p.begin(&q.object) {
		return false
	}
	sent := q.load(offSent)
	if uint32(q.load(offWaitHead)) != 0 || !q.fit(sent, q.load(offTaken), size) || uint32(q.load(message+offNext)) != 0 {
		p.giveUp()
		return false
	}
	p.stamp(offLastSend, q.me)
	number := q.number(message)
	last, ok := q.cell(q.load(offMsgTail))
	if _, some := q.cell(q.load(offMsgHead)); ok && some {
		p.setLink(last+offNext, number)
	} else {
		p.setLink(offMsgHead, number)
	}
	p.setLink(offMsgTail, number)
	p.put(offSent, sent, counted(sent, size))
	st := q.state(message)
	p.put(message, uint64(st), uint64(st.to(abi.CellQueued, 0)))
	return p.commit()
}

// receivePlain takes the first message, if it is the one, while no sender waits.
func (q *Queue) receivePlain(mode uint32, asked int64, room uint64) (message int, done bool) {
	var p plain
	if uint32(q.load(offMsgHead)) == 0 || uint32(q.load(offSendHead)) != 0 || mode == abi.ReceiveLessEq || !p.begin(&q.object) {
		return 0, false
	}
	message, ok := q.cell(q.load(offMsgHead))
	st, size := q.state(message), q.msgSize(message)
	if !ok || uint32(q.load(offSendHead)) != 0 || st.kind() != abi.KindMessage || st.phase() != abi.CellQueued ||
		!wanted(q.msgType(message), mode, asked) || uint64(size) > room {
		p.giveUp()
		return 0, false
	}
	me := q.me
	p.setLink(offMsgHead, uint64(uint32(q.load(message+offNext))))
	if uint64(uint32(q.load(offMsgTail))) == q.number(message) {
		p.setLink(offMsgTail, 0)
	}
	p.stamp(offLastRecv, me)
	taken := q.load(offTaken)
	p.put(offTaken, taken, counted(taken, size))
	p.put(message, uint64(st), uint64(st.owned(abi.CellOwned, abi.KindMessage, me)))
	return message, p.commit()
}
