package manager

import (
	"crypto/subtle"
	"fmt"
	"os"
	"strings"
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
	// opened are the sets and queues that may hold something of the session,
	// its parent's at the time of the fork included. everything: not known,
	// after a restart of the manager.
	opened     map[*object]struct{}
	everything bool
	calls      map[uint32]call // brokered calls under way, by Seq
	bell       *plane.Bell     // of theirs
	dead       bool
	heard      bool      // it said hello, or may have
	used       bool      // a spare that was seen used
	forked     bool      // a spare whose parent said that its fork is over
	batch      int       // spares that it got the last time
	reserved   time.Time // when it was first seen reserved
}

const (
	maxChannels        = 64 // of one session
	maxProcessSessions = 64 // one for each copy of the library, and those of Go
)

// hello begins a channel's life in a session: the session it names, the spare
// of a fork that it claims, the one that its process had before exec, or a
// new one.
func (s *space) hello(c *channel, req *request) reply {
	major, number, claims := req.Arg[0], req.Arg[1], req.Arg[2] == abi.PageReserved
	if major != abi.LayoutMajor {
		// "EPROTO: Protocol error": the client is of another layout.
		s.log.Warn("client of another layout refused", keyPID, c.pid, "layout", major)
		return reply{errno: unix.EPROTO, val: [6]int64{abi.LayoutMajor, abi.LayoutMinor}, hangUp: true}
	}
	if int(req.cred.Pid) != c.pid {
		s.log.Warn("hello from another process than connected", keyPID, c.pid)
		return reply{errno: unix.EPERM, hangUp: true}
	}
	if err := s.door.refuses(c.pid); err != nil {
		s.log.Warn("stranger refused", keyPID, c.pid, keyError, err)
		return reply{errno: unix.EACCES, hangUp: true}
	}
	// A vfork child acts as its parent.
	owner, start, err := memoryOwner(c.pid)
	if err != nil || !c.alive() {
		return reply{errno: unix.ESRCH, hangUp: true}
	}
	id := processID{owner, start}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return away
	}
	var x *session
	switch {
	case number == 0:
		x, err = s.sessionOf(id)
	case len(req.body) != 16:
		err = unix.EINVAL
	case claims:
		x, err = s.claim(id, number, req.body)
	default:
		x, err = s.resume(id, number, req.body)
	}
	if err != nil {
		r := refuse(err)
		r.hangUp = true
		s.log.Debug("hello refused", keyPID, c.pid, keySession, number, keyError, err)
		return r
	}
	if len(x.channels) >= maxChannels {
		return reply{errno: unix.EMFILE, hangUp: true}
	}
	var page []*os.File
	if x.page.alone() {
		f, err := x.page.of.open()
		if err != nil {
			s.log.Error("session page unreadable", keySession, x.number, keyError, err)
			return reply{errno: unix.EIO, hangUp: true}
		}
		page = append(page, f)
	}
	c.session = x
	x.heard = true
	x.channels[c] = struct{}{}
	var foreign int64 // ids of another user namespace than the manager's
	if ns, err := nsInode(c.pid, "user"); err != nil || ns != s.m.userns.own() {
		foreign = 1
	}
	return reply{
		val:     [6]int64{int64(x.number), int64(x.pidns), int64(x.public.PID), foreign},
		files:   append([]*os.File{s.tableRead, s.pulse.file}, page...),
		closing: page,
	}
}

// sessionOf is the session of a process that names none: after exec it gets
// the one it had, with a fresh page; its undo stays, its attaches are gone.
// A process whose page is still mapped has another copy of the library, which
// is a session of its own.
func (s *space) sessionOf(id processID) (*session, error) {
	maps := &mappings{pid: id.pid}
	for _, x := range s.process[id] {
		if !x.dead && x.replaced(maps) {
			return x, s.renew(x)
		}
	}
	// "EUSERS: Too many users": a process may not take the numbers of all.
	if len(s.process[id]) >= maxProcessSessions {
		return nil, unix.EUSERS
	}
	made, err := s.newSessions(0, 1)
	if err != nil {
		return nil, err
	}
	x := made[0]
	if err := s.bind(x, id); err != nil {
		s.dropSession(x)
		return nil, err
	}
	s.inheritUnasked(x, maps)
	return x, nil
}

