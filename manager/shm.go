package manager

import (
	"errors"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/client/plane"
)

// attachment is what is known of a segment's attaches.
type attachment struct {
	count        uint64
	held         bool  // a process says that it is attached, or is about to
	atime, dtime int64 // ns since 1970, 0: never
	last         uint32
	lastTime     int64
}

func (a *attachment) event(t int64, session uint32) {
	if t > a.lastTime {
		a.lastTime, a.last = t, session
	}
}

// attaches counts the attaches of a segment: those of live processes, and
// those that a fork under way has already made sure of. A process that is
// dead does not count, even before its pidfd says so; nor one that called
// exec.
func (s *space) attaches(o *object) attachment {
	var a attachment
	holders := s.holders(o)
	maps := map[int]*mappings{}
	for _, x := range holders {
		if x.id == (processID{}) && !s.settle(x) {
			s.settleLater(settlePause)
		}
		if x.dead || x.id == (processID{}) || !x.page.attached(o.rec.Serial) {
			continue
		}
		// The kernel detaches as the memory goes, which is before the end of the process.
		if maps[x.id.pid] == nil {
			maps[x.id.pid] = &mappings{pid: x.id.pid}
		}
		switch mapped, err := x.page.mappedIn(maps[x.id.pid]); {
		case mapped && err == nil:
		case s.isDead(x):
			s.bury(x)
		case err == nil && pidAlive(x.pidfd):
			s.foldPage(x, x.executed(), true)
		}
	}
	// Where there is no memory for it, nothing was ever kept.
	if st, err := s.state.segment(o.index); err == nil && st.Serial == o.rec.Serial {
		a = attachment{atime: st.ATime, dtime: st.DTime, last: st.LastSession, lastTime: st.LastTime}
	}
	for _, x := range holders {
		if x.dead {
			continue
		}
		x.page.uses(func(_ int, u use) {
			if u.serial != o.rec.Serial {
				return
			}
			a.count += uint64(u.count)
			a.held = a.held || u.count > 0
			a.atime, a.dtime = max(a.atime, u.atime), max(a.dtime, u.dtime)
			a.event(max(u.atime, u.dtime), x.number)
		})
	}
	return a
}

// mayHave tells whether a session can have a segment attached: it was given the
// segment, or its parent was before the fork. What its page says of others is a lie.
func (s *space) mayHave(x *session, o *object) bool {
	if _, given := x.opened[o]; given || x.unknown {
		return true
	}
	parent := s.sessions[x.state.Parent]
	return x.id == (processID{}) && parent != nil && s.mayHave(parent, o)
}

// holders are the sessions whose page names a segment, in the order in which
// their processes are likely to have ended.
func (s *space) holders(o *object) []*session {
	var out []*session
	for _, x := range s.sessions {
		if x.id == (processID{}) {
			if state, _ := x.page.state(); state == abi.PageSpare {
				continue
			}
		}
		found := false
		x.page.uses(func(_ int, u use) { found = found || u.serial == o.rec.Serial })
		if found && s.mayHave(x, o) {
			out = append(out, x)
		}
	}
	return lastToEnd(out)
}

// executed is when a process called exec that is found to have done so. It has
// written that down, or, if it called without libc and never said hello, did it
// soon after the fork, as most children do.
func (x *session) executed() int64 {
	claimed := x.page.claimed()
	now, boot, err := bothClocks()
	if err != nil || claimed == 0 || x.heard && claimed&abi.ClaimedExec == 0 {
		return plane.StampOf(now)
	}
	return plane.StampOf(now.Add(-max(boot-time.Duration(claimed), 0)))
}

// bothClocks is one moment by CLOCK_REALTIME and by CLOCK_BOOTTIME. Who waits for a
// CPU between one look and the next has two moments: looks that took long are
// done again.
func bothClocks() (now time.Time, boot time.Duration, err error) {
	const close, tries = 3 * time.Microsecond, 20
	took := time.Duration(math.MaxInt64)
	for range tries {
		var before, after unix.Timespec
		err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &before)
		at := time.Now()
		if err := errors.Join(err, unix.ClockGettime(unix.CLOCK_BOOTTIME, &after)); err != nil {
			return at, 0, err
		}
		if between := time.Duration(after.Nano() - before.Nano()); between < took {
			took = between
			now, boot = at, time.Duration(before.Nano())+between/2
		}
		if took < close {
			break
		}
	}
	return now, boot, nil
}

// foldPage keeps what a session's page says of segments, and forgets the
// uses. all: the process is dead or called exec, and what it had attached is
// detached at that time; else only uses with Count 0 (MsgFold).
func (s *space) foldPage(x *session, at int64, all bool) {
	if x.id == (processID{}) {
		if state, _ := x.page.state(); state == abi.PageSpare {
			return
		}
	}
	x.page.uses(func(i int, u use) {
		if u.count > 0 && !all {
			return
		}
		if o := s.segments[u.serial]; o != nil && s.mayHave(x, o) {
			s.foldUse(o, x.number, u, at)
		}
		x.page.free(i)
	})
}

