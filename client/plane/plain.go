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
	free uint64 // the lock word
	cell logCell
	log  *abi.LogCell // in cell
	n    int
}

// begin sees the lock free.
func (p *plain) begin(o *object) (ok bool) {
	p.o, p.free = o, o.fetch(offLock)
	return lockState(p.free) == abi.LockFree && o.fetch(offPending)&1 == 0 && !o.ended()
}

// records says where put records changes; false: there is no log cell.
func (p *plain) records(l logCell) bool {
	p.cell, p.log = l, (*abi.LogCell)(unsafe.Pointer(p.o.word(l.off)))
	return l.off != 0
}

// put changes a word. States of cells come last, as in every log.
func (p *plain) put(off int, old, new uint64) {
	p.log.Entries[p.n] = abi.LogEntry{Off: uint64(off), Old: old, New: new}
	p.n++
}

func (p *plain) setLink(off int, number uint64) {
	old := p.o.fetch(off)
	p.put(off, old, link(old, number))
}

// stamp is transaction.stamp, of what now is.
func (p *plain) stamp(off int, now uint64) {
	if w := p.o.fetch(off); w != now {
		p.put(off, w, now)
	}
}

// commit makes everything happen, or nothing: then others were faster.
func (p *plain) commit() bool {
	o := p.o
	p.log.Count = uint64(p.n)
	if uint32(o.fetch(p.cell.off+offNext)) != 0 {
		o.setNext(p.cell.off, 0)
	}
	fail(o.host, "recorded")
	committed := lockWord(lockEpoch(p.free), o.number(p.cell.off), abi.LockCommitted)
	if !o.swap(offLock, p.free, committed) {
		o.giveLog(p.cell)
		return false
	}
	fail(o.host, "committed")
	o.apply(p.log.Entries[:p.n])
	fail(o.host, "applied")
	o.swap(offLock, committed, released(committed))
	o.giveLog(p.cell)
	return true
}

// sendPlain queues a message that fits, while no receiver waits.
func (q *Queue) sendPlain(message, size int) (done bool) {
	var p plain
	if !p.begin(&q.object) || uint32(q.fetch(offWaitHead)) != 0 {
		return false
	}
	sent, tail, from := q.fetch(offSent), q.fetch(offMsgTail), offMsgHead
	if uint32(q.fetch(offMsgHead)) != 0 {
		last, ok := q.near(tail)
		if !ok {
			return false
		}
		from = last + offNext
	}
	if !fit(sent, q.fetch(offTaken), size, q.host.QueueBytes()) || uint32(q.fetch(message+offNext)) != 0 || !p.records(q.takeLog()) {
		return false
	}
	p.stamp(offLastSend, lastWord(q.me))
	number := q.number(message)
	p.setLink(from, number)
	p.put(offMsgTail, tail, link(tail, number))
	p.put(offSent, sent, counted(sent, size))
	st := state(q.fetch(message))
	p.put(message, uint64(st), uint64(st.to(abi.CellQueued, 0)))
	return p.commit()
}

// receivePlain takes a message that is there and has room, while no sender waits.
// A short one is read before it is taken, which is right if it is taken then, and
// is free with that.
func (q *Queue) receivePlain(mode uint32, asked int64, room uint64, buf []byte) (n int, typ int64, done bool, err error) {
	var p plain
	if !p.begin(&q.object) || uint32(q.fetch(offSendHead)) != 0 || !q.host.Valid() {
		return 0, 0, false, nil
	}
	before, message := q.find(mode, asked)
	size := q.msgSize(message)
	if message == 0 || uint64(size) > room || !p.records(q.takeLog()) {
		return 0, 0, false, nil
	}
	from, last := offMsgHead, uint64(0)
	if before != 0 {
		from, last = before+offNext, q.number(before)
	}
	p.setLink(from, uint64(uint32(q.fetch(message+offNext))))
	if last != 0 && uint64(uint32(q.fetch(offMsgTail))) == q.number(message) {
		p.setLink(offMsgTail, last) // with no message left it does not count
	}
	p.stamp(offLastRecv, lastWord(q.me))
	taken := q.fetch(offTaken)
	p.put(offTaken, taken, counted(taken, size))
	st := state(q.fetch(message))
	if size > abi.MessageInline {
		p.put(message, uint64(st), uint64(st.owned(abi.CellOwned, abi.KindMessage, q.me)))
		if !p.commit() {
			return 0, 0, false, nil
		}
		fail(q.host, "taken")
		n, typ, err = q.unpack(message, buf)
		return n, typ, true, err
	}
	var text [abi.MessageInline]byte
	n, typ = copy(text[:min(size, len(buf))], q.mem[message+offText:]), q.msgType(message)
	p.put(message, uint64(st), uint64(st.owned(abi.CellFree, abi.KindNone, 0)))
	if !p.commit() {
		return 0, 0, false, nil
	}
	fail(q.host, "taken")
	q.put(offHint, q.number(message)-1)
	copy(buf, text[:n])
	return n, typ, true, nil
}

// find is search without the lock: what it finds holds if nobody has committed
// since. before is the message before it; 0: there is none.
func (q *Queue) find(mode uint32, asked int64) (before, message int) {
	link, prev := q.fetch(offMsgHead), 0
	for range q.cells() {
		cell, ok := q.near(link)
		if !ok {
			break
		}
		if st := state(q.fetch(cell)); st.kind() != abi.KindMessage || st.phase() != abi.CellQueued {
			break
		}
		if typ := int64(q.fetch(cell + offMsgType)); wanted(typ, mode, asked) {
			before, message = prev, cell
			if mode != abi.ReceiveLessEq || typ == 1 {
				break
			}
			asked = typ - 1
		}
		prev, link = cell, q.fetch(cell+offNext)
	}
	return before, message
}

// await waits a moment for a message, if nobody waited before.
func (q *Queue) await(mode uint32, asked int64) (came bool) {
	seen := ^uint64(0)
	return q.spinner.until(func() bool {
		sent := q.fetch(offSent)
		if sent == seen || uint32(q.fetch(offWaitHead)) != 0 {
			return false
		}
		seen = sent
		_, message := q.find(mode, asked)
		return message != 0
	})
}
