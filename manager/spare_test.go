package manager

import (
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// spares asks for as many as may be and maps their pages.
func (p *peer) spares(t *testing.T) (first uint32, pages []*page) {
	t.Helper()
	a, err := p.call(abi.MsgSpare, nil, 0, abi.MaxSpares)
	check(t, err)
	f := os.NewFile(uintptr(a.fds[0]), "pages")
	defer f.Close()
	pf, err := (&storage{}).mapPages(f, 0, int(a.Val[1]))
	check(t, err)
	for i := range pf.length {
		pages = append(pages, pf.take(i))
		t.Cleanup(pages[i].close)
	}
	return uint32(a.Val[0]), pages
}

func (p *peer) sessionState(n uint32) uint32 {
	const size = int(unsafe.Sizeof(abi.SessionRecord{}))
	r := (*abi.SessionRecord)(unsafe.Pointer(&p.table[abi.TableSessionsOff+int(n)*size]))
	return atomic.LoadUint32(&r.State)
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
	}
}

// A parent that forks again and again gets more at once; of forks in a row the
// manager is told of the first, and finds out about the others by itself.
func TestSpares(t *testing.T) {
	inBothWays(t, func(t *testing.T, cfg Config) {
		_, info := newManager(t, cfg, SpaceConfig{})
		p := mustPeer(t, info.Dir)
		var all []uint32
		for want := 1; want <= abi.MaxSpares; want *= 2 {
			_, pages := p.spares(t)
			if len(pages) != want {
				t.Fatalf("%d spares, want %d", len(pages), want)
			}
			for i, pg := range pages {
				number := pg.view().Session
				if p.sessionState(number) != abi.SessionSpare {
					t.Fatalf("session %d of spare %d is none", number, i)
				}
				atomic.StoreUint32(&pg.view().State, abi.PageForked) // a fork that failed
				if atomic.LoadUint32(&p.header().Forks) == 0 {
					_, err := p.send(abi.MsgForked, nil, int64(number))
					check(t, err)
				}
				all = append(all, number)
			}
			eventually(t, "spares are cleaned up", func() bool {
				return !slices.ContainsFunc(all, func(n uint32) bool { return p.sessionState(n) == abi.SessionSpare })
			})
			for i, pg := range pages {
				if atomic.CompareAndSwapUint32(&pg.view().State, abi.PageForked, abi.PageClaimed) {
					t.Errorf("a late child gets the session of spare %d, which was cleaned up", i)
				}
			}
			eventually(t, "the manager looks no more", func() bool { return atomic.LoadUint32(&p.header().Forks) == 0 })
		}
	})
}

// Nobody gets many where others would get none.
func TestSparesOfASmallSpace(t *testing.T) {
	_, info := newManager(t, Config{Unprivileged: true}, SpaceConfig{Sessions: 20})
	p := mustPeer(t, info.Dir)
	for range 3 {
		if _, pages := p.spares(t); len(pages) != 1 {
			t.Errorf("%d spares of 20 sessions", len(pages))
		}
	}
}

// A child may write in its own page, not in those of its brothers and sisters.
func TestSpareOfMany(t *testing.T) {
	_, info := newManager(t, Config{Unprivileged: true}, SpaceConfig{})
	p := mustPeer(t, info.Dir)
	p.spares(t)
	_, pages := p.spares(t)
	fd, err := register(info.Dir)
	check(t, err)
	child := &peer{dir: info.Dir, fd: fd}
	defer child.close()
	cookie := pages[1].view().Cookie
	a, err := child.call(abi.MsgHello, cookie[:], abi.LayoutMajor, int64(pages[1].view().Session), abi.PageReserved)
	check(t, err)
	defer a.close()
	if len(a.fds) != 2 {
		t.Errorf("%d descriptors for the child of one of two spares", len(a.fds))
	}
	for _, fd := range a.fds {
		var st unix.Stat_t
		check(t, unix.Fstat(fd, &st))
		if st.Size == 2*abi.PageSize {
			t.Error("it has the pages of both")
		}
	}
}

