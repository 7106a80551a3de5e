package manager

import (
	"context"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// A manager killed at each step of a change: the next one knows of it what
// its client is told, and the change is made once.
func TestKilledInCreate(t *testing.T) {
	eachDaemon(t, func(t *testing.T, d *daemon) {
		d.start("")
		p := mustPeer(t, d.dir())
		for i, kill := range []string{"create: intended", "create: files made", "create: published", "create: entered", "create: kept"} {
			for f := range Family(abi.Families) {
				d.kill()
				d.start(kill)
				p.resume(t)
				before := p.header().InUse[f]
				a, err := d.again(p, abi.MsgGet, nil, int64(f), int64(10+i), unix.IPC_CREAT|unix.IPC_EXCL|0o600, 2<<20>>(11*f))
				if err != nil {
					t.Errorf("%s, %s: %v", kill, f, err)
					continue
				}
				id, err := p.get(f, uint32(10+i), 0, 0)
				if err != nil || id != a.Val[0] || p.header().InUse[f] != before+1 {
					t.Errorf("%s, %s: id %d, found %d %v; %d objects before, %d after", kill, f, a.Val[0], id, err, before, p.header().InUse[f])
				}
				// A file is made when somebody opens it.
				opened, err := p.call(abi.MsgOpen, nil, int64(f), id, abi.AccessRead|abi.AccessWrite)
				if err != nil {
					t.Errorf("%s, %s: open: %v", kill, f, err)
					continue
				}
				opened.close()
			}
		}
		if files, _ := filepath.Glob(filepath.Join(d.root, "private/a/*-*")); len(files) != 15+5+1 {
			t.Errorf("%d files: %v", len(files), files)
		}
	})
}

// A client that looks into the table while the next manager takes over finds each key,
// and as many objects as there are.
func TestTableInTakeover(t *testing.T) {
	eachDaemon(t, func(t *testing.T, d *daemon) {
		d.start("")
		p := mustPeer(t, d.dir())
		var keys []uint32
		for key := range uint32(400) {
			id, err := p.get(Sem, key+1, unix.IPC_CREAT|0o600, 2)
			check(t, err)
			if key%3 == 1 {
				_, err := p.call(abi.MsgCtl, nil, int64(Sem), id, unix.IPC_RMID)
				check(t, err)
			} else {
				keys = append(keys, key+1)
			}
		}
		h := p.header()
		type counts struct {
			inUse, top uint32
			sems       uint64
		}
		count := func() counts {
			return counts{atomic.LoadUint32(&h.InUse[Sem]), atomic.LoadUint32(&h.MaxIndex[Sem]), atomic.LoadUint64(&h.Sems)}
		}
		before := count()
		stop := make(chan struct{})
		var looker sync.WaitGroup
		looker.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, key := range keys {
					if !hasKey(p.table, Sem, key) {
						t.Errorf("key %d is missed", key)
						return
					}
				}
				if now := count(); now != before {
					t.Errorf("%v, not %v", now, before)
					return
				}
			}
		})
		for range 5 {
			d.kill()
			d.start("")
			p.resume(t)
		}
		close(stop)
		looker.Wait()
	})
}

// hasKey is a client's search.
func hasKey(table []byte, f Family, key uint32) bool {
	for b := bucketOf(key); ; b = (b + 1) % abi.KeyBuckets {
		e := atomic.LoadUint64((*uint64)(unsafe.Pointer(&table[abi.TableKeysOff+(int(f)*abi.KeyBuckets+int(b))*8])))
		if e == 0 || e&abi.KeyUsed != 0 && uint32(e) == key {
			return e != 0
		}
	}
}

