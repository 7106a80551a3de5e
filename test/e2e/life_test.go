package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// object is what these tests look at in an IPCSpace.
type object struct {
	Metadata struct {
		UID        string
		Finalizers []string
		Labels     map[string]string
	}
	Status struct {
		Node, BootID string
		Members      int
	}
}

func getIPCSpace(namespace, name string) (object, error) {
	var o object
	text, err := kubectl("-n", namespace, "get", "ipcspace", name, "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(text), &o)
	}
	return o, err
}

// awaitGone waits until there is no object of a space any more, and nothing of it on the node.
func awaitGone(t *testing.T, namespace, name, uid string) {
	t.Helper()
	must(t, eventually(patience, func() error {
		left, err := kubectl("-n", namespace, "get", "ipcspace", name, "--ignore-not-found", "-o", "yaml")
		if err == nil && left != "" {
			err = fmt.Errorf("the object is still there:\n%s", left)
		}
		return err
	}))
	must(t, eventually(patience, func() error { return nothingOf(uid) }))
}

// nothingOf is an error if a folder or a mount on the node carries a space's uid.
func nothingOf(uid string) error {
	for _, part := range []string{"spaces", "private", "proc"} {
		entries, _ := os.ReadDir(filepath.Join(nodeRoot, part)) // none: nothing is there
		for _, entry := range entries {
			if strings.Contains(entry.Name(), uid) {
				return fmt.Errorf("%s is there", filepath.Join(nodeRoot, part, entry.Name()))
			}
		}
	}
	return notMounted(uid)
}

// notMounted is an error if a mount's line says so.
func notMounted(part string) error {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, part) {
			return fmt.Errorf("mounted: %s", line)
		}
	}
	return nil
}

// A space comes with its first pod and goes with its last, with all that was in it.
func TestFirstAndLastPod(t *testing.T) {
	needChart(t)
	t.Parallel()
	namespace := newNamespace(t)
	one := sleeper(t, namespace, "one", "orders", imageGlibc)
	one.run(t, "glibc", "ipc", "put", "7", "kept")
	made, err := getIPCSpace(namespace, "orders")
	must(t, err)
	boot, err := kubectl("get", "node", nodeName, "-o", "jsonpath={.status.nodeInfo.bootID}")
	must(t, err)
	if made.Status.Node != nodeName || made.Status.BootID != boot {
		t.Errorf("the space is claimed by %q of boot %q, not by %q of boot %q", made.Status.Node, made.Status.BootID, nodeName, boot)
	}
	if made.Metadata.Labels["ipcspace.io/made-by"] != "manager" {
		t.Errorf("labels %v do not say that the manager made it", made.Metadata.Labels)
	}
	two := sleeper(t, namespace, "two", "orders", imageGlibc)
	one.delete(t)
	wants(t, two.run(t, "glibc", "ipc", "get", "7"), "kept")
	two.delete(t)
	awaitGone(t, namespace, "orders", made.Metadata.UID)

	again := sleeper(t, namespace, "again", "orders", imageGlibc)
	wants(t, again.fails(t, "glibc", "ipc", "get", "7"), "shmget: No such file or directory")
}

// A retained space stays without pods, with its contents and on its node, until its object goes.
func TestRetained(t *testing.T) {
	needChart(t)
	t.Parallel()
	namespace := newNamespace(t)
	newIPCSpace(t, namespace, "orders", "retain: true")
	one := sleeper(t, namespace, "one", "orders", imageGlibc)
	one.run(t, "glibc", "ipc", "put", "7", "kept")
	one.delete(t)
	made, err := getIPCSpace(namespace, "orders")
	must(t, err)
	// Longer than a space without pods is waited for.
	must(t, holds(10, func() error {
		spaces, err := nodeSpaces()
		if err == nil && !slices.ContainsFunc(spaces, func(name string) bool { return strings.Contains(name, made.Metadata.UID) }) {
			err = fmt.Errorf("space %s is not among %v", made.Metadata.UID, spaces)
		}
		return err
	}))
	two := sleeper(t, namespace, "two", "orders", imageMusl)
	wants(t, two.run(t, "musl", "ipc", "get", "7"), "kept")
	two.delete(t)
	_, err = kubectl("-n", namespace, "delete", "ipcspace", "orders", "--timeout", patience.String())
	must(t, err)
	awaitGone(t, namespace, "orders", made.Metadata.UID)
}

// refusedUninstall is an error unless an uninstall fails and the drain's log says all of these.
func refusedUninstall(parts ...string) error {
	output, err := runCommand(helm("uninstall", release, "--wait", "--timeout", "2m"))
	if err == nil {
		return fmt.Errorf("it was not refused: %s", output)
	}
	logs, err := kubectl("-n", chartSpace, "logs", "job/"+release+"-drain")
	for _, part := range parts {
		if err == nil && !strings.Contains(logs, part) {
			err = fmt.Errorf("the refusal does not say %q:\n%s", part, logs)
		}
	}
	return err
}

