// Package v1alpha1 has the types of ipcspaces.ipcspace.io. The CustomResourceDefinition and the
// deep copies are generated from them: make generate.
//
// +kubebuilder:object:generate=true
// +groupName=ipcspace.io
package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Names that objects and pods carry.
const (
	// LabelMadeBy is "manager" on an object that no author made: it goes with its last pod.
	LabelMadeBy = "ipcspace.io/made-by"
	// AnnotationDrain on an IPCSpace, with any value: no pod may join any more, and the space goes
	// when it has no pods, retained or not.
	AnnotationDrain = "ipcspace.io/drain"
	// Driver is the CSI driver of the volumes that are spaces.
	Driver = "csi.ipcspace.io"
	// AttributeSpace of such a volume names the space: an IPCSpace of the pod's namespace, or
	// namespace/name.
	AttributeSpace = "space"
)

// IPCSpace is a space of System V IPC that pods of one node share. Without one, a space has the
// defaults, belongs to its pods' namespace, and goes with its last pod.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:shortName=ipcs
// +kubebuilder:subresource:status
// +kubebuilder:selectablefield:JSONPath=`.status.node`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.status.node`
// +kubebuilder:printcolumn:name="Objects",type=integer,JSONPath=`.status.objects`
// +kubebuilder:printcolumn:name="Bytes",type=integer,JSONPath=`.status.bytes`
// +kubebuilder:printcolumn:name="Pods",type=integer,JSONPath=`.status.pods`
// +kubebuilder:printcolumn:name="Members",type=integer,JSONPath=`.status.members`
// +kubebuilder:printcolumn:name="Retain",type=boolean,JSONPath=`.spec.retain`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="the name must be a DNS label: lower-case letters, digits and '-', at most 63"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.status) || !has(oldSelf.status.node) || ((has(self.spec.size) ? has(oldSelf.spec.size) && string(self.spec.size) == string(oldSelf.spec.size) : !has(oldSelf.spec.size)) && (has(self.spec.sessions) ? has(oldSelf.spec.sessions) && self.spec.sessions == oldSelf.spec.sessions : !has(oldSelf.spec.sessions)) && self.spec.hugePages == oldSelf.spec.hugePages && self.spec.access == oldSelf.spec.access && self.spec.ids == oldSelf.spec.ids && self.spec.leftBehind == oldSelf.spec.leftBehind)",message="size, sessions, hugePages, access, ids and leftBehind cannot change while a node has the space (status.node)"
type IPCSpace struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	// +kubebuilder:default={}
	Spec IPCSpaceSpec `json:"spec,omitempty"`
	// +optional
	Status IPCSpaceStatus `json:"status,omitempty"`
}

// IPCSpaceSpec is what an author says of a space. Size, sessions, huge pages, access, ids and what
// is left behind count when the space is made on a node; the rest at any time.
type IPCSpaceSpec struct {
	// Size is the most bytes that all objects of the space may have together, from the node's
	// budget. The default is the manager's.
	// +optional
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('4Ki')) >= 0",message="a size under 4Ki holds nothing"
	Size *resource.Quantity `json:"size,omitempty"`
	// Sessions is the most processes registered at one time.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65000
	Sessions *int32 `json:"sessions,omitempty"`
	// Limits are the sysctls of the space; Linux's defaults where they are not given.
	// +optional
	Limits *Limits `json:"limits,omitempty"`
	// HugePages are for segments of a megabyte or more.
	// +optional
	// +kubebuilder:default=Enabled
	HugePages HugePages `json:"hugePages,omitempty"`
	// Access to sets and queues: Direct, in mapped memory, or Brokered: the manager makes each
	// call, slower, and members cannot spoil an object for each other.
	// +optional
	// +kubebuilder:default=Direct
	Access Access `json:"access,omitempty"`
	// IDs of users and groups: Host, the kernel's, or Container: as containers with a user namespace
	// of their own (hostUsers: false) know them, so that they meet as the same user.
	// +optional
	// +kubebuilder:default=Host
	IDs IDs `json:"ids,omitempty"`
	// Retain keeps the space on its node when its last pod is gone.
	// +optional
	Retain bool `json:"retain,omitempty"`
	// LeftBehind says which objects go when the container that made them is gone and nobody uses
	// them: those made with IPC_PRIVATE, none (Keep, as in the kernel), or all that are Unused.
	// +optional
	// +kubebuilder:default=Private
	LeftBehind LeftBehind `json:"leftBehind,omitempty"`
	// AllowedNamespaces are other namespaces whose pods may join; "*": all.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:Pattern=`^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$`
	AllowedNamespaces []string `json:"allowedNamespaces,omitempty"`
	// AllowedServiceAccounts are those whose pods may join, as name (of the object's namespace) or
	// namespace/name. Empty: all that may "use" the object.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=317
	// +kubebuilder:validation:items:Pattern=`^([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	AllowedServiceAccounts []string `json:"allowedServiceAccounts,omitempty"`
}

