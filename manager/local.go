package manager

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ids of a space that are its containers' own, so that two containers with user namespaces of their
// own meet as the same user. A container's user namespace is the one that owns its pid namespace and
// was made by root: a process can make neither of them after the fact, so none chooses its ids.

// idMaps are those of a user namespace. nil: the manager's own.
type idMaps struct{ uids, gids idMap }

// localize gives a caller the ids that its container knows it by, where the space says so. Who is in
// no container has those that it has; who cannot be placed has nobody's.
func (s *space) localize(c *caller) {
	if !s.made(stateContainerIDs) {
		return
	}
	maps, ns, err := containerMaps(c.pid, s.m.userns.own())
	if err == nil && !c.alive() {
		err = unix.ESRCH
	}
	switch {
	case err != nil:
		c.container = &idMaps{}
	case maps == nil:
		return
	default:
		c.container, c.containerNS = maps, ns
	}
	c.uid, c.gid = c.container.uids.out(c.uid), c.container.gids.out(c.gid)
}

// containerMaps are the id maps of the user namespace of a process's container, and its inode. nil
// if it is own, the manager's.
func containerMaps(pid int, own uint64) (*idMaps, uint64, error) {
	ns, err := containerUserns(pid)
	if err != nil || ns == 0 || ns == own {
		return nil, 0, err
	}
	// Some process that is in it shows its maps: this one, or one that it comes from.
	for range 64 {
		if in, err := nsInode(pid, "user"); err != nil {
			return nil, 0, err
		} else if in == ns {
			uids, err := readIDMap(pid, "uid_map")
			if err != nil {
				return nil, 0, err
			}
			gids, err := readIDMap(pid, "gid_map")
			if err != nil {
				return nil, 0, err
			}
			if in, err := nsInode(pid, "user"); err != nil || in != ns {
				return nil, 0, unix.ESRCH
			}
			return &idMaps{uids, gids}, ns, nil
		}
		st, err := readStat(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return nil, 0, err
		}
		if pid = st.PPID; pid <= 1 {
			break
		}
	}
	return nil, 0, fmt.Errorf("no process shows the container's ids: %w", unix.ESRCH)
}

// Requests of ioctl_ns(2).
const (
	nsGetUserns   = 0xb701
	nsGetParent   = 0xb702
	nsGetOwnerUID = 0xb704
)

// containerUserns is the user namespace that owns the outermost pid namespace of a process below the
// manager's. 0: the process is in the manager's, or not root made the one it is in.
func containerUserns(pid int) (uint64, error) {
	outer, err := nsInode(os.Getpid(), "pid")
	if err != nil {
		return 0, err
	}
	path := fmt.Sprintf("/proc/%d/ns/pid", pid)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }()
	if in, err := inodeOf(f); err != nil || in == outer {
		return 0, err
	}
	for {
		parent, err := related(f, nsGetParent)
		if err != nil {
			return 0, err
		}
		in, err := inodeOf(parent)
		if err != nil || in == outer {
			_ = parent.Close()
			if err != nil {
				return 0, err
			}
			break
		}
		_ = f.Close()
		f = parent
	}
	owner, err := related(f, nsGetUserns)
	if err != nil {
		return 0, err
	}
	defer owner.Close()
	var uid uint32
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, owner.Fd(), nsGetOwnerUID, uintptr(unsafe.Pointer(&uid)))
	runtime.KeepAlive(owner)
	if errno != 0 {
		return 0, errno
	}
	if uid != 0 {
		return 0, nil
	}
	return inodeOf(owner)
}

// related opens a namespace that another one leads to.
func related(f *os.File, request uint) (*os.File, error) {
	fd, err := unix.IoctlRetInt(int(f.Fd()), request)
	if err != nil {
		return nil, &os.PathError{Op: "ioctl", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func inodeOf(f *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return st.Ino, nil
}

// within are the ids of m as outer's namespace knows them; both lead to the manager's.
func (m idMap) within(outer idMap) idMap {
	var both idMap
	for _, r := range m {
		for _, o := range outer {
			low := max(r.outside, o.outside)
			high := min(r.outside+r.count, o.outside+o.count)
			if low < high {
				both = append(both, idRange{inside: r.inside + low - r.outside, outside: o.inside + low - o.outside, count: high - low})
			}
		}
	}
	return both
}
