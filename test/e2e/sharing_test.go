package e2e_test

import (
	"fmt"
	"strings"
	"testing"
)

// A pod that asks for nothing gets nothing, and has the kernel's own IPC as ever.
func TestPodWithoutSpace(t *testing.T) {
	needChart(t)
	t.Parallel()
	p := sleeper(t, newNamespace(t), "plain", "", imageGlibc, imageStatic)
	wants(t, p.run(t, "static", "ipc", "raw"), "raw shmget ")
	wants(t, p.run(t, "glibc", "ipc", "put", "7", "hello"), "hello")
	if env := p.run(t, "glibc", "env"); strings.Contains(env, "LD_PRELOAD") || strings.Contains(env, "IPCSPACE") {
		t.Errorf("its environment:\n%s", env)
	}
	if output, err := p.try("glibc", "ls", "/run/ipcspace"); err == nil {
		t.Errorf("it has a space: %s", output)
	}
}

// An annotation is enough: two pods share a space, whatever their libc, and a third has another.
func TestSharing(t *testing.T) {
	needChart(t)
	t.Parallel()
	namespace := newNamespace(t)
	one := sleeper(t, namespace, "one", "orders", imageGlibc, imageStatic)
	two := sleeper(t, namespace, "two", "orders", imageMusl)
	other := sleeper(t, namespace, "other", "invoices", imageGlibc)

	wants(t, one.run(t, "glibc", "ipc", "put", "7", "hello"), "hello")
	wants(t, two.run(t, "musl", "ipc", "get", "7"), "hello")
	wants(t, other.fails(t, "glibc", "ipc", "get", "7"), "shmget: No such file or directory")
	one.run(t, "glibc", "ipc", "send", "8", "letter")
	wants(t, two.run(t, "musl", "ipc", "receive", "8"), "letter")

	// A static program has no library to ask: it is refused, instead of being alone without knowing.
	wants(t, one.fails(t, "static", "ipc", "put", "7", "x"), "shmget: No space left on device")
	wants(t, one.fails(t, "static", "ipc", "raw"), "raw shmget: No space left on device")

	wants(t, one.run(t, "glibc", "env"), "LD_PRELOAD=/run/ipcspace/lib/libipcspace.so\n")
	wants(t, one.fails(t, "glibc", "touch", "/run/ipcspace/x"), "Read-only file system")
}

// The same name in two namespaces is two spaces.
func TestSameNameInTwoNamespaces(t *testing.T) {
	needChart(t)
	t.Parallel()
	one := sleeper(t, newNamespace(t), "one", "orders", imageGlibc)
	two := sleeper(t, newNamespace(t), "two", "orders", imageGlibc)
	one.run(t, "glibc", "ipc", "put", "7", "hello")
	wants(t, two.fails(t, "glibc", "ipc", "get", "7"), "shmget: No such file or directory")
}

// ownVolume is the fields of a pod that names its space itself, in one container.
func ownVolume(space, image string, command ...string) []string {
	c := strings.TrimSuffix(container(shortName(image), image, command...), "}")
	return []string{
		"containers: [" + c + ", volumeMounts: [{name: ipc, mountPath: /run/ipcspace, readOnly: true}]}]",
		fmt.Sprintf("volumes: [{name: ipc, csi: {driver: csi.ipcspace.io, readOnly: true, volumeAttributes: {space: %q}}}]", space),
	}
}

// A pod may name the volume itself, and meets those that are annotated. Both can be had in a namespace
// of the strictest Pod Security Standard, which refuses what people do without spaces.
func TestRestrictedNamespace(t *testing.T) {
	needChart(t)
	t.Parallel()
	namespace := newNamespace(t, "pod-security.kubernetes.io/enforce: restricted")
	if _, err := tryPod(namespace, "host", "", "hostIPC: true", "containers: ["+container("glibc", imageGlibc, "ipc", "sleep")+"]"); err == nil {
		t.Error("hostIPC was admitted: the namespace is not restricted")
	}
	own := newPod(t, namespace, "own", "", ownVolume("orders", imageGlibc, "ipc", "sleep")...)
	annotated := sleeper(t, namespace, "annotated", "orders", imageMusl)
	own.awaitReady(t)
	own.run(t, "glibc", "ipc", "put", "7", "hello")
	wants(t, annotated.run(t, "musl", "ipc", "get", "7"), "hello")
}

// All kinds of containers of a pod are in its space: init, sidecar, main, and one that comes later.
func TestContainersOfAPod(t *testing.T) {
	needChart(t)
	t.Parallel()
	sidecar := strings.TrimSuffix(container("sidecar", imageMusl, "ipc", "sleep"), "}") + ", restartPolicy: Always}"
	p := newPod(t, newNamespace(t), "pod", "orders",
		"initContainers: ["+sidecar+", "+container("first", imageGlibc, "ipc", "put", "7", "hello")+"]",
		"containers: ["+container("main", imageGlibc, "ipc", "sleep")+"]")
	p.awaitReady(t)
	wants(t, p.run(t, "main", "ipc", "get", "7"), "hello")
	wants(t, p.run(t, "sidecar", "ipc", "get", "7"), "hello")

	patch := fmt.Sprintf(`{"spec": {"ephemeralContainers": [{"name": "later", "image": %q, "command": ["ipc", "sleep"]}]}}`, imageGlibc)
	_, err := p.kubectl("patch", "pod", p.name, "--subresource", "ephemeralcontainers", "--type", "strategic", "-p", patch)
	must(t, err)
	must(t, eventually(patience, func() error {
		running, err := p.field(".status.ephemeralContainerStatuses[0].state.running.startedAt")
		if err == nil && running == "" {
			err = fmt.Errorf("the ephemeral container does not run:\n%s", state(p.namespace))
		}
		return err
	}))
	wants(t, p.run(t, "later", "ipc", "get", "7"), "hello")
}
