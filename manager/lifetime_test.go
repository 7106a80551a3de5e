package manager

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// What a container left behind while no manager was there goes, but not because the next one has no
// descriptors to see that the container is there: that one looks again.
func TestContainersThatCannotBeSeen(t *testing.T) {
	m, info := newManager(t, Config{}, SpaceConfig{LeftBehind: LeftUnused})
	p := mustPeer(t, info.Dir)
	id, err := p.get(Shm, 1, unix.IPC_CREAT|0o600, 1)
	check(t, err)

	s := m.spaces[info.Name]
	s.mu.Lock()
	st, err := s.state.session(s.objects[Shm][uint32(id)].rec.Creator)
	check(t, err)
	st.Container = containerTag("one that is gone")
	var limit unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	none := limit
	none.Cur = 0
	check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &none))
	_, seen := s.m.node.containerOf(1)
	s.resumeWatches()
	check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	s.mu.Unlock()

	wantErr(t, "a container, without descriptors", seen, unix.EMFILE)
	_, err = p.get(Shm, 1, 0, 0)
	check(t, err)
	eventually(t, "the object goes", func() bool {
		_, err := p.get(Shm, 1, 0, 0)
		return errors.Is(err, unix.ENOENT)
	})
}
