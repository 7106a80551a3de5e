package client

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"weak"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/client/plane"
)

type handleKey struct {
	family int
	id     uint32
}

// handle is an object that this process has open, with the rights it had when
// it opened it. Sets, queues and segments of one id share it. What it maps is
// unmapped when nobody uses it any more, which the garbage collector knows.
//
// It is the plane.Host of its object.
type handle struct {
	s      *session
	family int
	id     uint32
	word   *uint64       // its slot word in the table
	slot   atomic.Uint64 // what stands there while the handle is good
	opened abi.Record    // whose rights are these
	doubt  uint32
	rights uint32

	capacity atomic.Uint64 // chunks 32 | cells 32
	qbytes   atomic.Uint64
	growing  sync.Mutex

	fd    int          // segment
	set   *plane.Set   // nil: brokered
	queue *plane.Queue // nil: brokered
}

// mapped is what goes with a handle.
type mapped struct {
	fd            int
	control, data []byte
	spare         *plane.Spare
}

func (m mapped) close() {
	if m.fd >= 0 {
		_ = unix.Close(m.fd)
	}
	if m.spare != nil {
		m.spare.Free(m.control)
	}
	for _, mem := range [][]byte{m.control, m.data} {
		if mem != nil {
			_ = unix.Munmap(mem)
		}
	}
}

// handle finds or opens an object. access is for segments: what is asked.
// EINVAL: there is none of that id. EACCES.
func (s *session) handle(ctx context.Context, family int, id uint32, access uint32) (*handle, error) {
	key := handleKey{family, id}
	for {
		if s.closed.Load() {
			return nil, ErrClosed
		}
		rec, slot, ok := s.table.record(family, id)
		if !ok {
			return nil, unix.EINVAL
		}
		s.handlesMu.Lock()
		h := s.handles[key].Value()
		s.handlesMu.Unlock()
		if h != nil && access&^h.rights == 0 && h.take(&rec, slot) {
			return h, nil
		}
		h, err := s.open(ctx, family, id, access, &rec)
		if err != nil {
			return nil, err
		}
		if h.slot.Load() != slot {
			continue // it changed meanwhile: rec is an old record
		}
		s.handlesMu.Lock()
		s.handles[key] = weak.Make(h)
		s.handlesMu.Unlock()
		return h, nil
	}
}

// open asks the manager for the object of a record.
func (s *session) open(ctx context.Context, family int, id, access uint32, rec *abi.Record) (*handle, error) {
	doubt := s.doubt.Load()
	r, err := s.call(ctx, abi.MsgOpen, nil, int64(family), int64(id), int64(access))
	if err != nil {
		return nil, err
	}
	defer r.close()
	h := &handle{
		s: s, family: family, id: id, word: s.table.slot(family, id),
		opened: *rec, doubt: doubt, rights: uint32(r.Val[1]), fd: -1,
	}
	h.slot.Store(uint64(r.Val[0]))
	h.learn(rec)
	m := mapped{fd: -1}
	switch {
	case family == abi.Shm && len(r.fds) == 1:
		m.fd, h.fd = r.fds[0], r.fds[0]
		r.fds = nil
	case family != abi.Shm && r.Val[2] == 0:
		if err := h.mapFiles(r.fds, &m); err != nil {
			m.close()
			return nil, err
		}
	}
	s.handlesMu.Lock()
	defer s.handlesMu.Unlock()
	runtime.AddCleanup(h, func(key handleKey) { s.forget(key, m) }, handleKey{family, id})
	return h, nil
}

func (s *session) forget(key handleKey, m mapped) {
	m.close()
	s.handlesMu.Lock()
	defer s.handlesMu.Unlock()
	if p, ok := s.handles[key]; ok && p.Value() == nil {
		delete(s.handles, key)
	}
}

