package manager

import (
	"cmp"
	"errors"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// A spare is a session made ahead for a child: its parent has the page mapped
// and reserves it in the prepare handler of fork, the child stores its pid in
// it and claims it. Neither waits for an answer, and of many forks in a row only
// the first sends a message (MsgForked), so the manager finds out who the
// children are when it matters: soon after that message, when the child says
// hello, when somebody looks at a segment, when the parent died.

const (
	longestFork   = time.Minute // of a parent that does not tell, for its manager died
	maxUnsettled  = 16          // used ones of one parent
	settlePause   = 100 * time.Millisecond
	settleLongest = 10 * time.Second
)

// spare answers MsgSpare. The parent may wait for it to fork again, so what
// became of the spare that it used is seen to afterwards: most children that are
// gone by then leave nothing to look for.
func (s *space) spare(x *session, req *request) reply {
	s.forked(x, req)
	if r, ok := x.state.result(req.Seq); ok {
		if y := s.sessions[uint32(r.Val[0])]; y != nil {
			return spareReply(y, r.Val[1])
		}
	}
	unused := 0
	used := s.spares(func(y *session) bool {
		if y.state.Parent != x.number {
			return false
		}
		state, _ := y.page.state()
		if state == abi.PageSpare {
			unused++
		}
		// The child of the fork that is just over may not have run yet.
		return state != abi.PageSpare && y.number != uint32(req.Arg[0])
	})
	for _, y := range used[:max(len(used)-maxUnsettled, 0)] {
		s.settle(y)
	}
	if len(used) > 0 {
		s.settleLater(settlePause)
	}
	n := min(s.batch(x, req.Arg[1]), abi.MaxSpares-unused)
	if n <= 0 {
		return failed(unix.EAGAIN)
	}
	made, err := s.newSessions(x.number, n)
	if err != nil {
		return refuse(err)
	}
	x.state.keep(result{Seq: req.Seq, Val: [2]int64{int64(made[0].number), int64(len(made))}})
	step("spare: kept")
	return spareReply(made[0], int64(len(made)))
}

// batch is how many spares a parent gets at once: twice as many as the last time,
// up to what it wants, and not too much of what is left for others.
func (s *space) batch(x *session, wanted int64) int {
	left := int(s.state.header.MaxSessions) - len(s.sessions)
	x.batch = max(min(2*x.batch, int(min(wanted, abi.MaxSpares)), left/64), 1)
	return x.batch
}

func spareReply(y *session, n int64) reply {
	f, err := y.page.of.open()
	if err != nil {
		return failed(unix.EIO)
	}
	return reply{val: [6]int64{int64(y.number), n}, files: []*os.File{f}, closing: []*os.File{f}}
}

// forked takes note that x is back from a fork that used a spare.
func (s *space) forked(x *session, req *request) {
	if y := s.sessions[uint32(req.Arg[0])]; y != nil && y.state.Parent == x.number {
		y.forked = true
		s.watchForks()
	}
}

// watchForks has no parent tell of its forks for a while, since all spares will be
// looked at.
func (s *space) watchForks() {
	atomic.StoreUint32(&s.table.header.Forks, 1)
	s.settleLater(settlePause)
}

// newForks tells whether spares were used that nobody had seen used. If not,
// parents tell again.
func (s *space) newForks() bool {
	for range 2 {
		fresh := false
		for _, y := range s.sessions {
			if y.id == (processID{}) && !y.used {
				state, _ := y.page.state()
				y.used = state != abi.PageSpare
				fresh = fresh || y.used
			}
		}
		if fresh {
			return true
		}
		atomic.StoreUint32(&s.table.header.Forks, 0)
	}
	return false
}

// settle finds the child of a used spare and makes it a session, or cleans up
// when there is none any more. true: it is settled.
func (s *space) settle(y *session) bool {
	if y.id != (processID{}) || y.dead {
		return true
	}
	state, pid := y.page.state()
	parent := s.sessions[y.state.Parent]
	if state == abi.PageSpare {
		if parent == nil {
			s.dropSession(y)
		}
		return true
	}
	if state == abi.PageReserved || state == abi.PageForked {
		// Before the parent says so, the fork may not have happened yet.
		// After that the child has not run yet, or the fork failed, or the
		// child died at once.
		y.forked = y.forked || state == abi.PageForked
		if y.reserved.IsZero() {
			y.reserved = time.Now()
		}
		if parent != nil && !y.forked && time.Since(y.reserved) < longestFork || s.mayComeTrue(y, parent) {
			return false
		}
		// Nobody maps the page any more who could claim it; but a child
		// that claimed it and called exec while we looked has done so.
		state, pid = y.page.giveUp()
	}
	if state == abi.PageClaimed {
		id, pidfd, levels, err := s.findChild(y, parent, pid)
		step("spare: child looked for")
		if err == nil {
			err = s.bindTo(y, id, pidfd, levels)
		}
		if err == nil || scarce(err) {
			return err == nil
		}
		// It is gone already, but named as the last to detach, perhaps.
		if st, err := s.state.session(y.state.Parent); err == nil {
			y.state.Levels[0] = pidLevel{NS: st.Levels[0].NS, PID: pid}
		}
	}
	s.descend(y)
	for _, x := range s.m.deaths.toldOf(s) {
		if !x.dead {
			s.bury(x) // and y, where it ended before
		}
	}
	if y.dead {
		return true
	}
	step("spare: given up")
	s.bury(y)
	return true
}

// lost tells whether a spare never came to its parent, whose manager was killed
// as it made it: it would count as unused for ever. One of which an answer tells
// may be on its way.
func (s *space) lost(y *session) bool {
	parent := s.sessions[y.state.Parent]
	if state, _ := y.page.state(); state != abi.PageSpare || parent == nil || parent.dead {
		return false
	}
	for _, r := range parent.state.Results {
		if z := s.sessions[uint32(r.Val[0])]; r.Seq != 0 && z != nil && z.page.of == y.page.of {
			return false
		}
	}
	mapped, err := y.page.mappedBy(parent.id.pid)
	return err == nil && !mapped
}

// mayComeTrue tells whether a process is there that could be the child of a
// reserved spare: one that has the page mapped and is nobody's session yet.
func (s *space) mayComeTrue(y, parent *session) bool {
	if parent != nil && !s.isDead(parent) {
		// Twice: a thread that ends leaves its children to another, and of the children
		// that are read one may be left out if another ends meanwhile (proc(5)).
		for range 2 {
			if pids, err := children(parent.id.pid); err != nil || s.unclaimedBy(y, pids) {
				return true
			}
		}
		if !s.isDead(parent) {
			return false
		}
	}
	// The children of the dead are others', also of one who died as we looked.
	pids, err := processes()
	return err != nil || s.unclaimedBy(y, pids)
}

// unclaimedBy tells whether one of pids could claim the page of a spare.
func (s *space) unclaimedBy(y *session, pids []int) bool {
	for _, pid := range pids {
		// This process has all pages mapped.
		if pid == os.Getpid() || s.isSession(pid) {
			continue
		}
		mapped, err := y.page.mappedBy(pid)
		if (mapped && err == nil || errors.Is(err, unix.EFBIG) || scarce(err)) && !exited(pid) {
			return true
		}
	}
	return false
}

func (s *space) isSession(pid int) bool {
	start, err := startTime(pid)
	return err == nil && len(s.process[processID{pid, start}]) > 0
}

// findChild finds the process that stored its pid in the page: of that pid in
// the parent's pid namespace, and started before the page was claimed, since
// whoever has the pid after its death started later. That holds when the child
// called exec, which takes the page, and when its parent is gone.
//
// The page is the client's own word: it could name another process of its
// namespace. All that follows is that the session ends with that one.
//
// ESRCH: it is gone. Other errors: the manager has too little of something to see.
func (s *space) findChild(y, parent *session, pid uint32) (id processID, pidfd int, levels pidList, err error) {
	gone := error(unix.ESRCH)
	claimed := y.page.claimed()
	candidates, levelsOf := processes, pidLevelsOf
	if parent != nil && !parent.dead {
		// The kernel itself translates, mostly; and a pid that it does not
		// know is nobody's any more.
		p, err := parent.outside(int(pid))
		if errors.Is(err, unix.ESRCH) {
			return id, 0, levels, gone
		}
		if err == nil {
			candidates = func() ([]int, error) { return []int{p}, nil }
			levelsOf = func(p int) (pidList, error) { return pidLevelsBeside(p, pid, &parent.state.Levels) }
		}
	}
	pids, err := candidates()
	if err != nil {
		return id, 0, levels, err
	}
	for _, p := range pids {
		fd, err := unix.PidfdOpen(p, 0)
		if err == nil && pidAlive(fd) {
			var start uint64
			if levels, err = levelsOf(p); err == nil {
				start, err = startTime(p)
			}
			if err == nil && levels[0].PID == pid && levels[0].NS == y.pidns &&
				start*nsPerTick <= claimed && pidAlive(fd) {
				return processID{p, start}, fd, levels, nil
			}
		}
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		if scarce(err) {
			gone = err
		}
	}
	return id, 0, levels, gone
}

// settleChildren looks at the spares of a session that died.
func (s *space) settleChildren(parent *session) {
	for _, y := range s.spares(func(y *session) bool { return y.state.Parent == parent.number }) {
		if !s.settle(y) {
			s.settleLater(settlePause)
		}
	}
}

// spares lists the unclaimed sessions that match, as lastToEnd orders them.
func (s *space) spares(match func(*session) bool) []*session {
	var out []*session
	for _, y := range s.sessions {
		if y.id == (processID{}) && !y.dead && match(y) {
			out = append(out, y)
		}
	}
	return lastToEnd(out)
}

// lastToEnd puts last the process that is likely to end last. Who of several dead
// ones did, when all are found at once, nobody tells; but most parents wait for
// each child: a child ends before the next is born, and before its parent.
func lastToEnd(of []*session) []*session {
	if len(of) < 2 {
		return of
	}
	type birth struct {
		*session
		at uint64
	}
	births := make([]birth, len(of))
	children := map[uint32][]*session{}
	for i, x := range of {
		births[i] = birth{x, x.page.claimed()}
	}
	slices.SortFunc(births, func(a, b birth) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.number, b.number))
	})
	for _, b := range births {
		children[b.state.Parent] = append(children[b.state.Parent], b.session)
	}
	ordered := of[:0]
	seen := map[*session]bool{}
	var add func(x *session)
	add = func(x *session) {
		if seen[x] {
			return
		}
		seen[x] = true
		for _, child := range children[x.number] {
			add(child)
		}
		ordered = append(ordered, x)
	}
	for _, b := range births {
		add(b.session)
	}
	return ordered
}

// settleLater looks at used spares again after a pause, which grows as long
// as some stay unsettled.
func (s *space) settleLater(pause time.Duration) {
	at := time.Now().Add(pause)
	if s.closed || s.settling != nil && !at.Before(s.settleAt) {
		return
	}
	if s.settling != nil {
		s.settling.Stop()
	}
	s.settleAt = at
	var timer *time.Timer
	timer = time.AfterFunc(pause, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closed || s.settling != timer {
			return
		}
		s.settling = nil
		s.destroyOrphans()
		more := atomic.LoadUint32(&s.table.header.Forks) != 0 && s.newForks()
		open := false
		for _, y := range s.spares(func(y *session) bool { st, _ := y.page.state(); return st != abi.PageSpare }) {
			open = !s.settle(y) || open
		}
		if more {
			s.watchForks()
		} else if open {
			s.settleLater(min(max(2*pause, settlePause), settleLongest))
		}
	})
	s.settling = timer
}
