package manager

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// newManager makes a manager with one space, mounted and sealed or in plain
// folders.
func newManager(t *testing.T, cfg Config, sc SpaceConfig) (*Manager, SpaceInfo) {
	t.Helper()
	if cfg.Root == "" {
		cfg.Root = tempRoot(t)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	cfg.Ephemeral = true
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	if sc.Name == "" {
		sc.Name = "a"
	}
	info, err := m.CreateSpace(context.Background(), sc)
	if err != nil {
		t.Fatal(err)
	}
	return m, info
}

// tempRoot is on tmpfs: plain folders have their files there.
func tempRoot(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "ipcspace-test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// inBothWays runs a test with mounts and without.
func inBothWays(t *testing.T, f func(t *testing.T, cfg Config)) {
	t.Helper()
	t.Run("plain", func(t *testing.T) { f(t, Config{Unprivileged: true}) })
	t.Run("mounted", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("needs root to mount")
		}
		f(t, Config{})
	})
}

func mustPeer(t *testing.T, dir string) *peer {
	t.Helper()
	p, err := newPeer(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSegment(t *testing.T) {
	inBothWays(t, func(t *testing.T, cfg Config) {
		_, info := newManager(t, cfg, SpaceConfig{})
		p := mustPeer(t, info.Dir)
		for _, size := range []int64{100, 3 << 20} {
			id, err := p.get(Shm, 0x1234, unix.IPC_CREAT|0o600, size)
			check(t, err)
			again, err := p.get(Shm, 0x1234, 0, 0)
			check(t, err)
			if again != id {
				t.Errorf("id %d, then %d", id, again)
			}
			mem, err := p.attach(id, abi.AccessRead|abi.AccessWrite)
			check(t, err)
			mem[0], mem[len(mem)-1] = 1, 2
			st, err := p.stat(Shm, id)
			check(t, err)
			if st.Count[0] != 1 || st.Size != uint64(size) || st.PID != [2]uint32{p.pid, p.pid} || st.Time[0] == 0 {
				t.Errorf("stat %+v", st)
			}
			if _, err := p.ctl(Shm, id, unix.IPC_RMID); err != nil { // rows 86, 87
				t.Fatal(err)
			}
			_, err = p.get(Shm, 0x1234, 0, 0)
			wantErr(t, "key after IPC_RMID", err, unix.ENOENT)
			st, err = p.stat(Shm, id)
			check(t, err)
			if st.Mode&abi.ModeDest == 0 || st.Key != 0 {
				t.Errorf("stat %+v after IPC_RMID", st)
			}
			p.detach(id, p.record(Shm, id).Serial, mem)
			_, err = p.call(abi.MsgDetached, nil, id)
			check(t, err)
			_, err = p.stat(Shm, id)
			wantErr(t, "stat after the last detach", err, unix.EINVAL)
		}
	})
}

func TestReadOnlyDescriptor(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	_, info := newManager(t, Config{}, SpaceConfig{})
	p := mustPeer(t, info.Dir)
	for _, size := range []int64{100, 3 << 20} {
		id, err := p.get(Shm, 0, 0o600, size)
		check(t, err)
		a, err := p.call(abi.MsgOpen, nil, int64(Shm), id, abi.AccessRead)
		check(t, err)
		defer a.close()
		_, err = unix.Open(procFd(a.fds[0]), unix.O_RDWR, 0)
		if !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EPERM) { // the mount, or the immutable flag
			t.Errorf("reopening a read-only descriptor: %v", err)
		}
	}
}

// Design, invariant 3.
func TestSealed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	_, info := newManager(t, Config{}, SpaceConfig{})
	p := mustPeer(t, info.Dir)
	for f := range Family(abi.Families) {
		id, err := p.get(f, 0, 0o600, 1)
		check(t, err)
		a, err := p.call(abi.MsgOpen, nil, int64(f), id, abi.AccessRead|abi.AccessWrite)
		check(t, err)
		defer a.close()
		for _, fd := range a.fds {
			wantErr(t, "ftruncate", unix.Ftruncate(fd, 0), unix.EACCES)
			_, err := unix.Open(procFd(fd), unix.O_RDWR, 0)
			wantErr(t, "open for writing", err, unix.EPERM)
			wantErr(t, "hole", unix.Fallocate(fd, 3, 0, 4096), unix.EPERM)
		}
	}
}

func procFd(fd int) string { return filepath.Join("/proc/self/fd", itoa(fd)) }
