package admission

import (
	"fmt"
	"path"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/ipcspace/ipcspace/manager/kube/v1alpha1"
	"github.com/ipcspace/ipcspace/shim"
)

// wish is what a pod wants, read from it.
type wish struct {
	space space
	// annotated: every container gets the space. Otherwise the pod's author says which do.
	annotated bool
	// volume is the pod's volume for it; "" if there is none yet.
	volume string
}

// read finds out what a pod wants; nil: nothing. Errors are for who made the pod.
func read(pod *corev1.Pod, namespace string) (*wish, error) {
	text, annotated := pod.Annotations[shim.AnnotationSpace]
	w := &wish{annotated: annotated}
	if annotated {
		var err error
		if w.space, err = parse(text, namespace); err != nil {
			return nil, fmt.Errorf("annotation %s: %w", shim.AnnotationSpace, err)
		}
	}
	for _, v := range pod.Spec.Volumes {
		if v.CSI == nil || v.CSI.Driver != v1alpha1.Driver {
			if annotated && v.Name == volumeName {
				return nil, fmt.Errorf("the pod has a volume %q that is no space: give it another name", volumeName)
			}
			continue
		}
		if v.CSI.ReadOnly == nil || !*v.CSI.ReadOnly {
			return nil, fmt.Errorf("volume %q: set csi.readOnly: true", v.Name)
		}
		named, err := parse(v.CSI.VolumeAttributes[v1alpha1.AttributeSpace], namespace)
		if err != nil {
			return nil, fmt.Errorf("volume %q: csi.volumeAttributes.%s: %w", v.Name, v1alpha1.AttributeSpace, err)
		}
		if (annotated || w.volume != "") && named != w.space {
			return nil, fmt.Errorf("volume %q is of space %s, and the pod asks for %s, too: a pod has one space; drop one of them", v.Name, named, w.space)
		}
		w.space, w.volume = named, v.Name
	}
	if !annotated && w.volume == "" {
		return nil, nil
	}
	if os := pod.Spec.OS; os != nil && os.Name == corev1.Windows {
		return nil, fmt.Errorf("spaces are for Linux: the pod says spec.os.name: %s", os.Name)
	}
	return w, nil
}

// forNew is the patch of a pod that is being made. It may be made in several turns, with other
// webhooks in between: what is there already stays.
func (w *wish) forNew(pod *corev1.Pod, namespace string, at placement) patch {
	var p patch
	if w.annotated && w.volume == "" {
		w.volume = volumeName
		join(&p, "/spec/volumes", len(pod.Spec.Volumes), w.space.volume(namespace))
	}
	if w.annotated {
		w.mount(&p, "initContainers", pod.Spec.InitContainers)
		w.mount(&p, "containers", pod.Spec.Containers)
	}
	if pod.Spec.NodeName != "" {
		return p // nobody places it any more
	}
	if value := w.space.label(); pod.Labels[labelSpace] != value {
		if len(pod.Labels) == 0 {
			p.add("/metadata/labels", map[string]string{labelSpace: value})
		} else {
			p.add(pointer("metadata", "labels", labelSpace), value)
		}
	}
	at.require(&p, pod)
	return p
}

// forEphemeral is the patch of a pod that gets ephemeral containers: those that are new may still be
// changed. The pod's volumes may not.
func (w *wish) forEphemeral(pod, old *corev1.Pod) (p patch, warnings []string) {
	if !w.annotated {
		return nil, nil
	}
	if w.volume == "" {
		return nil, []string{"ipcspace: the pod was created without its space's volume, so its ephemeral containers cannot have the space; create it anew"}
	}
	containers := make([]corev1.Container, len(pod.Spec.EphemeralContainers))
	for i, c := range pod.Spec.EphemeralContainers {
		if slices.ContainsFunc(old.Spec.EphemeralContainers, func(o corev1.EphemeralContainer) bool { return o.Name == c.Name }) {
			c.VolumeMounts = []corev1.VolumeMount{{MountPath: shim.Target}} // as it is
		}
		containers[i] = corev1.Container(c.EphemeralContainerCommon)
	}
	w.mount(&p, "ephemeralContainers", containers)
	return p, nil
}

// mount gives the volume to those containers that have nothing at its place.
func (w *wish) mount(p *patch, field string, containers []corev1.Container) {
	for i, c := range containers {
		if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return path.Clean("/"+m.MountPath) == shim.Target }) {
			continue
		}
		join(p, pointer("spec", field, strconv.Itoa(i), "volumeMounts"), len(c.VolumeMounts),
			corev1.VolumeMount{Name: w.volume, MountPath: shim.Target, ReadOnly: true})
	}
}

// warnings are what the author should know although the pod is fine.
func warnings(pod *corev1.Pod) (w []string) {
	if pod.Spec.HostIPC && pod.Annotations[shim.AnnotationKernelIPC] != "open" {
		w = append(w, fmt.Sprintf("ipcspace: the pod shares the node's IPC namespace, whose kernel tables cannot be closed to it, so its containers will be refused; drop hostIPC, or set the annotation %s: open", shim.AnnotationKernelIPC))
	}
	return w
}
