package kube

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ipcspace/ipcspace/manager"
	"github.com/ipcspace/ipcspace/manager/admin"
	"github.com/ipcspace/ipcspace/manager/kube/v1alpha1"
)

// reference names an IPCSpace.
type reference struct{ namespace, name string }

func (r reference) String() string { return r.namespace + "/" + r.name }

// Publish lets a pod into the space that one of its volumes names, and tells the pod's author if it
// does not. Errors are gRPC statuses.
func (n *Node) Publish(ctx context.Context, r *admin.PublishRequest) (*admin.PublishResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if !n.synced.Load() {
		return nil, refuse(codes.Unavailable, reasonAway, "pods and IPCSpaces of node %s are not known yet; the API server is needed once after the manager's start", n.cfg.NodeName)
	}
	pod, err := n.pod(ctx, r)
	if err != nil {
		return nil, err
	}
	info, err := n.admit(ctx, pod, r)
	if err != nil {
		n.tell(ctx, pod, err)
		return nil, err
	}
	return &admin.PublishResponse{Dir: info.Dir, Space: info.Name}, nil
}

// pod finds the pod of a uid. What the kubelet says besides only serves to ask for one that the
// cache does not have yet.
func (n *Node) pod(ctx context.Context, r *admin.PublishRequest) (*corev1.Pod, error) {
	if pod := n.cachedPod(r.GetPodUid()); pod != nil {
		return pod, nil
	}
	pod, err := n.api.pods(r.GetPodNamespace()).Get(ctx, r.GetPodName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && string(pod.UID) != r.GetPodUid() {
		return nil, refuse(codes.NotFound, reasonVolume, "no pod %s/%s with uid %q", r.GetPodNamespace(), r.GetPodName(), r.GetPodUid())
	}
	if err != nil {
		return nil, failure("pod "+r.GetPodNamespace()+"/"+r.GetPodName(), err)
	}
	return pod, nil
}

func (n *Node) cachedPod(uid string) *corev1.Pod {
	found, err := n.pods.GetIndexer().ByIndex(byUID, uid)
	if err != nil || len(found) == 0 {
		return nil
	}
	return found[0].(*corev1.Pod)
}

// admit makes all checks and lets the pod in.
func (n *Node) admit(ctx context.Context, pod *corev1.Pod, r *admin.PublishRequest) (manager.SpaceInfo, error) {
	none := manager.SpaceInfo{}
	ref, err := n.asked(pod, r)
	if err != nil {
		return none, err
	}
	if err := n.sharesKernel(ctx, pod); err != nil {
		return none, err
	}
	// Somebody else may change the object between reading and claiming it.
	for try := range 5 {
		object, err := n.find(ctx, ref, try == 0)
		if err != nil {
			return none, err
		}
		if object == nil && ref.namespace != pod.Namespace {
			return none, refuse(codes.NotFound, reasonNoSpace, "no IPCSpace %s; its namespace must make it, with %s in spec.allowedNamespaces", ref, pod.Namespace)
		}
		if object != nil && object.Annotations[v1alpha1.AnnotationDrain] != "" {
			return none, refuse(codes.FailedPrecondition, reasonDraining, "IPCSpace %s is being drained; remove its annotation %s to use it again", ref, v1alpha1.AnnotationDrain)
		}
		if object == nil || !n.admitted(object, pod) {
			if err := n.mayUse(ctx, pod, ref, object); err != nil {
				return none, err
			}
		}
		if object == nil {
			if object, err = n.make(ctx, ref); err != nil {
				return none, err
			}
		}
		info, again, err := n.join(ctx, object, pod)
		if err != nil || !again {
			return info, err
		}
	}
	return none, refuse(codes.Unavailable, reasonFailed, "IPCSpace %s is changed by others all the time; it is tried again", ref)
}

// asked is the space that a volume of the pod names, after all that the kubelet and the author say
// has been held against the pod.
func (n *Node) asked(pod *corev1.Pod, r *admin.PublishRequest) (reference, error) {
	bad := func(format string, args ...any) (reference, error) {
		return reference{}, refuse(codes.InvalidArgument, reasonVolume, format, args...)
	}
	switch {
	case pod.Spec.NodeName != n.cfg.NodeName:
		return bad("pod %s/%s is on node %q, not on %q", pod.Namespace, pod.Name, pod.Spec.NodeName, n.cfg.NodeName)
	case pod.Namespace != r.GetPodNamespace() || pod.Name != r.GetPodName() || account(pod) != r.GetServiceAccount():
		return bad("the kubelet says %s/%s with service account %s of pod %s/%s with %s",
			r.GetPodNamespace(), r.GetPodName(), r.GetServiceAccount(), pod.Namespace, pod.Name, account(pod))
	case pod.DeletionTimestamp != nil || over(pod):
		return reference{}, refuse(codes.FailedPrecondition, reasonVolume, "pod %s/%s is ending", pod.Namespace, pod.Name)
	}
	i := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == r.GetVolume() })
	if i < 0 || pod.Spec.Volumes[i].CSI == nil || pod.Spec.Volumes[i].CSI.Driver != v1alpha1.Driver {
		return bad("pod %s/%s has no volume %q of driver %s", pod.Namespace, pod.Name, r.GetVolume(), v1alpha1.Driver)
	}
	said := map[string]string{}
	for key, value := range r.GetAttributes() {
		if !strings.HasPrefix(key, "csi.storage.k8s.io/") { // the kubelet's own
			said[key] = value
		}
	}
	if attributes := pod.Spec.Volumes[i].CSI.VolumeAttributes; !maps.Equal(said, attributes) {
		return bad("volume %q has attributes %v, the kubelet says %v", r.GetVolume(), attributes, said)
	}
	for key := range said {
		if key != v1alpha1.AttributeSpace {
			return bad("volume %q: unknown attribute %q; there is %q only, the rest is said by an IPCSpace", r.GetVolume(), key, v1alpha1.AttributeSpace)
		}
	}
	ref := reference{pod.Namespace, said[v1alpha1.AttributeSpace]}
	if namespace, name, both := strings.Cut(ref.name, "/"); both {
		ref = reference{namespace, name}
	}
	if !manager.ValidName(ref.namespace) || !manager.ValidName(ref.name) {
		return bad("volume %q: %s=%q names no space; use NAME or NAMESPACE/NAME, each of lower-case letters, digits and '-', at most 63",
			r.GetVolume(), v1alpha1.AttributeSpace, said[v1alpha1.AttributeSpace])
	}
	return ref, nil
}

