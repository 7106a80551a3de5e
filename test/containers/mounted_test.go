package containers_test

import (
	"fmt"
	"os"
	"syscall"
	"testing"
)

// The mounted directory: no change of the runtime at all. Each kind of container shares a segment
// and a queue with its like and with a plain one, of both C libraries.
func TestMountedDirectory(t *testing.T) {
	needDocker(t)
	for name, flags := range map[string][]string{
		"plain":             nil,
		"user":              {"--user", "1000:1000"},
		"unknown user":      {"--user", "4242:4343"},
		"read-only root":    {"--read-only"},
		"no capability":     {"--cap-drop", "ALL"},
		"no new privileges": {"--security-opt", "no-new-privileges"},
		"pids limit":        {"--pids-limit", "16"},
		"all of it": {"--user", "1000:1000", "--read-only", "--cap-drop", "ALL",
			"--security-opt", "no-new-privileges", "--pids-limit", "16"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSpace(t)
			flags := append(s.mountFlags(), flags...)
			mustRun(t, dockerRun(flags, imageGlibc, "ipc", "put", "7", "hello"))
			wants(t, mustRun(t, dockerRun(flags, imageMusl, "ipc", "get", "7")), "hello")
			mustRun(t, dockerRun(flags, imageMusl, "ipc", "send", "8", "letter"))
			wants(t, mustRun(t, dockerRun(s.mountFlags(), imageGlibc, "ipc", "receive", "8")), "letter")
		})
	}
}

// The same with a user namespace, in which the containers' root is nobody; by the wrapper, too.
func TestUserNamespace(t *testing.T) {
	needRemappedDocker(t)
	for name, flags := range map[string][]string{"root": nil, "user": {"--user", "1000:1000"}} {
		t.Run(name, func(t *testing.T) {
			s := newSpace(t)
			shares(t, dockerMapped, append(s.mountFlags(), flags...))
			wrapped := append(flags, "--runtime=ipcspace", "-v", s.dir+":/run/ipcspace:ro")
			closed(t, dockerMapped, wrapped)
			executes(t, dockerMapped, wrapped, imageGlibc, imageMusl)
			c := dockerMapped.start(t, append(s.mountFlags(), flags...), imageGlibc, "ipc", "lock", "9")
			c.awaits(t, "locked")
			if info, err := os.Stat(fmt.Sprintf("/proc/%d", c.pid(t))); err != nil || info.Sys().(*syscall.Stat_t).Uid < remappedUID {
				t.Errorf("the container has no user namespace: %+v %v", info, err)
			}
			wants(t, s.inspect(t), c.id(t)[:12])
		})
	}
}

// A space is seen by those who have it, and by nobody else.
func TestStrangerSeesNothing(t *testing.T) {
	needDocker(t)
	s, other := newSpace(t), newSpace(t)
	mustRun(t, dockerRun(s.mountFlags(), imageGlibc, "ipc", "put", "7", "mine"))
	wants(t, refused(t, dockerRun(other.mountFlags(), imageGlibc, "ipc", "get", "7")), "No such file or directory")
	wants(t, refused(t, dockerRun(nil, imageGlibc, "ipc", "get", "7")), "No such file or directory")
}