// replaced tells whether the session's program called exec since it got its
// page. Another thread of it, or another copy of the library, may just have
// been given a page, and not have it mapped yet; its channel is still there,
// which exec would have closed.
func (x *session) replaced(maps *mappings) bool {
	mapped, err := x.page.mappedIn(maps)
	if err != nil || mapped || !pidAlive(x.pidfd) {
		return false
	}
	return x.page.address() != 0 || !x.connected()
}

// connected tells whether a channel is open at its other end.
func (x *session) connected() bool {
	for c := range x.channels {
		if c.connected() {
			return true
		}
	}
	return false
}

// inheritUnasked is for a process that was forked without a spare: what its
// parent had mapped it has too, unless it called exec since.
func (s *space) inheritUnasked(x *session, maps *mappings) {
	if text, err := maps.read(); err == nil && !strings.Contains(text, s.storage.devText()) {
		return
	}
	if st, err := readStat(fmt.Sprintf("/proc/%d/stat", x.id.pid)); err == nil {
		if start, err := startTime(st.PPID); err == nil {
			for _, parent := range s.process[processID{st.PPID, start}] {
				x.inherit(parent)
				return
			}
		}
	}
	x.everything = true
}

// claim binds a spare to the child that was forked into it. It may have been
// found by its parent's doing before (settle).
func (s *space) claim(id processID, number int64, cookie []byte) (*session, error) {
	x, err := s.named(number, cookie)
	if err != nil {
		return nil, err
	}
	if x.id == id {
		return x, nil
	}
	if x.id != (processID{}) {
		return nil, unix.EPERM
	}
	return x, s.bind(x, id)
}

func (s *space) resume(id processID, number int64, cookie []byte) (*session, error) {
	x, err := s.named(number, cookie)
	if err != nil {
		return nil, err
	}
	if x.id != id {
		return nil, unix.EPERM
	}
	return x, nil
}

// named finds a session by number and cookie.
func (s *space) named(number int64, cookie []byte) (*session, error) {
	x := s.sessions[uint32(number)]
	if number < 0 || number >= abi.MaxSessions || x == nil || x.dead {
		return nil, unix.ESRCH
	}
	if subtle.ConstantTimeCompare(x.state.Cookie[:], cookie) != 1 {
		return nil, unix.EPERM
	}
	return x, nil
}

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
		return unix.ESRCH
	}
	return s.bindTo(x, id, fd, levels)
}

// bindTo is bind with what is known of the process. The pidfd is the session's
// from now on.
func (s *space) bindTo(x *session, id processID, fd int, levels [pidLevels]pidLevel) error {
	parent := s.sessions[x.state.Parent]
	var container string
	if parent != nil {
		container = parent.container // a fork does not leave it
	} else {
		container = s.m.node.containerOf(id.pid)
	}
	if !pidAlive(fd) {
		_ = unix.Close(fd)
		return unix.ESRCH
	}
	x.id, x.pidfd, x.pidns = id, fd, levels[0].NS
	x.state.Levels, x.state.Start = levels, id.start
	x.container, x.state.Container = container, containerTag(container)
	atomic.StoreUint32(&x.state.PID, uint32(id.pid))
	step("session: bound")
	x.public.PidNS, x.public.Start = levels[0].NS, id.start
	atomic.StoreUint32(&x.public.PID, levels[0].PID)
	atomic.StoreUint32(&x.public.State, abi.SessionLive)
	s.process[id] = append(s.process[id], x)
	if parent != nil {
		x.inherit(parent)
	} else if x.state.Parent != 0 {
		x.everything = true
	}
	if err := s.m.deaths.watch(x); err != nil {
		s.log.Error("cannot watch process", keyPID, id.pid, keyError, err)
		return unix.ENOMEM
	}
	return nil
}

