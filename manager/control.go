package manager

import (
	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/client/plane"
)

// Commands of the *ctl calls that x/sys/unix does not have (ipc.h, shm.h, sem.h, msg.h).
const (
	ipc64 = 0x100 // IPC_64, of no meaning here

	shmLock    = 11
	shmUnlock  = 12
	shmStat    = 13
	shmInfo    = 14
	shmStatAny = 15

	msgStat    = 11
	msgInfo    = 12
	msgStatAny = 13

	semStat    = 18
	semStatAny = 20
)

// control answers MsgCtl: shmctl, semctl and msgctl, as far as they are the
// manager's.
func (s *space) control(x *session, c *caller, req *request) reply {
	f, ok := family(req.Arg[0])
	if !ok {
		return failed(unix.EINVAL)
	}
	id, cmd := req.Arg[1], req.Arg[2]&^ipc64
	switch {
	case cmd == unix.IPC_RMID || cmd == unix.IPC_SET || f == Shm && (cmd == shmLock || cmd == shmUnlock):
		return s.change(x, c, f, id, cmd, req)
	case cmd == unix.IPC_STAT:
		return s.stat(x, c, f, id, true, false)
	case f == Shm && cmd == shmStat || f == Msg && cmd == msgStat || f == Sem && cmd == semStat:
		return s.stat(x, c, f, id, true, true)
	case f == Shm && cmd == shmStatAny || f == Msg && cmd == msgStatAny || f == Sem && cmd == semStatAny:
		return s.stat(x, c, f, id, false, true)
	case f == Shm && cmd == shmInfo:
		return reply{val: [6]int64{int64(s.resident())}}
	case f == Msg && cmd == msgInfo:
		messages, bytes := s.queued()
		return reply{val: [6]int64{int64(messages), int64(bytes)}}
	}
	return failed(unix.EINVAL)
}

// change carries out the commands that change an object, each once: the
// intent tells a later manager whether the slot word was changed.
func (s *space) change(x *session, c *caller, f Family, id, cmd int64, req *request) reply {
	if r, ok := x.state.result(req.Seq); ok {
		return failed(unix.Errno(r.Errno))
	}
	o, err := s.find(f, id)
	if err != nil {
		return refuse(err)
	}
	s.state.begin(intent{
		Kind: abi.MsgCtl, Session: x.number, Seq: req.Seq, Family: uint32(f), ID: o.rec.ID,
		Command: uint32(cmd), Serial: o.rec.Serial, Word: o.word.Load(),
	})
	step("change: intended")
	defer s.state.end()
	switch cmd {
	case unix.IPC_RMID:
		if err = checkOwner(&o.rec, c); err != nil {
			break
		}
		if f == Shm {
			err = s.removeSegment(o)
		} else {
			s.removeObject(o)
		}
	case unix.IPC_SET:
		if err = checkOwner(&o.rec, c); err == nil {
			err = s.set(o, c, req)
		}
	default:
		err = s.lock(o, c, cmd == shmLock)
	}
	r := refuse(err)
	if err == nil {
		r = reply{}
	}
	step("change: done")
	x.state.keep(result{Seq: req.Seq, Errno: uint32(r.errno)})
	return r
}

// set is IPC_SET, after the check of the owner.
func (s *space) set(o *object, c *caller, req *request) error {
	rec := o.rec
	if o.family == Msg {
		size, ok := qbytes(req.body)
		if !ok {
			return unix.EINVAL
		}
		// "EPERM: An attempt (IPC_SET) was made to increase msg_qbytes beyond
		// the system parameter MSGMNB, but the caller is not privileged
		// (Linux: does not have the CAP_SYS_RESOURCE capability)."
		// What msgctl_down compares is an int, so that of a larger number the
		// low half counts.
		if uint64(uint32(size)) > s.table.header.MsgMnb && !c.capable(capSysResource) {
			return unix.EPERM
		}
		rec.Size = uint64(int32(size))
	}
	uid, gid, ok := s.givenIDs(c, uint32(req.Arg[3]), uint32(req.Arg[4]))
	if !ok {
		return unix.EINVAL // ipc_update_perm: not mapped in the caller's namespace
	}
	rec.UID, rec.GID = uid, gid
	rec.Mode = rec.Mode&^0o777 | uint32(req.Arg[5])&0o777
	rec.CTime = now()
	// A set stays where it is if all who hold its file keep their rights: its
	// sleepers do not notice. Those of a queue are to check again in any case.
	if o.family != Shm && narrows(&o.rec, &rec) && !(o.family == Sem && o.given.keep(&rec)) {
		return s.move(o, rec)
	}
	if err := o.publish(rec); err != nil {
		return err
	}
	if o.family == Msg {
		return o.onPlane(nil, (*plane.Queue).Rescan)
	}
	return nil
}