// over tells whether a pod's containers have ended for good.
func over(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// admitted tells whether a pod was let in before: it stays, whatever has changed.
func (n *Node) admitted(object *v1alpha1.IPCSpace, pod *corev1.Pod) bool {
	info, _, err := n.spaces.EnsureSpace(context.Background(), manager.SpaceConfig{Name: localName(object)}, true)
	return err == nil && slices.Contains(info.Pods, string(pod.UID))
}

// join claims the object, makes the space and lets the pod in. again: the object has changed.
func (n *Node) join(ctx context.Context, object *v1alpha1.IPCSpace, pod *corev1.Pod) (info manager.SpaceInfo, again bool, err error) {
	name := localName(object)
	defer n.locks.lock(name)()
	if object, err = n.claim(ctx, object); err != nil || object == nil {
		return info, object == nil, err
	}
	info, created, err := n.spaces.EnsureSpace(ctx, spaceConfig(object), false)
	if err != nil {
		return info, false, spaceError(object, err)
	}
	if !slices.Contains(info.Pods, string(pod.UID)) {
		n.mu.Lock()
		n.joined[string(pod.UID)] = time.Now()
		n.mu.Unlock()
		if err := n.spaces.Admit(ctx, name, append(info.Pods, string(pod.UID))); err != nil {
			return info, false, spaceError(object, err)
		}
		n.log.Info("pod joined", slogPod(pod), "space", name, "created", created)
	}
	return info, false, nil
}

func slogPod(pod *corev1.Pod) slog.Attr {
	return slog.String("pod", fmt.Sprintf("%s/%s (%s)", pod.Namespace, pod.Name, pod.UID))
}