func TestKilledInRemove(t *testing.T) {
	eachDaemon(t, func(t *testing.T, d *daemon) {
		d.start("")
		p := mustPeer(t, d.dir())
		for _, kill := range []string{"change: intended", "remove: closed", "remove: begun", "remove: withdrawn", "remove: sleepers woken", "remove: files removed", "change: done"} {
			for f := range Family(abi.Families) {
				if kill == "remove: closed" && f != Shm {
					continue
				}
				d.kill()
				d.start(kill)
				p.resume(t)
				id, err := p.get(f, 5, unix.IPC_CREAT|0o600, 1)
				check(t, err)
				if _, err := d.again(p, abi.MsgCtl, nil, int64(f), id, unix.IPC_RMID); err != nil {
					t.Errorf("%s, %s: %v", kill, f, err)
				}
				_, err = p.get(f, 5, 0, 0)
				wantErr(t, kill+": key", err, unix.ENOENT)
				if n := p.header().InUse[f]; n != 0 {
					t.Errorf("%s, %s: %d objects", kill, f, n)
				}
			}
		}
		if files, _ := filepath.Glob(filepath.Join(d.root, "private/a/[sm]*-*")); len(files) != 0 {
			t.Errorf("litter: %v", files)
		}
	})
}

// IPC_RMID of a segment that is attached.
func TestKilledInMark(t *testing.T) {
	eachDaemon(t, func(t *testing.T, d *daemon) {
		d.start("")
		p := mustPeer(t, d.dir())
		for _, kill := range []string{"change: intended", "remove: closed", "remove: marked", "change: done"} {
			d.kill()
			d.start(kill)
			p.resume(t)
			id, err := p.get(Shm, 5, unix.IPC_CREAT|0o600, 4096)
			check(t, err)
			mem, err := p.attach(id, abi.AccessRead|abi.AccessWrite)
			check(t, err)
			mem[7] = 7
			if _, err := d.again(p, abi.MsgCtl, nil, int64(Shm), id, unix.IPC_RMID); err != nil {
				t.Errorf("%s: %v", kill, err)
			}
			_, err = p.get(Shm, 5, 0, 0)
			wantErr(t, kill+": key", err, unix.ENOENT)
			st, err := p.stat(Shm, id)
			check(t, err)
			if st.Mode&abi.ModeDest == 0 || st.Count[0] != 1 || mem[7] != 7 {
				t.Errorf("%s: %+v", kill, st)
			}
			p.detach(id, p.record(Shm, id).Serial, mem)
			_, err = p.call(abi.MsgDetached, nil, id)
			check(t, err)
			_, err = p.stat(Shm, id)
			wantErr(t, kill+": stat after the last detach", err, unix.EINVAL)
		}
	})
}