// mapFiles maps as much as the files can ever be: they grow, the mapping does
// not, and what the record does not vouch for is not touched.
func (h *handle) mapFiles(fds []int, m *mapped) (err error) {
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_NORESERVE
	sems := 0
	if h.family == abi.Sem {
		sems = int(h.opened.Size)
	}
	if want := 1 + h.family - abi.Sem; len(fds) != want {
		return fmt.Errorf("open: %d descriptors instead of %d", len(fds), want)
	}
	if m.control, err = unix.Mmap(fds[0], 0, abi.CellsOff(sems)+abi.MaxCells*abi.CellSize, prot, flags); err != nil {
		return fmt.Errorf("map the object: %w", err)
	}
	if h.family == abi.Sem {
		if h.set, err = plane.NewSet(m.control, sems, h); err == nil {
			m.spare = h.set.Keep()
		}
		return err
	}
	if m.data, err = unix.Mmap(fds[1], 0, abi.DataSize(abi.MaxChunks), prot, flags); err != nil {
		return fmt.Errorf("map the object: %w", err)
	}
	if h.queue, err = plane.NewQueue(m.control, m.data, h); err == nil {
		m.spare = h.queue.Keep()
	}
	return err
}

// learn takes over from a record what changes while the rights stay.
func (h *handle) learn(rec *abi.Record) {
	cells, chunks := min(rec.Cells, abi.MaxCells), min(rec.Chunks, abi.MaxChunks)
	h.capacity.Store(uint64(chunks)<<32 | uint64(cells))
	h.qbytes.Store(rec.Size)
}

// take makes the handle good for a later record of its object, if that grants
// what was granted when it was opened.
func (h *handle) take(rec *abi.Record, slot uint64) bool {
	o := &h.opened
	same := o.Serial == rec.Serial && o.UID == rec.UID && o.GID == rec.GID && o.CUID == rec.CUID && o.CGID == rec.CGID &&
		o.Mode&0o777 == rec.Mode&0o777 && h.doubt == h.s.doubt.Load()
	if same && h.slot.Load() != slot {
		h.learn(rec)
		h.slot.Store(slot)
	}
	return same
}

// Valid is plane.Host's: the handle is good. That the object grew, or a queue's
// msg_qbytes changed, does not make it bad.
func (h *handle) Valid() bool { return h.same() || h.renewed() }

// same says that nothing has changed since the handle was found good.
func (h *handle) same() bool {
	return atomic.LoadUint64(h.word) == h.slot.Load() && h.doubt == h.s.doubt.Load()
}

func (h *handle) renewed() bool {
	if atomic.LoadUint64(h.word)&abi.SlotClosing != 0 {
		return false // not to be waited for here
	}
	rec, slot, ok := h.s.table.record(h.family, h.id)
	return ok && h.take(&rec, slot)
}

// Session is plane.Host's.
func (h *handle) Session() uint32 { return h.s.number }

// Capacity is plane.Host's.
func (h *handle) Capacity() (cells, chunks int) {
	h.Valid()
	c := h.capacity.Load()
	return int(uint32(c)), int(c >> 32)
}

// QueueBytes is plane.Host's.
func (h *handle) QueueBytes() uint64 {
	if !h.same() {
		h.renewed()
	}
	return h.qbytes.Load()
}

// Grow is plane.Host's. Of many that find no room one asks.
func (h *handle) Grow(cells, chunks int) error {
	h.growing.Lock()
	defer h.growing.Unlock()
	if haveCells, haveChunks := h.Capacity(); haveCells >= cells && haveChunks >= chunks {
		return nil
	}
	_, err := h.s.tell(context.Background(), abi.MsgGrow, int64(h.family), int64(h.id), int64(cells), int64(chunks))
	if err == nil && h.Valid() {
		return nil
	}
	if err == nil || errors.Is(err, unix.EINVAL) {
		return unix.EIDRM
	}
	return errnoOf(err)
}

// Reap is plane.Host's.
func (h *handle) Reap(session uint32) error {
	_, err := h.s.tell(context.Background(), abi.MsgReap, int64(session), int64(h.family), int64(h.id))
	return errnoOf(err)
}

// Died is plane.Host's.
func (h *handle) Died(session uint32) bool { return h.s.died(session) }

// Bell is plane.Host's.
func (h *handle) Bell() *plane.Bell { return h.s.alive.Load().bell }

// Brokered is plane.Host's.
func (h *handle) Brokered() (seq uint32, yes bool) { return 0, false }

// Thread: a goroutine has no number.
func (h *handle) Thread() uint32 { return 0 }

// RingDoorbell is plane.Host's.
func (h *handle) RingDoorbell(session uint32) { h.s.ring(session) }

// errnoOf is an error as the data plane has them: without an errno, the manager
// could not be asked, because the space was closed or the manager is away.
func errnoOf(err error) error {
	var errno unix.Errno
	if err == nil || errors.As(err, &errno) {
		return err
	}
	return unix.EINTR
}
