package manager

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What /proc tells of a process. A pid may be somebody else's by the time its
// files are read: callers hold a pidfd and look at it afterwards.

// readProc reads a file of /proc, in a third of the system calls of os.ReadFile,
// which tries each file with Go's poller.
func readProc(path string) ([]byte, error) { return readProcAtMost(path, 1<<30) }

// readProcAtMost refuses what is longer: "EFBIG: File too large".
func readProcAtMost(path string, most int) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	b := make([]byte, 0, 2048)
	for {
		var n int
		err := uninterrupted(func() (err error) {
			n, err = unix.Read(fd, b[len(b):cap(b)])
			return err
		})
		if err != nil {
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		}
		if n == 0 {
			return b, nil
		}
		if b = b[:len(b)+n]; len(b) > most {
			return nil, &os.PathError{Op: "read", Path: path, Err: unix.EFBIG}
		}
		if len(b) == cap(b) {
			b = slices.Grow(b, cap(b))
		}
	}
}

// mappings are those of a process, read when they are first asked for.
type mappings struct {
	pid  int
	text string
	err  error
}

// mostMaps bounds how long a look at a process's mappings takes: it may have
// made 65,530 of them, which the kernel writes down in a tenth of a second.
// Whoever has so many did not just call exec.
const mostMaps = 128 << 10

func (m *mappings) read() (string, error) {
	if m.text == "" && m.err == nil {
		b, err := readProcAtMost(fmt.Sprintf("/proc/%d/maps", m.pid), mostMaps)
		if err == nil && len(b) == 0 {
			err = unix.ESRCH
		}
		m.text, m.err = string(b), err
	}
	return m.text, m.err
}

// devText is how /proc/<pid>/maps shows a device.
func devText(dev uint64) string {
	return fmt.Sprintf(" %02x:%02x ", unix.Major(dev), unix.Minor(dev))
}

// procmapQuery is struct procmap_query (linux/fs.h).
type procmapQuery struct {
	size, flags, addr          uint64
	start, end                 uint64
	vmaFlags, pageSize, offset uint64
	inode                      uint64
	major, minor               uint32
	nameSize, buildSize        uint32
	nameAddress, buildAddress  uint64
}

// procmapQueryIoctl is PROCMAP_QUERY (linux/fs.h).
const procmapQueryIoctl = 0xC0686611

// mapsAt tells whether a process has what stands at an offset of a file mapped
// at an address. ESRCH: its memory is gone. ENOTTY: the kernel cannot be asked
// (before Linux 6.11).
func mapsAt(pid int, at uint64, of inode, offset uint64) (bool, error) {
	path := fmt.Sprintf("/proc/%d/maps", pid)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	q := procmapQuery{addr: at}
	q.size = uint64(unsafe.Sizeof(q))
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), procmapQueryIoctl, uintptr(unsafe.Pointer(&q)))
	switch {
	case errno == unix.ENOENT:
		return false, nil
	case errno != 0:
		return false, &os.PathError{Op: "PROCMAP_QUERY", Path: path, Err: errno}
	}
	there := inode{unix.Mkdev(q.major, q.minor), q.inode}
	return there == of && q.offset+(at-q.start) == offset, nil
}

// procStat is what is needed of /proc/<pid>/stat.
type procStat struct {
	State byte
	PPID  int
	Flags uint64
	Start uint64 // clock ticks after boot
}

const taskExiting = 0x4 // PF_EXITING (include/linux/sched.h)

// gone tells that the task runs no more instructions of its program.
func (s procStat) gone() bool {
	return s.State == 'Z' || s.State == 'X' || s.Flags&taskExiting != 0
}

func readStat(path string) (procStat, error) {
	b, err := readProc(path)
	if err != nil {
		return procStat{}, err
	}
	return parseStat(b)
}

// parseStat parses proc(5)'s stat; the second field may hold anything, also
// blanks and parentheses.
func parseStat(b []byte) (procStat, error) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return procStat{}, errors.New("stat: no command")
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 20 {
		return procStat{}, errors.New("stat: too few fields")
	}
	ppid, err1 := strconv.Atoi(f[1])
	flags, err2 := strconv.ParseUint(f[6], 10, 64)
	start, err3 := strconv.ParseUint(f[19], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return procStat{}, fmt.Errorf("stat: %w", err)
	}
	return procStat{State: f[0][0], PPID: ppid, Flags: flags, Start: start}, nil
}

// procStatus is what is needed of /proc/<pid>/task/<tid>/status.
type procStatus struct {
	UID, GID uint32 // effective
	FSGID    uint32
	Groups   []uint32
	CapEff   uint64
	NSpid    []int // from the reader's pid namespace inwards
}

func readStatus(path string) (procStatus, error) {
	b, err := readProc(path)
	if err != nil {
		return procStatus{}, err
	}
	var st procStatus
	for line := range strings.Lines(string(b)) {
		name, rest, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		f := strings.Fields(rest)
		switch name {
		case "Uid", "Gid":
			if len(f) != 4 {
				return procStatus{}, fmt.Errorf("%s: %s has %d fields", path, name, len(f))
			}
			var effective, filesystem uint32
			if _, err := fmt.Sscan(f[1]+" "+f[3], &effective, &filesystem); err != nil {
				return procStatus{}, fmt.Errorf("%s: %w", path, err)
			}
			if name == "Uid" {
				st.UID = effective
			} else {
				st.GID, st.FSGID = effective, filesystem
			}
		case "Groups":
			for _, s := range f {
				v, err := strconv.ParseUint(s, 10, 32)
				if err != nil {
					return procStatus{}, fmt.Errorf("%s: %w", path, err)
				}
				st.Groups = append(st.Groups, uint32(v))
			}
		case "CapEff":
			if len(f) == 1 {
				if st.CapEff, err = strconv.ParseUint(f[0], 16, 64); err != nil {
					return procStatus{}, fmt.Errorf("%s: %w", path, err)
				}
			}
		case "NSpid":
			for _, s := range f {
				v, err := strconv.Atoi(s)
				if err != nil {
					return procStatus{}, fmt.Errorf("%s: %w", path, err)
				}
				st.NSpid = append(st.NSpid, v)
			}
		}
	}
	return st, nil
}

