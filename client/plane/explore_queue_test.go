//go:build explore

package plane

import (
	"context"
	"fmt"

	"github.com/ipcspace/ipcspace/client/abi"
)

// sends has a worker send messages of its name, one after the other.
func (b *bench) sends(name string, session uint32, texts ...string) *worker {
	q := b.queue(session)
	var w *worker
	w = b.x.add(name, session, func() {
		for _, text := range texts {
			w.doing = text
			if w.err = q.Send(context.Background(), 1, []byte(text), 0); w.err != nil {
				return
			}
			w.sent = append(w.sent, text)
			w.doing = ""
		}
	})
	return w
}

// receives has a worker receive so many messages.
func (b *bench) receives(name string, session uint32, room, n int) *worker {
	q := b.queue(session)
	var w *worker
	w = b.x.add(name, session, func() {
		buf := make([]byte, room)
		for range n {
			var length int
			w.doing = "?"
			if length, _, w.err = q.Receive(context.Background(), buf, 0, 0); w.err != nil {
				return
			}
			w.got = append(w.got, string(buf[:length]))
			w.doing, w.took = "", false
		}
	})
	return w
}

// queueHolds checks that each message is there once, whoever has it.
func (b *bench) queueHolds() error {
	q := b.queue(abi.ManagerSession)
	if b.moved {
		q.mem = b.fresh
		q.memory.limit.Store(0)
		q.refresh()
	}
	if !b.x.removed || b.moved {
		// As the next caller would: what a dead one left is settled.
		if err := q.locked(func(*transaction) error { return nil }); err != nil {
			return err
		}
		if err := q.Verify(); err != nil {
			return err
		}
		if err := b.waitersWait(q); err != nil {
			return err
		}
	}
	seen, queued := map[string]int{}, map[int]bool{}
	gone := 0 // taken by the dead
	for _, w := range b.x.workers {
		for _, text := range w.got {
			seen[text]++
		}
		if w.lost {
			gone++
		}
		if w.way == asleep && b.x.removed {
			return fmt.Errorf("%s sleeps in what is gone", w.name)
		}
	}
	if b.x.removed && !b.moved {
		return nil // the messages went with it
	}
	t := &transaction{o: &q.object, work: maxWork, limit: roomy}
	for c := t.walk(messages); c.next(); {
		buf := make([]byte, q.msgSize(c.cell))
		q.text(c.cell, len(buf), buf)
		seen[string(buf)]++
		queued[c.cell] = true
	}
	for _, w := range b.x.workers {
		for _, text := range w.sent {
			if seen[text] > 1 || seen[text] == 0 && gone == 0 {
				return fmt.Errorf("%q was sent, and is there %d times", text, seen[text])
			}
			if seen[text] == 0 {
				gone--
			}
		}
		if n := seen[w.doing]; w.doing != "" && (n > 1 || n == 1 && w.way == over) {
			return fmt.Errorf("%q was not sent (%v), and is there %d times", w.doing, w.err, n)
		}
	}
	inUse := 0
	for i := range exploredCells {
		st := q.state(q.cellsOff + i*abi.CellSize)
		if st.phase() == abi.CellFree || queued[q.cellsOff+i*abi.CellSize] {
			continue
		}
		ours := false
		for _, w := range b.x.workers {
			ours = ours || w.way == asleep && w.session == st.session()
		}
		if !ours {
			inUse++
		}
	}
	if inUse != 0 {
		return fmt.Errorf("%d cells are left over", inUse)
	}
	return nil
}

// waitersWait finds calls that sleep, though they could go on: those that were
// claimed by one who did not come back, too.
func (b *bench) waitersWait(q *Queue) error {
	for _, w := range b.x.workers {
		if w.way != asleep {
			continue
		}
		could := q.Stat().Messages > 0
		if w.doing != "?" {
			could = fit(q.load(offSent), q.load(offTaken), len(w.doing), q.host.QueueBytes())
		}
		if could {
			return fmt.Errorf("%s sleeps, but could go on", w.name)
		}
	}
	return nil
}

// Scenarios of queues: full is one byte less than two messages.
func twoSenders(x *exploration) func() error {
	b := newBench(x, 0, 100)
	mortal(b.sends("a", 7, "aa"), b.sends("b", 8, "bb"))
	return b.queueHolds
}

func handOver(x *exploration) func() error {
	b := newBench(x, 0, 100)
	mortal(b.receives("receiver", 8, 9, 1), b.sends("sender", 7, "aa"))
	return b.queueHolds
}

func twoReceivers(x *exploration) func() error {
	b := newBench(x, 0, 100)
	mortal(b.receives("first", 8, 9, 1), b.receives("second", 9, 9, 1), b.sends("sender", 7, "aa", "bb"))
	return b.queueHolds
}

func tooSmall(x *exploration) func() error {
	b := newBench(x, 0, 100)
	mortal(b.receives("small", 8, 1, 1), b.receives("large", 9, 9, 1), b.sends("sender", 7, "aa"))
	return b.queueHolds
}

func full(x *exploration) func() error {
	b := newBench(x, 0, 3)
	_ = b.queue(6).Send(context.Background(), 1, []byte("xx"), 0)
	mortal(b.sends("sender", 7, "aa"), b.receives("receiver", 8, 9, 2))
	b.x.add("before", 6, func() {}).sent = []string{"xx"}
	return b.queueHolds
}

func twoWaitForRoom(x *exploration) func() error {
	b := newBench(x, 0, 4)
	_ = b.queue(6).Send(context.Background(), 1, []byte("xxxx"), 0)
	mortal(b.sends("a", 7, "aa"), b.sends("b", 9, "bb"), b.receives("receiver", 8, 9, 1))
	b.x.add("before", 6, func() {}).sent = []string{"xxxx"}
	return b.queueHolds
}

func interruptedReceiver(x *exploration) func() error {
	b := newBench(x, 0, 100)
	bell := NewBell(new(uint32), 8)
	w := b.receives("receiver", 8, 9, 1)
	b.bells[8].bell = bell
	mortal(w, b.sends("sender", 7, "aa"))
	b.interrupts(bell)
	return b.queueHolds
}

func interruptedSender(x *exploration) func() error {
	b := newBench(x, 0, 3)
	_ = b.queue(6).Send(context.Background(), 1, []byte("xx"), 0)
	bell := NewBell(new(uint32), 8)
	w := b.sends("sender", 7, "aa")
	b.bells[7].bell = bell
	mortal(w, b.receives("receiver", 8, 9, 1))
	b.interrupts(bell)
	b.x.add("before", 6, func() {}).sent = []string{"xx"}
	return b.queueHolds
}

func removedQueue(x *exploration) func() error {
	b := newBench(x, 0, 100)
	mortal(b.receives("receiver", 8, 9, 1))
	m := b.queue(abi.ManagerSession)
	x.add("remover", abi.ManagerSession, func() {
		x.step()
		x.removed = true
		m.Remove()
	})
	return b.queueHolds
}

func movedQueue(x *exploration) func() error {
	b := newBench(x, 0, 100)
	mortal(b.receives("receiver", 8, 9, 1), b.sends("sender", 7, "aa"))
	m := b.queue(abi.ManagerSession)
	fresh, _ := NewQueue(b.fresh, nil, b.host(abi.ManagerSession))
	x.add("mover", abi.ManagerSession, func() {
		x.step()
		x.removed = true
		err := m.Poison()
		if err == nil {
			err = m.CopyTo(fresh)
		}
		if err != nil {
			x.wrong = err.Error()
		}
		b.moved = true
		m.WakeMoved()
	})
	return b.queueHolds
}
