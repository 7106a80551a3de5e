package manager

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// remains is the account of files that clients got and that have no name any
// more. Whoever still has a descriptor or a mapping keeps such a file's memory,
// and may touch all that was promised for it, so it stays counted until the
// kernel says that the inode is gone: an inotify watch ends then, not before.
// The manager's own descriptors do not outlive the object.
type remains struct {
	fd  int
	log *slog.Logger

	mu    sync.Mutex
	parts map[int32]*remain // by watch
}

// remain is what the files of one object hold; inner: in the private tmpfs.
type remain struct {
	of    *storage
	bytes uint64
	inner bool
	files int
}

// newRemains is nil where the kernel does not tell.
func newRemains(log *slog.Logger) *remains {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		log.Warn("what members keep of removed objects is not counted", keyError, err)
		return nil
	}
	return &remains{fd: fd, log: log, parts: map[int32]*remain{}}
}

func (r *remains) close() {
	if r != nil {
		_ = unix.Close(r.fd)
	}
}

// watch counts what of files, which are about to lose their names, clients
// may hold. false: nothing.
func (r *remains) watch(part *remain, files []*file) bool {
	files = slices.DeleteFunc(files, func(f *file) bool { return f == nil || !f.sealed }) // no client got those
	if r == nil || len(files) == 0 {
		return false
	}
	r.look() // what is not read some day does not fit the kernel's queue
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range files {
		wd, err := unix.InotifyAddWatch(r.fd, f.path, unix.IN_DELETE_SELF)
		if err != nil {
			r.log.Warn("what members keep of a removed object is not counted", "file", f.path, keyError, err)
			continue
		}
		r.parts[int32(wd)] = part
		part.files++
	}
	return part.files > 0
}

// look reads which files are gone.
func (r *remains) look() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	buf := make([]byte, 4096)
	for {
		n := 0
		err := uninterrupted(func() (err error) {
			n, err = unix.Read(r.fd, buf)
			return err
		})
		if err != nil || n == 0 {
			return
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			watch, mask := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:])
			name := int(binary.NativeEndian.Uint32(b[12:]))
			b = b[min(unix.SizeofInotifyEvent+name, len(b)):]
			switch {
			case mask&unix.IN_Q_OVERFLOW != 0:
				r.compare()
			case mask&unix.IN_IGNORED != 0:
				r.ended(watch)
			}
		}
	}
}

// compare finds the watches that ended in events that were lost.
func (r *remains) compare() {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", r.fd))
	if err != nil {
		return
	}
	there := map[int32]bool{}
	for line := range strings.Lines(string(text)) {
		var watch int32
		if n, _ := fmt.Sscanf(line, "inotify wd:%x", &watch); n == 1 {
			there[watch] = true
		}
	}
	for watch := range r.parts {
		if !there[watch] {
			r.ended(watch)
		}
	}
}

func (r *remains) ended(watch int32) {
	part := r.parts[watch]
	if part == nil {
		return
	}
	delete(r.parts, watch)
	part.files--
	if part.files > 0 {
		return
	}
	part.hold(-part.bytes)
	part.of.budget.give(part.bytes)
}

// hold adds to what its storage holds.
func (r *remain) hold(bytes uint64) {
	r.of.held.Add(bytes)
	if r.inner {
		r.of.heldInner.Add(bytes)
	}
}

// retire gives back what was promised to an object whose files are about to
// lose their names; what clients hold of them stays in the space's account and
// the node's until they let go of it.
func (s *storage) retire(o *object) {
	part := &remain{of: s, bytes: o.promised, inner: o.inner}
	part.hold(part.bytes) // before the first of the files can be gone
	if !s.remains.watch(part, []*file{o.control, o.data}) {
		part.hold(-part.bytes)
		s.release(part.bytes, o.inner)
		return
	}
	s.promised -= part.bytes
	if o.inner {
		s.inner -= part.bytes
	}
}

// fits says whether the space may have n bytes more: its objects as many as
// its size, and those together with what is held of removed ones twice as many.
func (s *storage) fits(n uint64) bool {
	if n > s.size || s.promised > s.size-n {
		return false
	}
	left := s.size - s.promised - n
	return s.held.Load() <= s.size || s.held.Load()-s.size <= left
}
