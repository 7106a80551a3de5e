package plane

import (
	"unsafe"

	"github.com/ipcspace/ipcspace/client/abi"
)

// plain is a transaction of a few words that serves nobody: a message into a
// queue or out of it while nobody waits, which is what most calls are. It is
// the protocol that transaction has, step by step, without the books for
// changes that build on each other: each word is put once.
//
// It gives up where anything is out of the ordinary, with nothing done, and
// the caller begins a transaction.
type plain struct {
	o       *object
	log     int
	held    uint64
	n       int
	entries [8]abi.LogEntry
}

// begin takes a log cell and the lock, if both are free.
func (p *plain) begin(o *object) bool {
	w := o.load(offLock)
	if lockState(w) != abi.LockFree || o.load(offPending)&1 != 0 {
		return false
	}
	log, ok := o.alloc(abi.KindLog)
	if !ok {
		return false
	}
	p.o, p.log, p.held = o, log, lockWord(lockEpoch(w), o.number(log), abi.LockHeld)
	if !o.cas(offLock, w, p.held) {
		o.free(log)
		return false
	}
	fail(o.host, "locked")
	if o.ended() || o.load(offPending)&1 != 0 {
		p.giveUp()
		return false
	}
	return true
}

// giveUp ends it: nothing happened.
func (p *plain) giveUp() {
	p.o.cas(offLock, p.held, released(p.held))
	p.o.free(p.log)
}

// put changes a word. States of cells come last, as in every log.
func (p *plain) put(off int, old, new uint64) {
	p.entries[p.n] = abi.LogEntry{Off: uint64(off), Old: old, New: new}
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

// commit makes everything happen, or nothing: then the lock was lost.
func (p *plain) commit() bool {
	o, entries := p.o, p.entries[:p.n]
	log := (*abi.LogCell)(unsafe.Pointer(o.word(p.log)))
	copy(log.Entries[:], entries)
	log.Count = uint64(p.n)
	o.setNext(p.log, 0)
	fail(o.host, "recorded")
	committed := p.held&^abi.LockStateMask | abi.LockCommitted
	if !o.cas(offLock, p.held, committed) {
		o.free(p.log)
		return false
	}
	fail(o.host, "committed")
	o.apply(entries)
	fail(o.host, "applied")
	o.cas(offLock, committed, released(committed))
	o.free(p.log)
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
	p.stamp(offLastSend, q.host.Session())
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
	me := q.host.Session()
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
