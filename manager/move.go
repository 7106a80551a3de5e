package manager

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/client/plane"
)

// move gives a set or queue a fresh file, published with rec, so that nobody
// who lost a right can change it any more, whatever mappings he kept. Those
// who sleep in it start their calls again, and ask for the new file.
//
// Cut before Poison: litter, and recovery opens the object again. Cut between
// Poison and the publication: the object stands closed, with the record as it
// was; recovery moves it again, from the old file, and the request counts as
// not done. Cut after the publication: it is done, and the old file is litter,
// whose sleepers recovery wakes (wakeInLitter).
func (s *space) move(old *object, rec abi.Record) error {
	rec.Serial = s.state.nextSerial()
	o := &object{space: s, family: old.family, index: old.index, rec: rec}
	if err := s.makeFiles(o); err != nil {
		return err
	}
	step("move: files made")
	old.word.Store(s.table.closing(old.family, old.index))
	step("move: closed")
	o.tickets.Store(true)
	err := s.carryOver(old, o)
	if err != nil {
		// Only a member who wrote nonsense into the object can make it so.
		s.log.Error("contents lost in a move", keyFamily, o.family.String(), keyID, rec.ID, keyError, err)
	}
	step("move: copied")
	if err := o.publish(rec); err != nil {
		return err
	}
	step("move: published")
	s.enter(o)
	for _, x := range s.sessions {
		if _, ok := x.opened[old]; ok {
			delete(x.opened, old)
			x.opened[o] = struct{}{}
		}
	}
	err = old.onPlane(
		func(p *plane.Set) error { p.WakeMoved(); return nil },
		func(p *plane.Queue) error { p.WakeMoved(); return nil })
	if err != nil {
		s.log.Error("sleepers not woken", keyFamily, o.family.String(), keyID, rec.ID, keyError, err)
	}
	step("move: sleepers woken")
	o.shared = true
	old.gone, old.moved = true, true
	s.storage.retire(old)
	if err := s.removeFiles(old); err != nil {
		s.log.Error("files not removed", keyFamily, o.family.String(), keyID, rec.ID, keyError, err)
	}
	if old.users == 0 {
		old.close()
	}
	return nil
}

// carryOver copies what a set or queue holds.
func (s *space) carryOver(from, to *object) error {
	if err := from.onPlane((*plane.Set).Poison, (*plane.Queue).Poison); err != nil {
		return err
	}
	step("move: poisoned")
	if err := to.use(); err != nil {
		return err
	}
	defer to.release()
	// The fresh object's Host vouches for it before it is published.
	to.word.Store(s.table.word(to.family, to.index))
	return from.onPlane(
		func(p *plane.Set) error {
			fresh, err := to.set(abi.ManagerSession, true)
			if err != nil {
				return err
			}
			return p.CopyTo(fresh)
		},
		func(p *plane.Queue) error {
			fresh, err := to.queue(abi.ManagerSession, true)
			if err != nil {
				return err
			}
			return p.CopyTo(fresh)
		})
}

// reopenClosed is for an object that was closed when the manager died.
func (s *space) reopenClosed(o *object) error {
	if o.family == Shm {
		return o.publish(o.rec) // whether it goes was not decided
	}
	if err := s.move(o, o.rec); !errors.Is(err, unix.ENOMEM) {
		return err
	}
	return o.publish(o.rec)
}
