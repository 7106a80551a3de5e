package containers_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/ipcspace/ipcspace/test/suite"
)

// kubelet is as much of one as these tests need: a client of containerd's CRI.
type kubelet struct{ cri.RuntimeServiceClient }

func newKubelet(t *testing.T) kubelet {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///containerd", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", containerdSocket())
		}))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return kubelet{cri.NewRuntimeServiceClient(conn)}
}

// pod is one of the test's, removed with it.
type pod struct {
	kubelet
	id     string
	config *cri.PodSandboxConfig
}

func (k kubelet) runPod(t *testing.T, annotations map[string]string, ipc cri.NamespaceMode) *pod {
	t.Helper()
	return k.runPodBy(t, "", annotations, ipc)
}

// runPodBy has another runtime than the default one, as a RuntimeClass does.
func (k kubelet) runPodBy(t *testing.T, handler string, annotations map[string]string, ipc cri.NamespaceMode) *pod {
	t.Helper()
	name := fmt.Sprintf("pod-%d", containers.Add(1))
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "test"},
		Annotations:  annotations,
		LogDirectory: directory(t),
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Ipc: ipc},
		}},
	}
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	reply, err := k.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	must(t, err)
	p := &pod{kubelet: k, id: reply.GetPodSandboxId(), config: config}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
		defer cancel()
		_, err := k.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id})
		if err == nil {
			_, err = k.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id})
		}
		if err != nil {
			t.Error(err)
		}
	})
	return p
}

// run runs a container of the pod to its end and returns what it printed and its exit code.
func (p *pod) run(t *testing.T, s *space, env []*cri.KeyValue, image string, args ...string) (output string, code int32, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	name := fmt.Sprintf("c%d", containers.Add(1))
	config := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    &cri.ImageSpec{Image: ctrImage(image)},
		Command:  args, Envs: env, LogPath: name + ".log",
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
			NamespaceOptions: p.config.GetLinux().GetSecurityContext().GetNamespaceOptions(),
		}},
	}
	if s != nil {
		config.Mounts = []*cri.Mount{{HostPath: s.dir, ContainerPath: "/run/ipcspace", Readonly: true}}
	}
	made, err := p.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
	if err != nil {
		return "", 0, err
	}
	id := made.GetContainerId()
	defer func() {
		_, err := p.RemoveContainer(context.Background(), &cri.RemoveContainerRequest{ContainerId: id})
		must(t, err)
	}()
	if _, err := p.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id}); err != nil {
		return "", 0, err
	}
	err = suite.Eventually(commandTimeout, func() error {
		reply, err := p.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			return err
		}
		if reply.GetStatus().GetState() != cri.ContainerState_CONTAINER_EXITED {
			return fmt.Errorf("container is %v", reply.GetStatus().GetState())
		}
		code = reply.GetStatus().GetExitCode()
		return nil
	})
	return suite.Tail(filepath.Join(p.config.GetLogDirectory(), name+".log")), code, err
}

// The wrapper as a runtime handler of containerd's CRI: what a pod's annotations ask for, each of its
// containers gets, and its sandbox nothing.
func TestRuntimeHandler(t *testing.T) {
	needContainerd(t)
	s := namedSpace(t)
	k := newKubelet(t)
	annotations := map[string]string{"ipcspace.io/space": s.name, "ipcspace.io/limits": "shmmni=5"}
	one := k.runPodBy(t, "ipcspace", annotations, cri.NamespaceMode_POD)
	other := k.runPodBy(t, "ipcspace", annotations, cri.NamespaceMode_POD)
	stranger := k.runPodBy(t, "ipcspace", nil, cri.NamespaceMode_POD)
	for _, c := range []struct {
		pod  *pod
		want string
		args []string
	}{
		{one, "hello", []string{imageGlibc, "ipc", "put", "7", "hello"}},
		{one, "hello", []string{imageMusl, "ipc", "get", "7"}},
		{other, "hello", []string{imageGlibc, "ipc", "get", "7"}},
		{one, "raw shmget: No space left on device", []string{imageStatic, "ipc", "raw"}},
		{stranger, "raw shmget 0", []string{imageStatic, "ipc", "raw"}},
	} {
		output, _, err := c.pod.run(t, nil, nil, c.args[0], c.args[1:]...)
		must(t, err)
		wants(t, output, c.want)
	}
	wants(t, s.inspect(t), "shmmni 5")
}

func nriPlugin(socket string, flags ...string) *daemon {
	d := &daemon{
		name: "nri",
		command: func() (*exec.Cmd, error) {
			return exec.Command(filepath.Join(bin, "ipcspace-shim"), append([]string{"nri", "--root", root, "--socket", socket}, flags...)...), nil
		},
	}
	d.ready = func() error {
		if !strings.Contains(suite.Tail(d.log()), "synchronized") {
			return fmt.Errorf("not synchronized:\n%s", suite.Tail(d.log()))
		}
		return nil
	}
	return d
}

// runs starts the plugin for a test.
func (d *daemon) runs(t *testing.T) {
	t.Helper()
	must(t, d.start())
	t.Cleanup(func() {
		must(t, d.stop())
		if t.Failed() {
			t.Logf("the plugin's log:\n%s", suite.Tail(d.log()))
		}
	})
}

