package kube

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// What is seen of a container's environment from outside.
func TestLoadsLibrary(t *testing.T) {
	for _, c := range []struct {
		env   string
		loads bool
	}{
		{"LD_PRELOAD=/run/ipcspace/lib/libipcspace.so", true},
		{"LD_PRELOAD=/lib/other.so:/run/ipcspace/lib/libipcspace.so", true},
		{"LD_PRELOAD=/lib/other.so", false},
		{"NOT_LD_PRELOAD=libipcspace.so", false},
	} {
		cmd := exec.Command("sleep", "60")
		cmd.Env = []string{c.env}
		check(t, cmd.Start())
		for { // Start comes back in the middle of exec
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", cmd.Process.Pid)); err != nil || len(b) > 0 {
				break
			}
		}
		if got := loadsLibrary(cmd.Process.Pid); got != c.loads {
			t.Errorf("%s: %v", c.env, got)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if firstProcess("") != 0 || firstProcess("no such container") != 0 {
		t.Error("a container that is not there has a process")
	}
}

// Init, sidecar and ephemeral containers count like any other, by what they mount.
func TestMountsSpace(t *testing.T) {
	mount := []corev1.VolumeMount{{Name: "ipcspace", MountPath: "/run/ipcspace"}}
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		Volumes: []corev1.Volume{
			{Name: "ipcspace", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "csi.ipcspace.io"}}},
			{Name: "data"},
		},
		InitContainers:      []corev1.Container{{Name: "init", VolumeMounts: mount}},
		Containers:          []corev1.Container{{Name: "main", VolumeMounts: mount}, {Name: "plain", VolumeMounts: []corev1.VolumeMount{{Name: "data"}}}},
		EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", VolumeMounts: mount}}},
	}}
	for name, want := range map[string]bool{"init": true, "main": true, "debug": true, "plain": false, "none": false} {
		if mountsSpace(pod, name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}