func TestMapsPage(t *testing.T) {
	const maps = `7f0000000000-7f0000004000 rw-s 00002000 00:2a 77                         /run/pages-1
7f0000008000-7f0000009000 rw-s 00000000 00:2b 77                         /run/pages-2
`
	of := inode{unix.Mkdev(0, 0x2a), 77}
	for offset, want := range map[uint64]bool{0: false, 0x1000: false, 0x2000: true, 0x5000: true, 0x6000: false} {
		if got := mapsPage(maps, of, offset); got != want {
			t.Errorf("offset %#x: %v", offset, got)
		}
	}
	if mapsPage(maps, inode{of.dev, 78}, 0x2000) {
		t.Error("another file")
	}
}

// A child that calls exec before anybody looked at its spare has that session
// still, and what is to be undone for it.
func TestSpareOfExec(t *testing.T) {
	_, info := newManager(t, Config{Unprivileged: true}, SpaceConfig{})
	p := mustPeer(t, info.Dir)
	number, pg := p.spare(t, 0)
	var now unix.Timespec
	check(t, unix.ClockGettime(unix.CLOCK_BOOTTIME, &now))
	v := pg.view()
	v.Claimed, v.PID, v.Address = uint64(now.Nano()), uint32(os.Getpid()), abi.PageSize // where nothing is mapped
	atomic.StoreUint32(&v.State, abi.PageClaimed)
	after := mustPeer(t, info.Dir)
	if after.session != number {
		t.Errorf("session %d, not %d", after.session, number)
	}
}

// A child of several, whose pages are in one file, gets a page of a new file after exec. Killed in
// between, neither manager takes another child's page for it. (The two children are this process.)
func TestKilledInRenewal(t *testing.T) {
	eachDaemon(t, func(t *testing.T, d *daemon) {
		d.start("")
		p := mustPeer(t, d.dir())
		id, err := p.get(Shm, 0, 0o600, 4096)
		check(t, err)
		p.open(t, id)
		attached := func(when string, want uint64) {
			t.Helper()
			if st, err := p.stat(Shm, id); err != nil || st.Count[0] != want {
				t.Errorf("%s: %v, nattch %d, want %d", when, err, st.Count[0], want)
			}
		}
		p.spares(t)
		_, pages := p.spares(t)
		var now unix.Timespec
		check(t, unix.ClockGettime(unix.CLOCK_BOOTTIME, &now))
		claim := func(v *abi.SessionPage, address uint64) uint32 {
			v.Claimed, v.PID, v.Address = uint64(now.Nano()), uint32(os.Getpid()), address
			atomic.StoreUint32(&v.State, abi.PageClaimed)
			_, err := p.call(abi.MsgReap, nil, int64(v.Session))
			check(t, err)
			return v.Session
		}
		first, second := pages[0].view(), pages[1].view()
		first.Uses[0] = abi.Use{Serial: p.record(Shm, id).Serial, Count: 1, ATime: time.Now().UnixNano()}
		claim(first, uint64(uintptr(unsafe.Pointer(first))))
		number := claim(second, abi.PageSize) // where nothing is mapped, as after exec
		attached("before", 1)

		d.kill()
		d.start("session: page turned")
		if _, err := newPeer(d.dir()); err == nil {
			t.Fatal("the manager lives")
		}
		d.wait()
		d.start("")
		p.resume(t)
		attached("killed", 1)
		q := mustPeer(t, d.dir())
		if q.session != number || q.view().Session != number {
			t.Errorf("session %d, in its page %d, want %d", q.session, q.view().Session, number)
		}
		attached("begun anew", 1)
		atomic.StoreUint32(&first.Uses[0].Count, 0)
		attached("detached", 0)
	})
}
