package manager

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// member is a mount namespace, most often a container's, that has a space's folder.
type member struct {
	container string
	pid       int    // a process in it
	point     string // where the folder is mounted
	writable  bool
}

// members finds out from the kernel who has the space's folder mounted, whoever mounted it. The
// host's own namespaces, and copies of them, see the private folder too: they are no members. An
// error: the manager has too little of something to see.
func (s *space) members() ([]member, error) {
	if !s.storage.mounted {
		return nil, nil
	}
	public, err1 := deviceOf(s.storage.public)
	private, err2 := deviceOf(s.storage.private)
	if err := errorsFirst(err1, err2); scarce(err) {
		return nil, err
	} else if err != nil {
		return nil, nil //nolint:nilerr // its folders are gone
	}
	pids, err := processes()
	if err != nil {
		return nil, err
	}
	var found []member
	seen := map[uint64]bool{}
	for _, pid := range pids {
		ns, err := nsInode(pid, "mnt")
		if scarce(err) {
			return nil, err
		}
		if err != nil || seen[ns] {
			continue
		}
		seen[ns] = true
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
		if scarce(err) {
			return nil, err
		}
		if err != nil {
			seen[ns] = false // it ended: another one may be there
			continue
		}
		if m, ok := parseMember(string(b), public, private); ok {
			if m.container, err = s.m.node.containerOf(pid); err != nil {
				return nil, err
			}
			m.pid = pid
			found = append(found, m)
		}
	}
	slices.SortFunc(found, func(a, b member) int { return cmp.Compare(a.pid, b.pid) })
	return found, nil
}

// deviceOf is a folder's file system as mountinfo shows it.
func deviceOf(dir string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)), nil
}

// parseMember reads proc(5)'s mountinfo.
func parseMember(mountinfo, public, private string) (m member, ok bool) {
	for line := range strings.Lines(mountinfo) {
		f := strings.Fields(line)
		if len(f) < 6 {
			continue
		}
		switch f[2] {
		case private:
			return member{}, false
		case public:
			ok, m.point = true, f[4]
			m.writable = !slices.Contains(strings.Split(f[5], ","), "ro")
		}
	}
	return m, ok
}

// containerInfos lists who has the space's folder, with the number of processes that registered.
func (s *space) containerInfos() []ContainerInfo {
	members, err := s.members()
	if err != nil {
		s.log.Warn("who has the space is not known", keyError, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	registered := map[string]int{}
	namespaces := map[int]bool{}
	for _, x := range s.sessions {
		if x.id != (processID{}) && !s.isDead(x) {
			registered[x.container]++
			namespaces[x.id.pid] = true
		}
	}
	var out []ContainerInfo
	for _, m := range members {
		i := ContainerInfo{Name: m.container, PID: m.pid, Mount: m.point, Writable: m.writable, Processes: registered[m.container]}
		i.Registered = i.Processes > 0 || s.watched[m.container]
		if m.container == "" {
			i.Processes = 0
			if namespaces[m.pid] {
				i.Processes = 1
			}
			i.Registered = i.Processes > 0
		}
		out = append(out, i)
	}
	return out
}
