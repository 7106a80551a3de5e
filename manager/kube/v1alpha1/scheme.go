package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion of the types, and the plural of IPCSpace in URLs.
var GroupVersion = schema.GroupVersion{Group: "ipcspace.io", Version: "v1alpha1"}

// Resource is the plural of IPCSpace in URLs and rules.
const Resource = "ipcspaces"

// AddToScheme makes the types known to clients.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &IPCSpace{}, &IPCSpaceList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
