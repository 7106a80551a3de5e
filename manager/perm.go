package manager

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// checkPermission is ipcperms (ipc/util.c): flag's mode bits, in any class,
// are what is asked for.
//
// "EACCES: The calling process does not have the required permissions on the
// semaphore set, and does not have the CAP_IPC_OWNER capability in the user
// namespace that governs its IPC namespace." - semop(2); shmat(2), msgop(2)
// and the *get calls say the same.
func checkPermission(r *abi.Record, c *caller, flag uint32) error {
	asked := (flag>>6 | flag>>3 | flag) & 7
	if asked&^classBits(r, c, asked) != 0 && !c.capable(capIPCOwner) {
		return unix.EACCES
	}
	return nil
}

// rights is which of Access* the caller has, of those asked for.
func rights(r *abi.Record, c *caller, asked uint32) uint32 {
	held := classBits(r, c, asked) & asked
	if held != asked && c.capable(capIPCOwner) {
		held = asked
	}
	return held
}

// classBits are the mode bits that count for the caller: the owner's, if it
// is the owner or the creator, and then neither the group's nor the others'
// bits can rescue it; else the group's; else the others'. The groups are read
// only if they make a difference to what is asked.
func classBits(r *abi.Record, c *caller, asked uint32) uint32 {
	owner, group, other := r.Mode>>6&7, r.Mode>>3&7, r.Mode&7
	if c.uid == r.CUID || c.uid == r.UID {
		return owner
	}
	if group&asked == other&asked || c.inGroup(r.CGID, r.GID) {
		return group
	}
	return other
}

// holders are all those who were ever given an object's descriptors, with
// what is known of their credentials then; a descriptor outlives a setuid.
type holders struct {
	known   []holder
	unknown bool // there may be others
}

// holder is one. unread: its groups and capabilities made no difference then, and
// are not known.
type holder struct {
	caller
	unread bool
}

const maxHolders = 64

func (h *holders) add(c *caller) {
	one := holder{caller{uid: c.uid, gid: c.gid, read: true, fsgid: c.fsgid, groups: c.groups, caps: c.caps}, !c.read}
	same := func(k holder) bool {
		return k.uid == one.uid && k.unread == one.unread && k.fsgid == one.fsgid && k.caps == one.caps && slices.Equal(k.groups, one.groups)
	}
	switch {
	case slices.ContainsFunc(h.known, same):
	case len(h.known) == maxHolders:
		h.unknown = true
	default:
		h.known = append(h.known, one)
	}
}

// keep tells whether all of them surely have both rights under rec, too: then
// they may go on with the same file.
func (h *holders) keep(rec *abi.Record) bool {
	return !h.unknown && !slices.ContainsFunc(h.known, func(one holder) bool { return !one.keeps(rec) })
}

func (h *holder) keeps(rec *abi.Record) bool {
	const both = abi.AccessRead | abi.AccessWrite
	as := *rec
	if h.unread {
		lesser := rec.Mode >> 3 & rec.Mode & 7
		as.Mode = rec.Mode&^0o77 | lesser<<3 | lesser
	}
	return rights(&as, &h.caller, both) == both
}

// checkOwner is the check of IPC_SET and IPC_RMID (ipcctl_obtain_check). The
// mode bits do not matter, and CAP_IPC_OWNER does not help.
//
// "EPERM: The argument cmd has the value IPC_SET or IPC_RMID, but the
// effective user ID of the calling process is not the creator (as found in
// msg_perm.cuid) or the owner (as found in msg_perm.uid) of the message
// queue, and the caller is not privileged (Linux: does not have the
// CAP_SYS_ADMIN capability)." - msgctl(2)
func checkOwner(r *abi.Record, c *caller) error {
	if c.uid == r.CUID || c.uid == r.UID || c.capable(capSysAdmin) {
		return nil
	}
	return unix.EPERM
}

// checkLock is the check of SHM_LOCK and SHM_UNLOCK (shmctl_do_lock). locked is
// how many bytes the caller's user has locked in the space.
//
// "EPERM: (In kernels before Linux 2.6.9) SHM_LOCK or SHM_UNLOCK was
// specified, but the calling process was not privileged […]. Since Linux
// 2.6.9, this error can also occur if the RLIMIT_MEMLOCK is 0 and the caller
// is not privileged." - shmctl(2)
func checkLock(r *abi.Record, c *caller, lock bool, locked uint64) error {
	if c.capable(capIPCLock) {
		return nil
	}
	if c.uid != r.CUID && c.uid != r.UID {
		return unix.EPERM
	}
	if !lock {
		return nil
	}
	limit := memlockLimit(c)
	if limit == 0 {
		return unix.EPERM
	}
	// "ENOMEM: (since Linux 2.6.9) SHM_LOCK was specified and the size of the
	// to-be-locked segment would mean that the total bytes in locked shared
	// memory segments would exceed the limit for the real user ID of the
	// calling process. This limit is defined by the RLIMIT_MEMLOCK soft
	// resource limit."
	if r.Mode&abi.ModeLocked == 0 && locked+pages(r.Size)*abi.PageSize > limit {
		return unix.ENOMEM
	}
	return nil
}

// memlockLimit is RLIMIT_MEMLOCK of the caller; 0 if it cannot be known.
func memlockLimit(c *caller) uint64 {
	b, err := readProc(fmt.Sprintf("/proc/%d/limits", c.pid))
	if err != nil || !c.alive() {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "Max locked memory")
	f := strings.Fields(rest)
	if len(f) == 0 {
		return 0
	}
	if f[0] == "unlimited" {
		return math.MaxUint64
	}
	limit, err := strconv.ParseUint(f[0], 10, 64)
	if err != nil {
		return 0
	}
	return limit
}