// inherit takes over what the parent had open: a child goes on with it
// without asking.
func (x *session) inherit(parent *session) {
	x.everything = x.everything || parent.everything
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
	st := x.state
	st.Cookie, st.Page, st.Pages = newCookie(), 0, pf.serial
	x.page.remove()
	x.page = pf.take(0)
	if err := x.page.fill(x.number, 0, st.Cookie); err != nil {
		return unix.ENOSPC
	}
	// Its spares were mapped where the process was before.
	for _, y := range s.spares(func(y *session) bool { return y.state.Parent == x.number }) {
		if state, _ := y.page.state(); state == abi.PageSpare {
			s.dropSession(y)
		}
	}
	x.state.Results = [keptResults]result{}
	if err := s.pulse.executed(x.number); err != nil {
		return unix.ENOSPC
	}
	s.destroyOrphans()
	return nil
}

// sessionWindow is how many numbers are in use before old ones come again.
// Every number costs a page of the pulse for good.
const sessionWindow = 1024

// freeSession takes a number that nobody has and that no object names. Which
// numbers are named is found out for many at a time.
func (s *space) freeSession() (uint32, error) {
	h := s.state.header
	if len(s.numbers) == 0 {
		if h.Top >= uint32(max(sessionWindow, 2*len(s.sessions))) || h.Top == abi.MaxSessions-1 {
			s.numbers = s.unnamedSessions()
		}
		for fresh := len(s.numbers); fresh < sessionWindow/4 && h.Top < abi.MaxSessions-1; fresh++ {
			h.Top = max(h.Top, abi.ManagerSession) + 1
			s.numbers = append(s.numbers, h.Top)
		}
	}
	if len(s.numbers) == 0 {
		return 0, unix.EUSERS
	}
	n := s.numbers[0]
	s.numbers = s.numbers[1:]
	return n, s.storage.reserve(s.overhead())
}

// overhead is what sessions take of the private folder: a page each and their
// page of the pulse, and the state file.
func (s *space) overhead() uint64 {
	return (uint64(s.state.header.Top) + s.storage.pages + uint64(len(s.sessions)) + 1024) * abi.PageSize
}

// unnamedSessions lists the numbers that were given out before, that nobody
// has now and that no object names.
func (s *space) unnamedSessions() []uint32 {
	named, err := s.namedSessions()
	if err != nil {
		s.log.Error("session numbers cannot be used again", keyError, err)
		return nil
	}
	var out []uint32
	for n := uint32(abi.ManagerSession + 1); n <= s.state.header.Top; n++ {
		if s.sessions[n] == nil && !named[n] {
			out = append(out, n)
		}
	}
	return out
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

// outside translates a pid of the session's pid namespace. The errors are
// pidOutside's.
func (x *session) outside(pid int) (int, error) {
	if x.pids == nil {
		f, err := openFile(fmt.Sprintf("/proc/%d/ns/pid", x.id.pid), os.O_RDONLY, 0)
		if err != nil {
			return 0, unix.ENOTTY // whoever is gone is not the one asked about
		}
		x.pids = f
	}
	return pidOutside(x.pids, pid)
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

// pidLevelsOf lists a process's pids in its own pid namespace and outwards.
func pidLevelsOf(pid int) (levels [pidLevels]pidLevel, err error) {
	st, err := readStatus(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return levels, err
	}
	chain, err := nsChain(pid, "pid", min(pidLevels, len(st.NSpid)))
	if err != nil {
		return levels, err
	}
	if len(chain) == 0 {
		return levels, unix.ESRCH
	}
	for i, ns := range chain {
		levels[i] = pidLevel{NS: ns, PID: uint32(st.NSpid[len(st.NSpid)-1-i])}
	}
	return levels, nil
}

// who is the pid of a session's process in the caller's pid namespace; 0: it
// is not visible there, or nobody.
func (s *space) who(x *session, number uint32) uint32 { return s.pidIn(x.pidns, number) }

// pidIn is the same for any pid namespace, by its inode.
func (s *space) pidIn(ns uint64, number uint32) uint32 {
	if number <= abi.ManagerSession || number > s.state.header.Top {
		return 0
	}
	st, err := s.state.session(number)
	if err != nil {
		return 0
	}
	for _, l := range st.Levels {
		if l.NS == ns && l.NS != 0 {
			return l.PID
		}
	}
	return 0
}
