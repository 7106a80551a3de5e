package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ipcspace/ipcspace/manager"
	"github.com/ipcspace/ipcspace/manager/kube/v1alpha1"
)

// madeByManager is the value of v1alpha1.LabelMadeBy.
const madeByManager = "manager"

// uidLength is that of a UUID in text.
const uidLength = 36

// localName is what a space is called on its node: a DNS label that ends in the object's uid. A
// name that is deleted and made anew is another space.
func localName(object *v1alpha1.IPCSpace) string {
	prefix := object.Name[:min(len(object.Name), 63-1-uidLength)]
	return strings.TrimRight(prefix, "-") + "-" + string(object.UID)
}

// uidOf is the uid in a local name; "": a space that is not one of Kubernetes.
func uidOf(local string) types.UID {
	i := len(local) - uidLength
	if i < 2 || local[i-1] != '-' || strings.Count(local[i:], "-") != 4 {
		return ""
	}
	return types.UID(local[i:])
}

// find reads an object: from the cache, if it is claimed here and the cache may be asked, or from
// the API server. nil: there is none.
func (n *Node) find(ctx context.Context, ref reference, cached bool) (*v1alpha1.IPCSpace, error) {
	if cached {
		if found, ok, err := n.objects.GetStore().GetByKey(ref.String()); err == nil && ok {
			if object := found.(*v1alpha1.IPCSpace); n.holds(object) {
				return object, nil
			}
		}
	}
	object, err := n.api.spaces(ref.namespace).Get(ctx, ref.name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, failure("IPCSpace "+ref.String(), err)
	}
	return object, nil
}

// holds tells whether the claim in an object is this boot's of this node, and not given back.
func (n *Node) holds(object *v1alpha1.IPCSpace) bool {
	n.mu.Lock()
	_, released := n.released[object.UID]
	n.mu.Unlock()
	return object.Status.Node == n.cfg.NodeName && object.Status.BootID == n.cfg.BootID && !released
}

// make makes the object of a space that no author has described. It goes with its node, if the node
// is lost: nobody else would remove it.
func (n *Node) make(ctx context.Context, ref reference) (*v1alpha1.IPCSpace, error) {
	node, err := n.api.nodes().Get(ctx, n.cfg.NodeName, metav1.GetOptions{})
	if err != nil {
		return nil, failure("node "+n.cfg.NodeName, err)
	}
	object, err := n.api.spaces(ref.namespace).Create(ctx, &v1alpha1.IPCSpace{ObjectMeta: metav1.ObjectMeta{
		Name: ref.name, Namespace: ref.namespace, Labels: map[string]string{v1alpha1.LabelMadeBy: madeByManager},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
	}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		object, err = n.api.spaces(ref.namespace).Get(ctx, ref.name, metav1.GetOptions{})
	}
	if err != nil {
		return nil, failure("IPCSpace "+ref.String()+" to be made", err)
	}
	return object, nil
}

// claim takes the object for this node by compare-and-swap. nil: it has changed and is to be read
// again. Callers hold the space's lock.
func (n *Node) claim(ctx context.Context, object *v1alpha1.IPCSpace) (*v1alpha1.IPCSpace, error) {
	if n.holds(object) {
		return object, nil
	}
	ref := reference{object.Namespace, object.Name}
	if at := object.Status; at.Node != "" && at.Node != n.cfg.NodeName {
		lost, err := n.lost(ctx, at)
		if err != nil {
			return nil, err
		}
		if !lost {
			return nil, refuse(codes.FailedPrecondition, reasonNode,
				"IPCSpace %s is on node %s; a space's pods must run there: delete this pod to have it placed again, or end the space's pods first", ref, at.Node)
		}
		n.log.Info("claim of a node that is lost or was started again", "space", ref.String(), "node", at.Node)
		if object.Labels[v1alpha1.LabelMadeBy] == madeByManager {
			// It belongs to that node.
			err := n.remove(ctx, object)
			if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
				return nil, failure("IPCSpace "+ref.String(), err)
			}
			return nil, nil
		}
	}
	mine := object.DeepCopy()
	mine.Status = v1alpha1.IPCSpaceStatus{Node: n.cfg.NodeName, BootID: n.cfg.BootID}
	claimed, err := n.api.spaces(object.Namespace).UpdateStatus(ctx, mine, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, failure("claim of IPCSpace "+ref.String(), err)
	}
	n.mu.Lock()
	delete(n.released, object.UID)
	n.mu.Unlock()
	return claimed, nil
}

