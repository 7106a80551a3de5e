package manager

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/manager/procfs"
)

// space is one isolated key space that is being served.
type space struct {
	m    *Manager
	name string
	log  *slog.Logger

	// ctx ends with the space; work counts what must be over before its
	// memory is unmapped.
	ctx  context.Context
	stop context.CancelFunc
	work sync.WaitGroup

	register  *os.File
	tableRead *os.File // O_RDONLY, what clients get
	pulse     *pulse
	channels  *listeners
	poller    *poller
	door      door
	proc      *procfs.Mounted // nil: there is no FUSE

	// mu guards everything below and the memory of table and state.
	mu       sync.Mutex
	storage  storage
	table    *table
	state    *state
	objects  [abi.Families]map[uint32]*object // by index
	segments map[uint64]*object               // by serial
	sessions map[uint32]*session
	process  map[processID][]*session
	numbers  []uint32     // session numbers that may be given out
	mapped   int          // control files mapped
	calls    int          // brokered calls under way
	answers  atomic.Int32 // of those that are over
	settling *time.Timer
	settleAt time.Time         // when
	asked    atomic.Int64      // when the space was last asked for, ns since 1970
	watched  map[string]bool   // containers whose end is waited for
	gone     map[uint64]string // containers that are gone and left objects that others use, by tag
	sweeping *time.Timer
	closed   bool
}

// processID names one process for ever: pids come again, with another start.
type processID struct {
	pid   int
	start uint64
}

// Constant keys of the log.
const (
	keySpace   = "space"
	keySession = "session"
	keyPID     = "pid"
	keyFamily  = "family"
	keyID      = "id"
	keyError   = "error"

	keyContainer = "container"
)

