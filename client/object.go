package client

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/client/plane"
)

var familyNames = [abi.Families]string{"segment", "set", "queue"}
var getCalls = [abi.Families]string{"shmget", "semget", "msgget"}
var ctlCalls = [abi.Families]string{"shmctl", "semctl", "msgctl"}

// GetOption says how an object is looked for: by default it must be there.
type GetOption func(*getting)

type getting struct{ flags int64 }

// Create makes the object if the key has none, with the nine permission bits
// of mode. One that is there must allow what mode asks for.
func Create(mode uint32) GetOption {
	return func(g *getting) { g.flags |= unix.IPC_CREAT | int64(mode&0o777) }
}

// CreateNew is Create, and ErrExist if the key has an object already.
func CreateNew(mode uint32) GetOption {
	return func(g *getting) { g.flags |= unix.IPC_CREAT | unix.IPC_EXCL | int64(mode&0o777) }
}

// Want looks for an object that allows what mode asks for: ErrPermission
// comes now, and not with the first call that needs it.
func Want(mode uint32) GetOption {
	return func(g *getting) { g.flags |= int64(mode & 0o777) }
}

// object is what segments, sets and queues have in common.
type object struct {
	s      *session
	family int
	id     uint32
	h      atomic.Pointer[handle]
}

func (o *object) String() string { return fmt.Sprintf("%s %d", familyNames[o.family], o.id) }

// ID is the object's id, by which any process of the space may use it.
func (o *object) ID() int { return int(o.id) }

func (o *object) failed(ctx context.Context, call string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, plane.ErrStale) {
		err = unix.EIDRM
	}
	return o.s.failed(ctx, call, o.String(), err)
}

// get is one of the *get calls: from the table where it can be.
func (s *session) get(ctx context.Context, family int, key Key, size int64, options []GetOption) (id uint32, err error) {
	var g getting
	for _, option := range options {
		option(&g)
	}
	on := func() string { return fmt.Sprintf("%s of key %v", familyNames[family], key) }
	if s.closed.Load() {
		return 0, s.failed(ctx, getCalls[family], on(), ErrClosed)
	}
	id, err = s.lookUp(ctx, family, key, size, g.flags)
	if err != nil {
		return 0, s.failed(ctx, getCalls[family], on(), err)
	}
	return id, nil
}

func (s *session) lookUp(ctx context.Context, family int, key Key, size, flags int64) (uint32, error) {
	if family == abi.Sem && (size < 0 || uint64(size) > s.table.header.SemMsl) {
		return 0, unix.EINVAL
	}
	if key != Private {
		rec, found := s.table.find(family, uint32(key))
		switch {
		case !found && flags&unix.IPC_CREAT == 0:
			return 0, unix.ENOENT
		case found && flags&unix.IPC_CREAT != 0 && flags&unix.IPC_EXCL != 0:
			return 0, unix.EEXIST
		case found && family != abi.Msg && uint64(size) > rec.Size:
			return 0, unix.EINVAL
		}
		// By the mode alone; capabilities are for the manager to judge.
		wanted := uint32(flags>>6|flags>>3|flags) & 7
		if found && (wanted == 0 || s.identity().allowed(&rec, wanted)) {
			return rec.ID, nil
		}
	}
	id, err := s.tell(ctx, abi.MsgGet, int64(family), int64(key), flags, size)
	return uint32(id), err
}

// good is the object's handle if it may be used as it is; nil: see current.
func (o *object) good() *handle {
	h := o.h.Load()
	if h == nil || !h.same() && !h.renewed() || o.s.closed.Load() {
		return nil
	}
	return h
}

// current is the object's handle, opened if need be.
func (o *object) current(ctx context.Context, access uint32) (*handle, error) {
	if h := o.good(); h != nil && access&^h.rights == 0 {
		return h, nil
	}
	h, err := o.s.handle(ctx, o.family, o.id, access)
	if err != nil {
		return nil, err
	}
	o.h.Store(h)
	return h, nil
}

// maxRestarts bounds how often a call begins anew that finds its object gone
// which the table shows: a mark that the table never bears out is not the
// manager's.
const maxRestarts = 100

// ready is the handle for a call that begins, or begins again. An object that
// was there when the call began and is not any more was removed.
func (o *object) ready(ctx context.Context, rights uint32, restarts int) (*handle, error) {
	if h := o.h.Load(); h != nil && h.same() && h.rights&rights == rights && !o.s.closed.Load() {
		return h, nil
	}
	h, err := o.current(ctx, 0)
	switch {
	case restarts > 0 && errors.Is(err, unix.EINVAL):
		return nil, unix.EIDRM
	case err != nil:
		return nil, err
	case h.rights&rights != rights:
		return nil, unix.EACCES
	}
	return h, nil
}

