package v1alpha1

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// OutOfService tells whether somebody has vouched, by the taint that is for it, that a node is off: what
// it had in memory is gone, and Kubernetes gives its pods' volumes to others.
func OutOfService(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(taint corev1.Taint) bool { return taint.Key == corev1.TaintNodeOutOfService })
}