// Limits are those of sysctl kernel.shm*, kernel.sem and kernel.msg*, in their units: bytes (shmmax,
// msgmax, msgmnb), pages of 4 KiB (shmall), or objects.
type Limits struct {
	// +optional
	// +kubebuilder:validation:Minimum=0
	ShmMax *int64 `json:"shmmax,omitempty"`
	// +optional
	// +kubebuilder:validation:Minimum=0
	ShmAll *int64 `json:"shmall,omitempty"`
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=32768
	ShmMni *int64 `json:"shmmni,omitempty"`
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65536
	SemMsl *int64 `json:"semmsl,omitempty"`
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	SemMns *int64 `json:"semmns,omitempty"`
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	SemOpm *int64 `json:"semopm,omitempty"`
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=32768
	SemMni *int64 `json:"semmni,omitempty"`
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	MsgMax *int64 `json:"msgmax,omitempty"`
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	MsgMnb *int64 `json:"msgmnb,omitempty"`
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=32768
	MsgMni *int64 `json:"msgmni,omitempty"`
	// ShmRmidForced: segments go with their last attach.
	// +optional
	ShmRmidForced *bool `json:"shmRmidForced,omitempty"`
}

// HugePages says whether large segments are on huge pages.
// +kubebuilder:validation:Enum=Enabled;Disabled
type HugePages string

// Where the kernel has them, or never.
const (
	HugePagesEnabled  HugePages = "Enabled"
	HugePagesDisabled HugePages = "Disabled"
)

// Access is how calls on sets and queues are made.
// +kubebuilder:validation:Enum=Direct;Brokered
type Access string

// In memory that members map, or by the manager.
const (
	AccessDirect   Access = "Direct"
	AccessBrokered Access = "Brokered"
)

// IDs says whose ids count.
// +kubebuilder:validation:Enum=Host;Container
type IDs string

// The node's, or the containers'.
const (
	IDsHost      IDs = "Host"
	IDsContainer IDs = "Container"
)

// LeftBehind is what becomes of objects whose container is gone.
// +kubebuilder:validation:Enum=Private;Keep;Unused
type LeftBehind string

// Which of them go.
const (
	LeftPrivate LeftBehind = "Private"
	LeftKeep    LeftBehind = "Keep"
	LeftUnused  LeftBehind = "Unused"
)

// IPCSpaceStatus is the claim, taken by compare-and-swap before the space is made, and what its
// node's manager last saw.
type IPCSpaceStatus struct {
	// Node that has the space; empty: none.
	// +optional
	Node string `json:"node,omitempty"`
	// BootID of that node when it took the space. After a reboot the space is gone.
	// +optional
	BootID string `json:"bootID,omitempty"`
	// Objects are segments, sets and queues.
	// +optional
	Objects int64 `json:"objects"`
	// Bytes promised to objects.
	// +optional
	Bytes int64 `json:"bytes"`
	// Pods that may use the space.
	// +optional
	Pods int64 `json:"pods"`
	// Members are processes that registered.
	// +optional
	Members int64 `json:"members"`
}

// IPCSpaceList is a list of spaces.
//
// +kubebuilder:object:root=true
type IPCSpaceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPCSpace `json:"items"`
}
