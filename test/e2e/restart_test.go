package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// These disturb all pods of the node: none of them is parallel.

// processes is the pids of a program on the node, by the beginning of its command line.
func processes(program string) []int {
	var pids []int
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, line := range lines {
		text, err := os.ReadFile(line)
		if err != nil || !strings.HasPrefix(string(text), program+"\x00") {
			continue
		}
		pid := 0
		if _, err := fmt.Sscanf(line, "/proc/%d/", &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// killContainer kills a container of the node's ipcspace pod, and waits until the kubelet has started
// it again and the pod is ready.
func killContainer(name, program string) error {
	before, err := restarts(name)
	if err != nil {
		return err
	}
	pids := processes(program)
	if len(pids) != 1 {
		return fmt.Errorf("%d processes are %s", len(pids), program)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		return err
	}
	return awaitRestart(name, before)
}

// awaitRestart waits until a container has started more often, and the pod is ready.
func awaitRestart(name, before string) error {
	err := eventually(patience, func() error {
		now, err := restarts(name)
		if err == nil && now == before {
			err = fmt.Errorf("container %s has not started again", name)
		}
		return err
	})
	if err != nil {
		return err
	}
	return rollout()
}

// killAll kills all that a node has for its pods at the same moment, and has it start again.
func killAll() error {
	before, err := restarts("manager")
	if err != nil {
		return err
	}
	cluster.kubelet.kill()
	for _, program := range []string{"/bin/ipcspace-manager", "/bin/ipcspace-csi\x00node", "/bin/ipcspace-shim"} {
		for _, pid := range processes(program) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				return fmt.Errorf("kill %s: %w", program, err)
			}
		}
	}
	for _, d := range []*daemon{&cluster.containerd, &cluster.kubelet} {
		if err := d.restart(); err != nil {
			return err
		}
	}
	return awaitRestart("manager", before)
}

// restarts is how often a container of the node's ipcspace pod started again.
func restarts(container string) (string, error) {
	return kubectl("-n", chartSpace, "get", "pods", "-l", "app.kubernetes.io/component=node", "-o",
		fmt.Sprintf(`jsonpath={.items[*].status.containerStatuses[?(@.name==%q)].restartCount}`, container))
}

// Everything may start again in any order: who uses a space does not notice, and who comes gets one.
func TestRestarts(t *testing.T) {
	needWhole(t)
	needChart(t)
	namespace := newNamespace(t)
	s := newStorm(t, namespace, "orders")
	kinds := map[string]func() error{
		"kubelet":    cluster.kubelet.restart,
		"containerd": cluster.containerd.restart,
		"manager":    func() error { return killContainer("manager", "/bin/ipcspace-manager") },
		"csi":        func() error { return killContainer("csi", "/bin/ipcspace-csi\x00node") },
		"all":        killAll,
		"nri":        func() error { return killContainer("nri", "/bin/ipcspace-shim") },
	}
	number := 0
	for _, order := range [][]string{{"kubelet", "containerd", "manager", "csi"}, {"csi", "nri", "containerd", "kubelet", "all"}} {
		for _, kind := range order {
			s.during("a restart of "+kind, kinds[kind])
			number++
			late := sleeper(t, namespace, fmt.Sprintf("late-%d", number), "orders", imageGlibc)
			wants(t, late.run(t, "glibc", "ipc", "value", "7"), "")
			late.delete(t)
		}
	}
}

// An upgrade of the chart replaces every container of it, while pods use their space.
func TestUpgrade(t *testing.T) {
	needWhole(t)
	needChart(t)
	namespace := newNamespace(t)
	s := newStorm(t, namespace, "orders")
	keeper := sleeper(t, namespace, "keeper", "orders", imageGlibc)
	keeper.run(t, "glibc", "ipc", "put", "9", "kept")
	before := processes("/bin/ipcspace-manager")
	s.during("an upgrade", func() error { return installChart("2") })
	if after := processes("/bin/ipcspace-manager"); len(after) != 1 || after[0] == before[0] {
		t.Errorf("managers before the upgrade %v, after %v", before, after)
	}
	wants(t, keeper.run(t, "glibc", "ipc", "get", "9"), "kept")
	late := sleeper(t, namespace, "late", "orders", imageMusl)
	wants(t, late.run(t, "musl", "ipc", "get", "9"), "kept")
	s.during("going back", func() error {
		if _, err := runCommand(helm("rollback", release, "--wait", "--timeout", startTimeout.String())); err != nil {
			return err
		}
		return rollout()
	})
	wants(t, late.run(t, "musl", "ipc", "get", "9"), "kept")
}

// While the API server is away, what runs goes on, also over a restart of the manager's container.
func TestAPIServerAway(t *testing.T) {
	needWhole(t)
	needChart(t)
	namespace := newNamespace(t)
	s := newStorm(t, namespace, "orders")
	s.during("the API server's absence", func() error {
		managers := processes("/bin/ipcspace-manager")
		if len(managers) != 1 {
			return fmt.Errorf("managers: %v", managers)
		}
		cluster.apiserver.kill()
		defer func() { must(t, cluster.apiserver.restart()) }()
		s.goesOn("without the API server")
		if err := syscall.Kill(managers[0], syscall.SIGKILL); err != nil {
			return err
		}
		err := eventually(patience, func() error {
			now := processes("/bin/ipcspace-manager")
			if len(now) != 1 || now[0] == managers[0] {
				return fmt.Errorf("managers: %v", now)
			}
			return nil
		})
		s.goesOn("with a manager that began without the API server")
		return err
	})
	must(t, rollout())
	late := sleeper(t, namespace, "late", "orders", imageGlibc)
	wants(t, late.run(t, "glibc", "ipc", "value", "7"), "")
}
