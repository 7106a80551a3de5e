package manager

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"os"
	"path"
	"regexp"
	"strings"
)

// containerComponent is the component of a cgroup's path that Docker, containerd, CRI-O and podman
// give a container: its id, with the systemd driver as <runtime>-<id>.scope.
var containerComponent = regexp.MustCompile(`^(?:[a-z-]+-)?([0-9a-f]{64})(?:\.scope)?$`)

// node is what processes outside of containers have in common with process 1 or the manager.
type node struct {
	mounts  map[uint64]bool // inodes of mount namespaces
	cgroups map[string]bool // lines of /proc/<pid>/cgroup
}

func newNode() node {
	n := node{mounts: map[uint64]bool{}, cgroups: map[string]bool{}}
	for _, pid := range []int{1, os.Getpid()} {
		if ns, err := nsInode(pid, "mnt"); err == nil {
			n.mounts[ns] = true
		}
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		for line := range strings.Lines(string(b)) {
			n.cgroups[strings.TrimSuffix(line, "\n")] = true
		}
	}
	return n
}

// containerOf names the container of a process: the first component of its cgroup's path that is a
// container's id, since below its own cgroup a container may be able to make cgroups of any name. A
// process without one that has its own mounts and cgroup is in a container with the cgroup's last
// name, such as those of runc's and ctr's own users. "": in none.
//
// An error: the manager has too little of something to see. The caller looks
// afterwards whether pid still is the process that it was.
func (n node) containerOf(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if scarce(err) {
		return "", err
	}
	if err != nil {
		return "", nil
	}
	own := ""
	for line := range bytes.Lines(b) {
		text := strings.TrimSuffix(string(line), "\n")
		fields := strings.SplitN(text, ":", 3)
		if len(fields) != 3 {
			continue
		}
		for component := range strings.SplitSeq(fields[2], "/") {
			if m := containerComponent.FindStringSubmatch(component); m != nil {
				return m[1], nil
			}
		}
		if own == "" && !n.cgroups[text] && path.Base(fields[2]) != "/" {
			own = path.Base(fields[2])
		}
	}
	ns, err := nsInode(pid, "mnt")
	if scarce(err) {
		return "", err
	}
	if err != nil || n.mounts[ns] {
		return "", nil
	}
	return own, nil
}

// containerTag is a container's name in 64 bits, for the state file; 0: none.
func containerTag(name string) uint64 {
	if name == "" {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return h.Sum64() | 1
}

// memberOf finds a process of the container, 0 if there is none: the one with the lowest pid, most
// often its first.
func (n node) memberOf(container string) (int, error) {
	pids, err := processes()
	if err != nil {
		return 0, err
	}
	lowest := 0
	for _, pid := range pids {
		name, err := n.containerOf(pid)
		if err != nil {
			return 0, err
		}
		if (lowest == 0 || pid < lowest) && name == container {
			lowest = pid
		}
	}
	return lowest, nil
}
