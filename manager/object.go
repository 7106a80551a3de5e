package manager

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/client/plane"
)

// object is a segment, a set or a queue as the manager knows it: the table's
// current record, and the descriptors that clients get copies of. Guarded by
// space.mu; capacity and word are also read by the data plane without it.
type object struct {
	space  *space
	family Family
	index  uint32
	rec    abi.Record
	word   atomic.Uint64 // the slot word that rec was published with

	control *file // segment, or control file
	data    *file // data file of a queue
	shared  bool  // somebody but the manager may hold it
	given   holders

	promised uint64
	inner    bool
	capacity atomic.Uint64 // cells | chunks<<32

	mem, dataMem []byte // mapped when the data plane needs them
	users        int    // calls of the data plane under way; mem must stay
	gone         bool
	moved        bool        // gone, but to a fresh file
	doomed       time.Time   // when IPC_RMID left it with an attach under way
	left         bool        // a process ended or called exec with it attached
	tickets      atomic.Bool // it may tell of brokered calls of an earlier manager's, or from before a move
	locker       uint32      // the user that locked it; after a restart, the owner
}

// startCells is the capacity that new sets and queues begin with: what is left
// of a page, but enough to work with. They grow when they need to.
func startCells(sems int) uint32 {
	const least = abi.LogReserve + 6
	used := abi.CellsOff(sems) + least*abi.CellSize
	return uint32(least + (abi.PageSize-used%abi.PageSize)%abi.PageSize/abi.CellSize)
}

func (o *object) setCapacity(cells, chunks uint32) {
	o.capacity.Store(uint64(cells) | uint64(chunks)<<32)
}

// cost is the memory that may be touched of a set or queue.
func cost(sems int, cells, chunks uint32) uint64 {
	return uint64(controlLength(sems, cells) + dataLength(chunks))
}

// The lengths of its files.
func controlLength(sems int, cells uint32) int64 {
	return wholePages(abi.CellsOff(sems) + int(cells)*abi.CellSize)
}
func dataLength(chunks uint32) int64 { return wholePages(abi.DataSize(int(chunks))) }

func wholePages(n int) int64 {
	return int64(n+abi.PageSize-1) / abi.PageSize * abi.PageSize
}

// sems is the number of semaphores of a set, 0 for a queue.
func (o *object) sems() int {
	if o.family == Sem {
		return int(o.rec.Size)
	}
	return 0
}

// controlRoom is what is mapped of a control file: all that it could ever
// become. What is beyond its end becomes memory when it grows.
func controlRoom(sems int) int { return abi.CellsOff(sems) + abi.MaxCells*abi.CellSize }

// close gives back descriptors and memory; the object stays.
func (o *object) close() {
	o.unmap()
	o.control.close()
	o.data.close()
}

func (o *object) unmap() {
	if o.mem != nil {
		_ = unix.Munmap(o.mem)
		o.space.mapped--
	}
	if o.dataMem != nil {
		_ = unix.Munmap(o.dataMem)
	}
	o.mem, o.dataMem = nil, nil
}

// maxMapped is how many control files stay mapped that nobody uses.
const maxMapped = 4096

// use maps the object's files for the data plane; release ends it.
// ENOMEM, whatever there is too little of.
func (o *object) use() error {
	if o.mem == nil {
		mem, err := o.control.mapped(controlRoom(o.sems()))
		if err != nil {
			return fmt.Errorf("%w: %w", unix.ENOMEM, err)
		}
		if o.data != nil {
			if o.dataMem, err = o.data.mapped(abi.DataSize(abi.MaxChunks)); err != nil {
				_ = unix.Munmap(mem)
				return fmt.Errorf("%w: %w", unix.ENOMEM, err)
			}
		}
		o.mem = mem
		o.space.mapped++
	}
	o.users++
	return nil
}

func (o *object) release() {
	o.users--
	if o.users == 0 && (o.gone || o.space.mapped > maxMapped) {
		o.unmap()
		if o.gone {
			o.close()
		}
	}
}

// publish makes rec the object's current record.
func (o *object) publish(rec abi.Record) error {
	word, err := o.space.table.publish(o.family, o.index, &rec)
	if err != nil {
		return err
	}
	o.rec = rec
	o.word.Store(word)
	return nil
}

