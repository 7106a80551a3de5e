package manager

import (
	"crypto/subtle"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
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
		return reply{errno: unseen(err), hangUp: true}
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
	// It may be a child that called exec before the spare it claimed was looked at.
	for _, y := range s.spares(func(y *session) bool { state, _ := y.page.state(); return state == abi.PageClaimed }) {
		s.settle(y)
	}
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
// parent had mapped or open it has too, unless it called exec since. Who its parent
// was nobody knows: it may have ended, and left it to another session.
func (s *space) inheritUnasked(x *session, maps *mappings) {
	text, err := maps.read()
	if err == nil && !strings.Contains(text, s.storage.devText()) {
		return
	}
	s.findSegments(x, text)
	s.findSetsAndQueues(x, text)
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

// mostLinks bounds how many descriptors of a process are looked at. Those of the
// library are among the first few hundred.
const mostLinks = 4096

// findSegments notes the segments that a process has, by the text of its
// /proc/<pid>/maps and by its descriptors.
func (s *space) findSegments(x *session, maps string) {
	segments := sync.OnceValue(s.segmentInodes)
	note := func(of inode) {
		if o := segments()[of]; o != nil {
			x.opened[o] = struct{}{}
		}
	}
	for line := range strings.Lines(maps) {
		var major, minor uint32
		var ino uint64
		if !looksLikeSegment(line) {
			continue
		}
		if _, err := fmt.Sscanf(line, "%s %s %s %x:%x %d", new(string), new(string), new(string), &major, &minor, &ino); err == nil {
			note(inode{unix.Mkdev(major, minor), ino})
		}
	}
	fds, err := os.Open(fmt.Sprintf("/proc/%d/fd", x.id.pid))
	if err != nil {
		x.unknown = true
		return
	}
	defer fds.Close()
	names, _ := fds.Readdirnames(mostLinks)
	for _, name := range names {
		path := filepath.Join(fds.Name(), name)
		link, _ := os.Readlink(path)
		var st unix.Stat_t
		if looksLikeSegment(link) && unix.Stat(path, &st) == nil {
			note(inode{st.Dev, st.Ino})
		}
	}
}

// findSetsAndQueues notes those that a process has mapped, by the names of their files.
func (s *space) findSetsAndQueues(x *session, maps string) {
	mapped := map[uint64]bool{}
	for line := range strings.Lines(maps) {
		if serial, ok := controlSerial(strings.TrimSpace(line)); ok {
			mapped[serial] = true
		}
	}
	if len(mapped) == 0 {
		return
	}
	for _, f := range []Family{Sem, Msg} {
		for _, o := range s.objects[f] {
			if mapped[o.rec.Serial] {
				x.opened[o] = struct{}{}
			}
		}
	}
}

// looksLikeSegment tells by a path at the end of a text. Anybody can give a file of his
// own such a name.
func looksLikeSegment(text string) bool {
	return strings.Contains(text, "/SYSV") || strings.HasSuffix(strings.TrimSpace(text), "/"+segmentData)
}

// segmentInodes finds all segments by their files.
func (s *space) segmentInodes() map[inode]*object {
	found := make(map[inode]*object, len(s.segments))
	for _, o := range s.segments {
		var st unix.Stat_t
		if o.control.made && unix.Stat(o.control.path, &st) == nil {
			found[inode{st.Dev, st.Ino}] = o
		}
	}
	return found
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
