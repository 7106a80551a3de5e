package manager

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// Who keeps the files of removed objects mapped has no more of them than the space's size.
func TestRemains(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	const size = 4 << 20
	for _, made := range []struct {
		f      Family
		length int64
	}{{Sem, 100}, {Msg, 0}, {Shm, largeSegment / 2}, {Shm, largeSegment}} {
		f, length := made.f, made.length
		for _, mapping := range []bool{true, false} {
			t.Run(f.String(), func(t *testing.T) {
				m, info := newManager(t, Config{}, SpaceConfig{Size: size})
				p := mustPeer(t, info.Dir)
				s := m.spaces[info.Name]
				var maps [][]byte
				var answers []*answer
				for {
					id, err := p.get(f, 0, 0o600, length)
					if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ENOSPC) {
						break
					}
					check(t, err)
					a, err := p.call(abi.MsgOpen, nil, int64(f), id, abi.AccessRead|abi.AccessWrite)
					check(t, err)
					if mapping {
						mem, err := unix.Mmap(a.fds[0], 0, abi.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
						check(t, err)
						maps = append(maps, mem)
						a.close()
					} else {
						answers = append(answers, a)
					}
					_, err = p.ctl(f, id, unix.IPC_RMID)
					check(t, err)
					if held := s.storage.held.Load(); held > 2*size {
						t.Fatalf("%d bytes are held, of a space of %d", held, size)
					}
				}
				if held := s.storage.held.Load(); held < size/2 {
					t.Errorf("refused when %d bytes were held, of a space of %d", held, size)
				}
				for _, mem := range maps {
					check(t, unix.Munmap(mem))
				}
				for _, a := range answers {
					a.close()
				}
				for range 2 {
					id, err := p.get(Shm, 0, 0o600, size)
					check(t, err)
					_, err = p.ctl(Shm, id, unix.IPC_RMID)
					check(t, err)
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				s.storage.remains.look()
				if held := s.storage.held.Load(); held+s.storage.promised+m.budget.used.Load() != 0 {
					t.Errorf("in the end %d bytes are held, %d promised, %d of the budget", held, s.storage.promised, m.budget.used.Load())
				}
			})
		}
	}
}

// Events that did not fit the kernel's queue are found out about.
func TestRemainsLost(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	m, info := newManager(t, Config{}, SpaceConfig{})
	p := mustPeer(t, info.Dir)
	var answers []*answer
	for range 3 {
		id, err := p.get(Sem, 0, 0o600, 1)
		check(t, err)
		a, err := p.call(abi.MsgOpen, nil, int64(Sem), id, abi.AccessRead)
		check(t, err)
		answers = append(answers, a)
		_, err = p.ctl(Sem, id, unix.IPC_RMID)
		check(t, err)
	}
	answers[0].close()
	answers[1].close()
	m.remains.mu.Lock()
	_, _ = unix.Read(m.remains.fd, make([]byte, 4096))
	m.remains.compare()
	if n := len(m.remains.parts); n != 1 {
		t.Errorf("%d files are held, want 1", n)
	}
	m.remains.mu.Unlock()
	answers[2].close()
	m.remains.look()
	if n := m.budget.used.Load(); n != 0 {
		t.Errorf("%d bytes of the budget are used", n)
	}
}
