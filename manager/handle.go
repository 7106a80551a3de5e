package manager

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/client/plane"
)

// handle answers the requests of a session. It takes space.mu, except for
// brokered calls, which sleep.
func (s *space) handle(c *channel, req *request) reply {
	x := c.session
	switch req.Kind {
	case abi.MsgSemOp, abi.MsgSemCtl, abi.MsgSend, abi.MsgReceive:
		return s.broker(c, req)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || x.dead {
		return away
	}
	r := s.answer(c, x, req)
	step("answer: found")
	r.given = !x.dead && x.page.answer(req.Seq, &r)
	if r.given {
		step("answer: given")
	}
	return r
}

// answer carries out a request that does not sleep, with space.mu held.
func (s *space) answer(c *channel, x *session, req *request) reply {
	switch req.Kind {
	case abi.MsgSpare:
		return s.spare(x, req)
	case abi.MsgForked:
		s.forked(x, req)
		return reply{later: true}
	case abi.MsgGet:
		return s.get(x, s.caller(c, req), req)
	case abi.MsgOpen:
		return s.open(x, s.caller(c, req), req)
	case abi.MsgCtl:
		return s.control(x, s.caller(c, req), req)
	case abi.MsgGrow:
		return s.growRequest(s.caller(c, req), req)
	case abi.MsgReap:
		dead := s.reapSession(uint32(req.Arg[0]))
		if dead != 0 {
			s.reapAgain(x, uint32(req.Arg[0]), req.Arg[1], req.Arg[2])
		}
		return reply{val: [6]int64{dead}}
	case abi.MsgWho:
		return reply{val: [6]int64{int64(s.who(x, uint32(req.Arg[0]), uint32(req.Arg[1])))}}
	case abi.MsgDetached:
		return s.detached(req)
	case abi.MsgFold:
		return s.fold(x)
	case abi.MsgCancel:
		if b, ok := x.calls[uint32(req.Arg[0])]; ok {
			b.cancel()
		}
		return reply{later: true}
	case abi.MsgPunch:
		return s.punch(x, s.caller(c, req), req)
	case abi.MsgUndo:
		return s.undoNow(x)
	case abi.MsgCreds:
		return reply{} // credentials come with each message
	}
	// "ENOSYS: Function not implemented": a request of a newer library.
	return failed(unix.ENOSYS)
}

// caller is who sent a request. A channel may be used by another process than
// the session's, its vfork child mostly: its own credentials count.
func (s *space) caller(c *channel, req *request) *caller {
	pid := int(req.cred.Pid)
	who := &caller{pid: pid, tid: req.TID, uid: req.cred.Uid, gid: req.cred.Gid, self: s.m.userns}
	if pid == c.pid {
		who.alive = c.alive
		s.localize(who)
		return who
	}
	start, err := startTime(pid)
	who.alive = func() bool {
		again, err2 := startTime(pid)
		return err == nil && err2 == nil && start == again
	}
	s.localize(who)
	return who
}

// open answers MsgOpen.
func (s *space) open(x *session, c *caller, req *request) reply {
	f, ok := family(req.Arg[0])
	if !ok {
		return failed(unix.EINVAL)
	}
	o, err := s.find(f, req.Arg[1])
	if err != nil {
		return refuse(err)
	}
	if f == Shm {
		return s.openSegment(x, o, c, uint32(req.Arg[2])&7)
	}
	x.opened[o] = struct{}{}
	o.shared = true
	const both = abi.AccessRead | abi.AccessWrite
	held := rights(&o.rec, c, both)
	r := reply{val: [6]int64{int64(o.word.Load()), int64(held), 1}}
	if held == both && !s.made(stateBrokered) {
		r.val[2] = 0
		o.given.add(c)
		if err := r.pass(o); err != nil {
			s.log.Error("object not opened", keyFamily, f.String(), keyID, o.rec.ID, keyError, err)
			return failed(unix.ENOMEM)
		}
	}
	return r
}

// pass sends copies of an object's descriptors along: it may be gone, and its
// descriptors with it, before the reply is written.
func (r *reply) pass(o *object) error {
	for _, of := range []*file{o.control, o.data} {
		if of == nil {
			continue
		}
		f, err := of.give()
		var fd int
		if err == nil {
			fd, err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		}
		if err != nil {
			for _, f := range r.closing {
				_ = f.Close()
			}
			return err
		}
		r.closing = append(r.closing, os.NewFile(uintptr(fd), of.path))
	}
	r.files = r.closing
	return nil
}

// openSegment gives a descriptor for the access asked. Who may only read gets
// one that cannot be opened again for writing.
func (s *space) openSegment(x *session, o *object, c *caller, asked uint32) reply {
	held := rights(&o.rec, c, asked)
	if held != asked {
		return failed(unix.EACCES)
	}
	x.opened[o] = struct{}{}
	o.shared = true
	r := reply{val: [6]int64{int64(o.word.Load()), int64(held)}}
	if asked&abi.AccessWrite != 0 {
		if err := r.pass(o); err != nil {
			s.log.Error("segment not opened", keyID, o.rec.ID, keyError, err)
			return failed(unix.ENOMEM)
		}
		return r
	}
	var f *os.File
	err := o.control.make()
	if err == nil {
		f, err = s.storage.openReadOnly(o.control.path)
	}
	if err != nil {
		s.log.Error("segment not opened", keyID, o.rec.ID, keyError, err)
		return failed(unix.ENOMEM)
	}
	r.files, r.closing = []*os.File{f}, []*os.File{f}
	return r
}

// growRequest answers MsgGrow. Who may change the object may grow it.
func (s *space) growRequest(c *caller, req *request) reply {
	f, ok := family(req.Arg[0])
	if !ok {
		return failed(unix.EINVAL)
	}
	o, err := s.find(f, req.Arg[1])
	if err != nil {
		return refuse(err)
	}
	if err := checkPermission(&o.rec, c, abi.AccessWrite); err != nil {
		return refuse(err)
	}
	if req.Arg[2] < 0 || req.Arg[3] < 0 || req.Arg[2] > abi.MaxCells || req.Arg[3] > abi.MaxChunks {
		return failed(unix.ENOMEM)
	}
	if err := o.grow(int(req.Arg[2]), int(req.Arg[3])); err != nil {
		return refuse(err)
	}
	return reply{val: [6]int64{int64(o.word.Load())}}
}

// punch answers MsgPunch. Who may write to a segment may free its pages, as
// everybody may who has it attached for writing in the kernel.
func (s *space) punch(x *session, c *caller, req *request) reply {
	o, err := s.find(Shm, req.Arg[0])
	if err == nil {
		if err = checkPermission(&o.rec, c, abi.AccessWrite); err != nil && x.mayWrite(o) {
			err = nil // it lost the right after it attached the segment
		}
	}
	if err != nil {
		return refuse(err)
	}
	offset, length, size := req.Arg[1], req.Arg[2], int64(pages(o.rec.Size)*abi.PageSize)
	if offset < 0 || length <= 0 {
		return failed(unix.EINVAL)
	}
	if offset >= size {
		return reply{} // of an attach that was grown: nothing is there
	}
	if err := o.control.punch(offset, min(length, size-offset)); err != nil {
		return refuse(err)
	}
	return reply{}
}

// mostSmaps is mostMaps of /proc/<pid>/smaps.
const mostSmaps = 8 * mostMaps

// mayWrite tells whether the process has a mapping of the segment in which it
// may write, now or after mprotect.
func (x *session) mayWrite(o *object) bool {
	var st unix.Stat_t
	b, err := readProcAtMost(fmt.Sprintf("/proc/%d/smaps", x.id.pid), mostSmaps)
	if err != nil || unix.Stat(o.control.path, &st) != nil || !pidAlive(x.pidfd) {
		return false
	}
	of := false
	for line := range strings.Lines(string(b)) {
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok {
			if of && strings.Contains(flags, " mw ") {
				return true
			}
			of = false
			continue
		}
		of = of || strings.Contains(line, fmt.Sprintf("%s%d ", devText(st.Dev), st.Ino))
	}
	return false
}

// undoNow answers MsgUndo.
func (s *space) undoNow(x *session) reply {
	for _, o := range s.objects[Sem] {
		if _, opened := x.opened[o]; !opened && !x.everything {
			continue
		}
		err := o.onPlane(func(p *plane.Set) error { return p.ApplyUndo(x.number) }, nil)
		if err != nil {
			s.log.Error("undo not applied", keySession, x.number, keyID, o.rec.ID, keyError, err)
			return failed(unix.ENOMEM)
		}
	}
	return reply{}
}

// reapSession answers MsgReap: 1, the session's process is dead and its undo
// applied; 0, it lives, and the hint that made somebody ask is cleared.
func (s *space) reapSession(number uint32) int64 {
	x := s.sessions[number]
	if x == nil {
		// Ended before, or never was. abi.ManagerSession never ends.
		if number == abi.ManagerSession {
			return 0
		}
		return 1
	}
	if x.id == (processID{}) && !s.settle(x) {
		s.settleLater(settlePause)
		return 0
	}
	if s.isDead(x) {
		if !x.dead {
			s.bury(x)
		}
		return 1
	}
	s.pulse.calm(number)
	return 0
}

// reapAgain cleans up in the object in which x met something of a dead session. It would
// meet it for ever, should that session have come to the object unknown to the manager.
func (s *space) reapAgain(x *session, number uint32, f, id int64) {
	of, ok := family(f)
	if !ok || of == Shm {
		return
	}
	o, err := s.find(of, id)
	if err != nil {
		return
	}
	if _, opened := x.opened[o]; !opened && !x.everything {
		return
	}
	if err := s.reap(o, number); err != nil {
		s.log.Error("clean-up after a dead process failed", keySession, number, keyFamily, of.String(), keyID, o.rec.ID, keyError, err)
	}
}

// statBytes encodes an abi.Stat.
func statBytes(st *abi.Stat) []byte {
	b := make([]byte, unsafe.Sizeof(*st))
	copy(b, unsafe.Slice((*byte)(unsafe.Pointer(st)), len(b)))
	return b
}

func qbytes(body []byte) (uint64, bool) {
	if len(body) != 8 {
		return 0, false
	}
	return binary.LittleEndian.Uint64(body), true
}
