package e2e_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/mod/semver"
)

// Without ipcspace on a node, who runs and asks the manager nothing goes on; who comes or starts again
// waits and is told why, and who ends waits to be unmounted. When it is back, all go on by themselves.
func TestNodePodsAway(t *testing.T) {
	needWhole(t)
	needChart(t)
	namespace := newNamespace(t)
	s := &storm{t: t, pods: []pod{newPod(t, namespace, "alone", "orders", "restartPolicy: Never",
		"containers: ["+container("glibc", imageGlibc, "ipc", "storm", "7", "alone")+"]")}}
	s.goesOn("at first")
	leaver := sleeper(t, namespace, "leaver", "orders", imageGlibc)
	again := newPod(t, namespace, "again", "orders", "containers: ["+container("glibc", imageGlibc, "ipc", "sleep", "again")+"]")
	again.awaitReady(t)
	patch := func(selector string) {
		t.Helper()
		_, err := kubectl("-n", chartSpace, "patch", "daemonset", release, "--type", "merge", "-p",
			fmt.Sprintf(`{"spec": {"template": {"spec": {"nodeSelector": {"e2e.test/away": %s}}}}}`, selector))
		must(t, err)
	}
	t.Cleanup(func() { patch("null"); must(t, rollout()) })
	var comer pod
	s.during("the absence of the node's pods", func() error {
		patch(`"yes"`)
		_, err := kubectl("-n", chartSpace, "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=node", "--timeout", patience.String())
		if err != nil {
			return err
		}
		s.goesOn("without ipcspace on the node")
		_, err = leaver.kubectl("delete", "pod", leaver.name, "--wait=false")
		if err != nil {
			return err
		}
		comer = newPod(t, namespace, "comer", "orders", "containers: ["+container("glibc", imageGlibc, "ipc", "sleep")+"]")
		comer.awaitEvent(t, "csi.ipcspace.io not found")
		comer.isNotStarted(t)
		if _, err := leaver.field(".metadata.name"); err != nil {
			t.Errorf("the pod that was deleted is gone, and who unmounted its space? %v", err)
		}
		if validates(t) {
			for _, pid := range processes("ipc\x00sleep\x00again") {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					return err
				}
			}
			again.awaitEvent(t, `required plugin "ipcspace" not present`)
		}
		patch("null")
		return rollout()
	})
	comer.awaitReady(t)
	wants(t, comer.run(t, "glibc", "ipc", "value", "7"), "")
	_, err := again.kubectl("wait", "--for=condition=Ready", "pod/"+again.name, "--timeout", startTimeout.String())
	must(t, err)
	wants(t, again.run(t, "glibc", "ipc", "value", "7"), "")
	_, err = leaver.kubectl("wait", "--for=delete", "pod/"+leaver.name, "--timeout", patience.String())
	must(t, err)
	must(t, notMounted(leaver.name))
}

// Without the NRI plugin a container has its space and no library: an event says so. One whose author
// has set LD_PRELOAD needs no plugin.
func TestWithoutInjection(t *testing.T) {
	needWhole(t)
	needChart(t)
	namespace := newNamespace(t)
	must(t, installChart("1", "nri.enabled=false", "nri.hook="))
	t.Cleanup(func() { must(t, installChart("1")) })
	without := sleeper(t, namespace, "without", "orders", imageGlibc)
	wants(t, without.awaitEvent(t, "LibraryNotInjected"), "container glibc has a space, but its LD_PRELOAD")
	c := strings.TrimSuffix(container("glibc", imageGlibc, "ipc", "sleep"), "}") +
		", env: [{name: LD_PRELOAD, value: /run/ipcspace/lib/libipcspace.so}, {name: IPCSPACE_REQUIRED, value: '1'}]}"
	own := newPod(t, namespace, "own", "orders", "containers: ["+c+"]")
	own.awaitReady(t)
	own.run(t, "glibc", "ipc", "put", "7", "hello")
	wants(t, without.fails(t, "glibc", "ipc", "get", "7"), "shmget: No such file or directory")

	must(t, installChart("1"))
	// What runs is as it was. What starts again has it.
	wants(t, without.fails(t, "glibc", "ipc", "get", "7"), "shmget: No such file or directory")
	without.delete(t)
	without = sleeper(t, namespace, "without", "orders", imageGlibc)
	wants(t, without.run(t, "glibc", "ipc", "get", "7"), "hello")
	events, err := own.kubectl("get", "events", "--field-selector", "involvedObject.name="+own.name, "-o", "jsonpath={.items[*].reason}")
	must(t, err)
	if strings.Contains(events, "LibraryNotInjected") {
		t.Errorf("events of a pod that has the library: %s", events)
	}
}

// validates tells whether the node's containerd can see to it that a plugin is there, as it is told to.
func validates(t *testing.T) bool { return setsSysctls(t) } // both came with 2.2

// setsSysctls tells whether the node's containerd does what a plugin says of sysctls.
func setsSysctls(t *testing.T) bool {
	t.Helper()
	runtime, err := kubectl("get", "node", nodeName, "-o", "jsonpath={.status.nodeInfo.containerRuntimeVersion}")
	must(t, err)
	version := "v" + strings.TrimPrefix(strings.TrimPrefix(runtime, "containerd://"), "v")
	if !semver.IsValid(version) {
		t.Fatalf("the version of %q", runtime)
	}
	return semver.Compare(version, "v2.2.0-0") >= 0
}

// Without the hook it is the runtime that closes the kernel's own System V IPC, and nothing hides its
// tables, which are empty then. What cannot be closed is refused.
func TestWithoutHook(t *testing.T) {
	needWhole(t)
	needChart(t)
	namespace := newNamespace(t)
	must(t, installChart("1", "nri.installHook=false", "nri.hook="))
	t.Cleanup(func() { must(t, installChart("1")) })
	if !setsSysctls(t) {
		p := newPod(t, namespace, "refused", "orders", "containers: ["+container("glibc", imageGlibc, "ipc", "sleep")+"]")
		wants(t, p.awaitEvent(t, "sets no sysctls"), "nri.installHook")
		p.isNotStarted(t)
		return
	}
	p := sleeper(t, namespace, "pod", "orders", imageGlibc, imageStatic)
	p.run(t, "glibc", "ipc", "put", "7", "hello")
	wants(t, p.run(t, "glibc", "ipc", "get", "7"), "hello")
	wants(t, p.fails(t, "static", "ipc", "raw"), "raw shmget: No space left on device")
	if shown := p.run(t, "glibc", "ipcs", "-m"); strings.Contains(shown, "0x00000007") {
		t.Errorf("the tools show the space without the hook:\n%s", shown)
	}
}
