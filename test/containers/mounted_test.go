package containers_test

import (
	"strings"
	"testing"
)

// The mounted directory: no change of the runtime at all. Each kind of container shares a segment
// and a queue with a plain one of the other C library.
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
		for _, image := range []string{imageGlibc, imageMusl} {
			t.Run(name+"/"+strings.TrimPrefix(image, "ipcspace-test/"), func(t *testing.T) {
				s := newSpace(t)
				flags := append(s.mountFlags(), flags...)
				mustRun(t, dockerRun(flags, image, "ipc", "put", "7", "hello"))
				mustRun(t, dockerRun(flags, image, "ipc", "send", "8", "letter"))
				wants(t, mustRun(t, dockerRun(s.mountFlags(), imageGlibc, "ipc", "get", "7")), "hello")
				wants(t, mustRun(t, dockerRun(s.mountFlags(), imageMusl, "ipc", "receive", "8")), "letter")
			})
		}
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
