// Package procfs shows a space in the files where programs look for an IPC
// namespace: those of /proc/sysvipc and, writable, of /proc/sys/kernel.
//
// It owns one FUSE mount per space:
//
//	sysvipc/{shm,sem,msg}
//	kernel/{shmmax,shmall,shmmni,sem,msgmax,msgmnb,msgmni,shm_rmid_forced,*_next_id}
//
// to be bound over the kernel's files of the same names. What stands in them,
// and who may write, is for Space to say; nothing is kept here. A file behaves
// as the kernel's: its length is 0, a sysctl is read and written at position 0
// only, and a list is made afresh when it is read from its beginning.
package procfs

import (
	"errors"
	"fmt"
	"log"
	"log/slog"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Process is who opened a file, as the kernel tells it.
type Process struct {
	PID      int // of the thread, in the pid namespace of the mount; 0: not visible there
	UID, GID uint32
}

// Space is what the files show. Its methods are called by many readers at one
// time. Errors that are a unix.Errno reach the program, others as EIO.
type Space interface {
	// List is the text of sysvipc/name.
	List(name string, reader Process) ([]byte, error)
	// Sysctl is the text of kernel/name.
	Sysctl(name string) ([]byte, error)
	// SetSysctl reads values from text as proc_dointvec (kernel/sysctl.c)
	// does, and returns how many bytes of it were used.
	SetSysctl(name string, text []byte) (int, error)
	// MaySet tells whether a process may write kernel/name.
	MaySet(name string, writer Process) bool
}

// Lists and Sysctls are the names of the files.
var (
	Lists   = []string{"shm", "sem", "msg"}
	Sysctls = []string{
		"shmmax", "shmall", "shmmni", "sem", "msgmax", "msgmnb", "msgmni",
		"shm_rmid_forced", "shm_next_id", "sem_next_id", "msg_next_id",
	}
)

// The folders of a mount.
const (
	ListFolder   = "sysvipc"
	SysctlFolder = "kernel"
)

// ErrUnavailable is returned where FUSE cannot be used.
var ErrUnavailable = errors.New("no FUSE here")

// Mounted is a mount that is being served.
type Mounted struct {
	dir    string
	server *fuse.Server
}

// Mount serves space at dir, an empty folder. ErrUnavailable: /dev/fuse is
// missing, or this process may not mount it.
func Mount(dir string, space Space, logger *slog.Logger) (*Mounted, error) {
	// Opened and mounted here: the library would let children inherit it.
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: open /dev/fuse: %w", ErrUnavailable, err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=0,group_id=0,allow_other", fd, unix.S_IFDIR)
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("ipcspace", dir, "fuse.ipcspace", flags, options); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("%w: mount at %s: %w", ErrUnavailable, dir, err)
	}
	// Nothing of the tree ever changes.
	forever := 365 * 24 * time.Hour
	tree := fs.NewNodeFS(newTree(space), &fs.Options{EntryTimeout: &forever, AttrTimeout: &forever})
	server, err := fuse.NewServer(tree, fmt.Sprintf("/dev/fd/%d", fd), &fuse.MountOptions{
		Name: "ipcspace", Logger: errorsOf(logger),
	})
	if err != nil {
		unmount(dir)
		return nil, fmt.Errorf("serve %s: %w", dir, err)
	}
	m := &Mounted{dir: dir, server: server}
	go server.Serve()
	return m, nil
}

func errorsOf(logger *slog.Logger) *log.Logger { //nolint:forbidigo // what the FUSE server takes
	return slog.NewLogLogger(logger.Handler(), slog.LevelDebug)
}

// Close ends the service, also for those who have the files bound elsewhere:
// they get ENOTCONN from then on.
func (m *Mounted) Close() {
	unmount(m.dir)
	m.server.Wait()
}

// Clear takes away what a server that was killed left mounted at dir.
func Clear(dir string) {
	for unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
	}
}

// unmount aborts the connection before it takes the mount away: a bind of it
// in another mount namespace would keep it alive.
func unmount(dir string) {
	_ = unix.Unmount(dir, unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW)
	Clear(dir)
}
