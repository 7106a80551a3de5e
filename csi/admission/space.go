package admission

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/ipcspace/ipcspace/manager/admin"
	"github.com/ipcspace/ipcspace/manager/kube/v1alpha1"
	"github.com/ipcspace/ipcspace/shim"
)

const (
	// labelSpace stands on every pod with a space, for other pods' affinity.
	labelSpace = shim.AnnotationSpace
	// volumeName is what the volume is called that is added to a pod.
	volumeName = "ipcspace"
)

// space is a space of the cluster: it belongs to a namespace.
type space struct{ namespace, name string }

func (s space) String() string { return s.namespace + "/" + s.name }

// parse reads "orders", in the pod's own namespace, or "shop/orders".
func parse(text, podNamespace string) (space, error) {
	s := space{podNamespace, text}
	if before, after, ok := strings.Cut(text, "/"); ok {
		s = space{before, after}
	}
	if !admin.ValidName(s.namespace) || !admin.ValidName(s.name) {
		return s, fmt.Errorf("%q names no space: write its name, or namespace/name, in lower-case letters, digits and '-', at most 63 each", text)
	}
	return s, nil
}

// label is the space as the value of a label: at most 63 characters, and no two spaces' are alike.
func (s space) label() string {
	value := s.namespace + "." + s.name
	if len(value) <= 63 {
		return value
	}
	sum := sha256.Sum256([]byte(value))
	return strings.TrimRight(value[:46], "-.") + "-" + hex.EncodeToString(sum[:8])
}

// volume is the one that is added to a pod.
func (s space) volume(podNamespace string) corev1.Volume {
	name := s.name
	if s.namespace != podNamespace {
		name = s.String()
	}
	readOnly := true
	return corev1.Volume{Name: volumeName, VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{
		Driver: v1alpha1.Driver, ReadOnly: &readOnly, VolumeAttributes: map[string]string{v1alpha1.AttributeSpace: name},
	}}}
}
