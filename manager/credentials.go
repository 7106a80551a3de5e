package manager

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// capability numbers, linux/capability.h.
const (
	capIPCLock           = 14
	capIPCOwner          = 15
	capSysAdmin          = 21
	capSysResource       = 24
	capCheckpointRestore = 40
)

// caller is who sent a request: the effective ids that the kernel vouches for
// with the message (SCM_CREDENTIALS), and groups and capabilities of the
// calling thread, read from /proc only when the answer depends on them.
//
// After what was read the process is looked at through its pidfd: if it is
// dead, the pid may have been somebody else's meanwhile, and nothing is
// granted.
type caller struct {
	pid      int // of the sender, in the manager's pid namespace
	tid      uint32
	uid, gid uint32
	alive    func() bool
	self     *userns
	// container is set in a space whose ids are those of its containers, and its
	// user namespace's inode.
	container   *idMaps
	containerNS uint64

	read   bool
	fsgid  uint32 // the group that counts for access, setfsgid(2)
	groups []uint32
	caps   uint64
}

// userns is the manager's user namespace and its ancestors: those whose
// capabilities count. After unshare(CLONE_NEWUSER) anyone shows all
// capabilities, but in a namespace that is not among these.
type userns struct {
	chain      []uint64
	uids, gids idMap // of the manager's own
}

// own is the inode of the manager's own; 0 if it is not known.
func (u *userns) own() uint64 {
	if len(u.chain) == 0 {
		return 0
	}
	return u.chain[0]
}

func managerUserns() (*userns, error) {
	chain, err := nsChain(os.Getpid(), "user", 0)
	if err != nil {
		return &userns{}, err
	}
	uids, err1 := readIDMap(os.Getpid(), "uid_map")
	gids, err2 := readIDMap(os.Getpid(), "gid_map")
	return &userns{chain, uids, gids}, errors.Join(err1, err2)
}

// load reads groups and capabilities. On any doubt there are none.
func (c *caller) load() {
	if c.read {
		return
	}
	c.read, c.fsgid = true, invalidID
	st, err := readStatus(c.statusPath())
	if err != nil {
		return
	}
	ns, err := nsInode(c.pid, "user")
	if err != nil || !c.alive() {
		return
	}
	c.fsgid, c.groups = st.FSGID, st.Groups
	if c.container != nil {
		c.fsgid, c.groups = c.container.gids.out(st.FSGID), slices.Clone(st.Groups)
		for i, g := range c.groups {
			c.groups[i] = c.container.gids.out(g)
		}
	}
	if slices.Contains(c.self.chain, ns) || c.containerNS != 0 && ns == c.containerNS {
		c.caps = st.CapEff
	}
}

// statusPath finds the calling thread, whose number is one of its own pid
// namespace. A thread that is not found counts as the process's first.
func (c *caller) statusPath() string {
	process := fmt.Sprintf("/proc/%d/status", c.pid)
	if c.tid == 0 {
		return process
	}
	// Mostly the numbers are the same as here, or the thread is the first.
	if st, err := readStatus(process); err == nil && len(st.NSpid) > 0 && st.NSpid[len(st.NSpid)-1] == int(c.tid) {
		return process
	}
	dir := fmt.Sprintf("/proc/%d/task/", c.pid)
	names := []string{strconv.Itoa(int(c.tid))}
	if tasks, err := os.ReadDir(dir); err == nil {
		for _, t := range tasks {
			names = append(names, t.Name())
		}
	}
	for _, n := range names {
		st, err := readStatus(dir + n + "/status")
		if err == nil && len(st.NSpid) > 0 && st.NSpid[len(st.NSpid)-1] == int(c.tid) {
			return dir + n + "/status"
		}
	}
	return process
}

// inGroup is in_group_p: the filesystem gid, which is the effective one but after
// setfsgid, and the supplementary groups.
func (c *caller) inGroup(gids ...uint32) bool {
	c.load()
	return slices.ContainsFunc(gids, func(g uint32) bool { return g == c.fsgid || slices.Contains(c.groups, g) })
}

// capable is ns_capable in the user namespace of the space.
func (c *caller) capable(capability uint) bool {
	c.load()
	return c.caps>>capability&1 != 0
}

// idMap translates ids of a process's user namespace to the manager's.
type idMap []idRange

type idRange struct{ inside, outside, count uint64 }

// readIDMap reads /proc/<pid>/uid_map or gid_map, which shows the ids as the
// reader's namespace knows them.
func readIDMap(pid int, file string) (idMap, error) {
	b, err := readProc(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return nil, err
	}
	var m idMap
	for line := range strings.Lines(string(b)) {
		var r idRange
		if _, err := fmt.Sscan(line, &r.inside, &r.outside, &r.count); err != nil {
			return nil, fmt.Errorf("%s of %d: %w", file, pid, err)
		}
		m = append(m, r)
	}
	return m, nil
}

const (
	invalidID  = ^uint32(0)
	overflowID = 65534 // /proc/sys/kernel/overflowuid
)

// in translates an id that the process gave. false: it is not mapped there.
func (m idMap) in(id uint32) (uint32, bool) {
	for _, r := range m {
		if uint64(id) >= r.inside && uint64(id) < r.inside+r.count {
			return uint32(uint64(id) - r.inside + r.outside), id != invalidID
		}
	}
	return 0, false
}

// out translates an id for the process to see, as from_kuid_munged.
func (m idMap) out(id uint32) uint32 {
	for _, r := range m {
		if uint64(id) >= r.outside && uint64(id) < r.outside+r.count {
			return uint32(uint64(id) - r.outside + r.inside)
		}
	}
	return overflowID
}

// maps reads the caller's id maps, to the ids of the space.
func (c *caller) maps() (uids, gids idMap, err error) {
	if ns, err := nsInode(c.pid, "user"); err == nil && ns == c.self.own() && c.container == nil && c.alive() {
		return c.self.uids, c.self.gids, nil
	}
	if uids, err = readIDMap(c.pid, "uid_map"); err != nil {
		return nil, nil, err
	}
	if gids, err = readIDMap(c.pid, "gid_map"); err != nil {
		return nil, nil, err
	}
	if !c.alive() {
		return nil, nil, unix.ESRCH
	}
	if c.container != nil {
		uids, gids = uids.within(c.container.uids), gids.within(c.container.gids)
	}
	return uids, gids, nil
}