// A parent reserves spares, whose children it has or has not; the manager is
// killed as it makes them and as it finds out what became of them.
func TestKilledInFork(t *testing.T) {
	eachDaemon(t, func(t *testing.T, d *daemon) {
		d.start("")
		p := mustPeer(t, d.dir())
		id, err := p.get(Shm, 0, 0o600, 4096)
		check(t, err)
		serial := p.record(Shm, id).Serial
		count := func() uint64 {
			st, err := p.stat(Shm, id)
			check(t, err)
			return st.Count[0]
		}
		for _, kill := range []string{"session: pages made", "session: pulse made", "session: page filled", "session: spare", "spare: kept"} {
			d.kill()
			d.start(kill)
			p.resume(t)
			a, err := d.again(p, abi.MsgSpare, nil, 0)
			if err != nil || len(a.fds) != 1 {
				t.Errorf("%s: %v", kill, err)
				continue
			}
			a.close() // it does not come to the parent
			for range 2 {
				other, err := p.get(Shm, 0, 0o600, 1)
				check(t, err)
				_, err = p.ctl(Shm, other, unix.IPC_RMID)
				check(t, err)
			}
		}
		d.kill()
		d.start("")
		p.resume(t)
		var pages []string
		for begun := time.Now(); len(pages) != 1; time.Sleep(time.Millisecond) {
			if pages, _ = filepath.Glob(filepath.Join(d.root, "private/a/pages-*")); time.Since(begun) > 5*time.Second {
				t.Fatalf("pages of spares that nobody got: %v", pages)
			}
		}
		for _, kill := range []string{"spare: given up", "death: begun", "death: folded"} {
			d.kill()
			d.start("")
			p.resume(t)
			number, pg := p.spare(t, 0)
			pg.view().Uses[0] = abi.Use{Serial: serial, Count: 1, ATime: time.Now().UnixNano()}
			atomic.StoreUint32(&pg.view().State, abi.PageReserved)
			if n := count(); n != 1 {
				t.Errorf("%s: nattch %d in a fork under way", kill, n)
			}
			d.kill()
			d.start(kill)
			p.resume(t)
			pg.close() // the fork failed, and nobody has the page
			tell := func() {
				a, err := p.call(abi.MsgSpare, nil, int64(number))
				check(t, err)
				a.close()
			}
			tell()
			d.wait() // it sees to that a moment later
			d.start("")
			p.resume(t)
			tell()
			for deadline := time.Now().Add(5 * time.Second); count() != 0; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%s: nattch %d after a fork that failed", kill, count())
				}
			}
		}
		for _, kill := range []string{"spare: child looked for", "session: bound"} {
			d.kill()
			d.start("")
			p.resume(t)
			child := newPuppet(t, d.dir(), nil)
			child.call(abi.MsgFold)
			number, pg := p.spare(t, 0)
			v := pg.view()
			v.Uses[0] = abi.Use{Serial: serial, Count: 1, ATime: time.Now().UnixNano()}
			var now unix.Timespec
			check(t, unix.ClockGettime(unix.CLOCK_BOOTTIME, &now))
			v.Claimed, v.PID = uint64(now.Nano()), uint32(child.cmd.Process.Pid)
			d.kill()
			d.start(kill)
			p.resume(t)
			atomic.StoreUint32(&v.State, abi.PageClaimed)
			a, err := d.again(p, abi.MsgReap, nil, int64(number))
			if err != nil || a.Val[0] != 0 {
				t.Errorf("%s: a living child counts as dead: %v", kill, err)
			}
			child.kill()
			a, err = p.call(abi.MsgReap, nil, int64(number))
			if err != nil || a.Val[0] != 1 {
				t.Errorf("%s: a dead child counts as living: %v", kill, err)
			}
			if n := count(); n != 0 {
				t.Errorf("%s: nattch %d, the child is dead", kill, n)
			}
		}
	})
}

// An answer in the session page is there as a whole or not at all, and then the
// next manager gives it.
func TestKilledInShortAnswer(t *testing.T) {
	eachDaemon(t, func(t *testing.T, d *daemon) {
		d.start("")
		p := mustPeer(t, d.dir())
		for i, kill := range []string{"answer: found", "answer: value stored", "answer: given"} {
			d.kill()
			d.start(kill)
			p.resume(t)
			before := p.header().InUse[Shm]
			p.seq++
			seq := p.seq
			awaited := uint64(seq)<<abi.AnswerSeqShift | abi.AnswerAwaited
			ask := func() {
				atomic.StoreUint64(&p.view().Answer, awaited)
				check(t, p.sendSeq(seq, abi.MsgGet, nil, int64(Shm), int64(20+i), unix.IPC_CREAT|unix.IPC_EXCL|0o600, 4096))
			}
			ask()
			if a, err := p.receive(); a != nil {
				t.Fatalf("%s: the manager lives: %v", kill, err)
			}
			d.wait()
			if given := atomic.LoadUint64(&p.view().Answer) != awaited; given != (kill == "answer: given") {
				t.Errorf("%s: given %v", kill, given)
			} else if !given {
				p.view().Value = -1
				d.start("")
				p.resume(t)
				ask()
				for deadline := time.Now().Add(5 * time.Second); atomic.LoadUint64(&p.view().Answer) == awaited && time.Now().Before(deadline); {
					time.Sleep(100 * time.Microsecond)
				}
			} else {
				d.start("")
				p.resume(t)
			}
			if w := atomic.LoadUint64(&p.view().Answer); w != uint64(seq)<<abi.AnswerSeqShift|abi.AnswerGiven {
				t.Fatalf("%s: answer %#x", kill, w)
			}
			id, err := p.get(Shm, uint32(20+i), 0, 0)
			if err != nil || id != p.view().Value || p.header().InUse[Shm] != before+1 {
				t.Errorf("%s: id %d, found %d %v; %d objects before, %d after", kill, p.view().Value, id, err, before, p.header().InUse[Shm])
			}
		}
	})
}

