package e2e_test

import (
	"fmt"
	"strings"
	"testing"
)

// The system's own tools show the space and change it, in any pod that has one: the kernel's tables,
// which they would read, are hidden. A pod without a space has them as ever.
func TestSystemTools(t *testing.T) {
	needChart(t)
	t.Parallel()
	namespace := newNamespace(t)
	one := sleeper(t, namespace, "one", "orders", imageGlibc, imageStatic)
	two := sleeper(t, namespace, "two", "orders", imageGlibc)
	// The kernel's own IPC may be left open: the tools show the space all the same.
	must(t, apply(fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: open, namespace: %s, annotations: {ipcspace.io/space: orders, ipcspace.io/kernel-ipc: open}}\n"+
		"spec: {terminationGracePeriodSeconds: 1, containers: [%s, %s]}\n", namespace,
		container("glibc", imageGlibc, "ipc", "sleep"), container("static", imageStatic, "ipc", "sleep"))))
	open := pod{namespace, "open"}
	open.awaitReady(t)

	one.run(t, "glibc", "ipc", "put", "7", "hello")
	wants(t, one.run(t, "glibc", "ipcmk", "-Q"), "Message queue id: 0")
	wants(t, one.run(t, "glibc", "ipcmk", "-S", "3"), "Semaphore id: 0")
	for _, p := range []pod{one, two, open} {
		for _, line := range []string{"ipcs -m", "lsipc -m"} {
			wants(t, p.run(t, "glibc", strings.Fields(line)...), "0x00000007")
		}
		wants(t, p.run(t, "glibc", "ipcs", "-qu"), "allocated queues = 1")
		wants(t, p.run(t, "glibc", "ipcs", "-su"), "allocated semaphores = 3")
	}
	two.run(t, "glibc", "ipcrm", "-M", "7", "-q", "0", "-s", "0")
	wants(t, one.fails(t, "glibc", "ipc", "get", "7"), "shmget: No such file or directory")
	wants(t, one.run(t, "glibc", "ipcs", "-u"), "allocated queues = 0")

	if listing := one.run(t, "static", "ls", "/proc/sysvipc"); listing != "" {
		t.Errorf("the kernel's tables are to be seen: %q", listing)
	}
	wants(t, one.fails(t, "static", "ipc", "raw"), "raw shmget: No space left on device")
	wants(t, open.run(t, "static", "ipc", "raw"), "raw shmget ")
	plain := sleeper(t, namespace, "plain", "", imageGlibc)
	wants(t, plain.run(t, "glibc", "ls", "/proc/sysvipc"), "shm")
}
