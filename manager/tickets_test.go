package manager

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// dieIn has a manager do a request and be killed in it, and starts the next one. The answer, if there
// was one, is lost or not, as the step says.
func (d *daemon) dieIn(p *peer, step string, kind uint32, body []byte, args ...int64) (seq uint32) {
	d.t.Helper()
	d.kill()
	d.start(step)
	p.resume(d.t)
	seq, err := p.send(kind, body, args...)
	check(d.t, err)
	_, _ = p.receive()
	d.wait()
	d.start("")
	p.resume(d.t)
	return seq
}

// plusOne is semop's +1 of the first semaphore.
var plusOne = []byte{0, 0, 1, 0, 0, 0}

// told counts the cells of an object that tell what became of a call.
func (d *daemon) told(p *peer, f Family, id int64) (n int) {
	d.t.Helper()
	rec := p.record(f, id)
	name, sems := setName(rec.Serial), int(rec.Size)
	if f == Msg {
		name, sems = queueName(rec.Serial), 0
	}
	b, err := os.ReadFile(filepath.Join(d.root, "private/a", name))
	check(d.t, err)
	for i := range int(rec.Cells) {
		st := binary.LittleEndian.Uint64(b[abi.CellsOff(sems)+i*abi.CellSize:])
		if st&abi.CellStateMask == abi.CellDone {
			n++
		}
	}
	return n
}

// A set and a queue, with messages of which each is long.
func (p *peer) setAndQueue(t *testing.T, messages int) (set, queue int64, text []byte) {
	t.Helper()
	set, err := p.get(Sem, 0, unix.IPC_CREAT|0o666, 1)
	check(t, err)
	queue, err = p.get(Msg, 0, unix.IPC_CREAT|0o666, 0)
	check(t, err)
	text = []byte(strings.Repeat("long", 700))
	for range messages {
		_, err = p.call(abi.MsgSend, text, queue, 7, 0)
		check(t, err)
	}
	return set, queue, text
}

// What brokered calls have come to goes along when their object moves before their client has asked
// the next manager, or as it was killed in the move itself: none happens twice.
func TestAnswerMoves(t *testing.T) {
	needRoot(t)
	d := newDaemon(t, false)
	d.start("")
	p := mustPeer(t, d.dir())
	set, queue, text := p.setAndQueue(t, 1)
	move := func(f Family, id int64, step string) {
		t.Helper()
		if step != "" {
			d.kill()
			d.start(step)
			p.resume(t)
		}
		before := p.record(f, id).Serial
		for _, mode := range []int64{0o666, 0o600} {
			_, _ = p.call(abi.MsgCtl, binary.LittleEndian.AppendUint64(nil, 16384), int64(f), id, unix.IPC_SET, 0, 0, mode)
		}
		if step != "" {
			d.wait()
			d.start("")
			p.resume(t)
		}
		if p.record(f, id).Serial == before {
			t.Errorf("%s %d was not moved", f, id)
		}
	}
	value := int64(0)
	for _, step := range []string{"", "move: poisoned", "move: copied", "move: published"} {
		const again = 1
		value++
		seq := d.dieIn(p, "broker: carried out", abi.MsgSemOp, plusOne, set, 1, -1)
		move(Sem, set, step)
		check(t, p.sendSeq(seq, abi.MsgSemOp, plusOne, set, 1, -1, 0, again))
		_, err := p.receive()
		check(t, err)
		a, err := p.call(abi.MsgSemCtl, nil, set, 0, abi.SemGetVal)
		if err != nil || a.Val[0] != value {
			t.Errorf("%q: semop: %v, the value is %d, want %d", step, err, a.Val[0], value)
		}

		seq = d.dieIn(p, "broker: carried out", abi.MsgSend, text, queue, 8, 0)
		move(Msg, queue, step)
		check(t, p.sendSeq(seq, abi.MsgSend, text, queue, 8, 0, 0, again))
		_, err = p.receive()
		check(t, err)
		if st, err := p.stat(Msg, queue); err != nil || st.Count[1] != 2 {
			t.Errorf("%q: msgsnd: %v, %d messages, want 2", step, err, st.Count[1])
		}

		seq = d.dieIn(p, "broker: carried out", abi.MsgReceive, nil, queue, 10000, 0, 0)
		move(Msg, queue, step)
		check(t, p.sendSeq(seq, abi.MsgReceive, nil, queue, 10000, 0, 0, again))
		a, err = p.receive()
		if err != nil || !bytes.Equal(a.body, text) {
			t.Errorf("%q: msgrcv: %v, %d bytes", step, err, len(a.body))
		}
		if st, err := p.stat(Msg, queue); err != nil || st.Count[1] != 1 {
			t.Errorf("%q: msgrcv: %v, %d messages, want 1", step, err, st.Count[1])
		}
	}
}