// IPC_SET that narrows the rights of a queue moves it.
func TestKilledInMove(t *testing.T) {
	eachDaemon(t, func(t *testing.T, d *daemon) {
		d.start("")
		p := mustPeer(t, d.dir())
		for _, kill := range []string{"change: intended", "move: files made", "move: closed", "move: poisoned", "move: copied", "move: published", "move: sleepers woken", "change: done"} {
			d.kill()
			d.start(kill)
			p.resume(t)
			queue, err := p.get(Msg, 5, unix.IPC_CREAT|0o666, 0)
			check(t, err)
			set, err := p.get(Sem, 5, unix.IPC_CREAT|0o666, 3)
			check(t, err)
			_, err = p.call(abi.MsgSend, []byte("hello"), queue, 1, 0)
			check(t, err)
			_, err = p.call(abi.MsgSemCtl, nil, set, 1, abi.SemSetVal, 7)
			check(t, err)
			qbytes := binary.LittleEndian.AppendUint64(nil, 16384)
			if _, err := d.again(p, abi.MsgCtl, qbytes, int64(Msg), queue, unix.IPC_SET, 0, 0, 0o600); err != nil {
				t.Errorf("%s: %v", kill, err)
			}
			d.kill()
			d.start(kill)
			p.resume(t)
			if _, err := d.again(p, abi.MsgCtl, nil, int64(Sem), set, unix.IPC_SET, 0, 0, 0o600); err != nil {
				t.Errorf("%s: %v", kill, err)
			}
			for f, id := range map[Family]int64{Msg: queue, Sem: set} {
				st, err := p.stat(f, id)
				check(t, err)
				if st.Mode != 0o600 {
					t.Errorf("%s, %s: mode %o", kill, f, st.Mode)
				}
			}
			a, err := p.call(abi.MsgReceive, nil, queue, 10, 0, unix.IPC_NOWAIT)
			if err != nil || string(a.body) != "hello" {
				t.Errorf("%s: received %v %v", kill, a, err)
			}
			a, err = p.call(abi.MsgSemCtl, nil, set, 1, abi.SemGetVal)
			if err != nil || a.Val[0] != 7 {
				t.Errorf("%s: value %v %v", kill, a, err)
			}
			_, err = p.ctl(Msg, queue, unix.IPC_RMID)
			check(t, err)
			_, err = p.ctl(Sem, set, unix.IPC_RMID)
			check(t, err)
		}
	})
}

// Processes that end while no manager is there, and managers that are killed
// as they see to that.
func TestKilledInDeath(t *testing.T) {
	eachDaemon(t, func(t *testing.T, d *daemon) {
		d.start("")
		p := mustPeer(t, d.dir())
		id, err := p.get(Shm, 0, 0o600, 4096)
		check(t, err)
		for _, kill := range []string{
			"", "death: begun", "death: reaped", "death: folded", "recover: slots read", "recover: sessions read",
			"recover: intent resolved", "recover: objects recovered", "recover: dead buried",
		} {
			child := newPuppet(t, d.dir(), nil)
			child.do(order{Do: "attach", Args: []int64{id}})
			d.kill()
			child.kill()
			if kill != "" && d.start(kill) {
				t.Errorf("%q: not killed", kill)
			}
			if !d.start("") {
				t.Fatalf("%q: no manager", kill)
			}
			p.resume(t)
			st, err := p.stat(Shm, id)
			check(t, err)
			if st.Count[0] != 0 || st.Time[1] == 0 || st.PID[0] != uint32(child.cmd.Process.Pid) {
				t.Errorf("%q: %+v", kill, st)
			}
		}
		if pages, _ := filepath.Glob(filepath.Join(d.root, "private/a/pages-*")); len(pages) != 1 {
			t.Errorf("pages left over: %v", pages)
		}
	})
}

