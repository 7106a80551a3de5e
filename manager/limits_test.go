package manager

import (
	"math/rand/v2"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Rows 42 to 45, 100 to 105, 168: limits and the order of errors.
func TestLimits(t *testing.T) {
	l := DefaultLimits()
	l.ShmMax, l.ShmAll, l.ShmMni = 1<<20, 300, 3
	l.SemMsl, l.SemMns, l.SemMni = 10, 15, 2
	l.MsgMni = 1
	inBothWays(t, func(t *testing.T, cfg Config) {
		_, info := newManager(t, cfg, SpaceConfig{Limits: &l})
		p := mustPeer(t, info.Dir)
		get := func(what string, f Family, key uint32, flags, size int64, want error) int64 {
			t.Helper()
			id, err := p.get(f, key, flags, size)
			if want != nil {
				wantErr(t, what, err, want)
			} else if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			return id
		}
		get("shm of 0", Shm, 0, 0o600, 0, unix.EINVAL)
		get("shm over shmmax", Shm, 0, 0o600, 1<<20+1, unix.EINVAL)
		get("shm of a negative size", Shm, 0, 0o600, -1, unix.EINVAL)
		get("shm of shmmax", Shm, 0, 0o600, 1<<20, nil)
		get("shm over shmall", Shm, 0, 0o600, 1<<20, unix.ENOSPC)
		if free, _ := hugePages(); free == 0 && os.Geteuid() == 0 {
			get("huge, none free", Shm, 0, 0o600|shmHugeTLB, 4096, unix.ENOMEM)
		}
		get("huge, unknown size", Shm, 0, 0o600|shmHugeTLB|5<<shmHugeShift, 4096, unix.EINVAL)
		get("shm", Shm, 0, 0o600, 1, nil)
		last := get("shm", Shm, 0, 0o600, 1, nil)
		get("shm over shmmni", Shm, 0, 0o600, 1, unix.ENOSPC)
		if _, err := p.ctl(Shm, last, unix.IPC_RMID); err != nil {
			t.Error(err)
		}
		get("shm after IPC_RMID", Shm, 0, 0o600, 1, nil)

		get("set over semmsl", Sem, 5, unix.IPC_CREAT|0o600, 11, unix.EINVAL)
		get("negative set", Sem, 5, unix.IPC_CREAT|0o600, -1, unix.EINVAL)
		get("set of 0", Sem, 5, unix.IPC_CREAT|0o600, 0, unix.EINVAL)
		get("set", Sem, 5, unix.IPC_CREAT|0o600, 10, nil)
		get("existing set over semmsl", Sem, 5, 0, 11, unix.EINVAL)
		get("existing set", Sem, 5, 0, 0, nil)
		get("set over semmns", Sem, 6, unix.IPC_CREAT|0o600, 6, unix.ENOSPC)
		get("set", Sem, 6, unix.IPC_CREAT|0o600, 5, nil)
		get("set over semmni", Sem, 7, unix.IPC_CREAT|0o600, 1, unix.ENOSPC)
		small := get("existing set", Sem, 6, 0, 5, nil)
		get("existing set, larger", Sem, 6, 0, 6, unix.EINVAL)
		if _, err := p.ctl(Sem, small, unix.IPC_RMID); err != nil {
			t.Error(err)
		}

		get("queue", Msg, 5, unix.IPC_CREAT|0o600, 0, nil)
		get("queue over msgmni", Msg, 6, unix.IPC_CREAT|0o600, 0, unix.ENOSPC)
		get("no such family", 3, 6, unix.IPC_CREAT|0o600, 0, unix.EINVAL)
	})
}

// The space's own size: a promise that cannot be kept is not made.
func TestSize(t *testing.T) {
	inBothWays(t, func(t *testing.T, cfg Config) {
		m, info := newManager(t, cfg, SpaceConfig{Size: 1 << 20})
		p := mustPeer(t, info.Dir)
		id, err := p.get(Shm, 0, 0o600, 1<<20)
		check(t, err)
		_, err = p.get(Shm, 0, 0o600, 1)
		wantErr(t, "segment", err, unix.ENOSPC)
		_, err = p.get(Sem, 0, 0o600, 1)
		wantErr(t, "set", err, unix.ENOMEM)
		_, err = p.ctl(Shm, id, unix.IPC_RMID)
		check(t, err)
		if used := m.Spaces()[0].Used; used != 0 {
			t.Errorf("%d bytes stay promised", used)
		}
		_, err = p.get(Sem, 0, 0o600, 1)
		check(t, err)
	})
}

// All spaces together promise no more than the node's budget, whatever their sizes are.
func TestBudget(t *testing.T) {
	inBothWays(t, func(t *testing.T, cfg Config) {
		cfg.Budget = 3 << 20
		m, first := newManager(t, cfg, SpaceConfig{Size: 2 << 20})
		second, err := m.CreateSpace(t.Context(), SpaceConfig{Name: "b", Size: 2 << 20})
		check(t, err)
		p, q := mustPeer(t, first.Dir), mustPeer(t, second.Dir)
		id, err := p.get(Shm, 0, 0o600, 2<<20)
		check(t, err)
		_, err = q.get(Shm, 0, 0o600, 2<<20)
		wantErr(t, "over the budget", err, unix.ENOSPC)
		_, err = q.get(Shm, 0, 0o600, 1<<20)
		check(t, err)
		_, err = p.ctl(Shm, id, unix.IPC_RMID)
		check(t, err)
		_, err = q.get(Shm, 0, 0o600, 1<<20)
		check(t, err)
	})
}

// No space takes the descriptors that the others need.
func TestTooManySpaces(t *testing.T) {
	inBothWays(t, func(t *testing.T, cfg Config) {
		m, _ := newManager(t, cfg, SpaceConfig{})
		m.descriptors = 3 * (8 + 2*leastOpen)
		for _, name := range []string{"b", "c"} {
			_, err := m.CreateSpace(t.Context(), SpaceConfig{Name: name})
			check(t, err)
		}
		_, err := m.CreateSpace(t.Context(), SpaceConfig{Name: "d"})
		wantErr(t, "a space too many", err, ErrTooMany)
		check(t, m.RemoveSpace(t.Context(), "b", false))
		_, err = m.CreateSpace(t.Context(), SpaceConfig{Name: "d"})
		check(t, err)
	})
}

// Rows 11 to 13: the same ids as the kernel's, for the same calls.
func TestIDsAsKernel(t *testing.T) {
	needRoot(t)
	_, info := newManager(t, Config{}, SpaceConfig{})
	p := mustPeer(t, info.Dir)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for ever: the thread is in another namespace
		if err := unix.Unshare(unix.CLONE_NEWIPC); err != nil {
			t.Error(err)
			return
		}
		random := rand.New(rand.NewPCG(1, 2))
		var ids []int64
		for i := range 3000 {
			if len(ids) > 0 && random.IntN(100) < 45+i/200 {
				n := random.IntN(len(ids))
				id := ids[n]
				ids = append(ids[:n], ids[n+1:]...)
				_, _, errno := unix.Syscall6(unix.SYS_MSGCTL, uintptr(id), unix.IPC_RMID, 0, 0, 0, 0)
				if _, err := p.ctl(Msg, id, unix.IPC_RMID); err != nil || errno != 0 {
					t.Errorf("remove %d: %v, kernel %v", id, err, errno)
					return
				}
				continue
			}
			kernel, _, errno := unix.Syscall(unix.SYS_MSGGET, 0, 0o600, 0)
			id, err := p.get(Msg, 0, 0o600, 0)
			if err != nil || errno != 0 || id != int64(kernel) {
				t.Errorf("step %d: id %d %v, kernel's %d %v", i, id, err, kernel, errno)
				return
			}
			ids = append(ids, id)
		}
	}()
	<-done
}