// host is what the data plane knows of the manager (plane.Host): one object
// as one session sees it. locked: the caller of the data plane holds space.mu.
type host struct {
	o       *object
	session uint32
	locked  bool
	bell    *plane.Bell // of brokered calls
	seq     uint32      // of a brokered call's request
	thread  uint32      // that sent it, if not its process's first
}

func (h *host) Session() uint32 { return h.session }
func (h *host) Capacity() (cells, chunks int) {
	c := h.o.capacity.Load()
	return int(uint32(c)), int(c >> 32)
}
func (h *host) QueueBytes() uint64          { return h.o.queueBytes() }
func (h *host) Bell() *plane.Bell           { return h.bell }
func (h *host) Brokered() (uint32, bool)    { return h.seq, h.bell != nil }
func (h *host) Thread() uint32              { return h.thread }
func (h *host) RingDoorbell(session uint32) { h.o.space.pulse.ring(session) }
func (h *host) Died(session uint32) bool    { return h.o.space.pulse.died(session) }
func (h *host) Valid() bool {
	return h.o.space.table.word(h.o.family, h.o.index) == h.o.word.Load()
}

func (h *host) lock() func() {
	if h.locked {
		return func() {}
	}
	h.o.space.mu.Lock()
	return h.o.space.mu.Unlock
}

func (h *host) Grow(cells, chunks int) error {
	defer h.lock()()
	return h.o.grow(cells, chunks)
}

func (h *host) Reap(session uint32) error {
	defer h.lock()()
	h.o.space.reapSession(session)
	return nil
}

// queueBytes reads msg_qbytes from the published record, without space.mu.
func (o *object) queueBytes() uint64 {
	t := o.space.table
	for {
		w := t.word(o.family, o.index)
		if w == 0 {
			return 0
		}
		size := atomic.LoadUint64(&t.record(uint32(w & abi.SlotRecordMask)).Size)
		if t.word(o.family, o.index) == w {
			return size
		}
	}
}

// set is the data plane's handle for a session. Between use and release.
func (o *object) set(session uint32, locked bool) (*plane.Set, error) {
	return plane.NewSet(o.mem, o.sems(), &host{o: o, session: session, locked: locked})
}

func (o *object) queue(session uint32, locked bool) (*plane.Queue, error) {
	return plane.NewQueue(o.mem, o.dataMem, &host{o: o, session: session, locked: locked})
}

// onPlane is onPlaneAs the manager's own session.
func (o *object) onPlane(set func(*plane.Set) error, queue func(*plane.Queue) error) error {
	return o.onPlaneAs(abi.ManagerSession, set, queue)
}

// onPlaneAs runs set or queue with the object's files mapped, with space.mu held, as
// a session. Faults in the mapped memory are errors.
func (o *object) onPlaneAs(session uint32, set func(*plane.Set) error, queue func(*plane.Queue) error) error {
	if err := o.use(); err != nil {
		return err
	}
	defer o.release()
	var err error
	fault := guarded(func() {
		if o.family == Sem {
			var p *plane.Set
			if p, err = o.set(session, true); err == nil {
				err = set(p)
			}
			return
		}
		var p *plane.Queue
		if p, err = o.queue(session, true); err == nil {
			err = queue(p)
		}
	})
	return errors.Join(fault, err)
}

// reap cleans up in a set or queue after a dead session.
func (s *space) reap(o *object, session uint32) error {
	return o.onPlane(
		func(p *plane.Set) error { return p.ReapSession(session) },
		func(p *plane.Queue) error { return p.ReapSession(session) })
}

