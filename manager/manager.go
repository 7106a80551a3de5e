package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Manager keeps the spaces under one root.
type Manager struct {
	cfg     Config
	log     *slog.Logger
	lock    *os.File // the root's, held: one manager at a time
	mounts  bool
	guard   *guard // nil: files are not sealed
	userns  *userns
	node    node
	work    sync.WaitGroup
	growth  *growth
	remains *remains
	deaths  *deaths
	budget  budget
	calls   atomic.Int64 // brokered calls under way
	count   atomic.Int64 // spaces served
	// descriptors is RLIMIT_NOFILE; the Go runtime has raised it already.
	descriptors int

	mu     sync.Mutex
	spaces map[string]*space
	closed bool
}

// New prepares cfg.Root, adopts the spaces that are there and begins to serve
// them. Run or Close ends what New began.
func New(cfg Config) (m *Manager, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Root == "" {
		return nil, fmt.Errorf("no root folder given: %w", ErrInvalid)
	}
	if cfg.Root, err = filepath.Abs(cfg.Root); err != nil {
		return nil, err
	}
	m = &Manager{cfg: cfg, log: calm(cfg.Log), budget: budget{most: cfg.Budget}, spaces: map[string]*space{}}
	made := m // returning an error makes m nil
	defer func() {
		if err != nil {
			made.release()
		}
	}()
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return nil, fmt.Errorf("limit of descriptors: %w", err)
	}
	m.descriptors = int(min(files.Cur, 1<<20))
	if err := m.prepareRoot(); err != nil {
		return nil, err
	}
	if m.userns, err = managerUserns(); err != nil {
		return nil, fmt.Errorf("own user namespace: %w", err)
	}
	m.node = newNode()
	if m.deaths, err = newDeaths(); err != nil {
		return nil, err
	}
	if err := m.adopt(); err != nil {
		return nil, err
	}
	return m, nil
}

// keep enters a space that is served.
func (m *Manager) keep(s *space) {
	m.spaces[s.name] = s
	s.asked.Store(time.Now().UnixNano())
	if Reclaim(s.state.header.Reclaim) == Delete {
		m.work.Go(func() { m.reclaim(s) })
	}
}

// Run serves until ctx is done, then stops. Spaces stay, unless Ephemeral.
func (m *Manager) Run(ctx context.Context) error {
	<-ctx.Done()
	return m.Close()
}

// Close stops serving. Spaces stay, unless Ephemeral.
func (m *Manager) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	spaces := m.spaces
	m.spaces = nil
	m.mu.Unlock()
	var errs []error
	for _, s := range spaces {
		if m.cfg.Ephemeral {
			errs = append(errs, s.destroy())
		} else {
			s.end()
		}
	}
	m.work.Wait()
	m.release()
	return errors.Join(errs...)
}

func (m *Manager) release() {
	if m.deaths != nil {
		m.deaths.close()
	}
	if m.growth != nil {
		m.growth.close()
	}
	m.remains.close()
	m.remains.close()
	if m.guard != nil {
		m.guard.close()
	}
	if m.lock != nil {
		_ = m.lock.Close()
	}
}