// revision is the release's last one.
func revision() (string, error) {
	text, err := runCommand(helm("status", release, "-o", "json"))
	if err != nil {
		return "", err
	}
	var status struct{ Version int }
	err = json.Unmarshal([]byte(text), &status)
	return strconv.Itoa(status.Version), err
}

// An uninstall is refused while pods have spaces, while spaces are retained, and while a node does not
// let go of its own. A refusal harms nobody and takes nothing away: pods come and go, the uninstall can
// be tried again, or the release be kept. The last one leaves nothing.
func TestUninstall(t *testing.T) {
	needWhole(t)
	needChart(t)
	chart.Lock()
	defer chart.Unlock()
	namespace := newNamespace(t)
	newIPCSpace(t, namespace, "stock", "retain: true")
	keeper := sleeper(t, namespace, "keeper", "stock", imageGlibc)
	keeper.run(t, "glibc", "ipc", "put", "7", "kept")
	s := newStorm(t, namespace, "orders")
	s.during("an uninstall that is refused", func() error {
		return refusedUninstall("these pods have spaces", namespace+"/storm-1 on node "+nodeName, namespace+"/keeper", "then uninstall again")
	})
	late := sleeper(t, namespace, "late", "orders", imageGlibc)
	s.during("going back on it, and an upgrade", func() error {
		// Until then Helm takes the release for one that is going.
		revision, err := revision()
		if err == nil {
			_, err = runCommand(helm("rollback", release, revision, "--wait", "--timeout", startTimeout.String()))
		}
		if err != nil {
			return err
		}
		return installChart("1", "drain.timeout=10s")
	})
	for _, p := range append(s.pods, late, keeper) {
		p.delete(t)
	}
	must(t, refusedUninstall("these spaces are retained", namespace+"/stock", "then uninstall again"))
	keeper = sleeper(t, namespace, "keeper", "stock", imageGlibc)
	wants(t, keeper.run(t, "glibc", "ipc", "get", "7"), "kept")
	keeper.delete(t)

	// What is in it may be lost now, but its node does nothing for a while.
	managers := processes("/bin/ipcspace-manager")
	if len(managers) != 1 {
		t.Fatalf("managers: %v", managers)
	}
	must(t, syscall.Kill(managers[0], syscall.SIGSTOP))
	_, err := kubectl("-n", namespace, "annotate", "ipcspace", "stock", "ipcspace.io/drain=yes")
	must(t, err)
	err = refusedUninstall("have not let go of their spaces in time", "node "+nodeName+": "+namespace+"/stock", "then uninstall again")
	must(t, syscall.Kill(managers[0], syscall.SIGCONT))
	must(t, err)
	must(t, rollout())
	_, err = runCommand(helm("uninstall", release, "--wait", "--timeout", startTimeout.String()))
	if err != nil {
		t.Fatalf("%v\n%s", err, chartLogs())
	}
	chart.installed = false

	must(t, eventually(patience, func() error {
		left, err := kubectl("-n", chartSpace, "get", "pods,daemonsets,deployments,jobs,services,secrets", "-o", "name")
		if err == nil && left != "" {
			err = fmt.Errorf("left in %s:\n%s", chartSpace, left)
		}
		return err
	}))
	// The node has let go of the space; the object, which its author made, stays.
	if o, err := getIPCSpace(namespace, "stock"); err != nil || o.Status.Node != "" {
		t.Errorf("the retained space is on node %q: %v", o.Status.Node, err)
	}
	left, err := kubectl("get", "csidrivers,mutatingwebhookconfigurations,clusterroles,clusterrolebindings", "-o", "name")
	must(t, err)
	if strings.Contains(left, "ipcspace") {
		t.Errorf("left in the cluster:\n%s", left)
	}
	finalizers, err := kubectl("get", "ipcspaces", "-A", "-o", "jsonpath={.items[*].metadata.finalizers}")
	if err == nil && finalizers != "" {
		t.Errorf("finalizers that nobody is left to remove: %s", finalizers)
	}
	for _, part := range []string{" " + nodeRoot + "/", "kubernetes.io~csi"} {
		must(t, eventually(patience, func() error { return notMounted(part) }))
	}
	// The root's own folders stay, empty, with the lock by which two managers would know of each other.
	for _, pattern := range []string{nodeRoot + "/spaces/*", nodeRoot + "/proc/*", nodeRoot + "/private/[^l]*", nodeRoot + "/*.sock", *kubeletDir + "/plugins/csi.ipcspace.io", *kubeletDir + "/plugins_registry/*ipcspace*", filepath.Dir(hookPath) + "/*"} {
		if files, _ := filepath.Glob(pattern); len(files) > 0 {
			t.Errorf("left on the node: %v", files)
		}
	}
	for _, program := range []string{"/bin/ipcspace-manager", "/bin/ipcspace-csi", "/bin/ipcspace-shim"} {
		if pids := processes(program); len(pids) > 0 {
			t.Errorf("%s still runs: %v", program, pids)
		}
	}
}
