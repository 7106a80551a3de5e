package manager

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// budget is the account of a whole node. The zero value has no bound.
type budget struct {
	most uint64
	used atomic.Uint64
}

func (b *budget) take(n uint64) bool {
	for {
		used := b.used.Load()
		if b.most != 0 && (n > b.most || used > b.most-n) {
			return false
		}
		if b.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

func (b *budget) give(n uint64) { b.used.Add(^(n - 1)) }

const (
	innerSlack   = 16 << 20 // of the private tmpfs: for pages, state and files' own needs
	headroomPart = 8        // of the machine's memory, one in so many
)

// promise takes n bytes of the space's size and of the node's budget; inner
// bytes also of the private tmpfs, which grows for them. ENOSPC.
func (s *storage) promise(n uint64, inner bool) error {
	if !s.fits(n) || !s.budget.take(n) {
		s.remains.look()
		if !s.fits(n) || !s.budget.take(n) {
			return unix.ENOSPC
		}
	}
	if inner {
		if err := s.makeRoom(s.inner + n); err != nil {
			s.budget.give(n)
			return err
		}
		s.inner += n
	}
	s.promised += n
	return nil
}

// release gives back what was promised. The tmpfs stays as large as it is.
func (s *storage) release(n uint64, inner bool) {
	s.promised -= n
	if inner {
		s.inner -= n
	}
	s.budget.give(n)
}

// reserve makes room for what the space itself needs.
func (s *storage) reserve(overhead uint64) error {
	s.overhead = overhead
	return s.makeRoom(s.inner)
}

func (s *storage) makeRoom(inner uint64) error {
	need := inner + s.heldInner.Load() + s.overhead + innerSlack + headroom()
	if !s.mounted {
		var fs unix.Statfs_t
		if err := unix.Statfs(s.private, &fs); err == nil && inner-s.inner > fs.Bavail*uint64(fs.Bsize) {
			return unix.ENOSPC
		}
		return nil
	}
	if need <= s.limit {
		return nil
	}
	limit := need + need/4
	if err := s.remount(fmt.Sprintf("size=%d", limit)); err != nil {
		return unix.ENOSPC
	}
	s.limit = limit
	return nil
}

// headroom is what members may take of the private tmpfs by making files
// longer before they are cut back (growth): a part of the machine's memory.
var headroom = sync.OnceValue(func() uint64 {
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) != nil {
		return 0
	}
	return si.Totalram * uint64(si.Unit) / headroomPart
})

// moreInodes lets the private folder have n files.
func (s *storage) moreInodes(n uint64) error {
	var fs unix.Statfs_t
	if !s.mounted || unix.Statfs(s.private, &fs) == nil && fs.Files >= n {
		return nil
	}
	if err := s.remount(fmt.Sprintf("size=%d,nr_inodes=%d", s.limit, n)); err != nil {
		return &os.PathError{Op: "more inodes for", Path: s.private, Err: err}
	}
	return nil
}

func (s *storage) remount(options string) error {
	return unix.Mount("ipcspace", s.private, "tmpfs", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, options)
}

// adoptLimit reads back what size the private tmpfs has.
func (s *storage) adoptLimit() {
	var fs unix.Statfs_t
	if s.mounted && unix.Statfs(s.private, &fs) == nil {
		s.limit = fs.Blocks * uint64(fs.Bsize)
	}
}
