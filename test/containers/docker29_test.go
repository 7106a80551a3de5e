package containers_test

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ipcspace/ipcspace/test/suite"
)

// Docker 29 takes many minutes to build, so tests use it only if it was built before: make test-docker29.
var buildDocker29 = flag.Bool("docker29", false, "build Docker 29 if the cache has none")

// dockerd29 is Docker 29 with containerd 2 and the new runc, CDI and NRI.
var dockerd29 = newDockerd("docker29", func() (*exec.Cmd, error) {
	dir, err := cached("dockerd")
	if err != nil {
		return nil, err
	}
	others, err := tools()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(dir, "dockerd"))
	cmd.Env = append(os.Environ(), "PATH="+others+":"+os.Getenv("PATH"), "IPCSPACE_RUNTIME="+filepath.Join(others, "runc"))
	return cmd, nil
}, "--exec-opt", "native.cgroupdriver=cgroupfs", "--nri-opts", "enable=true,socket-path="+docker29NRI)

const docker29NRI = "/run/nri/docker29.sock"

var docker29 = newDocker("docker29")

func needDocker29(t *testing.T) {
	t.Helper()
	dir, err := cached("dockerd")
	must(t, err)
	if *buildDocker29 {
		_, err := buildOnce("dockerd")
		must(t, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "built")); err != nil {
		t.Skip("Docker 29 is not built yet: make test-docker29 does it, once, in some ten minutes")
	}
	needTool(t, "docker", "docker.io")
	must(t, dockerd29.start())
	must(t, docker29.images())
}

// Docker 29 knows CDI devices and hands on annotations.
func TestDocker29(t *testing.T) {
	needDocker29(t)
	t.Run("device", func(t *testing.T) {
		s := newSpace(t)
		mustRun(t, exec.Command(filepath.Join(bin, "ipcspace-shim"), "cdi", "--once"))
		flags := []string{"--device", "ipcspace.io/space=" + s.name}
		closed(t, docker29, flags)
		executes(t, docker29, flags, imageGlibc)
	})
	t.Run("runtime", func(t *testing.T) {
		s := namedSpace(t)
		flags := []string{"--runtime=ipcspace", "--annotation", "ipcspace.io/space=" + s.name, "--annotation", "ipcspace.io/limits=shmmni=5"}
		closed(t, docker29, flags)
		executes(t, docker29, flags, imageGlibc, imageMusl)
		wants(t, s.inspect(t), "shmmni 5")
	})
	// It tells plugins nothing of mounts, and sets no sysctls for them: ours leaves its containers alone.
	t.Run("plugin", func(t *testing.T) {
		s := newSpace(t)
		plugin := nriPlugin(docker29NRI)
		must(t, plugin.start())
		t.Cleanup(func() { must(t, plugin.stop()) })
		wants(t, suite.Tail(plugin.log()), "runtime=docker")
		shares(t, docker29, s.mountFlags())
	})
}