// nsInode is the inode of /proc/<pid>/ns/<kind>.
func nsInode(pid int, kind string) (uint64, error) {
	var st unix.Stat_t
	path := fmt.Sprintf("/proc/%d/ns/%s", pid, kind)
	if err := unix.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}

// nsChain lists the inodes of a process's namespace of a kind and its
// ancestors, as far as the manager may see them, at most n.
func nsChain(pid int, kind string, n int) ([]uint64, error) {
	path := fmt.Sprintf("/proc/%d/ns/%s", pid, kind)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var chain []uint64
	for {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			_ = unix.Close(fd)
			return nil, &os.PathError{Op: "stat", Path: path, Err: err}
		}
		chain = append(chain, st.Ino)
		if len(chain) == n {
			break
		}
		// EPERM: the parent is out of sight, or there is none.
		parent, err := unix.IoctlRetInt(fd, nsGetParent)
		if err != nil {
			break
		}
		_ = unix.Close(fd)
		fd = parent
	}
	_ = unix.Close(fd)
	return chain, nil
}

// exited tells whether every task of the process is at its end, which is
// before its pidfd can say so.
func exited(pid int) bool {
	dir := fmt.Sprintf("/proc/%d/task", pid)
	d, err := os.Open(dir)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrNotExist)
	}
	for _, tid := range names {
		st, err := readStat(dir + "/" + tid + "/stat")
		if err == nil && !st.gone() {
			return false
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			return false
		}
	}
	// A thread that was made while the list was read is in a fresh list.
	if again, err := os.ReadDir(dir); err == nil && len(again) > len(names) {
		return false
	}
	return true
}

// nsPerTick: the clock ticks of proc(5) are USER_HZ, 100 a second everywhere.
const nsPerTick = 10_000_000

// startTime is the start time of a process.
func startTime(pid int) (uint64, error) {
	st, err := readStat(fmt.Sprintf("/proc/%d/stat", pid))
	return st.Start, err
}

// unseen is what to answer for a process that could not be looked at. ESRCH says
// that it has ended, on which a client gives its session up: not if it is the
// manager that lacks something.
func unseen(err error) unix.Errno {
	if scarce(err) {
		return unix.ENOMEM
	}
	return unix.ESRCH
}

// scarce tells whether an error is that the manager, or the machine, has no more
// of something.
func scarce(err error) bool {
	for _, errno := range []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOSPC, unix.EAGAIN} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// sharesMemory tells whether two processes are in one address space, as after
// vfork. false if the kernel does not say.
func sharesMemory(a, b int) bool {
	const kcmpVM = 1 // KCMP_VM, kcmp(2)
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), kcmpVM, 0, 0, 0)
	return errno == 0 && r == 0
}

// memoryOwner is the process that a vfork child acts for: the outermost of its
// ancestors in the same address space.
func memoryOwner(pid int) (owner int, start uint64, err error) {
	for range 16 {
		st, err := readStat(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, 0, err
		}
		if st.PPID <= 0 || !sharesMemory(st.PPID, pid) {
			return pid, st.Start, nil
		}
		pid = st.PPID
	}
	return 0, 0, unix.ESRCH
}

// children lists the live children of a process, over all of its threads.
func children(pid int) ([]int, error) {
	var out []int
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if scarce(err) {
		return nil, err
	}
	for _, t := range tasks {
		b, err := readProc(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		if scarce(err) {
			return nil, err
		}
		if err != nil {
			continue
		}
		for _, s := range strings.Fields(string(b)) {
			if v, err := strconv.Atoi(s); err == nil {
				out = append(out, v)
			}
		}
	}
	return out, nil
}

// processes lists all pids that the manager can see.
func processes() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var out []int
	for _, n := range names {
		if v, err := strconv.Atoi(n); err == nil {
			out = append(out, v)
		}
	}
	return out, nil
}

// pidAlive asks a pidfd whether its process has not ended.
func pidAlive(pidfd int) bool {
	if pidfd < 0 {
		return false
	}
	p := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	var n int
	err := uninterrupted(func() (err error) {
		n, err = unix.Poll(p, 0)
		return err
	})
	return err == nil && n == 0
}

// Requests of ioctl_nsfs(2), since Linux 6.11.
const (
	nsGetPidFromPidns  = 0x8004b706 // NS_GET_PID_FROM_PIDNS: a thread's number
	nsGetTgidFromPidns = 0x8004b707 // NS_GET_TGID_FROM_PIDNS: a process's
)

// pidOutside translates a number of the pid namespace ns to the manager's.
// ESRCH: nobody has it. ENOTTY: the kernel cannot tell.
func pidOutside(ns *os.File, pid int, request uintptr) (int, error) {
	p, _, errno := unix.Syscall(unix.SYS_IOCTL, ns.Fd(), request, uintptr(pid))
	if errno != 0 {
		return 0, errno
	}
	return int(p), nil
}
