package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// reboot is what a machine's boot is to its pods: no process, no cgroup, no mount, nothing in /run. Its disk
// stays; the control plane is another machine, here. The kernel's number of the boot cannot change,
// so the claims are made to be of an earlier one.
func reboot() error {
	for _, d := range []*daemon{&cluster.kubelet, &cluster.containerd} {
		d.kill()
	}
	if err := eventually(patience, killPods); err != nil {
		return err
	}
	// Their cgroups, too: the kubelet would spend seconds on each in vain, before it starts any pod.
	for _, root := range cgroupRoots(filepath.Base(scratch)) {
		err := eventually(patience, func() error {
			err := removeTree(filepath.Join(root, "kubepods"))
			if errors.Is(err, os.ErrNotExist) {
				err = nil
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("the pods' cgroups: %w", err)
		}
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	slices.Reverse(lines) // what was mounted last goes first
	for _, line := range lines {
		target := strings.Fields(line)[4]
		if strings.HasPrefix(target, "/run/") || strings.HasPrefix(target, "/var/") {
			if err := unix.Unmount(target, 0); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("unmount %s: %w", target, err)
			}
		}
	}
	entries, err := os.ReadDir("/run")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.Name() == "node" { // the suite's
			continue
		}
		if err := os.RemoveAll(filepath.Join("/run", entry.Name())); err != nil {
			return err
		}
	}
	claims, err := kubectl("get", "ipcspaces", "-A", "-o",
		`jsonpath={range .items[?(@.status.node=="`+nodeName+`")]}{.metadata.namespace} {.metadata.name}{"\n"}{end}`)
	if err != nil {
		return err
	}
	for line := range strings.Lines(claims) {
		namespace, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		if err := claim(namespace, name, nodeName, earlierBoot); err != nil {
			return err
		}
	}
	for _, d := range []*daemon{&cluster.containerd, &cluster.kubelet} {
		if err := d.restart(); err != nil {
			return err
		}
	}
	return nil
}

// killPods kills all but the suite and the cluster's programs, and is an error while there is more.
func killPods() error {
	spared := []int{1, os.Getpid()}
	files, err := filepath.Glob(filepath.Join(scratch, "pid", "*"))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		pid, err := strconv.Atoi(string(text))
		if err != nil {
			return err
		}
		spared = append(spared, pid)
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	var left []string
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || slices.Contains(spared, pid) {
			continue
		}
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err == nil && len(line) > 0 { // it lives
			left = append(left, string(line))
			_ = syscall.Kill(pid, syscall.SIGKILL) // may have ended meanwhile
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("%d processes live, the first is %q", len(left), left[0])
	}
	return nil
}

// After a boot pods start again by themselves, in new and empty spaces; nothing is stuck.
func TestReboot(t *testing.T) {
	needWhole(t)
	needChart(t)
	namespace := newNamespace(t)
	newIPCSpace(t, namespace, "retained", "retain: true")
	pods := []pod{
		sleeper(t, namespace, "one", "orders", imageGlibc),
		sleeper(t, namespace, "two", "orders", imageGlibc),
		sleeper(t, namespace, "three", "retained", imageGlibc),
	}
	for _, p := range pods {
		p.run(t, "glibc", "ipc", "put", "7", "before the boot")
	}
	began := time.Now()
	must(t, reboot())
	t.Logf("the node was ready again after %v", time.Since(began).Round(time.Second))
	must(t, rollout())
	for _, p := range pods {
		must(t, eventually(patience, func() error {
			again, err := p.field(".status.containerStatuses[0].restartCount")
			if err == nil && again == "0" {
				err = fmt.Errorf("%s has not started again", p.name)
			}
			return err
		}))
		p.awaitReady(t)
	}
	t.Logf("its pods were ready again after %v", time.Since(began).Round(time.Second))
	after, err := getIPCSpace(namespace, "orders")
	must(t, err)
	if after.Status.Node != nodeName || after.Status.BootID == earlierBoot {
		t.Errorf("the claim is of %q, boot %q", after.Status.Node, after.Status.BootID)
	}
	wants(t, pods[0].fails(t, "glibc", "ipc", "get", "7"), "shmget: No such file or directory")
	wants(t, pods[2].fails(t, "glibc", "ipc", "get", "7"), "shmget: No such file or directory")
	pods[0].run(t, "glibc", "ipc", "put", "7", "after it")
	wants(t, pods[1].run(t, "glibc", "ipc", "get", "7"), "after it")
	for _, p := range pods {
		p.delete(t)
	}
	awaitGone(t, namespace, "orders", after.Metadata.UID)
}
