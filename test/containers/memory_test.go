package containers_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/ipcspace/ipcspace/test/suite"
)

const megabyte = 1 << 20

// Memory that a container's processes touch is charged to the container, not to the manager.
func TestMemoryIsCharged(t *testing.T) {
	needDocker(t)
	s := newSpace(t)
	manager := managerMemory(t)
	first := dockerStart(t, append(s.mountFlags(), "--memory", "100m"), imageGlibc, "ipc", "touch", "7", "64")
	first.awaits(t, "touched")
	if charged := first.memory(t); charged < 64*megabyte {
		t.Errorf("%d MB are charged to the container that touched 64", charged/megabyte)
	}
	// Who touches later pays nothing while the payer is there.
	second := dockerStart(t, append(s.mountFlags(), "--memory", "100m"), imageMusl, "ipc", "touch", "7", "64")
	second.awaits(t, "touched")
	if charged := second.memory(t); charged > 32*megabyte {
		t.Errorf("%d MB are charged to the second container that touched the same 64", charged/megabyte)
	}
	if grown := managerMemory(t) - manager; grown > 16*megabyte {
		t.Errorf("the manager's memory grew by %d MB", grown/megabyte)
	}
}

// When the payer is gone, the charge stays with the cgroup above it, whose own limit it counts
// against, until the segment is removed: nobody else pays, whoever goes on to use it.
func TestMemoryAfterThePayer(t *testing.T) {
	needDocker(t)
	s := newSpace(t)
	above := parentMemory(t) // with some megabytes of earlier containers, given back at any time
	payer := dockerStart(t, append(s.mountFlags(), "--memory", "100m"), imageGlibc, "ipc", "touch", "7", "64")
	payer.awaits(t, "touched")
	heir := dockerStart(t, append(s.mountFlags(), "--memory", "100m"), imageMusl, "ipc", "touch", "7", "64")
	heir.awaits(t, "touched")
	mustRun(t, payer.command("kill", payer.name))
	if charged := heir.memory(t); charged > 32*megabyte {
		t.Errorf("%d MB are charged to the heir, which came later", charged/megabyte)
	}
	if grown := parentMemory(t) - above; grown < 48*megabyte {
		t.Errorf("%d MB more than before are charged above the containers, with 64 in use", grown/megabyte)
	}
	mustRun(t, heir.command("kill", heir.name))
	if grown := parentMemory(t) - above; grown < 48*megabyte {
		t.Errorf("%d MB more than before are charged above the containers, with a segment of 64 that nobody has attached", grown/megabyte)
	}
	mustRun(t, ipcspace("ipcrm", "--space", s.name, "-M", "7"))
	must(t, suite.Eventually(commandTimeout/3, func() error {
		if grown := parentMemory(t) - above; grown > 32*megabyte {
			return fmt.Errorf("%d MB more than before are charged above the containers, with the segment removed", grown/megabyte)
		}
		return nil
	}))
}

// A container that touches more than its limit is killed; the space and its neighbours go on.
func TestMemoryLimit(t *testing.T) {
	needDocker(t)
	s := newSpace(t)
	greedy := dockerStart(t, append(s.mountFlags(), "--memory", "64m"), imageGlibc, "ipc", "touch", "8", "128")
	greedy.wait(t)
	if killed := greedy.inspect(t, "{{.State.OOMKilled}}"); killed != "true" {
		t.Errorf("a container of 64 MB that touched 128 was not killed for it: %s", greedy.logs(t))
	}
	wants(t, mustRun(t, dockerRun(s.mountFlags(), imageGlibc, "ipc", "put", "9", "well")), "well")
}

// memory is what the kernel charges to the container's cgroup, in bytes.
func (c *container) memory(t *testing.T) int {
	t.Helper()
	return charged(t, c.id(t))
}

// parentMemory is what it charges to the cgroup above all containers of Docker.
func parentMemory(t *testing.T) int {
	t.Helper()
	return charged(t, "")
}

func charged(t *testing.T, name string) int {
	t.Helper()
	for _, path := range []string{
		filepath.Join("/sys/fs/cgroup/memory/docker", name, "memory.usage_in_bytes"),
		filepath.Join("/sys/fs/cgroup/docker", name, "memory.current"),
	} {
		if text, err := os.ReadFile(path); err == nil {
			n, err := strconv.Atoi(strings.TrimSpace(string(text)))
			must(t, err)
			return n
		}
	}
	missing(t, "no memory controller at /sys/fs/cgroup")
	return 0
}

// managerMemory is the manager's resident memory, shared memory included, in bytes.
func managerMemory(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(node.process.Process.Pid), "statm"))
	must(t, err)
	n, err := strconv.Atoi(strings.Fields(string(text))[1])
	must(t, err)
	return n * os.Getpagesize()
}
