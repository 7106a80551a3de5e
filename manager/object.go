package manager

import (
	"errors"
	"fmt"
	"os"
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

	control *os.File // segment, or control file
	data    *os.File // data file of a queue
	dev     uint64   // of a segment's file, for /proc/<pid>/maps
	ino     uint64

	promised uint64
	inner    bool
	capacity atomic.Uint64 // cells | chunks<<32

	mem, dataMem []byte // mapped when the data plane needs them
	users        int    // calls of the data plane under way; mem must stay
	gone         bool
	moved        bool      // gone, but to a fresh file
	doomed       time.Time // when IPC_RMID left it with an attach under way
}

// Capacity that new sets and queues begin with. They grow when they need to.
const (
	startCells  = 16
	startChunks = 8
)

func (o *object) cells() int  { return int(uint32(o.capacity.Load())) }
func (o *object) chunks() int { return int(o.capacity.Load() >> 32) }

func (o *object) setCapacity(cells, chunks uint32) {
	o.capacity.Store(uint64(cells) | uint64(chunks)<<32)
}

// cost is the memory that may be touched of a set or queue.
func cost(f Family, sems int, cells, chunks uint32) uint64 {
	if f == Msg {
		sems = 0
	}
	return uint64(abi.CellsOff(sems)) + uint64(cells)*abi.CellSize + uint64(abi.DataSize(int(chunks)))
}

// sems is the number of semaphores of a set, 0 for a queue.
func (o *object) sems() int {
	if o.family == Sem {
		return int(o.rec.Size)
	}
	return 0
}

// controlSize is the length of the file: all that it could ever need, sparse,
// so that growing is a matter of the record alone.
func controlSize(sems int) int { return abi.CellsOff(sems) + abi.MaxCells*abi.CellSize }

// close gives back descriptors and memory; the object stays.
func (o *object) close() {
	o.unmap()
	for _, f := range []*os.File{o.control, o.data} {
		if f != nil {
			_ = f.Close()
		}
	}
	o.control, o.data = nil, nil
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
func (o *object) use() error {
	if o.control == nil {
		return unix.EIDRM
	}
	if o.mem == nil {
		mem, err := unix.Mmap(int(o.control.Fd()), 0, controlSize(o.sems()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return fmt.Errorf("map control file: %w", err)
		}
		if o.family == Msg {
			o.dataMem, err = unix.Mmap(int(o.data.Fd()), 0, abi.DataSize(abi.MaxChunks), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				_ = unix.Munmap(mem)
				return fmt.Errorf("map data file: %w", err)
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
}

func (h *host) Session() uint32 { return h.session }
func (h *host) Capacity() (cells, chunks int) {
	c := h.o.capacity.Load()
	return int(uint32(c)), int(c >> 32)
}
func (h *host) QueueBytes() uint64          { return h.o.queueBytes() }
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
	return plane.NewSet(o.mem, o.sems(), &host{o, session, locked})
}

func (o *object) queue(session uint32, locked bool) (*plane.Queue, error) {
	return plane.NewQueue(o.mem, o.dataMem, &host{o, session, locked})
}

// onPlane runs f with the object's files mapped, with space.mu held, as the
// manager's own session. Faults in the mapped memory are errors.
func (o *object) onPlane(set func(*plane.Set) error, queue func(*plane.Queue) error) error {
	if err := o.use(); err != nil {
		return err
	}
	defer o.release()
	var err error
	fault := guarded(func() {
		if o.family == Sem {
			var p *plane.Set
			if p, err = o.set(abi.ManagerSession, true); err == nil {
				err = set(p)
			}
			return
		}
		var p *plane.Queue
		if p, err = o.queue(abi.ManagerSession, true); err == nil {
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

// grow raises the capacity. The files have their full length already; what
// grows is what may be touched, and its promise.
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
	more := cost(o.family, o.sems(), rec.Cells, rec.Chunks) - cost(o.family, o.sems(), o.rec.Cells, o.rec.Chunks)
	if err := o.space.storage.promise(more, true); err != nil {
		return unix.ENOMEM
	}
	if err := o.publish(rec); err != nil {
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
	} else {
		err := o.onPlane(
			func(p *plane.Set) error { p.Remove(); return nil },
			func(p *plane.Queue) error { p.Remove(); return nil })
		if err != nil {
			s.log.Error("sleepers not woken", keyFamily, o.family.String(), keyID, o.rec.ID, keyError, err)
		}
	}
	step("remove: sleepers woken")
	for _, x := range s.sessions {
		delete(x.opened, o)
	}
	o.gone = true
	if o.users == 0 {
		o.close()
	}
	if err := s.removeFiles(o.family, o.rec.Serial); err != nil {
		s.log.Error("files not removed", keyFamily, o.family.String(), keyID, o.rec.ID, keyError, err)
	}
	step("remove: files removed")
	s.storage.release(o.promised, o.inner)
}

func (s *space) removeFiles(f Family, serial uint64) error {
	switch f {
	case Shm:
		return s.storage.removeSegment(serial)
	case Sem:
		return s.storage.remove(s.storage.path(setName(serial)))
	}
	return errors.Join(
		s.storage.remove(s.storage.path(queueName(serial))),
		s.storage.remove(s.storage.path(dataName(serial))))
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
