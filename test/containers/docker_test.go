package containers_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// docker is Debian's dockerd, with everything of its own below scratch and no network.
var docker = daemon{
	name: "dockerd",
	command: func() (*exec.Cmd, error) {
		dir := filepath.Join(scratch, "docker")
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, err
		}
		dockerd, err := exec.LookPath("dockerd")
		if err != nil {
			return nil, fmt.Errorf("%w (apt-get install docker.io)", err)
		}
		cmd := exec.Command(dockerd, "-H", dockerHost(),
			"--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid",
			"--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none",
			"--exec-opt", "native.cgroupdriver=cgroupfs", "--live-restore",
			"--add-runtime", "ipcspace="+filepath.Join(bin, "ipcspace-runc"))
		cmd.Env = append(os.Environ(), "IPCSPACE_ROOT="+root())
		return cmd, nil
	},
	ready: func() error {
		_, err := runCommand(dockerCommand("version"))
		return err
	},
}

func dockerHost() string { return "unix://" + filepath.Join(scratch, "docker", "docker.sock") }

func dockerCommand(args ...string) *exec.Cmd {
	return exec.Command("docker", append([]string{"-H", dockerHost()}, args...)...)
}

var loadImages = sync.OnceValue(func() error {
	for _, image := range images {
		all, err := files(image)
		if err != nil {
			return err
		}
		layer, err := archive(all)
		if err != nil {
			return err
		}
		load := dockerCommand("import", "--change", `CMD ["sh"]`, "-", image)
		load.Stdin = bytes.NewReader(layer)
		if _, err := runCommand(load); err != nil {
			return err
		}
	}
	return nil
})

// needDocker has the daemon running and the images loaded.
func needDocker(t *testing.T) {
	t.Helper()
	must(t, docker.start())
	must(t, loadImages())
}

// mountFlags are those of the README: the directory, and the library in it.
func (s *space) mountFlags() []string {
	return []string{"-v", s.dir + ":/run/ipcspace:ro", "-e", "LD_PRELOAD=/run/ipcspace/lib/libipcspace.so", "-e", "IPCSPACE_REQUIRED=1"}
}

// dockerRun is `docker run --rm --network=none FLAGS IMAGE ARGS`.
func dockerRun(flags []string, image string, args ...string) *exec.Cmd {
	all := append([]string{"run", "--rm", "--network=none"}, flags...)
	return dockerCommand(append(append(all, image), args...)...)
}

var containers atomic.Int32

// dockerContainer is one that runs in the background, removed with the test.
type dockerContainer struct{ name string }

func dockerStart(t *testing.T, flags []string, image string, args ...string) *dockerContainer {
	t.Helper()
	c := &dockerContainer{name: fmt.Sprintf("ipcspace-test-%d-%d", os.Getpid(), containers.Add(1))}
	all := append([]string{"run", "-d", "--name", c.name, "--network=none"}, flags...)
	t.Cleanup(func() {
		if output, err := runCommand(dockerCommand("rm", "-f", "-v", c.name)); err != nil {
			t.Errorf("%v %s", err, output)
		}
	})
	mustRun(t, dockerCommand(append(append(all, image), args...)...))
	return c
}

func (c *dockerContainer) logs(t *testing.T) string {
	t.Helper()
	cmd := dockerCommand("logs", c.name)
	output, err := cmd.CombinedOutput()
	must(t, err)
	return string(output)
}

// awaits waits until the container has printed a text.
func (c *dockerContainer) awaits(t *testing.T, text string) {
	t.Helper()
	must(t, eventually(30*time.Second, func() error {
		if logs := c.logs(t); !strings.Contains(logs, text) {
			return fmt.Errorf("%s printed no %q:\n%s", c.name, text, logs)
		}
		return nil
	}))
}

func (c *dockerContainer) id(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(mustRun(t, dockerCommand("inspect", "-f", "{{.Id}}", c.name)))
}

func (c *dockerContainer) pid(t *testing.T) int {
	t.Helper()
	var pid int
	_, err := fmt.Sscan(mustRun(t, dockerCommand("inspect", "-f", "{{.State.Pid}}", c.name)), &pid)
	must(t, err)
	return pid
}
