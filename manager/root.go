package manager

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// prepareRoot makes the folders, takes the lock and finds out what this
// process may do.
func (m *Manager) prepareRoot() error {
	private := filepath.Join(m.cfg.Root, "private")
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{{m.cfg.Root, 0o755}, {filepath.Join(m.cfg.Root, "spaces"), 0o755}, {private, 0o700}} {
		if err := os.MkdirAll(d.path, d.mode); err != nil {
			return err
		}
	}
	var err error
	if m.lock, err = os.OpenFile(filepath.Join(private, "lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	if err := unix.Flock(int(m.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another manager has %s: %w; stop it or give another --root", m.cfg.Root, ErrInUse)
	}
	m.mounts = !m.cfg.Unprivileged && mayMount(private)
	if !m.mounts {
		m.log.Info("plain folders: no right to mount; members of a space trust each other")
		return nil
	}
	// A file that can be neither sealed nor opened again is of no use: try.
	g, err := newGuard()
	if err == nil {
		err = probeGuard(g, filepath.Join(private, ".probe"))
		if err != nil {
			g.close()
		}
	}
	if err != nil {
		m.log.Warn("objects are not sealed against their holders; members of a space trust each other", keyError, err)
		return nil
	}
	m.guard = g
	m.growth = newGrowth(m.log)
	m.remains = newRemains(m.log)
	return nil
}

// probeGuard seals a file on a tmpfs.
func probeGuard(g *guard, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	defer func() { _ = os.Remove(dir) }()
	if err := mountTmpfs(dir, "size=65536", "never"); err != nil {
		return err
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	s := storage{guard: g}
	f, err := s.create(filepath.Join(dir, "file"), abi.PageSize)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(0); err == nil {
		return fmt.Errorf("%w: landlock does not refuse truncation", errNoGuard)
	}
	return s.remove(filepath.Join(dir, "file"))
}

// adopt serves the spaces that an earlier manager left, and removes the
// litter of one that was killed.
func (m *Manager) adopt() error {
	names := map[string]bool{}
	for _, dir := range []string{"spaces", "private"} {
		entries, err := os.ReadDir(filepath.Join(m.cfg.Root, dir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.IsDir() && ValidName(e.Name()) {
				names[e.Name()] = true
			}
		}
	}
	for name := range names {
		s := m.newSpace(name)
		if _, err := os.Stat(filepath.Join(s.storage.shown, abi.TableName)); err == nil {
			if m, err := isMount(s.storage.public); err != nil || !m {
				s.storage.public = s.storage.shown // made before there were two mounts of it, or by a manager that may not mount
			}
		}
		if _, err := os.Stat(filepath.Join(s.storage.public, abi.TableName)); err != nil {
			if err := s.storage.destroy(); err != nil {
				m.log.Error("litter not removed", keySpace, name, keyError, err)
			}
			continue
		}
		if err := s.recover(); err != nil {
			s.end()
			err = fmt.Errorf("adopt space %q: %w", name, err)
			if errors.Is(err, ErrVersion) || errors.Is(err, ErrInvalid) {
				return err // the wrong manager, or the wrong rights
			}
			// What members can have done to their space harms no other.
			m.log.Error("space is out of service; its files stay; remove its folders, or start the manager again", keyError, err)
			continue
		}
		m.keep(s)
	}
	return nil
}
