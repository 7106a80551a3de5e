package manager

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// FuzzRecovery writes anything into what members can write, while no manager
// is there: control and data files, session pages, the pulse. Five bytes are
// one such store: file, place, value. The next manager must adopt the space
// and answer.
func FuzzRecovery(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0x81, 1, 0, 8, 0, 0xff, 0xff, 1, 0, 0, 2, 0})         // locks, counters
	f.Add([]byte{0, 0, 1, 1, 1, 0, 1, 1, 7, 1, 1, 1, 2, 5, 3, 2, 0, 3, 9, 9})   // lists, cells
	f.Add([]byte{3, 0, 0, 1, 0, 3, 0, 16, 0xff, 0xff, 4, 15, 0xe0, 0xff, 0xff}) // pages, pulse
	f.Fuzz(func(t *testing.T, stores []byte) {
		root := tempRoot(t)
		m, info := forFuzzing(t, root, true)
		p := mustPeer(t, info.Dir)
		set, err := p.get(Sem, 5, unix.IPC_CREAT|0o600, 4)
		check(t, err)
		queue, err := p.get(Msg, 5, unix.IPC_CREAT|0o600, 0)
		check(t, err)
		for _, o := range [][2]int64{{int64(Sem), set}, {int64(Msg), queue}} {
			a, err := p.call(abi.MsgOpen, nil, o[0], o[1])
			check(t, err)
			a.close()
		}
		_, err = p.call(abi.MsgGrow, nil, int64(Msg), queue, 20, 4)
		check(t, err)
		check(t, m.Close())
		spoil(t, filepath.Join(root, "private", "a"), stores)

		m, info = forFuzzing(t, root, false)
		defer func() { check(t, m.Close()) }()
		again, err := newPeer(info.Dir)
		if err != nil {
			t.Fatal("nobody gets in: ", err)
		}
		defer again.close()
		for f, id := range map[Family]int64{Sem: set, Msg: queue} {
			if _, err := again.stat(f, id); err != nil && !isErrno(err) {
				t.Errorf("IPC_STAT of %s: %v", f, err)
			}
			if _, err := again.ctl(f, id, unix.IPC_RMID); err != nil && !isErrno(err) {
				t.Errorf("IPC_RMID of %s: %v", f, err)
			}
		}
	})
}

// FuzzState writes anything into the manager's own state file, which no member
// can: a disk, or another version, may have. The space is adopted or refused,
// and nothing crashes. Five bytes are one store, as in FuzzRecovery.
func FuzzState(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 1, 1})                                                   // magic
	f.Add([]byte{0, 0, 8, 0xff, 0xff, 0, 0, 9, 5, 5, 0, 0, 13, 2, 0})              // sessions, intents
	f.Add([]byte{0, 2, 0, 3, 1, 0, 2, 4, 0xff, 9, 0, 2, 50, 1, 0, 0, 0, 20, 7, 7}) // a session
	f.Fuzz(func(t *testing.T, stores []byte) {
		root := tempRoot(t)
		m, info := forFuzzing(t, root, true)
		p := mustPeer(t, info.Dir)
		for family := range Family(abi.Families) {
			_, err := p.get(family, 5, unix.IPC_CREAT|0o600, 4)
			check(t, err)
		}
		check(t, m.Close())
		spoilFiles(t, []string{filepath.Join(root, "private", "a", "state")}, stores)

		m, err := New(Config{Root: root, Unprivileged: true, Ephemeral: true})
		if err != nil {
			if !errors.Is(err, ErrVersion) && !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		defer func() { _ = m.Close() }()
		if len(m.Spaces()) == 0 {
			return // out of service
		}
		again, err := newPeer(info.Dir)
		if err != nil {
			return // full, it says, or of none of these processes
		}
		defer again.close()
		if id, err := again.get(Shm, 0, 0o600, 1); err == nil {
			_, err = again.ctl(Shm, id, unix.IPC_RMID)
			check(t, err)
		}
	})
}

func isErrno(err error) bool {
	_, ok := err.(unix.Errno) //nolint:errorlint // what the peer returns
	return ok
}

// forFuzzing is a manager whose space stays when it is closed.
func forFuzzing(t *testing.T, root string, create bool) (*Manager, SpaceInfo) {
	t.Helper()
	m, err := New(Config{Root: root, Unprivileged: true})
	if err != nil {
		t.Fatal("the manager does not start: ", err)
	}
	if create {
		info, err := m.CreateSpace(context.Background(), SpaceConfig{Name: "a", Sessions: 16})
		check(t, err)
		return m, info
	}
	spaces := m.Spaces()
	if len(spaces) != 1 {
		t.Fatalf("%d spaces were adopted", len(spaces))
	}
	return m, spaces[0]
}

// spoil carries out stores on the files that members can write.
func spoil(t *testing.T, private string, stores []byte) {
	t.Helper()
	var files []string
	entries, err := os.ReadDir(private)
	check(t, err)
	for _, e := range entries {
		if n := e.Name(); n == "pulse" || strings.HasPrefix(n, "sem-") || strings.HasPrefix(n, "msg-") || strings.HasPrefix(n, "pages-") {
			files = append(files, filepath.Join(private, n))
		}
	}
	spoilFiles(t, files, stores)
}

func spoilFiles(t *testing.T, files []string, stores []byte) {
	t.Helper()
	for ; len(stores) >= 5; stores = stores[5:] {
		f, err := os.OpenFile(files[int(stores[0])%len(files)], os.O_RDWR, 0)
		check(t, err)
		fi, err := f.Stat()
		check(t, err)
		if n := min(fi.Size(), 1<<16) / 8; n > 0 {
			var v [8]byte
			binary.LittleEndian.PutUint64(v[:], uint64(stores[3])|uint64(stores[4])<<(stores[3]%56))
			_, err = f.WriteAt(v[:], int64(binary.BigEndian.Uint16(stores[1:]))%n*8)
			check(t, err)
		}
		_ = f.Close()
	}
}

// FuzzControlMessage reads the ancillary data of a packet.
func FuzzControlMessage(f *testing.F) {
	f.Add(unix.UnixCredentials(&unix.Ucred{Pid: 1}))
	f.Add(append(unix.UnixCredentials(&unix.Ucred{Pid: 1}), unix.UnixCredentials(&unix.Ucred{Pid: 2})...))
	f.Add([]byte{16, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0})
	f.Add(append(unix.UnixRights(-1), "no message of any kind"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		// Descriptors in it would be closed: those of this process.
		var err error
		for rest := b; len(rest) >= unix.CmsgLen(0) && err == nil; {
			var head unix.Cmsghdr
			if head, _, rest, err = unix.ParseOneSocketControlMessage(rest); err == nil && head.Type == unix.SCM_RIGHTS {
				return
			}
		}
		cred, told, passed := parseControl(b)
		if passed || err != nil && told {
			t.Errorf("%v %v %v", cred, told, passed)
		}
	})
}
