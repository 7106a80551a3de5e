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

	"github.com/ipcspace/ipcspace/test/suite"
)

// engine is what runs containers by a command line such as docker's.
type engine struct {
	command func(args ...string) *exec.Cmd
	flags   []string // of each run
	images  func() error
}

// dockerd is Debian's, with everything of its own below scratch and no network.
var dockerd = newDockerd("docker", debianDockerd,
	"--exec-opt", "native.cgroupdriver=cgroupfs", "--live-restore")

// remapped is another one, whose containers have a user namespace: their uid 0 is remappedUID.
var remapped = newDockerd("remapped", debianDockerd,
	"--exec-opt", "native.cgroupdriver=cgroupfs", "--userns-remap", "65534:65534")

const remappedUID = 200000

var (
	docker       = newDocker("docker")
	dockerMapped = newDocker("remapped")
)

func debianDockerd() (*exec.Cmd, error) { return exec.Command("dockerd"), nil }

// newDockerd is a dockerd that knows the wrapper as a runtime.
func newDockerd(name string, program func() (*exec.Cmd, error), flags ...string) *daemon {
	return &daemon{
		name: name,
		command: func() (*exec.Cmd, error) {
			dir := filepath.Join(scratch, name)
			if err := os.MkdirAll(dir, 0o711); err != nil {
				return nil, err
			}
			cmd, err := program()
			if err != nil {
				return nil, err
			}
			cmd.Args = append(append(cmd.Args, "-H", dockerHost(name),
				"--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid",
				"--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none",
				"--add-runtime", "ipcspace="+filepath.Join(bin, "ipcspace-runc")), flags...)
			return cmd, nil
		},
		ready: func() error {
			_, err := runCommand(exec.Command("docker", "-H", dockerHost(name), "version"))
			return err
		},
	}
}

func dockerHost(name string) string { return "unix://" + filepath.Join(scratch, name, "docker.sock") }

// newDocker is the client of a dockerd.
func newDocker(name string) *engine {
	e := &engine{
		command: func(args ...string) *exec.Cmd {
			return exec.Command("docker", append([]string{"-H", dockerHost(name)}, args...)...)
		},
		flags: []string{"--network=none"},
	}
	e.images = sync.OnceValue(e.loadImages)
	return e
}

func (e *engine) loadImages() error {
	for _, image := range images {
		layer, err := layerOf(image)
		if err != nil {
			return err
		}
		if err := e.load(image, layer); err != nil {
			return err
		}
	}
	return nil
}

// load makes an image of one layer.
func (e *engine) load(image string, layer []byte) error {
	cmd := e.command("import", "--change", `CMD ["sh"]`, "-", image)
	cmd.Stdin = bytes.NewReader(layer)
	_, err := runCommand(cmd)
	return err
}

// needDocker has Debian's daemon running and the images loaded.
func needDocker(t *testing.T) {
	t.Helper()
	needTool(t, "dockerd", "docker.io")
	needTool(t, "docker", "docker.io")
	must(t, dockerd.start())
	must(t, docker.images())
}

// needRemappedDocker has the daemon running whose containers have a user namespace.
func needRemappedDocker(t *testing.T) {
	t.Helper()
	needTool(t, "dockerd", "docker.io")
	ids := filepath.Join(scratch, "subordinate-ids")
	if err := os.WriteFile(ids, fmt.Appendf(nil, "nobody:%d:65536\nnogroup:%[1]d:65536\n", remappedUID), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), "nobody:") {
			continue
		}
		mustRun(t, exec.Command("mount", "--bind", ids, file))
	}
	must(t, remapped.start())
	must(t, dockerMapped.images())
}

// mountFlags are those of the README: the directory, and the library in it.
func (s *space) mountFlags() []string {
	return []string{"-v", s.dir + ":/run/ipcspace:ro", "-e", "LD_PRELOAD=/run/ipcspace/lib/libipcspace.so", "-e", "IPCSPACE_REQUIRED=1"}
}

// run is `docker run --rm FLAGS IMAGE ARGS`.
func (e *engine) run(flags []string, image string, args ...string) *exec.Cmd {
	all := append(append([]string{"run", "--rm"}, e.flags...), flags...)
	return e.command(append(append(all, image), args...)...)
}

func dockerCommand(args ...string) *exec.Cmd { return docker.command(args...) }

func dockerRun(flags []string, image string, args ...string) *exec.Cmd {
	return docker.run(flags, image, args...)
}

func dockerStart(t *testing.T, flags []string, image string, args ...string) *container {
	t.Helper()
	return docker.start(t, flags, image, args...)
}

var containers atomic.Int32

// container is one that runs in the background, removed with the test.
type container struct {
	*engine
	name string
}

func (e *engine) start(t *testing.T, flags []string, image string, args ...string) *container {
	t.Helper()
	c := &container{engine: e, name: fmt.Sprintf("ipcspace-test-%d-%d", os.Getpid(), containers.Add(1))}
	all := append(append([]string{"run", "-d", "--name", c.name}, e.flags...), flags...)
	t.Cleanup(func() {
		if output, err := runCommand(e.command("rm", "-f", "-v", c.name)); err != nil {
			t.Errorf("%v %s", err, output)
		}
	})
	mustRun(t, e.command(append(append(all, image), args...)...))
	return c
}

func (c *container) logs(t *testing.T) string {
	t.Helper()
	output, err := c.command("logs", c.name).CombinedOutput()
	must(t, err)
	return string(output)
}

// awaits waits until the container has printed a text.
func (c *container) awaits(t *testing.T, text string) {
	t.Helper()
	must(t, suite.Eventually(commandTimeout, func() error {
		if logs := c.logs(t); !strings.Contains(logs, text) {
			return fmt.Errorf("%s printed no %q:\n%s", c.name, text, logs)
		}
		return nil
	}))
}

// inspect is `docker inspect -f FORMAT`.
func (c *container) inspect(t *testing.T, format string) string {
	t.Helper()
	return strings.TrimSpace(mustRun(t, c.command("inspect", "-f", format, c.name)))
}

func (c *container) id(t *testing.T) string {
	t.Helper()
	return c.inspect(t, "{{.Id}}")
}

func (c *container) pid(t *testing.T) int {
	t.Helper()
	var pid int
	_, err := fmt.Sscan(c.inspect(t, "{{.State.Pid}}"), &pid)
	must(t, err)
	return pid
}

// wait is the exit code of a container, at its end.
func (c *container) wait(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(mustRun(t, c.command("wait", c.name)))
}
