package manager

import (
	"cmp"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// outside translates a pid of the session's pid namespace, threadOutside a
// thread's. The errors are pidOutside's.
func (x *session) outside(pid int) (int, error) { return x.translate(pid, nsGetTgidFromPidns) }

func (x *session) threadOutside(tid int) (int, error) { return x.translate(tid, nsGetPidFromPidns) }

func (x *session) translate(pid int, request uintptr) (int, error) {
	if x.pids == nil {
		f, err := openFile(fmt.Sprintf("/proc/%d/ns/pid", x.id.pid), os.O_RDONLY, 0)
		if err != nil {
			return 0, unix.ENOTTY // whoever is gone is not the one asked about
		}
		x.pids = f
	}
	return pidOutside(x.pids, pid, request)
}

// pidLevelsOf lists a process's pids in its own pid namespace and outwards.
func pidLevelsOf(pid int) (levels pidList, err error) {
	st, err := readStatus(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return levels, err
	}
	chain, err := nsChain(pid, "pid", min(pidLevels, len(st.NSpid)))
	if err != nil {
		return levels, err
	}
	if len(chain) == 0 {
		return levels, unix.ESRCH
	}
	for i, ns := range chain {
		levels[i] = pidLevel{NS: ns, PID: uint32(st.NSpid[len(st.NSpid)-1-i])}
	}
	return levels, nil
}

// pidLevelsBeside is pidLevelsOf for a process that is inside in the pid
// namespace of another, of which near tells, and has no deeper one. The
// manager's own namespace is the outermost that it sees.
func pidLevelsBeside(pid int, inside uint32, near *pidList) (pidList, error) {
	if near[2].NS != 0 {
		return pidLevelsOf(pid)
	}
	ns, err := nsInode(pid, "pid")
	if err != nil || ns != near[0].NS {
		return pidList{}, cmp.Or(err, error(unix.ESRCH))
	}
	levels := pidList{{NS: ns, PID: inside}}
	if near[1].NS != 0 {
		levels[1] = pidLevel{NS: near[1].NS, PID: uint32(pid)}
	}
	return levels, nil
}

// who is the number that the caller knows a session's process by, or a thread
// of it that its own pid namespace knows as thread; 0: it is not visible there,
// or nobody.
func (s *space) who(x *session, number, thread uint32) uint32 {
	return s.pidIn(x.pidns, number, thread)
}

// pidIn is the same for any pid namespace, by its inode. Where the thread is
// not known any more, its process stands for it.
func (s *space) pidIn(ns uint64, number, thread uint32) uint32 {
	if number <= abi.ManagerSession || number > s.state.header.Top {
		return 0
	}
	// A child that nobody has looked after yet, and that may be gone.
	if x := s.sessions[number]; x != nil {
		s.settle(x)
	}
	st, err := s.state.session(number)
	if err != nil {
		return 0
	}
	pid := st.Levels.at(ns)
	if pid == 0 || thread == 0 {
		return pid
	}
	if st.Levels[0].NS == ns {
		return thread
	}
	return cmp.Or(s.threadIn(ns, number, thread), pid)
}

// threadIn is pidIn of a thread that may be gone, or a hostile member's tale.
func (s *space) threadIn(ns uint64, number, thread uint32) uint32 {
	x := s.sessions[number]
	if x == nil || thread > math.MaxInt32 {
		return 0
	}
	outside, err := x.threadOutside(int(thread))
	if err != nil {
		return 0
	}
	levels, err := pidLevelsOf(outside)
	if err != nil {
		return 0
	}
	return levels.at(ns)
}

// at is the pid in one of the namespaces, by its inode; 0: none.
func (levels *pidList) at(ns uint64) uint32 {
	for _, l := range levels {
		if l.NS == ns && l.NS != 0 {
			return l.PID
		}
	}
	return 0
}
