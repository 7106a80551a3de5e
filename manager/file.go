package manager

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// file is the file of an object: a segment, or the control or data file of a
// set or queue. Its memory is promised when the object is made, the file itself
// is made when somebody first opens it, which for many never comes. It is
// sealed where that can be when a client first gets it, and grows by the
// descriptor that the manager opened before the seal.
//
// Callers hold space.mu.
type file struct {
	storage *storage
	path    string
	size    int64
	made    bool     // it is there
	sealed  bool     // the immutable flag is set
	own     *os.File // opened without restriction: maps, grows
	given   *os.File // clients get copies of this one

	watched  inode        // growth cuts it back to size
	appended atomic.Int32 // writes of clients that were not looked at
	cutting  atomic.Bool
	growing  atomic.Bool
}

// openFile is os.OpenFile for regular files, which Go's poller need not try.
func openFile(path string, flags int, mode uint32) (*os.File, error) {
	var fd int
	err := uninterrupted(func() (err error) {
		fd, err = unix.Open(path, flags|unix.O_CLOEXEC, mode)
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// newFile is a file of size bytes of zeros that is not made yet.
func (s *storage) newFile(path string, size int64) *file {
	return &file{storage: s, path: path, size: size}
}

// make makes the file, if it is not there yet.
func (f *file) make() (err error) {
	if f.made {
		return nil
	}
	if f.own, err = f.storage.createFresh(f.path); err != nil {
		return err
	}
	if err := f.own.Truncate(f.size); err != nil {
		f.close()
		_ = os.Remove(f.path)
		return err
	}
	f.made = true
	f.storage.opened(f)
	return nil
}

// findFile is the file of an object of an earlier manager, which may not have
// made it yet, or have been cut off as it made it shorter or longer than its
// record says.
func (s *storage) findFile(path string, size int64) (*file, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOENT) {
		return s.newFile(path, size), nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &os.PathError{Op: "fstat", Path: path, Err: err}
	}
	f := &file{storage: s, path: path, made: true, size: min(st.Size, size)}
	s.growth.watch(f, fd)
	if s.guard != nil {
		// One that is open to all may be so because that manager was killed
		// as it opened it.
		if err := setFlagsFd(fd, true); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		f.sealed = true
	}
	if st.Size > size {
		s.growth.restore(f, 0)
	}
	return f, f.grow(size)
}

// open makes sure of the manager's own descriptor.
func (f *file) open() error {
	err := f.make()
	if err != nil || f.own != nil {
		return err
	}
	if !f.sealed {
		f.own, err = openFile(f.path, os.O_RDWR, 0)
	} else {
		err = f.unseal()
	}
	if err != nil {
		f.close()
		return fmt.Errorf("open object's file: %w", err)
	}
	f.storage.opened(f)
	return nil
}

// unseal opens a file that clients may hold.
func (f *file) unseal() error {
	g, path, given := f.storage.guard, f.path, f.given
	var own *os.File
	err := f.storage.jams.try(func() error {
		// What is opened too late, its finalizer closes.
		return g.unsealed(path, func() (err error) {
			if given == nil {
				if given, err = g.open(path); err != nil {
					return err
				}
			}
			own, err = openFile(path, os.O_RDWR, 0)
			return err
		})
	})
	if errors.Is(err, errJammed) {
		return err
	}
	f.own, f.given = own, given
	return err
}

// opened keeps the descriptors of all files within what the process may have:
// there are more objects than that. Which others are closed does not matter;
// to open a sealed one again takes longer than a call.
func (s *storage) opened(f *file) {
	s.open[f] = struct{}{}
	for other := range s.open {
		if len(s.open) <= s.mostOpen() {
			return
		}
		if other != f {
			other.close()
		}
	}
}

// give returns the descriptor of which clients get copies.
func (f *file) give() (*os.File, error) {
	if err := f.open(); err != nil {
		return nil, err
	}
	f.storage.growth.watch(f, int(f.own.Fd()))
	if f.storage.guard == nil {
		return f.own, nil
	}
	if f.given == nil {
		var err error
		if f.given, err = f.storage.guard.open(f.path); err != nil {
			return nil, err
		}
	}
	if !f.sealed {
		if err := setFlagsFd(int(f.own.Fd()), true); err != nil {
			return nil, err
		}
		f.sealed = true
	}
	return f.given, nil
}

// grow makes the file at least size bytes long. Clients have more than that
// mapped already; what was beyond the end becomes memory.
func (f *file) grow(size int64) error {
	if size <= f.size {
		return nil
	}
	if !f.made {
		f.size = size
		return nil
	}
	if err := f.open(); err != nil {
		return err
	}
	own, before := f.own, f.size
	f.size = size // who cuts from now on knows of it
	err := f.storage.jams.try(func() error {
		// One that hangs must not come after a later one, and shorten.
		if !f.growing.CompareAndSwap(false, true) {
			return errJammed
		}
		defer f.growing.Store(false)
		for f.cutting.Load() {
			time.Sleep(100 * time.Microsecond) //nolint:forbidigo // to the length of before; it has no event
		}
		return own.Truncate(size)
	})
	if err != nil {
		f.size = before
	}
	return err
}

// punchTries is how often a range is freed that has pages still. The kernel does
// not split a huge page that anybody holds at that moment: it clears the part of
// the range, and keeps its memory (truncate_inode_partial_folio in mm/truncate.c).
const punchTries = 8

// punch frees the pages of a range.
func (f *file) punch(offset, length int64) error {
	if !f.made {
		return nil
	}
	if err := f.open(); err != nil {
		return err
	}
	own := f.own
	free := func() (err error) {
		for tries := range punchTries {
			time.Sleep(time.Duration(tries) * time.Millisecond) //nolint:forbidigo // who holds the page lets go without an event
			err = unix.Fallocate(int(own.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
			if err != nil {
				break
			}
			if data, err := unix.Seek(int(own.Fd()), offset, unix.SEEK_DATA); err != nil || data >= offset+length {
				break // ENXIO: none at all
			}
		}
		return err
	}
	if !f.sealed {
		return free()
	}
	g, path := f.storage.guard, f.path
	return f.storage.jams.try(func() error { return g.unsealed(path, free) })
}

// cut takes back what somebody appended. Without space.mu held: it takes as
// long as he lets it.
func (f *file) cut() (done bool, err error) {
	f.storage.mu.Lock()
	err = f.open()
	own, size := f.own, f.size
	f.cutting.Store(true)
	f.storage.mu.Unlock()
	defer f.cutting.Store(false)
	if err != nil {
		return false, err
	}
	fi, err := own.Stat()
	if err != nil || fi.Size() <= size {
		return false, nil //nolint:nilerr // closed meanwhile: the object is gone
	}
	return true, f.storage.jams.within(func() error { return own.Truncate(size) })
}

// close gives back the descriptors; the file stays.
func (f *file) close() {
	if f == nil {
		return
	}
	delete(f.storage.open, f)
	for _, d := range []**os.File{&f.own, &f.given} {
		if *d != nil {
			_ = (*d).Close()
			*d = nil
		}
	}
}

// mapped maps room bytes, more than the file has.
func (f *file) mapped(room int) ([]byte, error) {
	if err := f.open(); err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(int(f.own.Fd()), 0, room, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, &os.PathError{Op: "mmap", Path: f.path, Err: err}
	}
	return mem, nil
}

// remove unlinks the file. Who holds it still cannot shrink it.
func (f *file) remove() error {
	if !f.made {
		return nil
	}
	f.storage.growth.forget(f)
	if !f.sealed {
		return os.Remove(f.path)
	}
	s, path := f.storage, f.path
	return s.jams.try(func() error { return s.remove(path) })
}
