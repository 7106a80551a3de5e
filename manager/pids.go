package manager

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// outside translates a pid of the session's pid namespace. The errors are
// pidOutside's.
func (x *session) outside(pid int) (int, error) {
	if x.pids == nil {
		f, err := openFile(fmt.Sprintf("/proc/%d/ns/pid", x.id.pid), os.O_RDONLY, 0)
		if err != nil {
			return 0, unix.ENOTTY // whoever is gone is not the one asked about
		}
		x.pids = f
	}
	return pidOutside(x.pids, pid)
}

// pidLevelsOf lists a process's pids in its own pid namespace and outwards.
func pidLevelsOf(pid int) (levels [pidLevels]pidLevel, err error) {
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

// who is the pid of a session's process in the caller's pid namespace; 0: it
// is not visible there, or nobody.
func (s *space) who(x *session, number uint32) uint32 { return s.pidIn(x.pidns, number) }

// pidIn is the same for any pid namespace, by its inode.
func (s *space) pidIn(ns uint64, number uint32) uint32 {
	if number <= abi.ManagerSession || number > s.state.header.Top {
		return 0
	}
	st, err := s.state.session(number)
	if err != nil {
		return 0
	}
	for _, l := range st.Levels {
		if l.NS == ns && l.NS != 0 {
			return l.PID
		}
	}
	return 0
}