// givenIDs translates uid and gid of the caller's user namespace.
func (s *space) givenIDs(c *caller, uid, gid uint32) (uint32, uint32, bool) {
	if uid == invalidID || gid == invalidID {
		return 0, 0, false
	}
	uids, gids, err := c.maps()
	if err != nil {
		return 0, 0, false
	}
	u, ok1 := uids.in(uid)
	g, ok2 := gids.in(gid)
	return u, g, ok1 && ok2
}

// narrows tells whether anybody could lose a right of reading or writing.
func narrows(old, fresh *abi.Record) bool {
	return old.UID != fresh.UID || old.GID != fresh.GID || old.Mode&^fresh.Mode&0o666 != 0
}

// stat answers IPC_STAT, *_STAT (byIndex) and *_STAT_ANY (no permission).
func (s *space) stat(x *session, c *caller, f Family, id int64, check, byIndex bool) reply {
	o, err := s.find(f, id)
	if byIndex {
		// "EINVAL: […] or for a *_STAT operation, the index value specified
		// in shmid referred to an array slot that is currently unused."
		if o, err = s.objects[f][uint32(id)&abi.IndexMask], nil; o == nil || id < 0 {
			err = unix.EINVAL
		}
	}
	if err != nil {
		return refuse(err)
	}
	// "EACCES: IPC_STAT or SHM_STAT is requested and shm_perm.mode does not
	// allow read access for shmid, and the calling process does not have the
	// CAP_IPC_OWNER capability in the user namespace that governs its IPC
	// namespace."
	if check {
		if err := checkPermission(&o.rec, c, abi.AccessRead); err != nil {
			return refuse(err)
		}
	}
	st, err := s.statOf(o, func(n, thread uint32) uint32 { return s.who(x, n, thread) })
	if err != nil {
		return refuse(err)
	}
	if o.gone {
		return failed(unix.EINVAL) // the last to hold it turned out dead
	}
	if uids, gids, err := c.maps(); err == nil {
		st.UID, st.CUID = uids.out(st.UID), uids.out(st.CUID)
		st.GID, st.CGID = gids.out(st.GID), gids.out(st.CGID)
	}
	r := reply{body: statBytes(&st)}
	if byIndex {
		r.val[0] = int64(st.ID)
	}
	return r
}

// statOf fills abi.Stat; who translates session and thread numbers to pids.
func (s *space) statOf(o *object, who func(session, thread uint32) uint32) (abi.Stat, error) {
	const ns = 1e9
	r := &o.rec
	st := abi.Stat{
		ID: r.ID, Key: r.Key, UID: r.UID, GID: r.GID, CUID: r.CUID, CGID: r.CGID,
		Mode: r.Mode, Seq: r.ID >> abi.IndexBits, Size: r.Size,
	}
	st.Time[2] = r.CTime
	if o.family == Shm {
		a := s.attaches(o)
		st.Time[0], st.Time[1] = a.atime/ns, a.dtime/ns
		st.PID = [2]uint32{who(a.last, 0), who(r.Creator, 0)}
		st.Count[0] = a.count
		return st, nil
	}
	err := o.onPlane(
		func(p *plane.Set) error {
			st.Time[0] = p.OTime()
			st.Time[2] = max(st.Time[2], p.CTime())
			return nil
		},
		func(p *plane.Queue) error {
			q := p.Stat()
			st.Time[0], st.Time[1] = q.SendTime, q.RecvedTime
			st.PID = [2]uint32{who(q.Sender, 0), who(q.Receiver, q.Thread)}
			st.Count = [2]uint64{q.Bytes, q.Messages}
			return nil
		})
	return st, err
}

// queued is what all queues hold (MSG_INFO).
func (s *space) queued() (messages, bytes uint64) {
	for _, o := range s.objects[Msg] {
		_ = o.onPlane(nil, func(p *plane.Queue) error {
			q := p.Stat()
			messages, bytes = messages+q.Messages, bytes+q.Bytes
			return nil
		})
	}
	return messages, bytes
}
