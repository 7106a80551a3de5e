package manager

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/client/plane"
)

// recover takes over a space that an earlier manager left, alive or killed at
// any instant. The slot words are the truth: from them follow key entries,
// counters and free records; files that no slot word names are litter; the
// intent of an unfinished request is turned into its result.
//
// Being killed here is harmless: each step can be done again.
func (s *space) recover() error {
	if err := s.takeOver(); err != nil {
		return err
	}
	if err := s.serve(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resumeWatches()
	s.watchForks() // a parent whose channel ended with the last manager could not tell
	s.log.Info("space adopted", "sessions", len(s.sessions), "shm", len(s.objects[Shm]), "sem", len(s.objects[Sem]), "msg", len(s.objects[Msg]))
	return nil
}

// takeOver is what comes before the space is served. It holds mu: processes are
// watched, files are given out and timers set while it goes on, so deaths wait
// until all is in its place.
func (s *space) takeOver() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkMounts(); err != nil {
		return err
	}
	if err := s.openState(); err != nil {
		return err
	}
	if err := s.door.open(s.storage.path(podsName)); err != nil {
		return err
	}
	if err := s.openTable(); err != nil {
		return err
	}
	if err := s.openPulse(); err != nil {
		return err
	}
	if err := s.readSlots(); err != nil {
		return err
	}
	step("recover: slots read")
	if err := s.removeLitter(); err != nil {
		return err
	}
	if err := s.readSessions(); err != nil {
		return err
	}
	step("recover: sessions read")
	s.resolveIntent()
	step("recover: intent resolved")
	s.recoverObjects()
	step("recover: objects recovered")
	if err := s.buryDead(); err != nil {
		return err
	}
	step("recover: dead buried")
	return nil
}

// checkMounts refuses a space that was made the other way, and finds out
// whether its files were sealed.
func (s *space) checkMounts() error {
	for _, dir := range []string{s.storage.public, s.storage.private} {
		m, err := isMount(dir)
		if err != nil {
			return err
		}
		if m && !s.storage.mounted {
			return fmt.Errorf("%s is a mount: %w; run the manager with the rights that made it", dir, ErrInvalid)
		}
		if !m {
			s.storage.mounted = false
		}
	}
	s.storage.adoptLimit()
	return nil
}

