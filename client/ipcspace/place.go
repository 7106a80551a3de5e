package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/manager/procfs"
)

// What the library reads in the environment.
const (
	dirEnv         = "IPCSPACE_DIR"
	requiredEnv    = "IPCSPACE_REQUIRED"
	dirWritableEnv = "IPCSPACE_DIR_WRITABLE"
	homeEnv        = "IPCSPACE_HOME" // the library tells itself, across exec
	preloadEnv     = "LD_PRELOAD"
)

// mountBase is where run mounts what the command sees. The mounts are in a
// namespace of each run's own, so that all runs use the same path and the host
// keeps one empty folder.
const mountBase = "/run/ipcspace-run"

// outsideFlag tells run that it has executed itself inside a mount namespace
// of its own, and which it came from. Not an environment variable: the command
// would inherit it, and a run inside a run would mount in the outer namespace.
const outsideFlag = "outside-mount-namespace"

// place is a space as one command sees it.
type place struct {
	dir      string // the public folder: IPCSPACE_DIR
	writable bool   // dir is not mounted read-only; the library is told to take it
	library  string // the path for LD_PRELOAD
	root     string // where admin.sock of its manager is
	space    string
	mounts   bool   // run has a mount namespace of its own
	hide     string // mounts at or below here are not for the command; empty: none
	proc     string // folder of the manager's files for /proc; empty: it has none
	sysctls  string // without proc, folder of files to bind over /proc/sys/kernel's
	closers  []func() error
}

func (p *place) onClose(f func() error) { p.closers = append(p.closers, f) }

// close undoes what making the place did, last first.
func (p *place) close() error {
	var failed error
	for i := len(p.closers) - 1; i >= 0; i-- {
		failed = errors.Join(failed, p.closers[i]())
	}
	p.closers = nil
	return failed
}

// environment is env with the space in it.
func (p *place) environment(env []string) []string {
	set := map[string]string{
		dirEnv: p.dir, requiredEnv: "1", dirWritableEnv: "", homeEnv: "",
		rootEnv: p.root, spaceEnv: p.space,
		preloadEnv: p.library,
	}
	if p.writable {
		set[dirWritableEnv] = "ok"
	}
	var out []string
	for _, pair := range env {
		name, value, _ := strings.Cut(pair, "=")
		if name == preloadEnv {
			set[preloadEnv] = joinPreload(p.library, value)
		}
		if _, ours := set[name]; !ours {
			out = append(out, pair)
		}
	}
	for name, value := range set {
		if value != "" {
			out = append(out, name+"="+value)
		}
	}
	return out
}

// joinPreload puts our library first and keeps the others. A second
// libipcspace.so, of a run around this one, would serve the same calls twice.
func joinPreload(ours, existing string) string {
	libraries := []string{ours}
	for _, one := range strings.FieldsFunc(existing, func(r rune) bool { return r == ':' || r == ' ' }) {
		if filepath.Base(one) != filepath.Base(abi.LibraryName) {
			libraries = append(libraries, one)
		}
	}
	return strings.Join(libraries, ":")
}

// ownMounts moves the process into a mount namespace of its own, if it may. A
// namespace belongs to threads, and the manager runs on many: so one thread
// leaves and executes this program again. It returns in the second life, or
// with false where mounts are not allowed.
func ownMounts(outside uint64) (bool, error) {
	inside, err := mountNamespace()
	if err != nil {
		return false, err
	}
	if outside != 0 && outside != inside {
		return true, nil
	}
	if os.Geteuid() != 0 {
		return false, nil
	}
	self, err := os.Executable()
	if err != nil {
		return false, fmt.Errorf("find this program: %w", err)
	}
	runtime.LockOSThread()
	err = unix.Unshare(unix.CLONE_NEWNS)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		runtime.UnlockOSThread()
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("make a mount namespace: %w", err)
	}
	// Slave: what the host mounts later is seen here, never the reverse.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return false, fmt.Errorf("separate the mounts from the host's: %w", err)
	}
	// Flags of run itself stand before the command: the first place after the
	// verb is always theirs.
	verb := verbIndex(os.Args)
	args := append([]string{}, os.Args[:verb+1]...)
	args = append(args, "--"+outsideFlag+"="+strconv.FormatUint(inside, 10))
	args = append(args, os.Args[verb+1:]...)
	// package syscall: its Exec puts back the descriptor limit that Go raised.
	err = syscall.Exec(self, args, os.Environ())
	return false, fmt.Errorf("execute %s: %w", self, err)
}

