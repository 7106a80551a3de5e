package manager

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client"
	"github.com/ipcspace/ipcspace/client/abi"
)

// Who sleeps in what is removed, or moved, is told so, at whatever step the manager dies, and the
// next one too.
func TestKilledWithSleepers(t *testing.T) {
	eachDaemon(t, func(t *testing.T, d *daemon) {
		ctx := context.Background()
		d.start("")
		p := mustPeer(t, d.dir())
		space, err := client.Open(ctx, client.Dir(d.dir()), client.Writable())
		check(t, err)
		defer space.Close()
		for _, kill := range []string{
			"remove: begun", "remove: withdrawn", "remove: sleepers woken", "remove: files removed",
			"move: closed", "move: poisoned", "move: copied", "move: published", "move: sleepers woken",
		} {
			removes := kill[0] == 'r'
			for _, f := range []Family{Sem, Msg} {
				id, err := p.get(f, 5, unix.IPC_CREAT|0o666, 1)
				check(t, err)
				over := make(chan error, 1)
				go func() {
					if f == Sem {
						over <- space.SetByID(int(id)).Op(ctx, client.Add(0, -1))
						return
					}
					_, _, err := space.QueueByID(int(id)).Receive(ctx, 0, make([]byte, 8))
					over <- err
				}()
				p.awaitSleeper(t, f, id)
				d.kill()
				d.start(kill)
				p.resume(t)
				request := []int64{int64(f), id, unix.IPC_RMID}
				var body []byte
				if !removes {
					request = []int64{int64(f), id, unix.IPC_SET, 0, 0, 0o600}
					body = binary.LittleEndian.AppendUint64(nil, 16384) // msg_qbytes
				}
				seq, err := p.send(abi.MsgCtl, body, request...)
				check(t, err)
				if _, err := p.receive(); err == nil {
					t.Fatalf("%s, %s: the manager lives", kill, f)
				}
				d.wait()
				if (kill == "remove: withdrawn" || kill == "move: published") && d.start("recover: litter found") {
					t.Errorf("%s, %s: the next manager was not killed", kill, f)
				}
				d.start("")
				p.resume(t)
				check(t, p.sendSeq(seq, abi.MsgCtl, body, request...))
				if _, err := p.receive(); err != nil {
					t.Errorf("%s, %s: %v", kill, f, err)
				}
				if !removes {
					p.awaitSleeper(t, f, id)
					if f == Sem {
						check(t, space.SetByID(int(id)).SetValue(0, 1))
					} else {
						check(t, space.QueueByID(int(id)).Send(ctx, 1, []byte("hello")))
					}
				}
				select {
				case err := <-over:
					if removes != errors.Is(err, unix.EIDRM) || !removes && err != nil {
						t.Errorf("%s, %s: the sleeper was told %v", kill, f, err)
					}
				case <-time.After(5 * time.Second):
					t.Fatalf("%s, %s: the sleeper was told nothing", kill, f)
				}
				if !removes {
					_, err = p.ctl(f, id, unix.IPC_RMID)
					check(t, err)
				}
			}
		}
	})
}

// awaitSleeper waits until somebody sleeps in a set of one semaphore or in a queue.
func (p *peer) awaitSleeper(t *testing.T, f Family, id int64) {
	t.Helper()
	a, err := p.call(abi.MsgOpen, nil, int64(f), id, abi.AccessRead)
	check(t, err)
	defer a.close()
	rec := p.record(f, id)
	sems := 0
	if f == Sem {
		sems = 1
	}
	mem, err := unix.Mmap(a.fds[0], 0, int(controlLength(sems, rec.Cells)), unix.PROT_READ, unix.MAP_SHARED)
	check(t, err)
	defer unix.Munmap(mem)
	for began := time.Now(); time.Since(began) < 5*time.Second; time.Sleep(time.Millisecond) {
		for cell := range int(rec.Cells) {
			state := *(*uint64)(unsafe.Pointer(&mem[abi.CellsOff(sems)+cell*abi.CellSize]))
			if state&abi.CellStateMask == abi.CellWaiting {
				return
			}
		}
	}
	t.Fatalf("nobody sleeps in %s %d", f, id)
}
