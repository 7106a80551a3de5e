package manager

import (
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/client/plane"
)

// session is one process of a space, or the place kept for a child of one (a
// spare). It lives as long as the process, not as long as a channel.
// Guarded by space.mu.
type session struct {
	space  *space
	number uint32
	state  *sessionState
	public *abi.SessionRecord
	page   *page

	id    processID // zero while nobody claimed the spare
	pidfd int       // -1: none
	pids  *os.File  // its pid namespace, from the first look for a child; nil: none yet
	pidns uint64
	since time.Time
	// container is the name of the process's container, "": none.
	container string

	channels map[*channel]struct{}
	// opened are the objects that the session was given: sets and queues that may
	// hold something of it, segments that it may have attached; its parent's at the
	// time of the fork included. everything: it is not known of which sets and queues,
	// unknown: of which segments; after a restart of the manager.
	opened     map[*object]struct{}
	everything bool
	unknown    bool
	heir       bool            // a spare that has taken over what its parent had, who is dead
	calls      map[uint32]call // brokered calls under way, by Seq
	bell       *plane.Bell     // of theirs
	dead       bool
	heard      bool      // it said hello, or may have
	used       bool      // a spare that was seen used
	forked     bool      // a spare whose parent said that its fork is over
	batch      int       // spares that it got the last time
	parent     bool      // it has spares, or had
	reserved   time.Time // when it was first seen reserved
}

const (
	maxChannels        = 64 // of one session
	maxProcessSessions = 64 // one for each copy of the library, and those of Go
)

// newSessions makes up to n sessions, with pages in one file; at least one, or
// none and an error.
func (s *space) newSessions(parent uint32, n int) ([]*session, error) {
	if uint64(len(s.sessions)) >= s.state.header.MaxSessions {
		return nil, unix.EUSERS
	}
	n = min(n, int(s.state.header.MaxSessions)-len(s.sessions))
	pf, err := s.newPages(n)
	if err != nil {
		s.log.Warn("no session pages", keyError, err)
		return nil, unix.ENOSPC
	}
	step("session: pages made")
	var made []*session
	for i := 0; i < n && err == nil; i++ {
		var x *session
		if x, err = s.newSession(parent, pf, i); err == nil {
			made = append(made, x)
		}
	}
	if len(made) > 0 {
		if p := s.sessions[parent]; p != nil {
			p.parent = true
		}
		return made, nil
	}
	pf.remove()
	return nil, err
}

// newSession allocates a number for page i of a file.
//
// Cut anywhere: the number is SessionFree or SessionSpare without a process,
// and recovery frees it with its page.
func (s *space) newSession(parent uint32, pf *pageFile, i int) (*session, error) {
	number, err := s.freeSession()
	if err != nil {
		return nil, err
	}
	st, err := s.state.session(number)
	if err != nil {
		return nil, unix.ENOSPC
	}
	if err := s.pulse.prepare(number); err != nil {
		return nil, unix.ENOSPC
	}
	step("session: pulse made")
	*st = sessionState{Parent: parent, Cookie: newCookie(), Page: uint64(i), Pages: pf.serial}
	pg := pf.take(i)
	if err := pg.fill(number, parent, st.Cookie); err != nil {
		pf.taken--
		return nil, unix.ENOSPC
	}
	x := &session{
		space: s, number: number, state: st, public: s.table.session(number), page: pg, pidfd: -1, since: time.Now(),
		channels: map[*channel]struct{}{}, opened: map[*object]struct{}{}, calls: map[uint32]call{},
	}
	step("session: page filled")
	if p := s.sessions[parent]; p != nil {
		x.pidns = p.pidns
	}
	x.public.PID, x.public.PidNS, x.public.Start = 0, x.pidns, 0
	atomic.StoreUint32(&x.public.State, abi.SessionSpare)
	s.sessions[number] = x
	step("session: spare")
	return x, nil
}

// bind makes x the session of a process.
func (s *space) bind(x *session, id processID) error {
	fd, err := unix.PidfdOpen(id.pid, 0)
	if err != nil {
		return err
	}
	levels, err := pidLevelsOf(id.pid)
	if start, err2 := startTime(id.pid); err != nil || err2 != nil || start != id.start {
		_ = unix.Close(fd)
		return unseen(errorsFirst(err, err2))
	}
	return s.bindTo(x, id, fd, levels)
}

