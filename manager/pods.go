package manager

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// podsName is the file of a closed space that remembers whom it admits, for the next manager.
const podsName = "pods"

// podDirectory is a Kubernetes pod's component in the path of a cgroup: pod<uid>, and with the
// systemd driver kubepods-…-pod<uid>.slice, with '_' for '-'. A static pod's uid is 32 digits.
var podDirectory = regexp.MustCompile(`^(?:kubepods-(?:[a-z]+-)?)?pod([0-9a-f]{32}|[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})(?:\.slice)?$`)

// door is who may register with a space: everybody who sees its folder, or the processes of some
// pods. The list is replaced as a whole.
type door struct {
	pods atomic.Pointer[[]string] // nil: everybody
}

// open takes over the list of an earlier manager. A list that cannot be read admits nobody.
func (d *door) open(path string) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	pods := []string{}
	if err == nil {
		err = json.Unmarshal(b, &pods)
	}
	if err != nil {
		return fmt.Errorf("whom the space admits: %w", err)
	}
	d.pods.Store(&pods)
	return nil
}

// admit replaces the list. It is on disk first: who was shut out stays out.
func (d *door) admit(path string, pods []string) error {
	if have := d.pods.Load(); have != nil && slices.Equal(*have, pods) {
		return nil
	}
	b, err := json.Marshal(pods)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d.pods.Store(&pods)
	return nil
}

// refuses is nil for a process that may register. The caller looks afterwards whether pid still
// is the process that it was.
func (d *door) refuses(pid int) error {
	pods := d.pods.Load()
	if pods == nil {
		return nil
	}
	b, err := readProc(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return err
	}
	pod, err := podOf(b)
	if err != nil {
		return err
	}
	if !slices.Contains(*pods, pod) {
		return fmt.Errorf("pod %s has no volume of this space: %w", pod, unix.EACCES)
	}
	return nil
}

// podOf finds the pod in /proc/<pid>/cgroup, cgroups(7). Below its own cgroup a container may be
// able to make cgroups of any name: the first component that names a pod counts, and all
// hierarchies that name one must agree.
func podOf(cgroup []byte) (string, error) {
	found := ""
	for line := range bytes.Lines(cgroup) {
		fields := strings.SplitN(strings.TrimSuffix(string(line), "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for component := range strings.SplitSeq(fields[2], "/") {
			m := podDirectory.FindStringSubmatch(component)
			if m == nil {
				continue
			}
			pod := strings.ReplaceAll(m[1], "_", "-")
			if found != "" && found != pod {
				return "", fmt.Errorf("cgroups of two pods, %s and %s: %w", found, pod, unix.EACCES)
			}
			found = pod
			break
		}
	}
	if found == "" {
		return "", fmt.Errorf("not a process of a pod: %w", unix.EACCES)
	}
	return found, nil
}

// Admit says that only processes of these Kubernetes pods, named by uid, may register with the
// space from now on, whoever else sees its folder. Processes registered already stay.
// ErrNoSpace, ErrInvalid.
func (m *Manager) Admit(_ context.Context, name string, pods []string) error {
	for _, pod := range pods {
		if match := podDirectory.FindStringSubmatch("pod" + pod); match == nil || match[1] != pod || strings.Contains(pod, "_") {
			return fmt.Errorf("%q is not a pod's uid: %w", pod, ErrInvalid)
		}
	}
	pods = slices.Compact(slices.Sorted(slices.Values(pods)))
	if pods == nil {
		pods = []string{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.findLocked(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.door.admit(s.storage.path(podsName), pods); err != nil {
		return fmt.Errorf("admit to space %q: %w", name, err)
	}
	return nil
}
