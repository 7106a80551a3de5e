package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ipcspace/ipcspace/test/suite"
)

// machine is a further node that runs: containerd and a kubelet of its own, in mount, pid and IPC
// namespaces of its own. It has an address on the first one's network.
type machine struct {
	node
	process *exec.Cmd // its end is the machine's
	ended   chan struct{}
}

// newMachine starts one, with the chart's pod and the images of the tests.
func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{node: neighbour(), ended: make(chan struct{})}
	must(t, m.makeCgroups())
	must(t, m.writeConfigurations())
	_, err := runCommand(exec.Command("ip", "address", "add", m.address+"/16", "dev", "cni0"))
	must(t, err)
	t.Cleanup(func() {
		_, err := runCommand(exec.Command("ip", "address", "delete", m.address+"/16", "dev", "cni0"))
		must(t, err)
	})
	log, err := os.Create(filepath.Join(scratch, "log", m.name+".log"))
	must(t, err)
	defer log.Close()
	script := fmt.Sprintf("containerd %s & exec kubelet %s", strings.Join(m.containerdArguments(), " "), strings.Join(m.kubeletArguments(), " "))
	m.process = exec.Command("unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child=KILL",
		"--mount-proc", "--propagation", "private", "--", "sh", "testdata/node.sh", "sh", "-c", script)
	m.process.Env = append(os.Environ(), scratchVariable+"="+m.dir, "PATH="+programs+":"+os.Getenv("PATH"))
	m.process.Stdout, m.process.Stderr = log, log
	m.process.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	must(t, m.process.Start())
	go func() {
		_ = m.process.Wait() // it is killed
		close(m.ended)
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(suite.Tail(log.Name()))
		}
		m.off()
		_, err := kubectl("delete", "node", m.name, "--ignore-not-found")
		must(t, err)
		must(t, rollout())
	})
	must(t, eventually(startTimeout, m.ready))
	must(t, m.loadImages())
	must(t, rollout())
	return m
}

// off is the end of its power: no process, no mount and nothing in its memory is left.
func (m *machine) off() {
	_ = m.process.Process.Kill() // off already: fine
	<-m.ended
}

// loadImages gives it what its pods are made of, from the first node.
func (m *machine) loadImages() error {
	chartImage, err := kubectl("-n", chartSpace, "get", "daemonset", release, "-o", "jsonpath={.spec.template.spec.containers[0].image}")
	if err != nil {
		return err
	}
	// Its mounts are those of the shell that unshare became.
	var inside []int
	err = eventually(patience, func() error {
		if inside = suite.ChildrenOf(m.process.Process.Pid); len(inside) != 1 {
			return fmt.Errorf("it has the processes %v", inside)
		}
		return nil
	})
	if err != nil {
		return err
	}
	archive := filepath.Join(m.dir, "images.tar")
	if _, err := runCommand(ctr("images", "export", archive, imagePause, imageGlibc, chartImage)); err != nil {
		return err
	}
	load := ctr("images", "import", "--local", archive)
	_, err = runCommand(exec.Command("nsenter", append([]string{"-t", fmt.Sprint(inside[0]), "-m"}, load.Args...)...))
	return err
}

