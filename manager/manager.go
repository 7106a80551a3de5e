package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// Manager keeps the spaces under one root.
type Manager struct {
	cfg    Config
	log    *slog.Logger
	lock   *os.File // the root's, held: one manager at a time
	mounts bool
	guard  *guard // nil: files are not sealed
	userns *userns
	node   node
	work   sync.WaitGroup
	growth *growth
	deaths *deaths
	budget budget
	calls  atomic.Int64 // brokered calls under way
	count  atomic.Int64 // spaces served
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
	if m.guard != nil {
		m.guard.close()
	}
	if m.lock != nil {
		_ = m.lock.Close()
	}
}

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

// complete checks a configuration and fills in what it leaves out.
func (c *SpaceConfig) complete() error {
	if !ValidName(c.Name) {
		return nameError(c.Name)
	}
	if c.Reclaim > Delete || c.LeftBehind > LeftUnused {
		return fmt.Errorf("reclaim %d, left behind %d: %w", c.Reclaim, c.LeftBehind, ErrInvalid)
	}
	limits := DefaultLimits()
	if c.Limits != nil {
		limits = *c.Limits
	}
	if err := limits.check(); err != nil {
		return err
	}
	c.Limits = &limits
	if c.Size == 0 {
		var si unix.Sysinfo_t
		if err := unix.Sysinfo(&si); err != nil {
			return fmt.Errorf("sysinfo: %w", err)
		}
		c.Size = si.Totalram * uint64(si.Unit) / 2
	}
	if c.Sessions == 0 {
		c.Sessions = 8192
	}
	if c.Sessions < 0 || c.Sessions > abi.MaxSessions-2 {
		return fmt.Errorf("%d sessions is not between 1 and %d: %w", c.Sessions, abi.MaxSessions-2, ErrInvalid)
	}
	if c.Inodes == 0 {
		c.Inodes = limits.inodes(c.Sessions)
	}
	if c.Size < abi.PageSize {
		return fmt.Errorf("a size of %d bytes holds nothing: %w", c.Size, ErrInvalid)
	}
	return nil
}

func nameError(name string) error {
	return fmt.Errorf("%q: %w; use lower-case letters, digits and '-', at most 63, no '-' at the ends", name, ErrInvalidName)
}

// ValidName tells whether name is a DNS label (RFC 1123), as spaces' names are.
func ValidName(name string) bool {
	if len(name) == 0 || len(name) > 63 || name[0] == '-' || name[len(name)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-'
	})
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
	members := slices.DeleteFunc(s.members(), func(m member) bool { return s.door.refuses(m.pid) != nil })
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

// mostSpaces is how many spaces there may be, so that one more harms none of the others: each may take
// 8 descriptors besides those of its objects (mostOpen); 4 mounts, and as many again where people
// have it, of which the half is left to the rest of the node; and a thread that reads from FUSE, of
// which Go ends a program that has 10,000.
func (m *Manager) mostSpaces() int {
	return min(m.descriptors/(8+2*leastOpen), mountMax()/2/8, 5000)
}

// mountMax is how many mounts a namespace may have.
func mountMax() int {
	text, err := os.ReadFile("/proc/sys/fs/mount-max")
	if most, bad := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && bad == nil {
		return most
	}
	return 100_000 // the kernel's own
}

// leastOpen is how many files of its objects each space may have open.
const leastOpen = 16

// mostOpen is how many files of a space's objects may be open, each with two
// descriptors: the half of what the process may have is for all spaces.
func (m *Manager) mostOpen() int {
	return max(m.descriptors/4/max(int(m.count.Load()), 1), leastOpen)
}