// A client that had its answer does not ask the next manager, which learns so from its next request.
func TestAnswerNobodyAsksFor(t *testing.T) {
	eachDaemon(t, func(t *testing.T, d *daemon) {
		d.start("")
		p := mustPeer(t, d.dir())
		set, queue, text := p.setAndQueue(t, 2)
		for range 2 {
			d.dieIn(p, "broker: answered", abi.MsgSemOp, plusOne, set, 1, -1)
			d.dieIn(p, "broker: answered", abi.MsgSend, text, queue, 8, 0)
			d.dieIn(p, "broker: answered", abi.MsgReceive, nil, queue, 10000, 0, 0)
		}
		if n, m := d.told(p, Sem, set), d.told(p, Msg, queue); n < 2 || m < 4 {
			t.Errorf("%d and %d cells of calls whose clients may ask, want 2 and 4 at least", n, m)
		}
		open := int64(p.seq + 1)
		_, err := p.call(abi.MsgSemOp, plusOne, set, 1, -1, 0, 0, open)
		check(t, err)
		_, err = p.call(abi.MsgReceive, nil, queue, 10000, 0, unix.IPC_NOWAIT, 0, open)
		check(t, err)
		eventually(t, "cells are freed", func() bool { return d.told(p, Sem, set)+d.told(p, Msg, queue) == 0 })
	})
}

// The program that a process begins with exec has not asked for anything.
func TestAnswerOfAnotherProgram(t *testing.T) {
	eachDaemon(t, func(t *testing.T, d *daemon) {
		d.start("")
		p := mustPeer(t, d.dir())
		set, queue, text := p.setAndQueue(t, 1)
		d.dieIn(p, "broker: answered", abi.MsgSemOp, plusOne, set, 1, -1)
		d.dieIn(p, "broker: answered", abi.MsgSend, text, queue, 8, 0)
		// What exec does to a session.
		_ = unix.Close(p.fd)
		check(t, unix.Munmap(p.page))
		q, err := newPeer(d.dir())
		check(t, err)
		defer q.close()
		if q.session != p.session {
			t.Fatalf("session %d after exec, %d before", q.session, p.session)
		}
		if n := d.told(q, Sem, set) + d.told(q, Msg, queue); n != 0 {
			t.Errorf("%d cells of the program before", n)
		}
	})
}

// A client that is cut off before it has its answer asks again, also the same manager.
func TestAnswerThatIsNotTold(t *testing.T) {
	inBothWays(t, func(t *testing.T, cfg Config) {
		var carriedOut atomic.Pointer[func()]
		failpoint = func(step string) {
			if step != "broker: carried out" {
				return
			}
			if f := carriedOut.Swap(nil); f != nil {
				(*f)()
			}
		}
		t.Cleanup(func() { failpoint = nil })
		_, info := newManager(t, cfg, SpaceConfig{})
		p := mustPeer(t, info.Dir)
		set, queue, text := p.setAndQueue(t, 1)
		ask := func(kind uint32, body []byte, args ...int64) *answer {
			t.Helper()
			const again = 1
			cut := make(chan struct{})
			carriedOut.Store(new(func() {
				_ = unix.Shutdown(p.fd, unix.SHUT_RDWR)
				close(cut)
			}))
			seq, err := p.send(kind, body, args...)
			check(t, err)
			<-cut
			for {
				p.resume(t)
				check(t, p.sendSeq(seq, kind, body, append(append(args, 0, 0, 0)[:4], again)...))
				a, err := p.receive()
				if a == nil || unix.Errno(a.Errno) != unix.ECONNRESET { // else the first is not over yet
					check(t, err)
					return a
				}
			}
		}
		ask(abi.MsgSemOp, plusOne, set, 1, -1)
		ask(abi.MsgSend, text, queue, 7, 0)
		if a := ask(abi.MsgReceive, nil, queue, 10000, 0, 0); !bytes.Equal(a.body, text) {
			t.Errorf("%d bytes received", len(a.body))
		}
		a, err := p.call(abi.MsgSemCtl, nil, set, 0, abi.SemGetVal)
		check(t, err)
		st, err := p.stat(Msg, queue)
		check(t, err)
		if a.Val[0] != 1 || st.Count[1] != 1 {
			t.Errorf("value %d, %d messages, want 1 and 1", a.Val[0], st.Count[1])
		}
	})
}