// With a hook, which the plugin puts in its place, the system's tools show the space besides, and no
// sysctls are the runtime's to set. It goes with the plugin.
func TestNRIHook(t *testing.T) {
	needContainerd(t)
	s := newSpace(t)
	path := filepath.Join(directory(t), "ipcspace-shim")
	t.Cleanup(func() {
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	nriPlugin(filepath.Join(scratch, "containerd", "nri.sock"), "--hook", path, "--install-hook").runs(t)
	k := newKubelet(t)
	for _, c := range []struct {
		kernelIPC string
		s         *space
		code      int32
		want      string
		args      []string
	}{
		{"closed", s, 0, "hello", []string{imageGlibc, "ipc", "put", "7", "hello"}},
		{"closed", s, 0, "hello", []string{imageMusl, "ipc", "get", "7"}},
		{"closed", s, 0, "0x00000007", []string{imageGlibc, "ipcs", "-m"}},
		{"closed", s, 1, "raw shmget: No space left on device", []string{imageStatic, "ipc", "raw"}},
		{"open", s, 0, "0x00000007", []string{imageGlibc, "ipcs", "-m"}},
		{"open", s, 0, "raw shmget ", []string{imageStatic, "ipc", "raw"}},
		{"closed", nil, 0, "raw shmget ", []string{imageStatic, "ipc", "raw"}},
		{"closed", nil, 0, "shm\n", []string{imageStatic, "ls", "/proc/sysvipc"}},
	} {
		p := k.runPod(t, map[string]string{"ipcspace.io/kernel-ipc": c.kernelIPC, "ipcspace.io/space": "of-the-volume"}, cri.NamespaceMode_POD)
		output, code, err := p.run(t, c.s, nil, c.args[0], c.args[1:]...)
		must(t, err)
		if code != c.code {
			t.Errorf("%v ended with %d", c, code)
		}
		wants(t, output, c.want)
	}
}

// Containers that have a space mounted get the rest from the NRI plugin; others nothing.
func TestNRI(t *testing.T) {
	needContainerd(t)
	s := newSpace(t)
	plugin := nriPlugin(filepath.Join(scratch, "containerd", "nri.sock"))
	plugin.runs(t)
	k := newKubelet(t)
	succeeds := func(p *pod, s *space, want, image string, args ...string) {
		t.Helper()
		output, code, err := p.run(t, s, nil, image, args...)
		must(t, err)
		if code != 0 {
			t.Errorf("%v ended with %d", args, code)
		}
		wants(t, output, want)
	}

	p := k.runPod(t, nil, cri.NamespaceMode_POD)
	succeeds(p, s, "hello", imageGlibc, "ipc", "put", "7", "hello")
	succeeds(p, s, "hello", imageMusl, "ipc", "get", "7")
	output, code, err := p.run(t, s, nil, imageStatic, "ipc", "raw")
	must(t, err)
	if code == 0 {
		t.Error("a raw shmget worked in a container with a space")
	}
	wants(t, output, "raw shmget: No space left on device")
	output, _, err = p.run(t, s, []*cri.KeyValue{{Key: "LD_PRELOAD", Value: []byte("/lib/other.so")}, {Key: "IPCSPACE_DIR", Value: []byte("/evil")}}, imageStatic, "env")
	must(t, err)
	wants(t, output, "LD_PRELOAD=/run/ipcspace/lib/libipcspace.so:/lib/other.so\n")
	wants(t, output, "IPCSPACE_REQUIRED=1\n")
	if strings.Contains(output, "evil") {
		t.Errorf("the image's IPCSPACE_DIR came through:\n%s", output)
	}

	stranger := k.runPod(t, nil, cri.NamespaceMode_POD)
	succeeds(stranger, nil, "raw shmget ", imageStatic, "ipc", "raw")
	output, _, err = stranger.run(t, nil, nil, imageStatic, "env")
	must(t, err)
	if strings.Contains(output, "LD_PRELOAD") {
		t.Errorf("a container without a space got LD_PRELOAD:\n%s", output)
	}

	open := k.runPod(t, map[string]string{"ipcspace.io/kernel-ipc": "open"}, cri.NamespaceMode_POD)
	succeeds(open, s, "raw shmget ", imageStatic, "ipc", "raw")

	host := k.runPod(t, nil, cri.NamespaceMode_NODE)
	_, _, err = host.run(t, s, nil, imageStatic, "true")
	if err == nil {
		t.Error("a container with a space and the host's IPC namespace was created")
	} else {
		wants(t, err.Error(), "drop hostIPC, or set the annotation ipcspace.io/kernel-ipc=open")
	}

	// containerd restarts: the plugin comes back by itself, containers too.
	must(t, containerd.end(syscall.SIGKILL))
	must(t, os.Truncate(plugin.log(), 0))
	must(t, containerd.start())
	must(t, suite.Eventually(20*time.Second, plugin.ready))
	k = newKubelet(t)
	p = k.runPod(t, nil, cri.NamespaceMode_POD)
	succeeds(p, s, "hello", imageGlibc, "ipc", "get", "7")
}
