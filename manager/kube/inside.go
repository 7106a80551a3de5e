package kube

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// A container is looked at when it has run for settling, and again after doubt if the library was not
// there: until its runtime has executed the program, which takes seconds on a busy node, what is seen is
// the runtime's own process.
const (
	settling = 2 * time.Second
	doubt    = 20 * time.Second
)

// podChanged looks into each container that has started with a space mounted, once, and settles the
// spaces of a pod that is over.
func (n *Node) podChanged(pod *corev1.Pod) {
	if !hasSpace(pod) {
		return
	}
	if over(pod) {
		n.podGone(pod)
		return
	}
	status := slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses)
	for _, s := range status {
		if s.State.Running == nil || s.ContainerID == "" || !mountsSpace(pod, s.Name) {
			continue
		}
		n.mu.Lock()
		_, before := n.looked[s.ContainerID]
		n.looked[s.ContainerID] = pod.UID
		n.mu.Unlock()
		if !before {
			n.queue.AddAfter(task{pod: pod.UID, container: s.ContainerID}, settling)
		}
	}
}

// mountsSpace tells whether a container of the pod has a volume that is a space.
func mountsSpace(pod *corev1.Pod, container string) bool {
	mounts := map[string][]corev1.VolumeMount{}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		mounts[c.Name] = c.VolumeMounts
	}
	for _, c := range pod.Spec.EphemeralContainers {
		mounts[c.Name] = c.VolumeMounts
	}
	return slices.ContainsFunc(mounts[container], func(m corev1.VolumeMount) bool {
		return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name && isSpace(v) })
	})
}

// lookInside tells the pod's author of a container whose programs do not load the library: they
// would use the kernel's own System V IPC, or find it closed.
func (n *Node) lookInside(t task) {
	pod := n.cachedPod(string(t.pod))
	_, id, _ := strings.Cut(t.container, "://")
	pid := firstProcess(id)
	if pod == nil || pid == 0 || loadsLibrary(pid) {
		return
	}
	if !t.again {
		t.again = true
		n.queue.AddAfter(t, doubt)
		return
	}
	name := ""
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses) {
		if s.ContainerID == t.container {
			name = s.Name
		}
	}
	n.log.Warn("library not injected", slogPod(pod), "container", name, "pid", pid)
	if events := n.recorder(); events != nil {
		events.Eventf(pod, corev1.EventTypeWarning, reasonInjected,
			"container %s has a space, but its LD_PRELOAD does not name libipcspace.so: see that the node's runtime has NRI enabled and that the nri container of ipcspace runs, then start the pod anew; or set LD_PRELOAD in the pod", name)
	}
}

// firstProcess is the process of a container with the lowest pid; 0: none.
func firstProcess(container string) int {
	entries, err := os.ReadDir("/proc")
	if err != nil || container == "" {
		return 0
	}
	first := 0
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || first != 0 && pid > first {
			continue
		}
		cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err == nil && bytes.Contains(cgroup, []byte(container)) {
			first = pid
		}
	}
	return first
}

// loadsLibrary tells whether a process was started with the library, or has /etc/ld.so.preload name
// it. True also if that cannot be known.
func loadsLibrary(pid int) bool {
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil || len(environment) == 0 { // exec is under way
		return true
	}
	for variable := range bytes.SplitSeq(environment, []byte{0}) {
		if value, ok := bytes.CutPrefix(variable, []byte("LD_PRELOAD=")); ok && bytes.Contains(value, []byte("libipcspace")) {
			return true
		}
	}
	preload, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/etc/ld.so.preload", pid))
	return err == nil && bytes.Contains(preload, []byte("libipcspace"))
}
