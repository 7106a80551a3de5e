package manager

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

const (
	// innerStart is the private tmpfs at the beginning; it grows with what is
	// promised in it.
	innerStart = 64 << 20
	publicRoom = 16 << 20 // beside the table: the library and small things
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