// Processes that die while the dead are buried at a start wait for their turn.
func TestDeathsAtStart(t *testing.T) {
	inBothWays(t, func(t *testing.T, cfg Config) {
		cfg.Root = tempRoot(t)
		before, err := New(cfg)
		check(t, err)
		info, err := before.CreateSpace(context.Background(), SpaceConfig{Name: "a"})
		check(t, err)
		p := mustPeer(t, info.Dir)
		id, err := p.get(Shm, 0, 0o600, 4096)
		check(t, err)
		var crowd []*puppet
		for range 8 {
			c := newPuppet(t, info.Dir, nil)
			c.do(order{Do: "attach", Args: []int64{id}})
			crowd = append(crowd, c)
		}
		check(t, before.Close())
		crowd[0].kill()
		var under, met atomic.Int32
		var others sync.Once
		failpoint = func(step string) {
			switch step {
			case "death: begun":
				if under.Add(1) > 1 {
					met.Add(1)
				}
				others.Do(func() {
					for _, c := range crowd[1:] {
						c.kill()
					}
					time.Sleep(100 * time.Millisecond) // in which whoever watches them would begin
				})
			case "death: folded":
				under.Add(-1)
			}
		}
		cfg.Ephemeral = true
		m, err := New(cfg)
		check(t, err)
		p.resume(t)
		st, err := p.stat(Shm, id)
		check(t, err)
		if st.Count[0] != 0 {
			t.Errorf("nattch %d after all died", st.Count[0])
		}
		for deadline := time.Now().Add(5 * time.Second); m.Spaces()[0].Sessions != 1; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d sessions, one process", m.Spaces()[0].Sessions)
			}
		}
		check(t, m.Close())
		failpoint = nil
		if met.Load() > 0 {
			t.Error("a death was seen to in the middle of another")
		}
	})
}

func TestKilledInHello(t *testing.T) {
	eachDaemon(t, func(t *testing.T, d *daemon) {
		for _, kill := range []string{"session: pages made", "session: pulse made", "session: page filled", "session: spare", "session: bound"} {
			d.start(kill)
			if _, err := newPeer(d.dir()); err == nil {
				t.Errorf("%s: not killed", kill)
			}
			d.wait()
			d.start("")
			p := mustPeer(t, d.dir())
			if _, err := p.get(Shm, 0, 0o600, 1); err != nil {
				t.Error(err)
			}
			d.kill()
		}
	})
}

// A space is there as a whole or not at all.
func TestKilledInSpace(t *testing.T) {
	eachDaemon(t, func(t *testing.T, d *daemon) {
		for _, kill := range []string{"space: folders made", "space: private made", "space: public made", "space: table made"} {
			if d.start(kill) {
				t.Errorf("%s: not killed", kill)
			}
		}
		for _, kill := range []string{"destroy: ended", "destroy: table gone"} {
			d.start(kill)
			if _, err := mustPeer(t, d.dir()).get(Shm, 0, 0o600, 2<<20); err != nil {
				t.Error(err)
			}
			_, err := io.WriteString(d.in, "remove\n")
			check(t, err)
			d.wait()
		}
		m, err := New(Config{Root: d.root, Unprivileged: d.plain})
		check(t, err)
		defer m.Close()
		if spaces := m.Spaces(); len(spaces) != 0 {
			t.Errorf("spaces %v", spaces)
		}
		mounts, err := os.ReadFile("/proc/self/mounts")
		check(t, err)
		if strings.Contains(string(mounts), d.root) {
			t.Errorf("mounts left over:\n%s", mounts)
		}
	})
}
