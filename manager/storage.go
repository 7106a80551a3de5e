package manager

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/manager/procfs"
)

// storage is where a space lives: its public and its private folder, and the
// account of bytes promised to objects. Callers hold space.mu.
//
// The private folder is mounted without noexec: shmat with SHM_EXEC maps a
// segment PROT_EXEC, which noexec would refuse.
//
// What stands in spaces/ is a read-only mount of the public folder, on the
// host too: whoever is given it, and however, cannot write in it. The manager
// writes through a mount that only it has. Where it may not mount, both are
// one plain folder.
type storage struct {
	public  string // for the manager
	shown   string // for everybody else
	private string
	proc    string // where procfs is mounted
	mounted bool   // each folder is a tmpfs of its own
	guard   *guard // nil: files are not sealed
	small   bool   // no huge pages

	size     uint64 // most bytes that objects may have together
	promised uint64
	limit    uint64 // size= of the private tmpfs
	inner    uint64 // bytes promised in the private tmpfs itself
	overhead uint64 // bytes that the space itself needs there
	pages    uint64 // of sessions, in all files that there are of them
	budget   *budget

	mu     *sync.Mutex // the space's
	jams   jams
	litter litter
	growth *growth

	// What was promised to removed objects whose files clients hold, in bytes.
	remains         *remains
	held, heldInner atomic.Uint64 // heldInner: of held, in the private tmpfs

	open     map[*file]struct{} // those that have descriptors
	mostOpen func() int         // how many may
}

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
	// largeSegment is the size from which a segment has a tmpfs of its own.
	largeSegment = 1 << 20
	// innerStart is the private tmpfs at the beginning; it grows with what is
	// promised in it. innerSlack is for pages, state and files' own needs.
	innerStart = 64 << 20
	innerSlack = 16 << 20
	hugePage   = 2 << 20
	// headroom is what members may take of the private tmpfs by making files
	// longer before they are cut back (growth): a part of the machine's memory.
	headroomPart = 8
	publicRoom   = 16 << 20 // beside the table: the library and small things
)

// make creates and mounts both folders.
func (s *storage) make(inodes uint64) error {
	if err := s.makeFolder(s.private, 0o700, innerStart+headroom(), inodes); err != nil {
		return err
	}
	s.limit = innerStart + headroom()
	return s.makeFolder(s.public, 0o755, abi.TableSize+publicRoom, 8192)
}

// show mounts the public folder where all can find it, unless it is there.
// Attached as it shall be: a later change of its flags would not reach other
// mount namespaces.
func (s *storage) show() error {
	if s.shown == s.public {
		return nil
	}
	if m, err := isMount(s.shown); err == nil && m {
		return nil
	}
	// Docker makes a folder for a -v whose source is not there.
	if err := os.Mkdir(s.shown, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	tree, err := readOnlyClone(s.public)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, s.shown, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: s.shown, Err: err}
	}
	return nil
}

func (s *storage) makeFolder(path string, mode os.FileMode, size, inodes uint64) error {
	if err := os.Mkdir(path, mode); err != nil {
		return err
	}
	if s.mounted {
		options := fmt.Sprintf("size=%d,nr_inodes=%d,mode=%o", size, inodes, mode)
		// Files here are small: huge pages are for the segments that have a
		// tmpfs of their own.
		if err := mountTmpfs(path, options, "never"); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
}

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
	options := fmt.Sprintf("size=%d", limit)
	if err := unix.Mount("ipcspace", s.private, "tmpfs", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return unix.ENOSPC
	}
	s.limit = limit
	return nil
}

// headroom is what members may take before growth has it back.
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
	options := fmt.Sprintf("size=%d,nr_inodes=%d", s.limit, n)
	if err := unix.Mount("ipcspace", s.private, "tmpfs", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return &os.PathError{Op: "more inodes for", Path: s.private, Err: err}
	}
	return nil
}

// adoptLimit reads back what size the private tmpfs has.
func (s *storage) adoptLimit() {
	var fs unix.Statfs_t
	if s.mounted && unix.Statfs(s.private, &fs) == nil {
		s.limit = fs.Blocks * uint64(fs.Bsize)
	}
}

// devText is how mappings of files in the private folder show in
// /proc/<pid>/maps; folders of segments not included.
func (s *storage) devText() string {
	var st unix.Stat_t
	if err := unix.Stat(s.private, &st); err != nil {
		return "" // contained in every text
	}
	return devText(st.Dev)
}

func (s *storage) path(name string) string { return filepath.Join(s.private, name) }

// create makes a sparse file of size bytes, to be opened and closed by no
// other name than through the descriptor that it returns: sealed where that
// can be.
func (s *storage) create(path string, size int64) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		_ = f.Close()
		_ = os.Remove(path)
		return nil, err
	}
	if s.guard == nil {
		return f, nil
	}
	_ = f.Close()
	f, err = s.guard.seal(path)
	if err != nil {
		_ = os.Remove(path)
	}
	return f, err
}

