package manager

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// scarcities are what a manager may have none of. begin takes it from one that serves, end gives it
// back.
var scarcities = []struct {
	name       string
	begin, end func(d *daemon) error
}{
	{"tmpfs full", func(d *daemon) error { return d.resize(0) }, func(d *daemon) error { return d.resize(1 << 30) }},
	{"no descriptors", func(d *daemon) error {
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.cmd.Process.Pid))
		return errorsFirst(err, d.rlimit(unix.RLIMIT_NOFILE, uint64(len(files))+3))
	}, func(d *daemon) error { return d.rlimit(unix.RLIMIT_NOFILE, 4096) }},
}

func (d *daemon) rlimit(which int, soft uint64) error {
	var l unix.Rlimit
	if err := unix.Prlimit(d.cmd.Process.Pid, which, nil, &l); err != nil {
		return err
	}
	l.Cur = min(soft, l.Max)
	return unix.Prlimit(d.cmd.Process.Pid, which, &l, nil)
}

// resize gives the private tmpfs that many bytes more than it has in use.
func (d *daemon) resize(more uint64) error {
	path := filepath.Join(d.root, "private/a")
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return err
	}
	size := (fs.Blocks-fs.Bfree)*uint64(fs.Bsize) + more
	return unix.Mount("ipcspace", path, "tmpfs", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=%d", size))
}

// A manager that runs out of anything says so to who asks, keeps what there is, and does all again
// once it has enough.
func TestScarce(t *testing.T) {
	needRoot(t)
	for _, scarcity := range scarcities {
		t.Run(scarcity.name, func(t *testing.T) {
			d := newDaemon(t, false)
			d.start("")
			p := mustPeer(t, d.dir())
			kept := p.makeOne(t, 5)
			before := p.header().InUse

			check(t, scarcity.begin(d))
			refused, served := p.useUp(t)
			_, lateErr := newPeer(d.dir())
			t.Logf("%d calls served, %d refused; a newcomer: %v", served, refused, lateErr)
			if refused == 0 && lateErr == nil {
				t.Error("nothing was scarce")
			}
			check(t, scarcity.end(d))

			p.checkOne(t, kept, 5)
			if p.header().InUse != before {
				t.Errorf("%v objects, not %v", p.header().InUse, before)
			}
			if refused, _ := p.useUp(t); refused != 0 {
				t.Errorf("%d calls refused with enough of all", refused)
			}
			mustPeer(t, d.dir())

			// Another manager finds it as scarce, serves or does not, and harms nothing.
			check(t, scarcity.begin(d))
			d.kill()
			ready := d.start("")
			t.Logf("the next manager: ready %v", ready)
			if ready {
				check(t, scarcity.end(d))
			} else {
				check(t, d.resize(1<<30))
				if !d.start("") {
					t.Fatal("no manager serves the space any more")
				}
			}
			p.resume(t)
			p.checkOne(t, kept, 5)
			if refused, _ := p.useUp(t); refused != 0 {
				t.Errorf("%d calls refused by the next manager", refused)
			}
		})
	}
}

// A manager that has too few descriptors to take a space over leaves it to one that has enough: no
// process is taken for dead because it could not be watched.
func TestFewDescriptors(t *testing.T) {
	needRoot(t)
	d := newDaemon(t, false)
	d.start("")
	p := mustPeer(t, d.dir())
	kept := p.makeOne(t, 5)
	_, err := p.call(abi.MsgSemCtl, nil, kept[Sem], 3, abi.SemSetVal, 76)
	check(t, err)
	_, err = p.call(abi.MsgSemOp, []byte{3, 0, 1, 0, 0, 0x10}, kept[Sem], 1, -1) // with SEM_UNDO
	check(t, err)
	ready := 0
	for d.descriptors = 8; d.descriptors < 64; d.descriptors++ {
		d.kill()
		if d.start("") {
			ready++
		}
	}
	t.Logf("%d of %d managers began", ready, d.descriptors-8)
	d.kill()
	d.descriptors = 0
	if !d.start("") {
		t.Fatal("no manager serves the space any more")
	}
	p.resume(t)
	p.checkOne(t, kept, 5) // not less: the undo is not applied
	if refused, _ := p.useUp(t); refused != 0 {
		t.Errorf("%d calls refused", refused)
	}
}

