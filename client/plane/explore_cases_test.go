//go:build explore

package plane

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ipcspace/ipcspace/client/abi"
)

var exploreDeep = flag.Bool("explore.deep", false, "one preemption more (many minutes)")

// bench is the object that a scenario's workers use.
type bench struct {
	x          *exploration
	mem, fresh []byte
	sems       int
	qbytes     uint64
	moved      bool
	bells      map[uint32]*explored
}

var benchMemory [2][]byte

func newBench(x *exploration, sems int, qbytes uint64) *bench {
	b := &bench{x: x, sems: sems, qbytes: qbytes, bells: map[uint32]*explored{}}
	roomy = 20
	for i := range benchMemory {
		if benchMemory[i] == nil {
			benchMemory[i] = make([]byte, abi.CellsOff(8)+exploredCells*abi.CellSize)
		}
		clear(benchMemory[i])
	}
	b.mem, b.fresh = benchMemory[0], benchMemory[1]
	x.died = func(w *worker) {
		o := &b.queue(abi.ManagerSession).object
		w.lost = lockState(load(o, offLock)) == abi.LockCommitted
		for i := range exploredCells {
			st := state(load(o, o.cellsOff+i*abi.CellSize))
			taken := st.kind() == abi.KindMessage && st.phase() == abi.CellOwned ||
				st.kind() == abi.KindReceiver && (st.phase() == abi.CellClaimed || st.phase() == abi.CellDone)
			w.lost = w.lost || st.session() == w.session && taken
		}
		// One that was free as soon as it was taken. A worker that receives
		// twice is the only one that receives, and finds all in the queue.
		last := uint32(load(o, offLastRecv) & abi.LastSessionMask)
		all := int(load(o, offTaken) >> abi.CounterCountShift)
		w.lost = w.lost || last == w.session && (len(w.got) == 0 || all > len(w.got))
		w.lost = (w.lost || w.took) && w.doing == "?"
	}
	x.waiting = func() error {
		if sems > 0 {
			return b.sleepersSleep(b.set(abi.ManagerSession))
		}
		return b.waitersWait(b.queue(abi.ManagerSession))
	}
	x.reaper = func(session uint32) {
		var err error
		if sems > 0 {
			err = b.set(abi.ManagerSession).ReapSession(session)
		} else {
			err = b.queue(abi.ManagerSession).ReapSession(session)
		}
		if err != nil && !x.removed {
			x.wrong = fmt.Sprintf("reaping: %v", err)
		}
	}
	return b
}

// load is no step.
func load(o *object, off int) uint64 { return *o.word(off) }

func (b *bench) host(session uint32) *explored {
	h := &explored{x: b.x, session: session, qbytes: b.qbytes, bell: NewBell(new(uint32), 8)}
	b.bells[session] = h
	return h
}

func (b *bench) queue(session uint32) *Queue {
	q, err := NewQueue(b.mem, nil, b.host(session))
	if err != nil {
		panic(err)
	}
	return q
}

func (b *bench) set(session uint32) *Set {
	s, err := NewSet(b.mem, b.sems, b.host(session))
	if err != nil {
		panic(err)
	}
	return s
}

// interrupts has a worker end another's wait, as a signal does.
func (b *bench) interrupts(bell *Bell) {
	b.x.add("signal", 0, func() {
		b.x.step()
		_ = b.x.quiet(func() error { // it is one step
			bell.mu.Lock()
			defer bell.mu.Unlock()
			for _, c := range bell.calls {
				c.interrupt()
			}
			return nil
		})
	})
}

func times(preemptions, kills, stops int) (left [kinds]int) {
	left[preempt], left[kill], left[stop], left[pick] = preemptions, kills, stops, 1
	return left
}

func mortal(ws ...*worker) {
	for _, w := range ws {
		w.mortal = true
	}
}