func (m *Manager) newSpace(name string) *space {
	shown, private := filepath.Join(m.cfg.Root, "spaces", name), filepath.Join(m.cfg.Root, "private", name)
	public := shown
	if m.mounts {
		public = private + ".public" // no name of a space has a dot
	}
	s := &space{
		m: m, name: name, log: m.log.With(keySpace, name),
		storage: storage{
			public: public, shown: shown, private: private,
			proc:    filepath.Join(m.cfg.Root, "proc", name),
			mounted: m.mounts, guard: m.guard, budget: &m.budget,
			growth: m.growth, remains: m.remains, open: map[*file]struct{}{}, mostOpen: m.mostOpen,
		},
		segments: map[uint64]*object{},
		sessions: map[uint32]*session{},
		process:  map[processID][]*session{},
		watched:  map[string]bool{}, gone: map[uint64]string{},
	}
	for f := range s.objects {
		s.objects[f] = map[uint32]*object{}
	}
	s.storage.mu = &s.mu
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// create makes the space on disk. It exists from the moment its table has its
// name: cut before, both folders are litter and removed at the next start.
func (s *space) create(cfg SpaceConfig) (err error) {
	defer func() {
		if err != nil {
			s.unmap()
			err = errors.Join(err, s.storage.destroy())
		}
	}()
	s.storage.size, s.storage.small = cfg.Size, cfg.SmallPages
	if err := s.storage.make(cfg.Inodes); err != nil {
		return err
	}
	step("space: folders made")
	f, err := os.OpenFile(s.storage.path("state"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if s.state, err = mapState(f); err != nil {
		_ = f.Close()
		return err
	}
	h := s.state.header
	h.Created, h.Size, h.Inodes, h.MaxSessions = now(), cfg.Size, cfg.Inodes, uint64(cfg.Sessions)
	h.Reclaim, h.LeftBehind = uint32(cfg.Reclaim), uint32(cfg.LeftBehind)
	if cfg.Brokered {
		h.Flags |= stateBrokered
	}
	if cfg.SmallPages {
		h.Flags |= stateSmallPages
	}
	if cfg.ContainerIDs {
		h.Flags |= stateContainerIDs
	}
	s.state.format()
	if f, err = s.storage.create(s.storage.path("pulse"), abi.PulseSize); err != nil {
		return err
	}
	if s.pulse, err = s.storage.mapPulse(f); err != nil {
		_ = f.Close()
		return err
	}
	if err := s.pulse.prepare(abi.ManagerSession); err != nil {
		return err
	}
	if cfg.Closed {
		if err := s.door.admit(s.storage.path(podsName), []string{}); err != nil {
			return err
		}
	}
	step("space: private made")
	if err := s.createPublic(); err != nil {
		return err
	}
	step("space: public made")
	fresh := filepath.Join(s.storage.public, ".table")
	if err := s.createTable(fresh, *cfg.Limits); err != nil {
		return err
	}
	step("space: table made")
	return os.Rename(fresh, filepath.Join(s.storage.public, abi.TableName))
}

func (s *space) createPublic() error {
	dir := filepath.Join(s.storage.public, abi.ChannelsName)
	if err := os.Mkdir(dir, 0o711); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	dir = filepath.Join(s.storage.public, filepath.Dir(abi.LibraryName))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(s.storage.public, abi.RegisterName)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	return nil
}

func (s *space) createTable(path string, l Limits) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := errors.Join(f.Truncate(abi.TableSize), f.Chmod(0o444)); err != nil {
		return err
	}
	if s.table, err = mapTable(f, s.state); err != nil {
		return err
	}
	var flags uint32
	if s.storage.guard == nil {
		flags |= abi.TableFlagTrust
	}
	var id [8]byte
	_, _ = rand.Read(id[:])
	s.table.format(binary.LittleEndian.Uint64(id[:]), l, flags)
	s.formatManagerSession()
	return nil
}

// formatManagerSession tells clients who session 1 is.
func (s *space) formatManagerSession() {
	r := s.table.session(abi.ManagerSession)
	r.PID = uint32(os.Getpid())
	r.PidNS, _ = nsInode(os.Getpid(), "pid")
	r.Start, _ = startTime(os.Getpid())
	r.State = abi.SessionLive
}

// serve opens the register and the channels, and tells waiting clients.
func (s *space) serve() error {
	var err error
	public := s.storage.public
	if s.tableRead, err = s.storage.openReadOnly(filepath.Join(public, abi.TableName)); err != nil {
		return err
	}
	if s.m.cfg.Library != "" {
		if err := installLibrary(s.m.cfg.Library, filepath.Join(public, abi.LibraryName)); err != nil {
			return err
		}
	}
	if err := writePreloadFile(public); err != nil {
		return err
	}
	if s.channels, err = newListeners(s); err != nil {
		return err
	}
	if s.poller, err = newPoller(s); err != nil {
		return err
	}
	if s.register, err = openRegister(filepath.Join(public, abi.RegisterName)); err != nil {
		return err
	}
	if err := s.storage.show(); err != nil {
		return err
	}
	s.m.count.Add(1)
	s.channels.open()
	s.work.Go(s.readRegister)
	s.showProc()
	s.table.bump(&s.table.header.Registrations)
	return nil
}

// end stops serving; the space stays on disk.
func (s *space) end() {
	s.mu.Lock()
	s.closed = true
	if s.settling != nil {
		s.settling.Stop()
	}
	if s.sweeping != nil {
		s.sweeping.Stop()
	}
	var open []*channel
	for _, x := range s.sessions {
		for c := range x.channels {
			open = append(open, c)
		}
	}
	s.mu.Unlock()
	s.hideProc()
	s.stop()
	if s.register != nil {
		_ = s.register.Close()
	}
	if s.channels != nil {
		s.channels.close()
	}
	s.within(time.Second, func() bool { return s.calls == 0 && s.answers.Load() == 0 })
	for _, c := range open {
		c.finish()
	}
	s.within(time.Second, func() bool {
		for _, x := range s.sessions {
			if len(x.channels) > 0 {
				return false
			}
		}
		return true
	})
	for _, c := range open {
		c.close()
	}
	if s.poller != nil {
		s.poller.close()
	}
	s.work.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.sessions {
		s.m.deaths.forget(x)
		x.unmap()
	}
	s.unmap()
}

// within waits until what is asked with space.mu held is so, or the time is over.
func (s *space) within(d time.Duration, so func() bool) {
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(d); time.Now().Before(deadline); <-look.C {
		s.mu.Lock()
		is := so()
		s.mu.Unlock()
		if is {
			return
		}
	}
}

func (s *space) unmap() {
	for f := range s.objects {
		for _, o := range s.objects[f] {
			o.close()
		}
	}
	if s.tableRead != nil {
		_ = s.tableRead.Close()
	}
	if s.pulse != nil {
		s.pulse.close()
		s.pulse = nil
	}
	if s.table != nil {
		s.table.close()
	}
	if s.state != nil {
		s.state.close()
		s.state = nil
	}
}

// destroy removes the space. Its table goes first: without it the rest is
// litter, wherever this is cut.
func (s *space) destroy() error {
	s.mu.Lock()
	for f := range s.objects {
		for _, o := range s.objects[f] {
			s.removeObject(o)
		}
	}
	s.mu.Unlock()
	s.end()
	step("destroy: ended")
	err := os.Remove(filepath.Join(s.storage.public, abi.TableName))
	step("destroy: table gone")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.storage.budget.give(s.storage.promised)
	s.storage.promised, s.storage.inner = 0, 0
	return errors.Join(err, s.storage.destroy())
}

// writePreloadFile writes what a container may bind over its /etc/ld.so.preload: the library's path
// as containers have it, ld.so(8).
func writePreloadFile(public string) error {
	path := filepath.Join(public, filepath.Dir(abi.LibraryName), "ld.so.preload")
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.WriteFile(path+".new", []byte("/run/ipcspace/"+abi.LibraryName+"\n"), 0o644); err != nil {
		return err
	}
	if err := os.Chmod(path+".new", 0o644); err != nil { // whatever the umask
		return err
	}
	return os.Rename(path+".new", path)
}

// installLibrary puts a copy of the library under a name of its own and
// renames it: processes that have the old one mapped keep it.
func installLibrary(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("library to install: %w", err)
	}
	if old, err := os.ReadFile(to); err == nil && string(old) == string(b) {
		return nil
	}
	fresh := to + ".new"
	_ = os.Remove(fresh)
	if err := os.WriteFile(fresh, b, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(fresh, 0o755); err != nil {
		return err
	}
	return os.Rename(fresh, to)
}