// lost tells whether the node that claimed an object is no more, is off, as somebody vouches, or has
// been started since: then its spaces are gone.
func (n *Node) lost(ctx context.Context, at v1alpha1.IPCSpaceStatus) (bool, error) {
	node, err := n.api.nodes().Get(ctx, at.Node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, failure("node "+at.Node, err)
	}
	if v1alpha1.OutOfService(node) {
		return true, nil
	}
	boot := node.Status.NodeInfo.BootID
	return boot != "" && boot != at.BootID, nil
}

// release gives the claim back when the space is gone: an object of the manager's is deleted, an
// author's says that no node has it. Callers hold the space's lock.
func (n *Node) release(ctx context.Context, object *v1alpha1.IPCSpace) error {
	n.mu.Lock()
	n.released[object.UID] = struct{}{}
	n.mu.Unlock()
	var err error
	if object.Labels[v1alpha1.LabelMadeBy] == madeByManager {
		err = n.remove(ctx, object)
	} else {
		free := object.DeepCopy()
		free.Status = v1alpha1.IPCSpaceStatus{}
		_, err = n.api.spaces(object.Namespace).UpdateStatus(ctx, free, metav1.UpdateOptions{})
	}
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("claim of IPCSpace %s/%s to be given back: %w", object.Namespace, object.Name, err)
}

// remove deletes an object as it was read.
func (n *Node) remove(ctx context.Context, object *v1alpha1.IPCSpace) error {
	return n.api.spaces(object.Namespace).Delete(ctx, object.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &object.UID, ResourceVersion: &object.ResourceVersion},
	})
}

// spaceConfig is what an object says of its space.
func spaceConfig(object *v1alpha1.IPCSpace) manager.SpaceConfig {
	spec := &object.Spec
	cfg := manager.SpaceConfig{
		Name: localName(object), Closed: true, Reclaim: manager.Retain, // its pods are counted here
		Limits:   limitsOf(spec.Limits),
		Brokered: spec.Access == v1alpha1.AccessBrokered, SmallPages: spec.HugePages == v1alpha1.HugePagesDisabled,
		ContainerIDs: spec.IDs == v1alpha1.IDsContainer,
	}
	if spec.Size != nil {
		cfg.Size = uint64(spec.Size.Value())
	}
	if spec.Sessions != nil {
		cfg.Sessions = int(*spec.Sessions)
	}
	switch spec.LeftBehind {
	case v1alpha1.LeftKeep:
		cfg.LeftBehind = manager.LeftKeep
	case v1alpha1.LeftUnused:
		cfg.LeftBehind = manager.LeftUnused
	}
	return cfg
}

// limitsOf are Linux's limits but for what an author says.
func limitsOf(l *v1alpha1.Limits) *manager.Limits {
	limits := manager.DefaultLimits()
	if l == nil {
		return &limits
	}
	for _, f := range []struct {
		to   *uint64
		from *int64
	}{
		{&limits.ShmMax, l.ShmMax}, {&limits.ShmAll, l.ShmAll}, {&limits.ShmMni, l.ShmMni},
		{&limits.SemMsl, l.SemMsl}, {&limits.SemMns, l.SemMns}, {&limits.SemOpm, l.SemOpm}, {&limits.SemMni, l.SemMni},
		{&limits.MsgMax, l.MsgMax}, {&limits.MsgMnb, l.MsgMnb}, {&limits.MsgMni, l.MsgMni},
	} {
		if f.from != nil {
			*f.to = uint64(*f.from)
		}
	}
	if l.ShmRmidForced != nil && *l.ShmRmidForced {
		limits.ShmRmidForced = 1
	}
	return &limits
}

// spaceError is why the manager could not make the space or let the pod in.
func spaceError(object *v1alpha1.IPCSpace, err error) error {
	switch {
	case errors.Is(err, manager.ErrTooMany):
		return refuse(codes.ResourceExhausted, reasonMany, "IPCSpace %s/%s: %v; end other spaces of the node, or have the pod run on another one", object.Namespace, object.Name, err)
	case errors.Is(err, manager.ErrInvalid):
		return refuse(codes.InvalidArgument, reasonFailed, "IPCSpace %s/%s: %v", object.Namespace, object.Name, err)
	case errors.Is(err, manager.ErrClosed):
		return refuse(codes.Unavailable, reasonFailed, "%v; it is tried again", err)
	}
	return refuse(codes.Internal, reasonFailed, "IPCSpace %s/%s: %v", object.Namespace, object.Name, err)
}
