package e2e_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// newIPCSpace makes the object of a space, with fields of its spec.
func newIPCSpace(t *testing.T, namespace, name string, fields ...string) {
	t.Helper()
	must(t, apply(ipcSpace(namespace, name, fields...)))
}

func ipcSpace(namespace, name string, fields ...string) string {
	text := fmt.Sprintf("apiVersion: ipcspace.io/v1alpha1\nkind: IPCSpace\nmetadata: {name: %s, namespace: %s}\nspec:\n", name, namespace)
	if len(fields) == 0 {
		text += "  {}\n"
	}
	for _, field := range fields {
		text += "  " + field + "\n"
	}
	return text
}

// A space may be for some service accounts only. A pod of another does not start, and is told what to
// do; when that is done, it starts by itself.
func TestServiceAccounts(t *testing.T) {
	needChart(t)
	t.Parallel()
	namespace := newNamespace(t)
	for _, account := range []string{"clerk", "visitor"} {
		_, err := kubectl("-n", namespace, "create", "serviceaccount", account)
		must(t, err)
	}
	newIPCSpace(t, namespace, "orders", "allowedServiceAccounts: [clerk]")
	containers := "containers: [" + container("glibc", imageGlibc, "ipc", "sleep") + "]"
	newPod(t, namespace, "clerk", "orders", "serviceAccountName: clerk", containers).awaitReady(t)

	visitor := newPod(t, namespace, "visitor", "orders", "serviceAccountName: visitor", containers)
	wants(t, visitor.awaitEvent(t, "spec.allowedServiceAccounts"), "/visitor")
	visitor.isNotStarted(t)
	newIPCSpace(t, namespace, "orders", "allowedServiceAccounts: [clerk, visitor]")
	visitor.awaitReady(t)
}

// A space of another namespace: only if its object allows it.
func TestSpaceOfAnotherNamespace(t *testing.T) {
	needChart(t)
	t.Parallel()
	shop, office := newNamespace(t), newNamespace(t)
	owner := sleeper(t, shop, "owner", "orders", imageGlibc)
	owner.run(t, "glibc", "ipc", "put", "7", "hello")
	containers := "containers: [" + container("glibc", imageGlibc, "ipc", "sleep") + "]"

	guest := newPod(t, office, "guest", shop+"/orders", containers)
	wants(t, guest.awaitEvent(t, "spec.allowedNamespaces"), shop+"/orders")
	guest.isNotStarted(t)

	newIPCSpace(t, shop, "orders", "allowedNamespaces: ["+office+"]")
	guest.awaitReady(t)
	wants(t, guest.run(t, "glibc", "ipc", "get", "7"), "hello")
}

// The folder of a space is not what lets in: a pod that may mount the node's files and takes it, with the
// library, is told apart by its cgroup.
func TestIntruder(t *testing.T) {
	needChart(t)
	t.Parallel()
	namespace := newNamespace(t)
	owner := sleeper(t, namespace, "owner", "orders", imageGlibc)
	owner.run(t, "glibc", "ipc", "put", "7", "hello")
	orders, err := getIPCSpace(namespace, "orders")
	must(t, err)
	folders, err := filepath.Glob(nodeRoot + "/spaces/*" + orders.Metadata.UID)
	must(t, err)
	if len(folders) != 1 {
		t.Fatalf("the space's folders: %v", folders)
	}
	c := strings.TrimSuffix(container("glibc", imageGlibc, "ipc", "sleep"), "}") +
		", env: [{name: LD_PRELOAD, value: /run/ipcspace/lib/libipcspace.so}, {name: IPCSPACE_REQUIRED, value: '1'}]" +
		", volumeMounts: [{name: taken, mountPath: /run/ipcspace, readOnly: true}]}"
	intruder := newPod(t, namespace, "intruder", "", "containers: ["+c+"]",
		fmt.Sprintf("volumes: [{name: taken, hostPath: {path: %s, type: Directory}}]", folders[0]))
	intruder.awaitReady(t)
	wants(t, intruder.run(t, "glibc", "ls", "/run/ipcspace"), "register")
	wants(t, intruder.fails(t, "glibc", "ipc", "get", "7"), "shmget: Function not implemented")
	wants(t, owner.run(t, "glibc", "ipc", "get", "7"), "hello")
}

// Without a right to use a space nobody joins it; the event has the command that grants it.
func TestAccessReview(t *testing.T) {
	needChart(t)
	const binding = release + "-users" // the chart's, for all service accounts
	defer without(t, "clusterrolebinding", binding)()
	p := newPod(t, newNamespace(t), "pod", "orders", "containers: ["+container("glibc", imageGlibc, "ipc", "sleep")+"]")
	event := p.awaitEvent(t, "grant it")
	p.isNotStarted(t)
	_, command, _ := strings.Cut(event, ": kubectl ")
	_, err := kubectl(strings.Fields(command)...)
	must(t, err)
	p.awaitReady(t)
}

// What would not be safe is refused, with an event, or at once, and the text says what to change.
func TestRefusedPods(t *testing.T) {
	needChart(t)
	t.Parallel()
	namespace := newNamespace(t)
	c := fmt.Sprintf("containers: [{name: glibc, image: %q, volumeMounts: [{name: ipc, mountPath: /run/ipcspace}]}]", imageGlibc)
	for what, volume := range map[string][2]string{
		"writable": {"readOnly: false, volumeAttributes: {space: orders}", "readOnly: true"},
		"no name":  {"readOnly: true", "names no space"},
		"a path":   {"readOnly: true, volumeAttributes: {space: ../orders}", "names no space"},
	} {
		_, err := tryPod(namespace, "refused", "", c, "volumes: [{name: ipc, csi: {driver: csi.ipcspace.io, "+volume[0]+"}}]")
		if err == nil || !strings.Contains(err.Error(), volume[1]) {
			t.Errorf("%s: %v", what, err)
		}
	}
	t.Run("a kernel of its own", func(t *testing.T) {
		must(t, apply("apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: kata}\nhandler: kata\n"))
		t.Cleanup(func() {
			_, err := kubectl("delete", "runtimeclass", "kata")
			must(t, err)
		})
		p := newPod(t, namespace, "virtual", "orders", "runtimeClassName: kata", "containers: ["+container("glibc", imageGlibc, "ipc", "sleep")+"]")
		p.awaitEvent(t, "has a kernel of its own")
		p.isNotStarted(t)
	})
}
