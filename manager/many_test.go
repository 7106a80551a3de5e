package manager

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// More objects than descriptors.
func TestManyObjects(t *testing.T) {
	inBothWays(t, func(t *testing.T, cfg Config) {
		m, info := newManager(t, cfg, SpaceConfig{})
		m.descriptors = 100
		p := mustPeer(t, info.Dir)
		var ids [abi.Families][]int64
		for f := range Family(abi.Families) {
			for range 60 {
				id, err := p.get(f, 0, 0o600, 1)
				check(t, err)
				ids[f] = append(ids[f], id)
			}
		}
		if n := openFiles(m.spaces["a"]); n > 50 {
			t.Errorf("%d files open", n)
		}
		for f, list := range ids {
			for _, id := range list {
				a, err := p.call(abi.MsgOpen, nil, int64(f), id, abi.AccessRead|abi.AccessWrite)
				check(t, err)
				if len(a.fds) == 0 {
					t.Errorf("%s %d: no descriptor", Family(f), id)
				}
				for _, fd := range a.fds {
					if err := unix.Ftruncate(fd, 0); !cfg.Unprivileged && err != unix.EACCES {
						t.Errorf("%s %d, opened again: ftruncate %v", Family(f), id, err)
					}
					if _, err := unix.Open(procFd(fd), unix.O_RDWR, 0); !cfg.Unprivileged && err != unix.EPERM {
						t.Errorf("%s %d, opened again: open %v", Family(f), id, err)
					}
				}
				a.close()
				if _, err := p.ctl(Family(f), id, unix.IPC_RMID); err != nil {
					t.Error(err)
				}
			}
		}
		if n := openFiles(m.spaces["a"]); n != 0 {
			t.Errorf("%d files stay open", n)
		}
	})
}

func openFiles(s *space) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.storage.open)
}