func (s *space) foldUse(o *object, session uint32, u use, at int64) {
	st, err := s.state.segment(o.index)
	if err != nil {
		s.log.Error("times of a segment lost", keyID, o.rec.ID, keyError, err)
		return
	}
	if st.Serial != o.rec.Serial {
		*st = segmentState{Serial: o.rec.Serial}
	}
	if u.count > 0 {
		u.dtime = at
		o.left = true
	}
	// The times come from the client: they cannot lie ahead.
	u.atime, u.dtime = min(u.atime, at), min(u.dtime, at)
	st.ATime, st.DTime = max(st.ATime, u.atime), max(st.DTime, u.dtime)
	if t := max(u.atime, u.dtime); t > st.LastTime {
		st.LastTime, st.LastSession = t, session
	}
}

// removeSegment is IPC_RMID of a segment. While Closing is published no new
// attach begins; one that had begun has its use counted (ARCHITECTURE.md).
//
// Cut while Closing: recovery publishes the record again as it was. Cut after
// the record with ModeDest: the segment waits for its last detach as it
// should; the key entry is a hint, and recovery writes it anew.
func (s *space) removeSegment(o *object) error {
	if o.rec.Mode&abi.ModeDest != 0 {
		return s.destroyIfUnused(o)
	}
	s.table.closing(Shm, o.index)
	step("remove: closed")
	a := s.attaches(o)
	if !a.held {
		s.removeObject(o)
		return nil
	}
	rec, key := o.rec, o.rec.Key
	rec.Mode |= abi.ModeDest
	rec.Key = 0
	if err := o.publish(rec); err != nil {
		return err
	}
	step("remove: marked")
	if key != 0 {
		s.table.dropKey(Shm, key)
	}
	if a.count == 0 {
		o.doomed = time.Now()
		s.settleLater(doomedPause)
	}
	return nil
}

// doomedPause is how long a process may take from counting an attach to
// mapping it, before a segment marked for destruction goes without it. (The
// process keeps its memory then, under an id that is gone.)
const doomedPause = 50 * time.Millisecond

// destroyIfUnused frees a segment marked for destruction when nobody has it
// attached. It closes the segment only if that seems so.
func (s *space) destroyIfUnused(o *object) error {
	unused := func() bool {
		a := s.attaches(o)
		late := !o.doomed.IsZero() && time.Since(o.doomed) >= doomedPause
		return !a.held || a.count == 0 && late
	}
	if !unused() || o.gone {
		return nil
	}
	s.table.closing(Shm, o.index)
	still := unused()
	switch {
	case o.gone:
		return nil
	case still:
		s.removeObject(o)
		return nil
	}
	return o.publish(o.rec)
}

// destroyOrphans looks at all segments marked for destruction after attaches
// went away, and with shm_rmid_forced at those whose creator is gone.
func (s *space) destroyOrphans() {
	for _, o := range s.objects[Shm] {
		if o.rec.Mode&abi.ModeDest == 0 && !(s.table.forced() && (o.left || s.sessions[o.rec.Creator] == nil)) {
			continue
		}
		o.left = false
		if err := s.destroyIfUnused(o); err != nil {
			s.log.Error("segment not destroyed", keyID, o.rec.ID, keyError, err)
		}
	}
}

// detached answers MsgDetached.
func (s *space) detached(req *request) reply {
	o, err := s.find(Shm, req.Arg[0])
	if err != nil {
		return reply{} // somebody else found it unused before
	}
	if o.rec.Mode&abi.ModeDest == 0 && !s.table.forced() {
		return reply{}
	}
	if err := s.destroyIfUnused(o); err != nil {
		return refuse(err)
	}
	return reply{}
}

// fold answers MsgFold.
func (s *space) fold(x *session) reply {
	s.foldPage(x, plane.Stamp(), false)
	return reply{}
}

// lock is SHM_LOCK and SHM_UNLOCK: the bit in the mode; the memory is not
// locked, it belongs to the clients' cgroups.
func (s *space) lock(o *object, c *caller, lock bool) error {
	if err := checkLock(&o.rec, c, lock, s.lockedBy(c.uid)); err != nil {
		return err
	}
	rec := o.rec
	if rec.Flags&abi.RecordHuge != 0 {
		return nil // as the kernel: success without effect
	}
	rec.Mode &^= abi.ModeLocked
	if lock {
		rec.Mode |= abi.ModeLocked
	}
	if rec == o.rec {
		return nil
	}
	o.locker = c.uid
	return o.publish(rec)
}

// lockedBy is how many bytes of segments a user has locked (user_shm_lock).
func (s *space) lockedBy(uid uint32) uint64 {
	var n uint64
	for _, o := range s.objects[Shm] {
		if o.rec.Mode&abi.ModeLocked != 0 && o.locker == uid {
			n += pages(o.rec.Size) * abi.PageSize
		}
	}
	return n
}
