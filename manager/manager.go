package manager

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// Manager keeps the spaces under one root.
type Manager struct {
	cfg Config
	log *slog.Logger

	mu     sync.Mutex
	spaces map[string]*space
	closed bool
}

// New prepares cfg.Root, adopts the spaces that are there and begins to serve
// them. Run ends what New began.
func New(cfg Config) (*Manager, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Manager{cfg: cfg, log: cfg.Log, spaces: map[string]*space{}}
	return m, nil
}

// Run serves until ctx is done, then stops. Spaces stay, unless Ephemeral.
func (m *Manager) Run(ctx context.Context) error {
	<-ctx.Done()
	return m.Close()
}

// Close stops serving.
func (m *Manager) Close() error {
	return nil
}

// CreateSpace makes a space and serves it. ErrInvalidName, ErrInvalid,
// ErrExists, ErrBudget.
func (m *Manager) CreateSpace(ctx context.Context, cfg SpaceConfig) (SpaceInfo, error) {
	return SpaceInfo{}, ErrInvalid
}

// RemoveSpace ends a space: sleepers get EIDRM, its files go. Memory attached
// stays mapped. ErrNoSpace; ErrInUse if processes are registered, unless force.
func (m *Manager) RemoveSpace(ctx context.Context, name string, force bool) error {
	_, err := m.find(name)
	return err
}

// Spaces lists the spaces by name.
func (m *Manager) Spaces() []SpaceInfo {
	m.mu.Lock()
	spaces := make([]*space, 0, len(m.spaces))
	for _, s := range m.spaces {
		spaces = append(spaces, s)
	}
	m.mu.Unlock()
	infos := make([]SpaceInfo, len(spaces))
	for i, s := range spaces {
		infos[i] = s.info()
	}
	slices.SortFunc(infos, func(a, b SpaceInfo) int { return strings.Compare(a.Name, b.Name) })
	return infos
}

// Space describes one space and what is in it. ErrNoSpace.
func (m *Manager) Space(name string) (SpaceDetail, error) {
	_, err := m.find(name)
	return SpaceDetail{}, err
}

// Objects lists the objects of a space by family and index. ErrNoSpace.
func (m *Manager) Objects(name string) ([]ObjectInfo, error) {
	_, err := m.find(name)
	return nil, err
}

// RemoveObject is IPC_RMID with the manager's rights. ErrNoSpace, ErrNoObject.
func (m *Manager) RemoveObject(ctx context.Context, name string, f Family, id int) error {
	_, err := m.find(name)
	return err
}

func (m *Manager) find(name string) (*space, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, ErrClosed
	}
	s := m.spaces[name]
	if s == nil {
		return nil, fmt.Errorf("space %q: %w; make it with: ipcspace space create NAME", name, ErrNoSpace)
	}
	return s, nil
}

type space struct{}

func (s *space) info() SpaceInfo { return SpaceInfo{} }