func (s *space) openState() error {
	f, err := os.OpenFile(s.storage.path("state"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if s.state, err = mapState(f); err != nil {
		_ = f.Close()
		return err
	}
	s.storage.size, s.storage.small = s.state.header.Size, s.made(stateSmallPages)
	return s.state.check()
}

func (s *space) openTable() error {
	f, err := os.OpenFile(filepath.Join(s.storage.public, abi.TableName), os.O_RDWR, 0)
	if errors.Is(err, os.ErrPermission) {
		// Mode 0444 stops an ordinary user; it is the owner, however.
		path := filepath.Join(s.storage.public, abi.TableName)
		if err = os.Chmod(path, 0o644); err == nil {
			f, err = os.OpenFile(path, os.O_RDWR, 0)
			err = errors.Join(err, os.Chmod(path, 0o444))
		}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() < abi.TableSize {
		return fmt.Errorf("table has %d bytes, not %d: %w", fi.Size(), abi.TableSize, ErrVersion)
	}
	if s.table, err = mapTable(f, s.state); err != nil {
		return err
	}
	if err := s.table.check(); err != nil {
		return err
	}
	if s.table.header.Flags&abi.TableFlagTrust != 0 {
		s.storage.guard = nil
	} else if s.storage.guard == nil {
		return fmt.Errorf("the space's files are sealed and this manager cannot open them: %w; run it with the rights that made the space", ErrInvalid)
	}
	return nil
}

func (s *space) openPulse() error {
	f, err := s.storage.reopen(s.storage.path("pulse"))
	if err != nil {
		return err
	}
	if s.pulse, err = s.storage.mapPulse(f); err != nil {
		_ = f.Close()
	}
	return err
}

// readSessions takes over the sessions. What became of their processes is
// seen to later.
func (s *space) readSessions() error {
	files := map[uint64]*pageFile{}
	for n := uint32(abi.ManagerSession + 1); n <= s.state.header.Top; n++ {
		public := s.table.session(n)
		if public.State != abi.SessionLive && public.State != abi.SessionSpare {
			continue
		}
		st, err := s.state.session(n)
		if err != nil {
			return err
		}
		x := &session{
			space: s, number: n, state: st, public: public, pidfd: -1, since: time.Now(), everything: true, unknown: true, parent: true,
			channels: map[*channel]struct{}{}, opened: map[*object]struct{}{}, calls: map[uint32]call{},
		}
		if x.page, err = s.recoverPage(n, st, files); err != nil {
			return err
		}
		s.sessions[n] = x
		x.pidns = public.PidNS
		if pid := int(st.PID); pid != 0 {
			x.id, x.heard = processID{pid, st.Start}, true
			name, err := s.m.node.containerOf(pid)
			if err != nil {
				return fmt.Errorf("container of process %d: %w", pid, err)
			}
			if containerTag(name) == st.Container {
				x.container = name
			}
			s.process[x.id] = append(s.process[x.id], x)
		}
	}
	if err := s.removePages(files); err != nil {
		return err
	}
	s.formatManagerSession()
	return nil
}

// recoverPage finds a session's page, in one of files or by opening another. One
// that was cut between the page's end and the session's, or before the page was
// whole, gets a new one: nobody has it.
func (s *space) recoverPage(number uint32, st *sessionState, files map[uint64]*pageFile) (*page, error) {
	pf := files[st.Pages]
	if pf == nil {
		var err error
		pf, err = s.storage.openPages(st.Pages)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	if pf != nil {
		files[st.Pages] = pf
		if st.Page < uint64(pf.length) {
			p := pf.take(int(st.Page))
			if !p.short() {
				return p, nil
			}
			pf.taken--
		}
	}
	pf, err := s.newPages(1)
	if err != nil {
		return nil, err
	}
	files[pf.serial] = pf
	st.turnTo(pf)
	p := pf.take(0)
	return p, p.fill(number, 0, st.Cookie)
}

// removePages removes the files of pages that are of no session.
func (s *space) removePages(files map[uint64]*pageFile) error {
	entries, err := os.ReadDir(s.storage.private)
	if err != nil {
		return err
	}
	named := map[string]bool{}
	for serial, pf := range files {
		named[pagesName(serial)] = !pf.release()
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "pages-") && !named[e.Name()] {
			_ = os.Remove(s.storage.path(e.Name()))
		}
	}
	return nil
}

// short tells whether the page's file has lost its length.
func (p *page) short() bool {
	return guarded(func() { _ = atomic.LoadUint32(&p.view().State) }) != nil
}

// resolveIntent turns the unfinished request into its result: what was
// published has happened, what was not has not.
func (s *space) resolveIntent() {
	i := s.state.header.Intent
	if i.Kind == 0 || i.Family >= abi.Families {
		return
	}
	defer s.state.end()
	x := s.sessions[i.Session]
	o := s.objects[i.Family][i.ID&abi.IndexMask]
	same := o != nil && o.rec.Serial == i.Serial
	done := result{Seq: i.Seq}
	switch i.Kind {
	case abi.MsgGet:
		if !same {
			return
		}
		done.Val[0] = int64(i.ID)
	case abi.MsgCtl:
		if same && (o.word.Load() == i.Word || o.word.Load()&abi.SlotClosing != 0) {
			return
		}
	default:
		return
	}
	if x != nil {
		x.state.keep(done)
	}
}

// recoverObjects finishes what was under way in objects: removals and moves
// that had closed them, committed transactions, the manager's own cells.
func (s *space) recoverObjects() {
	known := func(session uint32) bool { return s.sessions[session] != nil }
	for f := range s.objects {
		for index, o := range s.objects[f] {
			if o.word.Load()&abi.SlotClosing != 0 {
				if err := s.reopenClosed(o); err != nil {
					s.log.Error("object stays closed", keyFamily, o.family.String(), keyID, o.rec.ID, keyError, err)
				}
				o = s.objects[f][index] // a moved one is another
			}
			if o.family == Shm {
				continue
			}
			o.tickets.Store(true)
			err := o.onPlane(
				func(p *plane.Set) error { return p.Recover(known) },
				func(p *plane.Queue) error { return p.Recover(known) })
			if err != nil {
				s.log.Error("object not recovered", keyFamily, o.family.String(), keyID, o.rec.ID, keyError, err)
			}
		}
	}
}

// buryDead opens pidfds again and cleans up after the processes that ended
// while no manager was there. An error: of one it cannot be told whether it has.
func (s *space) buryDead() error {
	var dead []*session
	for _, x := range s.sessions {
		if x.id == (processID{}) {
			continue
		}
		fd, err := unix.PidfdOpen(x.id.pid, 0)
		if err == nil {
			x.pidfd = fd
			var start uint64
			if start, err = startTime(x.id.pid); err == nil && start == x.id.start && pidAlive(fd) {
				if err = s.m.deaths.watch(x); err == nil {
					continue
				}
			}
		}
		if scarce(err) {
			return fmt.Errorf("watch process %d: %w", x.id.pid, err)
		}
		dead = append(dead, x)
	}
	for _, x := range lastToEnd(dead) {
		if !x.dead {
			s.bury(x)
		}
	}
	for _, y := range s.spares(func(*session) bool { return true }) {
		if s.lost(y) {
			s.dropSession(y)
		} else if !s.settle(y) {
			s.settleLater(settlePause)
		}
	}
	s.destroyOrphans()
	return nil
}
