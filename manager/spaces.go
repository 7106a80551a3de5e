package manager

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ipcspace/ipcspace/client/abi"
)

// CreateSpace makes a space and serves it. ErrInvalidName, ErrInvalid,
// ErrExists, ErrTooMany.
func (m *Manager) CreateSpace(ctx context.Context, cfg SpaceConfig) (SpaceInfo, error) {
	if cfg.Size == 0 {
		cfg.Size = m.cfg.DefaultSize
	}
	if err := cfg.complete(); err != nil {
		return SpaceInfo{}, err
	}
	if err := ctx.Err(); err != nil {
		return SpaceInfo{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return SpaceInfo{}, ErrClosed
	}
	if m.spaces[cfg.Name] != nil {
		return SpaceInfo{}, fmt.Errorf("space %q: %w; remove it first, or choose another name", cfg.Name, ErrExists)
	}
	if most := m.mostSpaces(); len(m.spaces) >= most {
		return SpaceInfo{}, fmt.Errorf("create space %q: %w: this manager bears %d", cfg.Name, ErrTooMany, most)
	}
	s := m.newSpace(cfg.Name)
	if err := s.create(cfg); err != nil {
		return SpaceInfo{}, fmt.Errorf("create space %q: %w", cfg.Name, err)
	}
	if err := s.serve(); err != nil {
		return SpaceInfo{}, fmt.Errorf("serve space %q: %w", cfg.Name, errors.Join(err, s.destroy()))
	}
	m.keep(s)
	s.log.Info("space created", "size", cfg.Size, "sealed", s.storage.guard != nil)
	return s.info(), nil
}

// RemoveSpace ends a space: sleepers get EIDRM, its files go. Memory attached
// stays mapped. ErrNoSpace; ErrInUse if processes are registered, unless force.
func (m *Manager) RemoveSpace(ctx context.Context, name string, force bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.findLocked(name)
	if err != nil {
		return err
	}
	if n := s.live(); n > 0 && !force {
		return fmt.Errorf("space %q has %d processes: %w; stop them, or remove it by force", name, n, ErrInUse)
	}
	// Agents of the node that see the folders of others are in no pod that the space admits.
	members, err := s.members()
	if err != nil && !force {
		return fmt.Errorf("space %q: who has it is not known: %w", name, err)
	}
	members = slices.DeleteFunc(members, func(m member) bool { return s.door.refuses(m.pid) != nil })
	if len(members) > 0 && !force {
		return fmt.Errorf("space %q is mounted in %d containers (%q and so on): %w; stop them, or remove it by force",
			name, len(members), members[0].container, ErrInUse)
	}
	delete(m.spaces, name)
	if err := s.destroy(); err != nil {
		return fmt.Errorf("remove space %q: %w", name, err)
	}
	s.log.Info("space removed")
	return nil
}

// Spaces lists the spaces by name.
func (m *Manager) Spaces() []SpaceInfo {
	m.mu.Lock()
	defer m.mu.Unlock()
	infos := make([]SpaceInfo, 0, len(m.spaces))
	for _, s := range m.spaces {
		infos = append(infos, s.info())
	}
	slices.SortFunc(infos, func(a, b SpaceInfo) int { return strings.Compare(a.Name, b.Name) })
	return infos
}

// Space describes one space and what is in it. ErrNoSpace.
func (m *Manager) Space(name string) (SpaceDetail, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.findLocked(name)
	if err != nil {
		return SpaceDetail{}, err
	}
	return SpaceDetail{SpaceInfo: s.info(), ObjectList: s.objectInfos(), SessionList: s.sessionInfos(), ContainerList: s.containerInfos()}, nil
}

// Objects lists the objects of a space by family and index. ErrNoSpace.
func (m *Manager) Objects(name string) ([]ObjectInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.findLocked(name)
	if err != nil {
		return nil, err
	}
	return s.objectInfos(), nil
}

// RemoveObject is IPC_RMID with the manager's rights. ErrNoSpace, ErrNoObject.
func (m *Manager) RemoveObject(ctx context.Context, name string, f Family, id int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.findLocked(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f >= abi.Families {
		return fmt.Errorf("family %d: %w", f, ErrInvalid)
	}
	o, err := s.find(f, int64(id))
	if err != nil {
		return fmt.Errorf("%s %d of space %q: %w", f, id, name, ErrNoObject)
	}
	if f == Shm {
		return s.removeSegment(o)
	}
	s.removeObject(o)
	return nil
}

func (m *Manager) findLocked(name string) (*space, error) {
	if m.closed {
		return nil, ErrClosed
	}
	s := m.spaces[name]
	if s == nil {
		return nil, fmt.Errorf("space %q: %w; make it with: ipcspace space create NAME", name, ErrNoSpace)
	}
	return s, nil
}