// verbIndex finds "run" among the arguments; --root may stand before it.
func verbIndex(args []string) int {
	for i := 1; i < len(args); i++ {
		switch args[i] {
		case "--root":
			i++
		case "run":
			return i
		}
	}
	return 0
}

func mountNamespace() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/mnt", &st); err != nil {
		return 0, fmt.Errorf("look at /proc (is it mounted?): %w", err)
	}
	return st.Ino, nil
}

// mountPlace mounts an empty folder for one run at mountBase.
func mountPlace() error {
	if err := os.MkdirAll(mountBase, 0o755); err != nil {
		return err
	}
	return mountTmpfs(mountBase, "mode=0755,size=128k,nr_inodes=32")
}

func mountTmpfs(dir, options string) error {
	if err := unix.Mount("ipcspace", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount a tmpfs at %s: %w", dir, err)
	}
	return nil
}

// mountSpace shows a space's public folder as containers see it, and its limits.
func (p *place) mountSpace(public, proc string) error {
	p.dir, p.writable = filepath.Join(mountBase, "space"), false
	if err := bindReadOnly(public, p.dir); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(proc, procfs.ListFolder)); proc != "" && err == nil {
		p.proc = proc
		return nil
	}
	p.sysctls = filepath.Join(mountBase, sysctlFolder)
	return writeSysctls(public, p.sysctls)
}

// bindReadOnly shows public at dir, read-only.
func bindReadOnly(public, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(public, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", public, dir, err)
	}
	const flags = unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("", dir, "", flags, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", dir, err)
	}
	return nil
}

// joinSpace is the place of a running manager's space.
func joinSpace(root, space string, mounts bool) (*place, error) {
	root, err := absolute(root)
	if err != nil {
		return nil, err
	}
	public := filepath.Join(root, "spaces", space)
	switch _, err := os.Stat(filepath.Join(public, abi.RegisterName)); {
	case space != filepath.Base(space) || errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("no space %q at %s: `ipcspace --root %s space list` shows what is there, "+
			"`ipcspace --root %s space create %s` makes it", space, root, root, root, space)
	case err != nil:
		return nil, fmt.Errorf("space %q: %w", space, err)
	}
	p := &place{dir: public, root: root, space: space, mounts: mounts}
	if mounts {
		if err := mountPlace(); err != nil {
			return nil, err
		}
		if err := p.mountSpace(public, filepath.Join(root, "proc", space)); err != nil {
			return nil, err
		}
		p.hide = filepath.Join(root, "private")
	} else if p.writable, err = trusted(public); err != nil {
		return nil, err
	}
	p.library = filepath.Join(p.dir, abi.LibraryName)
	if _, err := os.Stat(p.library); err != nil {
		return nil, fmt.Errorf("space %q has no library: %w; start its manager with --library", space, err)
	}
	return p, nil
}

// trusted looks at a folder that is not behind a read-only mount: only its
// owner may be able to change it, and that must be root or this user.
func trusted(dir string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return false, fmt.Errorf("look at %s: %w", dir, err)
	}
	if (st.Uid != 0 && st.Uid != uint32(os.Geteuid())) || st.Mode&0o022 != 0 {
		return false, fmt.Errorf("%s can be changed by others (owner %d, mode %o): a space there proves nothing", dir, st.Uid, st.Mode&0o7777)
	}
	return true, nil
}

func absolute(path string) (string, error) {
	full, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("make %s absolute: %w", path, err)
	}
	return full, nil
}

// libraryNear looks beside the program self and where packages install.
func libraryNear(self string) (string, error) {
	name := filepath.Base(abi.LibraryName)
	bin := filepath.Dir(self)
	candidates := []string{
		filepath.Join(bin, name),
		filepath.Join(bin, "../lib/ipcspace", name),
		filepath.Join("/usr/local/lib/ipcspace", name),
		filepath.Join("/usr/lib/ipcspace", name),
	}
	for _, path := range candidates {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s not found (looked at %s): build it with `make build`, or name it with --library",
		name, strings.Join(candidates, ", "))
}