// bindTo is bind with what is known of the process. The pidfd is the session's
// from now on.
func (s *space) bindTo(x *session, id processID, fd int, levels pidList) error {
	parent := s.sessions[x.state.Parent]
	var container string
	if parent != nil {
		container = parent.container // a fork does not leave it
	} else {
		var err error
		if container, err = s.m.node.containerOf(id.pid); err != nil {
			_ = unix.Close(fd)
			return unseen(err)
		}
	}
	if !pidAlive(fd) {
		_ = unix.Close(fd)
		return unix.ESRCH
	}
	x.id, x.pidfd = id, fd
	if err := s.m.deaths.watch(x); err != nil {
		s.log.Error("cannot watch process", keyPID, id.pid, keyError, err)
		x.id, x.pidfd = processID{}, -1
		_ = unix.Close(fd)
		return unix.ENOMEM
	}
	x.pidns = levels[0].NS
	x.state.Levels, x.state.Start = levels, id.start
	x.container, x.state.Container = container, containerTag(container)
	atomic.StoreUint32(&x.state.PID, uint32(id.pid))
	step("session: bound")
	x.public.PidNS, x.public.Start = levels[0].NS, id.start
	atomic.StoreUint32(&x.public.PID, levels[0].PID)
	atomic.StoreUint32(&x.public.State, abi.SessionLive)
	s.process[id] = append(s.process[id], x)
	s.descend(x)
	return nil
}

// descend takes over what the parent had, if that is known still.
func (s *space) descend(x *session) {
	if parent := s.sessions[x.state.Parent]; parent != nil {
		x.inherit(parent)
	} else if x.state.Parent != 0 && !x.heir {
		x.everything, x.unknown = true, true
	}
}

// inherit takes over what the parent had open: a child goes on with it
// without asking.
func (x *session) inherit(parent *session) {
	x.everything = x.everything || parent.everything
	x.unknown = x.unknown || parent.unknown
	for o := range parent.opened {
		x.opened[o] = struct{}{}
	}
}

// renew gives a session whose process called exec a fresh page.
func (s *space) renew(x *session) error {
	s.foldPage(x, x.executed(), true)
	pf, err := s.newPages(1)
	if err != nil {
		return unix.ENOSPC
	}
	x.state.turnTo(pf)
	x.page.remove()
	x.page = pf.take(0)
	if err := x.page.fill(x.number, 0, x.state.Cookie); err != nil {
		return unix.ENOSPC
	}
	// Its spares were mapped where the process was before.
	for _, y := range s.spares(func(y *session) bool { return y.state.Parent == x.number }) {
		if state, _ := y.page.state(); state == abi.PageSpare {
			s.dropSession(y)
		}
	}
	x.state.Results = [keptResults]result{}
	s.forgetCalls(x)
	if err := s.pulse.executed(x.number); err != nil {
		return unix.ENOSPC
	}
	s.destroyOrphans()
	return nil
}

// dropSession forgets a session that left nothing behind.
func (s *space) dropSession(x *session) {
	delete(s.sessions, x.number)
	s.m.deaths.forget(x)
	if list := s.process[x.id]; x.id != (processID{}) {
		list = without(list, x)
		if len(list) == 0 {
			delete(s.process, x.id)
		} else {
			s.process[x.id] = list
		}
	}
	x.unmap()
	x.page.remove()
	x.state.PID = 0
	if x.dead {
		atomic.StoreUint32(&x.public.State, abi.SessionDead)
	} else {
		atomic.StoreUint32(&x.public.State, abi.SessionFree)
	}
	// Lists made before may have it still: a spare of a spare, at a start.
	x.dead = true
}

func without(list []*session, x *session) []*session {
	out := list[:0]
	for _, y := range list {
		if y != x {
			out = append(out, y)
		}
	}
	return out
}

func (x *session) unmap() {
	x.page.close()
	if x.pidfd >= 0 {
		_ = unix.Close(x.pidfd)
		x.pidfd = -1
	}
	if x.pids != nil {
		_ = x.pids.Close()
		x.pids = nil
	}
}

// leave ends a channel. When a live process has none left it may have called
// exec: then its attaches are gone.
func (s *space) leave(c *channel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := c.session
	if x == nil {
		return
	}
	delete(x.channels, c)
	for _, b := range x.calls {
		if b.channel == c {
			b.cancel()
		}
	}
	if s.closed || x.dead || len(x.channels) > 0 {
		return
	}
	if s.isDead(x) {
		s.bury(x)
	} else if !x.pageMapped() {
		s.foldPage(x, x.executed(), true)
		s.destroyOrphans()
	}
}

// pageMapped tells whether the process still has the session page: not so
// after exec. When in doubt it has.
func (x *session) pageMapped() bool {
	mapped, err := x.page.mappedBy(x.id.pid)
	return mapped || err != nil || !pidAlive(x.pidfd)
}
