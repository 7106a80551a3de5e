package manager

import (
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// Row 236: a killed process leaves no attach behind; the segment that waited
// for it goes.
func TestDeath(t *testing.T) {
	inBothWays(t, func(t *testing.T, cfg Config) {
		_, info := newManager(t, cfg, SpaceConfig{})
		p := mustPeer(t, info.Dir)
		id, err := p.get(Shm, 0, 0o600, 4096)
		check(t, err)
		for range 10 {
			child := newPuppet(t, info.Dir, nil)
			if out := child.do(order{Do: "attach", Args: []int64{id}}); out.Errno != 0 {
				t.Fatal(unix.Errno(out.Errno))
			}
			st, err := p.stat(Shm, id)
			check(t, err)
			if st.Count[0] != 1 || st.PID[0] != uint32(child.cmd.Process.Pid) {
				t.Errorf("attached: %+v", st)
			}
			child.kill()
			st, err = p.stat(Shm, id)
			check(t, err)
			if st.Count[0] != 0 || st.Time[1] == 0 || st.PID[0] != uint32(child.cmd.Process.Pid) {
				t.Errorf("dead: %+v", st)
			}
		}
		child := newPuppet(t, info.Dir, nil)
		child.do(order{Do: "attach", Args: []int64{id}})
		_, err = p.ctl(Shm, id, unix.IPC_RMID)
		check(t, err)
		_, err = p.stat(Shm, id)
		check(t, err)
		child.kill()
		_, err = p.stat(Shm, id)
		wantErr(t, "stat after the last process", err, unix.EINVAL)
	})
}

// Row 78: exec detaches; the session stays.
func TestExec(t *testing.T) {
	inBothWays(t, func(t *testing.T, cfg Config) {
		_, info := newManager(t, cfg, SpaceConfig{})
		p := mustPeer(t, info.Dir)
		id, err := p.get(Shm, 0, 0o600, 4096)
		check(t, err)
		child := newPuppet(t, info.Dir, nil)
		before := child.do(order{Do: "attach", Args: []int64{id}})
		child.do(order{Do: "exec"})
		after := child.call(abi.MsgFold)
		if after.Session != before.Session || string(after.Cookie) == string(before.Cookie) {
			t.Errorf("session %d and %d, cookies %x %x", before.Session, after.Session, before.Cookie, after.Cookie)
		}
		st, err := p.stat(Shm, id)
		check(t, err)
		if st.Count[0] != 0 || st.Time[1] == 0 {
			t.Errorf("stat after exec %+v", st)
		}
	})
}

// spare asks for one and maps its page.
func (p *peer) spare(t *testing.T, used uint32) (uint32, *page) {
	t.Helper()
	a, err := p.call(abi.MsgSpare, nil, int64(used))
	check(t, err)
	defer a.close()
	f := os.NewFile(uintptr(a.fds[0]), "page")
	a.fds = nil
	defer f.Close()
	pf, err := (&storage{}).mapPages(f, 0, 1)
	check(t, err)
	pg := pf.take(0)
	t.Cleanup(pg.close)
	return uint32(a.Val[0]), pg
}

// Row 77: a child counts from the fork on, without a message.
func TestSpare(t *testing.T) {
	inBothWays(t, func(t *testing.T, cfg Config) {
		_, info := newManager(t, cfg, SpaceConfig{})
		p := mustPeer(t, info.Dir)
		id, err := p.get(Shm, 0, 0o600, 4096)
		check(t, err)
		p.open(t, id)
		serial := p.record(Shm, id).Serial
		count := func(what string, want uint64) {
			t.Helper()
			st, err := p.stat(Shm, id)
			check(t, err)
			if st.Count[0] != want {
				t.Errorf("%s: nattch %d, want %d", what, st.Count[0], want)
			}
		}
		number, pg := p.spare(t, 0)
		v := pg.view()
		v.Uses[0] = abi.Use{Serial: serial, Count: 1, ATime: time.Now().UnixNano()}
		count("spare", 0)

		atomic.StoreUint32(&v.State, abi.PageReserved)
		count("a fork under way", 1)
		number, pg = p.spare(t, number)
		count("a fork that failed", 0)
		v = pg.view()
		other := newPuppet(t, info.Dir, nil)
		v.Uses[0] = abi.Use{Serial: serial, Count: 1, ATime: time.Now().UnixNano()}
		var now unix.Timespec
		check(t, unix.ClockGettime(unix.CLOCK_BOOTTIME, &now))
		v.Claimed = uint64(now.Nano())
		v.PID = uint32(other.cmd.Process.Pid)
		atomic.StoreUint32(&v.State, abi.PageClaimed)
		a, err := p.call(abi.MsgReap, nil, int64(number))
		check(t, err)
		if a.Val[0] != 0 {
			t.Error("a living child counts as dead")
		}
		other.kill()
		a, err = p.call(abi.MsgReap, nil, int64(number))
		check(t, err)
		if a.Val[0] != 1 {
			t.Error("a dead child counts as living")
		}
		count("child dead", 0)
	})
}

// REAP tells the dead from the living, and clears a stale hint.
func TestReap(t *testing.T) {
	_, info := newManager(t, Config{Unprivileged: true}, SpaceConfig{})
	p := mustPeer(t, info.Dir)
	child := newPuppet(t, info.Dir, nil)
	n := int64(child.call(abi.MsgFold).Session)
	pulse := &pulse{mem: p.pulse}
	atomic.StoreUint64(pulse.word64(uint32(n), abi.PulseAlive), 1<<30)
	a, err := p.call(abi.MsgReap, nil, n)
	check(t, err)
	if alive, ask := *pulse.word64(uint32(n), abi.PulseAlive), *pulse.word64(uint32(n), abi.PulseAsk); a.Val[0] != 0 || alive != 0 || ask == 0 {
		t.Errorf("alive: reaped %d, word %#x, ask %d", a.Val[0], alive, ask)
	}
	if a, err = p.call(abi.MsgWho, nil, n); err != nil || a.Val[0] != int64(child.cmd.Process.Pid) {
		t.Errorf("who: %v %v", a.Val, err)
	}
	child.kill()
	if a, err = p.call(abi.MsgReap, nil, n); err != nil || a.Val[0] != 1 {
		t.Errorf("dead: %v %v", a.Val, err)
	}
	if a, err = p.call(abi.MsgWho, nil, n); err != nil || a.Val[0] != int64(child.cmd.Process.Pid) {
		t.Errorf("who was it: %v %v", a.Val, err) // sempid of the dead
	}
}

// Many processes come and go at once.
func TestCrowd(t *testing.T) {
	inBothWays(t, func(t *testing.T, cfg Config) {
		m, info := newManager(t, cfg, SpaceConfig{})
		p := mustPeer(t, info.Dir)
		id, err := p.get(Shm, 0, 0o600, 4096)
		check(t, err)
		var crowd []*puppet
		for range 60 {
			crowd = append(crowd, newPuppet(t, info.Dir, nil))
		}
		for _, c := range crowd {
			c.start(order{Do: "attach", Args: []int64{id}})
		}
		for _, c := range crowd {
			if out := c.finish(); out.Errno != 0 {
				t.Error(unix.Errno(out.Errno))
			}
		}
		st, err := p.stat(Shm, id)
		check(t, err)
		if st.Count[0] != 60 {
			t.Errorf("nattch %d", st.Count[0])
		}
		for _, c := range crowd {
			_ = c.cmd.Process.Kill()
		}
		for _, c := range crowd {
			c.kill()
		}
		if st, err = p.stat(Shm, id); err != nil || st.Count[0] != 0 {
			t.Errorf("nattch %d %v after all died", st.Count[0], err)
		}
		if n := m.Spaces()[0].Sessions; n != 1 {
			t.Errorf("%d sessions", n)
		}
	})
}

// A process that begins a session with what a parent had, who is no session any more, may attach what
// it has mapped or open, by whatever path and for whatever access.
func TestInheritedSegments(t *testing.T) {
	inBothWays(t, func(t *testing.T, cfg Config) {
		_, info := newManager(t, cfg, SpaceConfig{})
		p := mustPeer(t, info.Dir)
		var ids []int64
		for _, size := range []int64{4096, 2 << 20} {
			for _, access := range []int64{abi.AccessRead, abi.AccessRead | abi.AccessWrite} {
				for _, mapped := range []bool{false, true} {
					id, err := p.get(Shm, 0, 0o600, size)
					check(t, err)
					a, err := p.call(abi.MsgOpen, nil, int64(Shm), id, access)
					check(t, err)
					t.Cleanup(a.close)
					if mapped {
						mem, err := mapFile(a.fds[0], abi.PageSize, unix.PROT_READ)
						check(t, err)
						t.Cleanup(func() { _ = unix.Munmap(mem) })
						a.close()
						a.fds = nil
					}
					ids = append(ids, id)
				}
			}
		}
		child := mustPeer(t, info.Dir)
		for i, id := range ids {
			child.count(p.record(Shm, id).Serial, 1)
			if st, err := p.stat(Shm, id); err != nil || st.Count[0] != 1 {
				t.Errorf("segment %d: %v, nattch %d", i, err, st.Count[0])
			}
		}
	})
}