var scenarios = []scenario{
	{name: "two send", left: times(2, 0, 0), begin: twoSenders},
	{name: "... one is killed anywhere", left: times(1, 1, 0), begin: twoSenders},
	{name: "... one is stopped anywhere", left: times(1, 0, 1), begin: twoSenders},
	{name: "one receives, one sends", left: times(2, 0, 0), begin: handOver},
	{name: "... one is killed anywhere", left: times(1, 1, 0), begin: handOver},
	{name: "... one is stopped anywhere", left: times(1, 0, 1), begin: handOver},
	{name: "... a signal ends the wait", left: times(2, 0, 0), begin: interruptedReceiver},
	{name: "... and one is killed anywhere", left: times(1, 1, 0), begin: interruptedReceiver},
	{name: "two receive, one sends two", left: times(1, 0, 0), begin: twoReceivers},
	{name: "... one is killed anywhere", left: times(0, 1, 0), begin: twoReceivers},
	{name: "... one is stopped anywhere", left: times(0, 0, 1), begin: twoReceivers},
	{name: "one has too little room", left: times(1, 0, 0), begin: tooSmall},
	{name: "one sends to a full queue", left: times(2, 0, 0), begin: full},
	{name: "... one is killed anywhere", left: times(1, 1, 0), begin: full},
	{name: "... one is stopped anywhere", left: times(1, 0, 1), begin: full},
	{name: "... a signal ends the wait", left: times(2, 0, 0), begin: interruptedSender},
	{name: "... and one is killed anywhere", left: times(1, 1, 0), begin: interruptedSender},
	{name: "two wait for room", left: times(1, 0, 0), begin: twoWaitForRoom},
	{name: "... one is killed anywhere", left: times(0, 1, 0), begin: twoWaitForRoom},
	{name: "... one is stopped anywhere", left: times(0, 0, 1), begin: twoWaitForRoom},
	{name: "the queue is removed", left: times(2, 0, 0), begin: removedQueue},
	{name: "the queue is moved", left: times(2, 0, 0), begin: movedQueue},
	{name: "... one is killed anywhere", left: times(1, 1, 0), begin: movedQueue},
	{name: "two change two semaphores", left: times(2, 0, 0), begin: twoPairs},
	{name: "... one is killed anywhere", left: times(1, 1, 0), begin: twoPairs},
	{name: "... one is stopped anywhere", left: times(1, 0, 1), begin: twoPairs},
	{name: "two take one, with SEM_UNDO", left: times(2, 0, 0), begin: withUndo},
	{name: "... one is killed anywhere", left: times(1, 1, 0), begin: withUndo},
	{name: "... one is stopped anywhere", left: times(1, 0, 1), begin: withUndo},
	{name: "one takes, one gives", left: times(2, 0, 0), begin: wakes},
	{name: "... one is killed anywhere", left: times(1, 1, 0), begin: wakes},
	{name: "... one is stopped anywhere", left: times(1, 0, 1), begin: wakes},
	{name: "... a signal ends the wait", left: times(2, 0, 0), begin: interruptedSemop},
	{name: "two take, one gives two", left: times(1, 0, 0), begin: wakesTwo},
	{name: "... one is killed anywhere", left: times(0, 1, 0), begin: wakesTwo},
	{name: "... one is stopped anywhere", left: times(0, 0, 1), begin: wakesTwo},
	{name: "the set is removed", left: times(2, 0, 0), begin: removedSet},
	{name: "the set is moved", left: times(2, 0, 0), begin: movedSet},
	{name: "... one is killed anywhere", left: times(1, 1, 0), begin: movedSet},

	{name: "planted", planted: "the commit is not fenced", left: times(2, 0, 1), begin: twoSenders},
	{name: "planted", planted: "who is awake is served, too", left: times(1, 1, 0), begin: handOver},
	{name: "planted", planted: "nothing is ever Pending", left: times(1, 0, 0), begin: twoWaitForRoom},
	{name: "planted", planted: "a move leaves a free lock as it is", left: times(2, 0, 0), begin: movedQueue},
	{name: "planted", planted: blind, left: times(2, 0, 0), begin: removedQueue},
}

func TestExplore(t *testing.T) {
	var table strings.Builder
	setFailPoint(func(_ uint32, step string) {
		if step == "taken" && exploring != nil && exploring.current != nil {
			exploring.current.took = true
		}
	})
	defer setFailPoint(nil)
	for i := range scenarios {
		s := scenarios[i]
		if *exploreDeep && s.planted == "" {
			s.left[preempt]++
		}
		begun := time.Now()
		left := s.left
		runs, steps, wrong, plan := s.explore()
		result := "holds"
		switch {
		case s.planted != "" && wrong == "":
			result = "NOT FOUND"
			t.Errorf("planted, and not found: %s", s.planted)
		case s.planted != "":
			result = "found: " + wrong
		case wrong != "":
			result = "FAILS"
			var trace []string
			x, again := s.once(plan, [kinds]int{}, &trace)
			t.Errorf("%s: %s (again: %s)\nplan %+v\n%s\n%s", s.name, wrong, again, plan, x, strings.Join(trace[max(0, len(trace)-400):], "\n"))
		}
		name := s.name
		if s.planted != "" {
			name += ": " + s.planted
		}
		fmt.Fprintf(&table, "%-56s %d %d %d %9d runs %6.1f s  %s\n", name, left[preempt], left[kill], left[stop],
			runs, time.Since(begun).Seconds(), result)
		_ = steps
	}
	t.Logf("scenario, preemptions, kills, stops, runs, result\n%s", table.String())
}
