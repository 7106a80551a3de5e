package e2e_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// As many annotated pods as a kubelet takes by default, and how many of them have a space of their own.
const (
	scalePods    = 110
	idleFor      = time.Minute
	clusterNodes = 5000
)

// usage is the CPU time that programs have used so far, and their memory.
type usage struct {
	cpu      time.Duration
	resident int64 // bytes
}

// measure adds up all processes of a program.
func measure(pids []int) usage {
	var u usage
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it ended
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		var user, system, pages int64
		if _, err := fmt.Sscan(fields[11]+" "+fields[12]+" "+fields[21], &user, &system, &pages); err != nil {
			continue
		}
		u.cpu += time.Duration(user+system) * time.Second / 100 // USER_HZ
		u.resident += pages * int64(unix.Getpagesize())
	}
	return u
}

func (k *kubernetes) kubeletPIDs() []int {
	k.kubelet.mu.Lock()
	defer k.kubelet.mu.Unlock()
	return []int{k.kubelet.process.Process.Pid}
}

// A node full of pods, each with a space of its own: what it costs the kubelet, the manager and the
// API server to begin, idle and end.
func TestScale(t *testing.T) {
	needWhole(t)
	needChart(t)
	namespace := newNamespace(t)
	phase := func(name string, do func()) {
		t.Helper()
		_, offset, err := requests(0)
		must(t, err)
		kubelet, manager := measure(cluster.kubeletPIDs()), measure(processes("/bin/ipcspace-manager"))
		csi, began := measure(processes("/bin/ipcspace-csi")), time.Now()
		do()
		took := time.Since(began)
		kubeletNow, managerNow, csiNow := measure(cluster.kubeletPIDs()), measure(processes("/bin/ipcspace-manager")), measure(processes("/bin/ipcspace-csi"))
		made, _, err := requests(offset)
		must(t, err)
		counts := map[string]int{}
		for _, r := range made {
			counts[r.account()+" "+r.what()]++
		}
		t.Logf("%s: %v; CPU: kubelet %v, manager %v, csi and webhook %v; memory: manager %d MiB, csi and webhook %d MiB; requests %d",
			name, took.Round(100*time.Millisecond), kubeletNow.cpu-kubelet.cpu, managerNow.cpu-manager.cpu, csiNow.cpu-csi.cpu,
			managerNow.resident>>20, csiNow.resident>>20, len(made))
		for _, what := range slices.Sorted(maps.Keys(counts)) {
			t.Logf("\t%5d %s", counts[what], what)
		}
		if name == "idle" {
			perNode := float64(len(made)) / took.Seconds()
			t.Logf("\tidle: %.3f requests a second and node, %.0f a second of %d nodes", perNode, perNode*clusterNodes, clusterNodes)
		}
	}
	var manifest strings.Builder
	for i := range scalePods {
		fmt.Fprintf(&manifest, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: pod-%d, namespace: %s, annotations: {ipcspace.io/space: space-%d}}\n"+
			"spec: {terminationGracePeriodSeconds: 1, automountServiceAccountToken: false, containers: [%s]}\n", i, namespace, i, container("glibc", imageGlibc, "ipc", "sleep"))
	}
	phase(fmt.Sprintf("%d pods begin", scalePods), func() {
		must(t, apply(manifest.String()))
		must(t, eventually(20*time.Minute, func() error {
			ready, err := kubectl("-n", namespace, "get", "pods", "-o", `jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}`)
			if n := strings.Count(ready, "True\n"); err == nil && n < scalePods {
				err = fmt.Errorf("%d of %d pods are ready", n, scalePods)
			}
			time.Sleep(time.Second) // the look is not to be what is measured
			return err
		}))
	})
	warnings, err := kubectl("-n", namespace, "get", "events", "--field-selector", "type=Warning,source=ipcspace", "-o",
		`jsonpath={range .items[*]}{.involvedObject.name}{": "}{.message}{"\n"}{end}`)
	must(t, err)
	if warnings != "" {
		t.Errorf("pods that nothing was wrong with were told of:\n%s", warnings)
	}
	spaces, err := nodeSpaces()
	must(t, err)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	t.Logf("%d spaces; mounts in the node's namespace: %d, of which %d are the spaces' own and %d their pods'", len(spaces),
		strings.Count(string(mounts), "\n"), strings.Count(string(mounts), " "+nodeRoot+"/"), strings.Count(string(mounts), "kubernetes.io~csi"))
	phase("idle", func() { time.Sleep(idleFor) })
	phase("they end", func() {
		_, err := kubectl("-n", namespace, "delete", "pod", "--all", "--wait=false")
		must(t, err)
		must(t, eventually(10*time.Minute, func() error {
			left, err := kubectl("-n", namespace, "get", "pods,ipcspaces", "-o", "name")
			if err == nil && left != "" {
				err = fmt.Errorf("left: %d", strings.Count(left, "\n"))
			}
			return err
		}))
	})
}