// reopen opens a file made by an earlier manager.
func (s *storage) reopen(path string) (*os.File, error) {
	if s.guard == nil {
		return os.OpenFile(path, os.O_RDWR, 0)
	}
	return s.guard.reseal(path)
}

// remove unlinks a file, sealed or not. Who holds it still cannot shrink it:
// the flag is set again on the unlinked inode.
func (s *storage) remove(path string) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if s.guard == nil || !fi.Mode().IsRegular() {
		return os.Remove(path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := setImmutable(path, false); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return setFlagsFd(int(f.Fd()), true)
}

// createSegment makes the file of a segment. Its name shows the key, as the
// kernel's does, in /proc/<pid>/maps.
func (s *storage) createSegment(key uint32, serial uint64, size uint64) (*file, error) {
	path := s.path(segmentName(key, serial))
	length := int64(pages(size) * abi.PageSize)
	if !s.mounted || size < largeSegment {
		return s.newFile(path, length), nil
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return nil, err
	}
	room := (uint64(length) + hugePage - 1) / hugePage * hugePage
	huge := "always"
	if s.small {
		huge = "never"
	}
	if err := mountTmpfs(path, fmt.Sprintf("size=%d,nr_inodes=4,mode=700", room), huge); err != nil {
		_ = os.Remove(path)
		return nil, err
	}
	f := s.newFile(filepath.Join(path, segmentData), length)
	err := f.make()
	if err != nil {
		_ = unix.Unmount(path, unix.MNT_DETACH)
		_ = os.Remove(path)
	}
	return f, err
}

// segmentFiles finds the segments' files by their serials.
func (s *storage) segmentFiles() (map[uint64]string, error) {
	found := map[uint64]string{}
	paths, err := filepath.Glob(s.path("SYSV*-*"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		m := objectFile.FindStringSubmatch(filepath.Base(path))
		if m == nil {
			continue
		}
		serial, err := strconv.ParseUint(m[1], 10, 64)
		if err != nil {
			continue
		}
		if fi, err := os.Lstat(path); err == nil && fi.IsDir() {
			path = filepath.Join(path, segmentData)
		}
		found[serial] = path
	}
	return found, nil
}

// removeFile unlinks an object's file, and first that if it has a tmpfs of its
// own, which is unmounted then: a copy of the mount in somebody's mount
// namespace would pin the memory otherwise.
func (s *storage) removeFile(f *file) error {
	err := f.remove()
	if filepath.Base(f.path) != segmentData {
		return err
	}
	return errors.Join(err, s.removeFolder(filepath.Dir(f.path)))
}

func (s *storage) removeFolder(path string) (err error) {
	if m, _ := isMount(path); m {
		err = unix.Unmount(path, unix.MNT_DETACH)
	}
	return errors.Join(err, os.Remove(path))
}

// removeLitter unlinks what no object has, by its path.
func (s *storage) removeLitter(path string) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		return s.remove(path)
	}
	err = s.remove(filepath.Join(path, segmentData))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, s.removeFolder(path))
}

// openReadOnly opens a file through a read-only clone of its mount, so that
// reopening it through /proc/self/fd gives EROFS to anybody.
func (s *storage) openReadOnly(path string) (*os.File, error) {
	if !s.mounted {
		return os.Open(path)
	}
	dir, base := filepath.Split(path)
	tree, err := readOnlyClone(dir)
	if err != nil {
		return nil, err
	}
	defer unix.Close(tree)
	fd, err := unix.Openat(tree, base, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "openat", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// destroy removes both folders and all mounts below them. It goes on after
// errors and can be repeated.
func (s *storage) destroy() error {
	var errs []error
	for _, dir := range []string{s.private, s.public} {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		for _, e := range entries {
			errs = append(errs, s.destroyEntry(filepath.Join(dir, e.Name()), e.IsDir()))
		}
		if m, _ := isMount(dir); m {
			errs = append(errs, unix.Unmount(dir, unix.MNT_DETACH))
		}
		errs = append(errs, os.Remove(dir))
	}
	if s.shown != s.public {
		if m, _ := isMount(s.shown); m {
			errs = append(errs, unix.Unmount(s.shown, unix.MNT_DETACH))
		}
		if err := os.Remove(s.shown); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	procfs.Clear(s.proc)
	_ = os.Remove(s.proc)
	return errors.Join(errs...)
}

func (s *storage) destroyEntry(path string, dir bool) error {
	if !dir {
		err := s.remove(path)
		if errors.Is(err, os.ErrNotExist) {
			err = nil // it was litter
		}
		return err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, s.remove(filepath.Join(path, e.Name())))
	}
	if m, _ := isMount(path); m {
		errs = append(errs, unix.Unmount(path, unix.MNT_DETACH))
	}
	return errors.Join(append(errs, os.Remove(path))...)
}
