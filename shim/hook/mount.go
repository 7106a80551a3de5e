package hook

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/shim"
	"github.com/ipcspace/ipcspace/shim/bind"
)

// plan is what a container gets.
type plan struct {
	pid     int    // in the container's namespaces, before pivot_root
	rootfs  string // the container's root as the runtime sees it
	space   string // folder to mount; "": it is mounted
	preload string // file to bind over /etc/ld.so.preload; "": none
	close   bool   // close the kernel's own System V IPC
	// needsFile: without preload the container's programs would not have the library.
	needsFile bool
}

// carryOut does it, in the container's namespaces. The thread that enters them serves for nothing
// else: it ends with the program.
func (p plan) carryOut() error {
	runtime.LockOSThread()
	pidfd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		return fmt.Errorf("process %d of the container: %w", p.pid, err)
	}
	defer unix.Close(pidfd)
	// What is to be mounted is taken here, where the host's mounts are, and attached there.
	var trees []tree
	if p.space != "" {
		trees = append(trees, tree{source: p.space, target: shim.Target, folder: true})
	}
	if p.preload != "" {
		trees = append(trees, tree{source: p.preload, target: shim.PreloadTarget, optional: !p.needsFile})
	}
	for i := range trees {
		if err := trees[i].take(); err != nil {
			return err
		}
		defer unix.Close(trees[i].fd)
	}
	if p.close {
		if err := closeKernelIPC(pidfd, p.pid); err != nil {
			return err
		}
	}
	// A thread that shares its root and directory with others may not change its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Setns(pidfd, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the container's mount namespace: %w", err)
	}
	rootfs, err := unix.Open(p.rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open the container's root", Path: p.rootfs, Err: err}
	}
	defer unix.Close(rootfs)
	for _, t := range trees {
		if err := t.attach(rootfs); err != nil {
			return err
		}
	}
	return hideTables(rootfs)
}

// closeKernelIPC sets the limits of the container's IPC namespace to 0. /proc/sys shows each thread
// its own namespace's.
func closeKernelIPC(pidfd, pid int) error {
	same, err := sameNamespace(pid, "ipc")
	if err != nil {
		return err
	}
	if same {
		return fmt.Errorf("%w: the container shares the host's IPC namespace, whose kernel tables cannot be closed; drop --ipc=host, or set %s=open",
			shim.ErrRefused, shim.AnnotationKernelIPC)
	}
	if err := unix.Setns(pidfd, unix.CLONE_NEWIPC); err != nil {
		return fmt.Errorf("enter the container's IPC namespace: %w", err)
	}
	for name, value := range shim.Sysctls {
		if err := writeSysctl("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), value); err != nil {
			return fmt.Errorf("close the kernel's System V IPC: %w", err)
		}
	}
	return nil
}

// writeSysctl writes as the file's owner: of a namespace that belongs to a user namespace that is
// the root in there, and no capability stands in for it.
func writeSysctl(file, value string) error {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return &os.PathError{Op: "stat", Path: file, Err: err}
	}
	if st.Uid != 0 {
		if err := setThreadEuid(int(st.Uid)); err != nil {
			return err
		}
		defer func() { _ = setThreadEuid(0) }()
	}
	return os.WriteFile(file, []byte(value), 0)
}

// setThreadEuid changes the effective uid of this thread only.
func setThreadEuid(uid int) error {
	const same = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(uid), same); errno != 0 {
		return fmt.Errorf("become uid %d: %w", uid, errno)
	}
	return nil
}

func sameNamespace(pid int, kind string) (bool, error) {
	var ours, theirs unix.Stat_t
	if err := unix.Stat("/proc/self/ns/"+kind, &ours); err != nil {
		return false, fmt.Errorf("own %s namespace: %w", kind, err)
	}
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), &theirs); err != nil {
		return false, fmt.Errorf("%s namespace of process %d: %w", kind, pid, err)
	}
	return ours.Ino == theirs.Ino && ours.Dev == theirs.Dev, nil
}

// tree is a read-only mount that stands nowhere yet, and where it is to stand.
type tree struct {
	source, target string
	folder         bool
	optional       bool // a file that gives way to one of the image's own
	fd             int
}

func (t *tree) take() (err error) {
	t.fd, err = bind.Clone(t.source)
	return err
}

// attach mounts the tree at its target in the container's root, which is made if it is not there.
func (t *tree) attach(rootfs int) error {
	at, err := place(rootfs, t.target, t.folder)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	var there unix.Stat_t
	if err := unix.Fstat(at, &there); err != nil {
		return fmt.Errorf("%s in the container: %w", t.target, err)
	}
	if !t.folder && there.Size > 0 {
		if t.optional {
			return nil
		}
		return fmt.Errorf("%w: the image has a %s of its own; set LD_PRELOAD=%s for the container, or use the runtime ipcspace instead of the hook",
			shim.ErrRefused, t.target, shim.Library)
	}
	if err := bind.Attach(t.fd, at); err != nil {
		return fmt.Errorf("mount %s in the container: %w", t.target, err)
	}
	return nil
}

// place opens a path in the container's root and makes what is missing of it. A symbolic link in it
// is an error: an image could lead the mount elsewhere by one.
func place(rootfs int, target string, folder bool) (int, error) {
	dir, err := unix.Dup(rootfs)
	if err != nil {
		return -1, err
	}
	names := strings.Split(strings.TrimPrefix(path.Clean(target), "/"), "/")
	for i, name := range names {
		last := i == len(names)-1
		next, err := step(dir, name, !last || folder)
		_ = unix.Close(dir)
		if errors.Is(err, unix.ELOOP) {
			return -1, fmt.Errorf("%w: %s is a symbolic link in the image; make it a folder or a file there",
				shim.ErrRefused, "/"+filepath.Join(names[:i+1]...))
		}
		if err != nil {
			return -1, &os.PathError{Op: "open in the container's root", Path: "/" + filepath.Join(names[:i+1]...), Err: err}
		}
		dir = next
	}
	return dir, nil
}

// step opens one name in dir, made if it is not there.
func step(dir int, name string, folder bool) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	if folder {
		how.Flags |= unix.O_DIRECTORY
	}
	fd, err := unix.Openat2(dir, name, &how)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	if folder {
		err = unix.Mkdirat(dir, name, 0o755)
	} else {
		err = unix.Mknodat(dir, name, unix.S_IFREG|0o644, 0)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return unix.Openat2(dir, name, &how)
}

// hideTables puts an empty folder over /proc/sysvipc: ipcs, ipcrm and lsipc read the kernel's tables
// there first, and make the calls without them.
func hideTables(rootfs int) error {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	at, err := unix.Openat2(rootfs, "proc/sysvipc", &how)
	if errors.Is(err, unix.ENOENT) {
		return nil // a kernel without System V IPC, or a container without /proc
	}
	if err != nil {
		return fmt.Errorf("the container's /proc/sysvipc: %w", err)
	}
	defer unix.Close(at)
	empty, err := emptyMount()
	if err != nil {
		return fmt.Errorf("hide the container's /proc/sysvipc: %w", err)
	}
	defer unix.Close(empty)
	if err := bind.Attach(empty, at); err != nil {
		return fmt.Errorf("hide the container's /proc/sysvipc: %w", err)
	}
	return nil
}

// emptyMount is an empty read-only tmpfs that stands nowhere yet.
func emptyMount() (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	for key, value := range map[string]string{"size": "4096", "mode": "555"} {
		if err := unix.FsconfigSetString(fs, key, value); err != nil {
			return -1, err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC,
		unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
}
