package containers_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/ipcspace/ipcspace/test/suite"
)

// lines is how many objects of a family inspect shows: rows that begin with a key.
func (s *space) objects(t *testing.T) int {
	t.Helper()
	return strings.Count(s.inspect(t), "\n0x")
}

// A space that is to go with its last container goes then, and not before: neither under a container
// whose programs are registered nor under one whose programs are not.
func TestReclaim(t *testing.T) {
	needContainerd(t)
	needDocker(t)
	s := namedSpace(t)
	flags := []string{"--annotation", "ipcspace.io/space=" + s.name, "--annotation", "ipcspace.io/reclaim=delete"}
	mustRun(t, ctrRun(t, true, flags, imageGlibc, "ipc", "put", "7", "hello"))
	wants(t, s.inspect(t), "goes with the last container")
	// Registered, and then one that only has the folder.
	locked := dockerStart(t, s.mountFlags(), imageGlibc, "ipc", "lock", "9")
	locked.awaits(t, "locked")
	sleeper := dockerStart(t, s.mountFlags(), imageStatic, "ipc", "sleep")
	wants(t, refused(t, ipcspace("space", "remove", s.name)), "space is in use; stop them, or remove it by force")
	mustRun(t, dockerCommand("kill", locked.name))
	wants(t, refused(t, ipcspace("space", "remove", s.name)), "space is in use; stop them, or remove it by force")
	// Longer than the delay.
	mustRun(t, dockerRun(s.mountFlags(), imageStatic, "sleep", "12"))
	wants(t, mustRun(t, dockerRun(s.mountFlags(), imageGlibc, "ipc", "get", "7")), "hello")
	mustRun(t, dockerCommand("kill", sleeper.name))
	must(t, suite.Eventually(commandTimeout/3, func() error {
		if _, err := os.Stat(s.dir); err == nil {
			return fmt.Errorf("%s is still there", s.dir)
		}
		return nil
	}))
}

// The manager knows whose each process is, and who has the folder without using it.
func TestInspectContainers(t *testing.T) {
	needDocker(t)
	s := newSpace(t)
	user := dockerStart(t, s.mountFlags(), imageMusl, "ipc", "lock", "9")
	user.awaits(t, "locked")
	sleeper := dockerStart(t, s.mountFlags(), imageStatic, "ipc", "lock", "9") // static: it takes the kernel's
	sleeper.awaits(t, "locked")
	dockerStart(t, nil, imageMusl, "ipc", "sleep") // a stranger
	earlier := dockerStart(t, s.mountFlags(), imageGlibc, "sh", "-c", "ipc put 8 x; exec sleep 600")
	earlier.awaits(t, "x")
	shown := s.inspect(t)
	_, rest, _ := strings.Cut(shown, "------ Containers")
	members, processes, _ := strings.Cut(rest, "------ Processes")
	for _, want := range []string{
		fmt.Sprintf("%s  %d  /run/ipcspace  1          -", user.id(t)[:12], user.pid(t)),
		fmt.Sprintf("%s  %d  /run/ipcspace  0          -", earlier.id(t)[:12], earlier.pid(t)),
		fmt.Sprintf("%s  %d  /run/ipcspace  0          no program registered; is LD_PRELOAD set, and is the program not static?", sleeper.id(t)[:12], sleeper.pid(t)),
	} {
		if !strings.Contains(strings.Join(strings.Fields(members), " "), strings.Join(strings.Fields(want), " ")) {
			t.Errorf("no %q in:\n%s", want, shown)
		}
	}
	if n := strings.Count(members, "/run/ipcspace"); n != 3 {
		t.Errorf("%d containers are shown, not 3:\n%s", n, shown)
	}
	wants(t, processes, user.id(t)[:12])
}

// A container in a crash loop leaves objects behind each time, as pgpool does, and never runs out of
// them: they go with it, if nobody could find them or use them. Also when the manager was away as the
// container ended, and when the same container is started again.
func TestCrashLoop(t *testing.T) {
	needDocker(t)
	s := newSpace(t, "--limit", "semmni=20,msgmni=20")
	empty := func() {
		t.Helper()
		must(t, suite.Eventually(commandTimeout/3, func() error {
			if n := s.objects(t); n != 0 {
				return fmt.Errorf("%d objects\n%s", n, s.inspect(t))
			}
			return nil
		}))
	}
	c := dockerStart(t, s.mountFlags(), imageGlibc, "ipc", "leave", "8")
	for range 4 {
		if code := c.wait(t); code != "0" {
			t.Fatalf("the container ended with %s: %s", code, c.logs(t))
		}
		empty()
		mustRun(t, dockerCommand("restart", c.name))
	}
	empty()
	// 16 objects of a container that ends while no manager is there.
	late := dockerStart(t, s.mountFlags(), imageGlibc, "sh", "-c", "ipc leave 8; echo left; exec ipc sleep")
	late.awaits(t, "left")
	must(t, node.end(syscall.SIGKILL))
	must(t, node.start())
	if n := s.objects(t); n != 16 {
		t.Errorf("%d objects of a container that lives, not 16", n)
	}
	must(t, node.end(syscall.SIGKILL))
	mustRun(t, dockerCommand("kill", late.name))
	must(t, node.start())
	empty()
	// With a key, or in use by another container, they stay.
	mustRun(t, dockerRun(s.mountFlags(), imageGlibc, "ipc", "put", "7", "hello"))
	wants(t, mustRun(t, dockerRun(s.mountFlags(), imageMusl, "ipc", "get", "7")), "hello")
}
