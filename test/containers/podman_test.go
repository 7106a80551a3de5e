package containers_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// podman has everything of its own below scratch. crun refuses machines with both versions of
// cgroups; runc runs on all.
var podman = newPodman()

func newPodman() *engine {
	e := &engine{
		command: func(args ...string) *exec.Cmd {
			dir := filepath.Join(scratch, "podman")
			return exec.Command("podman", append([]string{
				"--root", filepath.Join(dir, "storage"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs",
				"--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "runc",
			}, args...)...)
		},
		// The defaults are more than a container without CAP_SYS_RESOURCE may set.
		flags: []string{"--network=none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"},
	}
	e.images = sync.OnceValue(e.loadImages)
	return e
}

// podmanFolder is where it looks for hooks, besides its own configuration.
const podmanFolder = "/usr/share/containers"

// hookInstalled puts our hook's file there, in a copy that only the suite sees.
var hookInstalled = sync.OnceValue(func() error {
	copied := filepath.Join(scratch, "podman", "share")
	if err := os.CopyFS(copied, os.DirFS(podmanFolder)); err != nil {
		return err
	}
	if err := syscall.Mount(copied, podmanFolder, "", syscall.MS_BIND, ""); err != nil {
		return err
	}
	_, err := runCommand(exec.Command(filepath.Join(bin, "ipcspace-shim"), "hook", "--install", podmanFolder+"/oci/hooks.d"))
	return err
})

func needPodman(t *testing.T) {
	t.Helper()
	needTool(t, "podman", "podman")
	must(t, hookInstalled())
	must(t, podman.images())
}

// podman by its three ways, each with and without a user namespace and with a read-only root.
func TestPodman(t *testing.T) {
	needPodman(t)
	for name, flags := range map[string][]string{
		"plain":          nil,
		"user namespace": {"--uidmap", "0:200000:65536", "--gidmap", "0:200000:65536"},
		"read-only root": {"--read-only"},
		"unprivileged":   {"--user", "1000:1000", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "16"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Run("directory", func(t *testing.T) {
				s := newSpace(t)
				shares(t, podman, append(s.mountFlags(), flags...))
			})
			t.Run("device", func(t *testing.T) {
				s := newSpace(t)
				mustRun(t, exec.Command(filepath.Join(bin, "ipcspace-shim"), "cdi", "--once"))
				device := append([]string{"--device", "ipcspace.io/space=" + s.name}, flags...)
				closed(t, podman, device)
				executes(t, podman, device, imageGlibc)
			})
			t.Run("hook", func(t *testing.T) {
				s := namedSpace(t) // the hook makes it
				asked := append([]string{"--annotation", "ipcspace.io/space=" + s.name}, flags...)
				closed(t, podman, append([]string{"-e", "LD_PRELOAD=/run/ipcspace/lib/libipcspace.so"}, asked...))
				executes(t, podman, asked, imageGlibc)
				wants(t, mustRun(t, podman.run(asked, imageGlibc, "env", "-i", "/bin/ipc", "get", "7")), "hello")
			})
		})
	}
	wants(t, refused(t, podman.run([]string{"--annotation", "ipcspace.io/space=UPPER"}, imageGlibc, "true")), "is no name of a space")
}

// A set-user-id program has the library by /etc/ld.so.preload, as the hook binds it, and then no
// variable of its caller leads it elsewhere. With LD_PRELOAD alone it comes to the kernel's own
// System V IPC, which is closed.
func TestSecureProgram(t *testing.T) {
	needPodman(t)
	s := newSpace(t)
	user := []string{"--user", "1000:1000"}
	hook := append(user, "--annotation", "ipcspace.io/space="+s.name)
	wants(t, mustRun(t, podman.run(hook, imageGlibc, "env", "IPCSPACE_DIR=/tmp", secureProgram, "put", "7", "hello")), "hello")
	wants(t, refused(t, podman.run(hook, imageGlibc, "env", "IPCSPACE_DIR=/tmp", "IPCSPACE_REQUIRED=1", "ipc", "get", "7")), "shmget: Function not implemented")
	wants(t, mustRun(t, podman.run(hook, imageGlibc, "ipc", "get", "7")), "hello")
	needDocker(t)
	wrapper := append(user, "--runtime=ipcspace", "-v", s.dir+":/run/ipcspace:ro")
	wants(t, refused(t, dockerRun(wrapper, imageGlibc, secureProgram, "put", "8", "lost")), "shmget: No space left on device")
}
