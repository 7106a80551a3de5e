package manager

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/client/plane"
)

// readSlots finds all objects and corrects what follows from them. Clients read it
// meanwhile: what was right stays so at every moment.
func (s *space) readSlots() error {
	h := s.table.header
	used := map[uint32]bool{}
	var keys [abi.Families]map[uint32]uint32
	var totals abi.TableHeader
	for f := range Family(abi.Families) {
		keys[f] = map[uint32]uint32{}
		for index := range uint32(abi.MaxObjects) {
			word := s.table.word(f, index)
			if word == 0 {
				continue
			}
			n := uint32(word & abi.SlotRecordMask)
			s.state.header.Generation = max(s.state.header.Generation, word>>abi.SlotGenShift)
			o := &object{space: s, family: f, index: index, rec: *s.table.record(n)}
			o.locker = o.rec.UID
			o.word.Store(word)
			s.state.header.Serial = max(s.state.header.Serial, o.rec.Serial)
			used[n] = true
			s.enter(o)
			count(&totals, f, &o.rec, true)
			totals.MaxIndex[f] = index + 1
			if o.rec.Key != 0 {
				keys[f][o.rec.Key] = index
			}
		}
	}
	for f := range abi.Families {
		atomic.StoreUint32(&h.InUse[f], totals.InUse[f])
		atomic.StoreUint32(&h.MaxIndex[f], totals.MaxIndex[f])
	}
	atomic.StoreUint64(&h.Sems, totals.Sems)
	atomic.StoreUint64(&h.ShmPages, totals.ShmPages)
	s.table.findFreeRecords(used)
	segments, err := s.storage.segmentFiles()
	if err != nil {
		return err
	}
	for f := range Family(abi.Families) {
		s.table.correctKeys(f, keys[f])
		for _, o := range s.objects[f] {
			if err := s.reenter(o, segments); err != nil {
				return fmt.Errorf("%s %d: %w", f, o.rec.ID, err)
			}
		}
	}
	return nil
}

// reenter finds an object's files and takes its promise, which was made when
// there was room.
func (s *space) reenter(o *object, segments map[uint64]string) (err error) {
	st := &s.storage
	o.shared, o.given.unknown = true, true
	switch o.family {
	case Shm:
		o.promised = pages(o.rec.Size) * abi.PageSize
		path := segments[o.rec.Serial]
		if path == "" && (!st.mounted || o.rec.Size < largeSegment) {
			path = st.path(segmentName(o.rec.Key, o.rec.Serial)) // nobody opened it yet
		}
		o.inner = filepath.Base(path) != segmentData
		if o.control, err = st.findFile(path, int64(o.promised)); err != nil {
			return err
		}
	case Sem:
		if o.control, err = st.findFile(st.path(setName(o.rec.Serial)), controlLength(o.sems(), o.rec.Cells)); err != nil {
			return err
		}
	case Msg:
		if o.control, err = st.findFile(st.path(queueName(o.rec.Serial)), controlLength(0, o.rec.Cells)); err != nil {
			return err
		}
		if o.data, err = st.findFile(st.path(dataName(o.rec.Serial)), dataLength(o.rec.Chunks)); err != nil {
			return err
		}
	}
	if o.family != Shm {
		o.promised, o.inner = cost(o.sems(), o.rec.Cells, o.rec.Chunks), true
		o.setCapacity(o.rec.Cells, o.rec.Chunks)
	}
	st.promised += o.promised
	if o.inner {
		st.inner += o.promised
	}
	st.budget.used.Add(o.promised)
	return nil
}

// removeLitter removes files that no slot word names. Some may be of sets and
// queues that a manager removed or moved, killed before it had told those who
// sleep in them.
func (s *space) removeLitter() error {
	entries, err := os.ReadDir(s.storage.private)
	if err != nil {
		return err
	}
	alive := map[uint64]bool{}
	for f := range s.objects {
		for _, o := range s.objects[f] {
			alive[o.rec.Serial] = true
		}
	}
	var litter []string
	for _, e := range entries {
		m := objectFile.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		serial, err := strconv.ParseUint(m[1], 10, 64)
		if err != nil || alive[serial] {
			continue
		}
		litter = append(litter, e.Name())
		switch err := s.wakeInLitter(e.Name(), serial); {
		case scarce(err):
			return fmt.Errorf("wake who sleeps in %s: %w", e.Name(), err)
		case err != nil:
			s.log.Error("sleepers not woken", "path", e.Name(), keyError, err)
		}
	}
	step("recover: litter found")
	for _, name := range litter {
		if err := s.storage.removeLitter(s.storage.path(name)); err != nil {
			s.log.Error("litter not removed", "path", name, keyError, err)
		}
	}
	return nil
}

// wakeInLitter ends the waits in a set or queue that no slot word names, by its
// control file. What it was its last record tells: that one is written anew only
// by a change that comes after the waking. Records are taken lowest first, so one
// that was never written ends them.
func (s *space) wakeInLitter(name string, serial uint64) error {
	o := &object{space: s}
	switch name {
	case setName(serial):
		o.family = Sem
	case queueName(serial):
		o.family = Msg
	default:
		return nil
	}
	for n := range uint32(abi.MaxRecords) {
		rec := s.table.record(n)
		if rec.Serial == 0 {
			break
		}
		if rec.Serial == serial && rec.Cells >= o.rec.Cells {
			o.rec = *rec
		}
	}
	if o.rec.Serial != serial {
		return nil // its object was never there
	}
	var err error
	if o.control, err = s.storage.findFile(s.storage.path(name), controlLength(o.sems(), o.rec.Cells)); err != nil {
		return err
	}
	defer s.storage.growth.forget(o.control)
	defer o.close()
	o.setCapacity(o.rec.Cells, 0)
	if next := s.objects[o.family][o.rec.ID&abi.IndexMask]; next != nil && next.rec.ID == o.rec.ID {
		return o.onPlane(
			func(p *plane.Set) error { p.WakeMoved(); return nil },
			func(p *plane.Queue) error { p.WakeMoved(); return nil })
	}
	return o.onPlane(
		func(p *plane.Set) error { p.Remove(); return nil },
		func(p *plane.Queue) error { p.Remove(); return nil })
}
