package manager

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ids of a space that are its containers' own, so that two containers with user namespaces of their
// own meet as the same user. A container's user namespace is the one that owns its pid namespace and
// was made by a runtime: a process can make neither of them after the fact, so none chooses its ids.
//
// A runtime is root, or root that became the container's before it made the namespace, as containerd
// does for pods: then the namespace's owner is the first of a range of ids. Nobody else's can be: to
// write more than one id takes CAP_SETUID outside (user_namespaces(7)), and what newuidmap grants to a
// user is no range that has the user's own id in it.

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
	ns, owner, err := containerUserns(pid, own)
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
			if owner != 0 && !uids.first(owner) {
				return nil, 0, nil
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
// manager's, and that one's owner. 0: the process is in the manager's, or somebody made the one it is
// in from within another.
func containerUserns(pid int, own uint64) (ns uint64, owner uint32, err error) {
	outer, err := nsInode(os.Getpid(), "pid")
	if err != nil {
		return 0, 0, err
	}
	path := fmt.Sprintf("/proc/%d/ns/pid", pid)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, 0, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }()
	if in, err := inodeOf(f); err != nil || in == outer {
		return 0, 0, err
	}
	for {
		parent, err := related(f, nsGetParent)
		if err != nil {
			return 0, 0, err
		}
		in, err := inodeOf(parent)
		if err != nil || in == outer {
			_ = parent.Close()
			if err != nil {
				return 0, 0, err
			}
			break
		}
		_ = f.Close()
		f = parent
	}
	userns, err := related(f, nsGetUserns)
	if err != nil {
		return 0, 0, err
	}
	defer userns.Close()
	if ns, err = inodeOf(userns); err != nil || ns == own {
		return ns, 0, err
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, userns.Fd(), nsGetOwnerUID, uintptr(unsafe.Pointer(&owner)))
	runtime.KeepAlive(userns)
	if errno != 0 {
		return 0, 0, errno
	}
	if owner == 0 {
		return ns, 0, nil
	}
	parent, err := related(userns, nsGetParent)
	if err != nil {
		return 0, 0, err
	}
	defer parent.Close()
	if in, err := inodeOf(parent); err != nil || in != own {
		return 0, 0, err
	}
	return ns, owner, nil
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

// first tells whether a user is the root of the namespace and the first of a range of ids.
func (m idMap) first(uid uint32) bool {
	return slices.ContainsFunc(m, func(r idRange) bool { return r.inside == 0 && r.outside == uint64(uid) && r.count > 1 })
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