// A child that cannot be seen or watched, for the manager has no descriptor to do it with, is not
// taken for dead: it is looked at again.
func TestChildThatCannotBeWatched(t *testing.T) {
	needRoot(t)
	d := newDaemon(t, false)
	d.start("")
	p := mustPeer(t, d.dir())
	number, pg := p.spare(t, 0)
	child := exec.Command("sleep", "1000")
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	check(t, child.Start())
	time.Sleep(20 * time.Millisecond) // it started in a tick of the clock before the claim

	check(t, d.rlimit(unix.RLIMIT_NOFILE, 1))
	var now unix.Timespec
	check(t, unix.ClockGettime(unix.CLOCK_BOOTTIME, &now))
	v := pg.view()
	v.Claimed, v.PID, v.Address = uint64(now.Nano()), uint32(child.Process.Pid), abi.PageSize
	atomic.StoreUint32(&v.State, abi.PageClaimed)
	reap := func() int64 {
		a, err := p.call(abi.MsgReap, nil, int64(number))
		check(t, err)
		return a.Val[0]
	}
	for range 3 {
		if dead := reap(); dead != 0 || p.sessionState(number) != abi.SessionSpare {
			t.Errorf("unseen: dead %d, state %d", dead, p.sessionState(number))
		}
	}
	check(t, d.rlimit(unix.RLIMIT_NOFILE, 4096))
	if dead := reap(); dead != 0 || p.sessionState(number) != abi.SessionLive {
		t.Errorf("seen: dead %d, state %d", dead, p.sessionState(number))
	}
	check(t, child.Process.Kill())
	_ = child.Wait()
	eventually(t, "its end is noticed", func() bool { return p.sessionState(number) == abi.SessionDead })
}

// makeOne makes an object of each family, and writes to the segment.
func (p *peer) makeOne(t *testing.T, key uint32) (ids [abi.Families]int64) {
	t.Helper()
	for f := range Family(abi.Families) {
		id, err := p.get(f, key, unix.IPC_CREAT|unix.IPC_EXCL|0o600, []int64{Shm: 4096, Sem: 7, Msg: 0}[f])
		check(t, err)
		ids[f] = id
	}
	_, err := p.call(abi.MsgSemCtl, nil, ids[Sem], 3, abi.SemSetVal, 77)
	check(t, err)
	mem, err := p.attach(ids[Shm], abi.AccessRead|abi.AccessWrite)
	check(t, err)
	mem[100] = 77
	return ids
}

func (p *peer) checkOne(t *testing.T, ids [abi.Families]int64, key uint32) {
	t.Helper()
	for f, id := range ids {
		if got, err := p.get(Family(f), key, 0, 0); err != nil || got != id {
			t.Errorf("%s: id %d %v, not %d", Family(f), got, err, id)
		}
	}
	a, err := p.call(abi.MsgSemCtl, nil, ids[Sem], 3, abi.SemGetVal)
	check(t, err)
	if a.Val[0] != 77 {
		t.Errorf("value %d", a.Val[0])
	}
	a, err = p.call(abi.MsgOpen, nil, int64(Shm), ids[Shm], abi.AccessRead)
	check(t, err)
	defer a.close()
	mem, err := mapFile(a.fds[0], abi.PageSize, unix.PROT_READ)
	check(t, err)
	defer unix.Munmap(mem)
	if mem[100] != 77 {
		t.Errorf("byte %d", mem[100])
	}
}

// useUp makes, opens, changes and removes objects, more than there is room for if there is little.
func (p *peer) useUp(t *testing.T) (refused, served int) {
	t.Helper()
	note := func(what string, f Family, err error) bool {
		t.Helper()
		switch {
		case err == nil:
			served++
		case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EIO):
			refused++
		default:
			t.Errorf("%s of %s: %v", what, f, err)
		}
		return err == nil
	}
	type object struct {
		f  Family
		id int64
	}
	var made []object
	for i := range 60 {
		f := Family(i % abi.Families)
		id, err := p.get(f, 0, 0o600, []int64{Shm: 2 << 20, Sem: 9, Msg: 0}[f])
		if !note("get", f, err) {
			continue
		}
		made = append(made, object{f, id})
		a, err := p.call(abi.MsgOpen, nil, int64(f), id, abi.AccessRead|abi.AccessWrite)
		if note("open", f, err) {
			a.close()
		}
		if f == Sem {
			_, err = p.call(abi.MsgSemCtl, nil, id, 1, abi.SemSetVal, 5)
			note("SETVAL", f, err)
		}
		_, err = p.stat(f, id)
		note("IPC_STAT", f, err)
		_, err = p.call(abi.MsgGrow, nil, int64(f), id, 3000, 0)
		if f != Shm {
			note("growing", f, err)
		}
	}
	for _, o := range made {
		_, err := p.ctl(o.f, o.id, unix.IPC_RMID)
		if err != nil { // what exists can go, whatever there is not
			t.Errorf("IPC_RMID of %s: %v", o.f, err)
		}
	}
	return refused, served
}
