package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// setMountMax has the node's manager read another fs.mount-max, which is one for the whole machine: a file
// is bound over it. The manager's image has no programs for that, but its container has the node's
// folder of spaces.
func setMountMax(t *testing.T, most int) {
	t.Helper()
	managers := processes("/bin/ipcspace-manager")
	if len(managers) != 1 {
		t.Fatalf("managers: %v", managers)
	}
	busybox, err := os.ReadFile("/usr/bin/busybox")
	must(t, err)
	file, mount := filepath.Join(nodeRoot, "mount-max"), filepath.Join(nodeRoot, "mount")
	must(t, os.WriteFile(file, fmt.Appendln(nil, most), 0o644))
	must(t, os.WriteFile(mount, busybox, 0o755))
	t.Cleanup(func() { // the bind goes with the container
		must(t, killContainer("manager", "/bin/ipcspace-manager"))
		must(t, errors.Join(os.Remove(file), os.Remove(mount)))
	})
	_, err = runCommand(exec.Command("nsenter", "-t", fmt.Sprint(managers[0]), "-m", mount, "--bind", file, "/proc/sys/fs/mount-max"))
	must(t, err)
}

// A node that bears no more spaces makes none: the pod waits, is told why, and begins when there is room.
func TestTooManySpaces(t *testing.T) {
	needWhole(t)
	needChart(t)
	namespace := newNamespace(t)
	first := sleeper(t, namespace, "first", "orders", imageGlibc)
	spaces, err := nodeSpaces()
	must(t, err)
	setMountMax(t, 16*len(spaces)) // 8 mounts each, and as much for the rest of the node
	second := newPod(t, namespace, "second", "invoices", "containers: ["+container("glibc", imageGlibc, "ipc", "sleep")+"]")
	wants(t, second.awaitEvent(t, "TooManySpaces"), fmt.Sprintf("this manager bears %d; end other spaces of the node", len(spaces)))
	second.isNotStarted(t)
	// Who joins one that is there asks for none.
	sleeper(t, namespace, "third", "orders", imageGlibc).delete(t)
	first.delete(t)
	second.awaitReady(t)
}