// grow raises the capacity: first the promise, then the files, then the record
// that tells of it. Cut in between, a file is longer than its record says.
func (o *object) grow(cells, chunks int) error {
	switch {
	case o.moved:
		return plane.ErrStale
	case o.gone:
		return unix.EIDRM
	}
	if o.family == Shm || cells > abi.MaxCells || chunks > abi.MaxChunks || cells < 0 || chunks < 0 ||
		o.family == Sem && chunks > 0 {
		return unix.EINVAL
	}
	rec := o.rec
	if cells > int(rec.Cells) {
		rec.Cells = uint32(min(max(cells, 2*int(rec.Cells)), abi.MaxCells))
	}
	if chunks > int(rec.Chunks) {
		rec.Chunks = uint32(min(max(chunks, 2*int(rec.Chunks)), abi.MaxChunks))
	}
	if rec == o.rec {
		return nil
	}
	more := cost(o.sems(), rec.Cells, rec.Chunks) - cost(o.sems(), o.rec.Cells, o.rec.Chunks)
	if err := o.space.storage.promise(more, true); err != nil {
		return unix.ENOMEM
	}
	err := o.control.grow(controlLength(o.sems(), rec.Cells))
	if err == nil && o.data != nil {
		err = o.data.grow(dataLength(rec.Chunks))
	}
	if err == nil {
		err = o.publish(rec)
	}
	if err != nil {
		o.space.storage.release(more, true)
		return err
	}
	o.promised += more
	o.setCapacity(rec.Cells, rec.Chunks)
	return nil
}

// removeObject ends an object's existence and frees it.
//
// Order: the slot word first, after which a cut leaves litter only; then the
// sleepers; then the files.
func (s *space) removeObject(o *object) {
	step("remove: begun")
	s.table.withdraw(o.family, o.index)
	step("remove: withdrawn")
	if o.rec.Key != 0 && s.table.keys[o.family][o.rec.Key] == o.index {
		s.table.dropKey(o.family, o.rec.Key)
	}
	s.table.account(o.family, &o.rec, false)
	delete(s.objects[o.family], o.index)
	if o.family == Shm {
		delete(s.segments, o.rec.Serial)
	} else if o.shared {
		err := o.onPlane(
			func(p *plane.Set) error { p.Remove(); return nil },
			func(p *plane.Queue) error { p.Remove(); return nil })
		if err != nil {
			s.log.Error("sleepers not woken", keyFamily, o.family.String(), keyID, o.rec.ID, keyError, err)
		}
	}
	step("remove: sleepers woken")
	if o.shared {
		for _, x := range s.sessions {
			delete(x.opened, o)
		}
	}
	o.gone = true
	s.storage.retire(o)
	if err := s.removeFiles(o); err != nil {
		s.log.Error("files not removed", keyFamily, o.family.String(), keyID, o.rec.ID, keyError, err)
	}
	if o.users == 0 {
		o.close()
	}
	step("remove: files removed")
}

func (s *space) removeFiles(o *object) (err error) {
	for _, f := range []*file{o.control, o.data} {
		if f != nil {
			err = errors.Join(err, s.storage.removeFile(f))
		}
	}
	return err
}

// find is ipc_obtain_object_check: the object of an id.
//
// "EINVAL: Invalid value for cmd or semid." A removed object's id is invalid;
// EIDRM is for those who slept.
func (s *space) find(f Family, id int64) (*object, error) {
	if id < 0 || id > 1<<31-1 {
		return nil, unix.EINVAL
	}
	o := s.objects[f][uint32(id)&abi.IndexMask]
	if o == nil || o.rec.ID != uint32(id) {
		return nil, unix.EINVAL
	}
	return o, nil
}

func family(v int64) (Family, bool) { return Family(v), v >= 0 && v < abi.Families }

// namedSessions are the session numbers that any object or record names.
func (s *space) namedSessions() (map[uint32]bool, error) {
	named := map[uint32]bool{}
	add := func(n uint32) { named[n] = true }
	for _, o := range s.objects[Shm] {
		add(o.rec.Creator)
		if st, err := s.state.segment(o.index); err == nil {
			add(st.LastSession)
		}
	}
	for _, f := range []Family{Sem, Msg} {
		for _, o := range s.objects[f] {
			add(o.rec.Creator)
			err := o.onPlane(
				func(p *plane.Set) error { p.SessionsNamed(add); return nil },
				func(p *plane.Queue) error { p.SessionsNamed(add); return nil })
			if err != nil {
				return nil, fmt.Errorf("%s %d: %w", f, o.rec.ID, err)
			}
		}
	}
	return named, nil
}

var _ plane.Host = (*host)(nil)