// The first pods of a space begin on two machines at the same moment: one has it, the other is told
// where it is, and begins when it is gone from there. A machine that is lost keeps its claims while it
// may only be cut off; when somebody vouches that it is off, others have its spaces, empty.
func TestTwoMachines(t *testing.T) {
	needWhole(t)
	needChart(t)
	m := newMachine(t)
	containers := "containers: [" + container("glibc", imageGlibc, "ipc", "sleep") + "]"
	there := "nodeSelector: {kubernetes.io/hostname: " + m.name + "}"
	holder := func(namespace, name string) string {
		t.Helper()
		o, err := getIPCSpace(namespace, name)
		must(t, err)
		return o.Status.Node
	}

	t.Run("the webhook is drained", func(t *testing.T) { drainWebhook(t, nodeName, m.name) })

	t.Run("two first pods at once", func(t *testing.T) {
		namespace := newNamespace(t)
		names := []string{nodeName, m.name}
		made := make(chan error, len(names))
		for _, name := range names {
			go func() {
				_, err := tryPod(namespace, name, "orders", "nodeName: "+name, containers)
				made <- err
			}()
		}
		for range names {
			must(t, <-made)
		}
		var winner, loser pod
		must(t, eventually(patience, func() error {
			ready, err := kubectl("-n", namespace, "get", "pods", "-o", `jsonpath={range .items[?(@.status.phase=="Running")]}{.metadata.name}{"\n"}{end}`)
			running := strings.Fields(ready)
			if err == nil && len(running) != 1 {
				err = fmt.Errorf("running: %v\n%s", running, state(namespace))
			}
			if err == nil {
				i := slices.Index(names, running[0])
				winner, loser = pod{namespace, names[i]}, pod{namespace, names[1-i]}
			}
			return err
		}))
		t.Logf("%s has it", winner.name)
		wants(t, loser.awaitEvent(t, "SpaceOnAnotherNode"), "is on node "+winner.name)
		loser.isNotStarted(t)
		if at := holder(namespace, "orders"); at != winner.name {
			t.Errorf("%s has claimed it, %s runs", at, winner.name)
		}
		winner.awaitReady(t)
		winner.run(t, "glibc", "ipc", "put", "7", "hello")
		winner.delete(t)
		// The kubelet's pauses between tries grow with the time that it has tried.
		_, err := loser.kubectl("wait", "--for=condition=Ready", "pod/"+loser.name, "--timeout", startTimeout.String())
		must(t, err)
		wants(t, loser.fails(t, "glibc", "ipc", "get", "7"), "shmget: No such file or directory")
		if at := holder(namespace, "orders"); at != loser.name {
			t.Errorf("%s has claimed it, %s runs", at, loser.name)
		}
	})

	t.Run("placed beside the first", func(t *testing.T) {
		namespace := newNamespace(t)
		first := newPod(t, namespace, "first", "orders", there, containers)
		first.awaitReady(t)
		first.run(t, "glibc", "ipc", "put", "7", "hello")
		second := newPod(t, namespace, "second", "orders", containers)
		second.awaitReady(t)
		wants(t, second.run(t, "glibc", "ipc", "get", "7"), "hello")
		if node, err := second.field(".spec.nodeName"); err != nil || node != m.name {
			t.Errorf("the second is on %s: %v", node, err)
		}
	})

	t.Run("lost", func(t *testing.T) {
		namespace := newNamespace(t)
		newIPCSpace(t, namespace, "stock", "retain: true")
		for _, space := range []string{"orders", "stock"} {
			p := newPod(t, namespace, space, space, there, containers)
			p.awaitReady(t)
			p.run(t, "glibc", "ipc", "put", "7", "lost")
		}
		m.off()
		comer := newPod(t, namespace, "comer", "orders", "nodeName: "+nodeName, containers)
		comer.awaitEvent(t, "is on node "+m.name)
		comer.isNotStarted(t)

		began := time.Now()
		_, err := kubectl("taint", "node", m.name, "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute")
		must(t, err)
		_, err = comer.kubectl("wait", "--for=condition=Ready", "pod/"+comer.name, "--timeout", startTimeout.String())
		must(t, err)
		wants(t, comer.fails(t, "glibc", "ipc", "get", "7"), "shmget: No such file or directory")
		// Its pods go when the cluster has found out that it does not answer.
		_, err = kubectl("-n", namespace, "wait", "--for=delete", "pod/orders", "pod/stock", "--timeout", startTimeout.String())
		must(t, err)
		t.Logf("its pods were gone %v after the taint", time.Since(began).Round(time.Second))
		again := newPod(t, namespace, "again", "stock", containers)
		again.awaitReady(t)
		wants(t, again.fails(t, "glibc", "ipc", "get", "7"), "shmget: No such file or directory")
		for _, space := range []string{"orders", "stock"} {
			if at := holder(namespace, space); at != nodeName {
				t.Errorf("%s is on %q", space, at)
			}
		}
	})
}
