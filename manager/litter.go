package manager

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// litter are the files that nobody needs any more, though clients may hold
// them. They are unlinked soon, many at a time, since a thread has to be ready
// to wait for each (jams). Their names never come again, so whatever comes
// between is harmless: what is left at the manager's end the next one removes.
type litter struct {
	mu    sync.Mutex
	paths []string
}

const litterPause = 20 * time.Millisecond

// discard has a file removed.
func (s *storage) discard(path string) {
	s.litter.mu.Lock()
	defer s.litter.mu.Unlock()
	s.litter.paths = append(s.litter.paths, path)
	if len(s.litter.paths) == 1 {
		time.AfterFunc(litterPause, s.clearLitter)
	}
}

// createFresh makes a file of a new name. If there is no room for it, what is to be
// removed goes first.
func (s *storage) createFresh(path string) (*os.File, error) {
	const flags = os.O_RDWR | os.O_CREATE | os.O_EXCL
	f, err := openFile(path, flags, 0o600)
	if errors.Is(err, unix.ENOSPC) {
		s.clearLitter()
		f, err = openFile(path, flags, 0o600)
	}
	return f, err
}

func (s *storage) clearLitter() {
	s.litter.mu.Lock()
	paths := s.litter.paths
	s.litter.paths = nil
	s.litter.mu.Unlock()
	for len(paths) > 0 {
		batch, gone := paths, new(atomic.Int64)
		err := s.jams.try(func() error {
			for _, path := range batch {
				_ = os.Remove(path)
				gone.Add(1)
			}
			return nil
		})
		if !errors.Is(err, errJammed) {
			return
		}
		paths = paths[min(int(gone.Load())+1, len(paths)):] // one is busy
	}
}