// moved says whether a call that ended so is to begin again: its object is
// there, in a fresh file or with other rights.
func (o *object) moved(err error, restarts int) bool {
	return err != nil && o.movedBy(err, restarts)
}

func (o *object) movedBy(err error, restarts int) bool {
	if !errors.Is(err, plane.ErrStale) && !errors.Is(err, unix.EIDRM) || restarts >= maxRestarts {
		return false
	}
	_, _, there := o.s.table.record(o.family, o.id)
	return there
}

// on does something with the object's handle, again if the object moved.
func (o *object) on(ctx context.Context, rights uint32, do func(h *handle) error) error {
	o.begin()
	defer o.end()
	for restarts := 0; ; restarts++ {
		h, err := o.ready(ctx, rights, restarts)
		if err != nil {
			return err
		}
		err = do(h)
		runtime.KeepAlive(h)
		if !o.moved(err, restarts) {
			return err
		}
	}
}

// Remove removes the object (IPC_RMID). Calls that wait for it end with
// ErrRemoved. A segment stays for those who have it attached.
func (o *object) Remove(ctx context.Context) error {
	o.begin()
	_, err := o.s.tell(ctx, abi.MsgCtl, int64(o.family), int64(o.id), unix.IPC_RMID)
	return o.failed(ctx, ctlCalls[o.family], err)
}

// Permissions are what IPC_SET sets of any object: its owner, and the nine
// permission bits of its mode.
type Permissions struct {
	UID, GID uint32
	Mode     uint32
}

func (o *object) setPermissions(ctx context.Context, p Permissions, body []byte) error {
	o.begin()
	r, err := o.s.call(ctx, abi.MsgCtl, body, int64(o.family), int64(o.id), unix.IPC_SET, int64(p.UID), int64(p.GID), int64(p.Mode))
	if err == nil {
		r.close()
	}
	return o.failed(ctx, ctlCalls[o.family], err)
}

// stat asks the manager for what it knows of the object.
func (o *object) stat(ctx context.Context) (st abi.Stat, err error) {
	r, err := o.s.call(ctx, abi.MsgCtl, nil, int64(o.family), int64(o.id), unix.IPC_STAT)
	o.end()
	if err != nil {
		return st, o.failed(ctx, ctlCalls[o.family], err)
	}
	r.close()
	if len(r.body) < int(unsafe.Sizeof(st)) {
		return st, o.failed(ctx, ctlCalls[o.family], errHungUp)
	}
	return *(*abi.Stat)(unsafe.Pointer(unsafe.SliceData(r.body))), nil
}

// Status is what all objects have in common (ipc_perm).
type Status struct {
	ID          int
	Key         Key
	Permissions        // owner and mode
	CUID, CGID  uint32 // who made it
	Changed     time.Time
}

func status(st *abi.Stat) Status {
	return Status{
		ID: int(st.ID), Key: Key(st.Key), Permissions: Permissions{st.UID, st.GID, st.Mode},
		CUID: st.CUID, CGID: st.CGID, Changed: seconds(st.Time[2]),
	}
}

// seconds makes a time of seconds since 1970; 0 is none.
func seconds(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(n, 0)
}

// pidOf is the pid of a session's process, or of a thread of it if that is not
// 0, in this process's pid namespace; 0: it is not visible there, or nobody.
func (s *session) pidOf(ctx context.Context, number, thread uint32) (int, error) {
	if number == 0 || number >= abi.MaxSessions {
		return 0, nil
	}
	rec := s.table.session(number)
	if pid := atomic.LoadUint32(&rec.PID); pid != 0 && atomic.LoadUint64(&rec.PidNS) == s.pidns {
		return int(cmp.Or(thread, pid)), nil
	}
	pid, err := s.tell(ctx, abi.MsgWho, int64(number), int64(thread))
	return int(pid), err
}

// identity is what counts of the process's ids for access, as last asked for.
type identity struct {
	uid, fsgid uint32
	groups     []int
}

func (s *session) identity() *identity {
	if i := s.who.Load(); i != nil {
		return i
	}
	groups, _ := unix.Getgroups()       // none: the manager judges
	fsgid, _ := unix.SetfsgidRetGid(-1) // no gid: it only tells
	i := &identity{uint32(unix.Geteuid()), uint32(fsgid), groups}
	s.who.Store(i)
	return i
}

func (i *identity) allowed(rec *abi.Record, wanted uint32) bool {
	granted := rec.Mode
	switch {
	case i.uid == rec.CUID || i.uid == rec.UID:
		granted >>= 6
	case i.in(rec.CGID) || i.in(rec.GID):
		granted >>= 3
	}
	return wanted&^granted&7 == 0
}

func (i *identity) in(gid uint32) bool {
	if i.fsgid == gid {
		return true
	}
	for _, g := range i.groups {
		if uint32(g) == gid {
			return true
		}
	}
	return false
}

// le64 is a 64-bit number as messages have it.
func le64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
