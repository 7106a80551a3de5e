package kube

import (
	"context"
	"path"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ipcspace/ipcspace/manager/kube/v1alpha1"
)

// How long answers of the API server count. A refusal is asked again soon, so that a right that was
// granted helps; a permission serves longer while the API server is away.
const (
	allowedFor = 5 * time.Minute
	refusedFor = 5 * time.Second
	awayFor    = time.Hour
	mostKnown  = 4096
)

// known remembers answers. The zero value is empty.
type known[K comparable, V any] struct {
	mu sync.Mutex
	m  map[K]answer[V]
}

type answer[V any] struct {
	value V
	at    time.Time
}

func (k *known[K, V]) get(key K) (answer[V], bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a, ok := k.m[key]
	return a, ok
}

func (k *known[K, V]) set(key K, v V) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.m == nil || len(k.m) >= mostKnown {
		k.m = map[K]answer[V]{}
	}
	k.m[key] = answer[V]{v, time.Now()}
}

// verdicts are of SubjectAccessReviews, handlers those of RuntimeClasses by name.
type (
	verdicts = known[question, bool]
	handlers = known[string, string]
)

// question is whether the pods of a service account may use a space.
type question struct {
	namespace, account string
	space              reference
}

// mayUse decides whether a pod may join a space. object is nil if there is none yet.
func (n *Node) mayUse(ctx context.Context, pod *corev1.Pod, ref reference, object *v1alpha1.IPCSpace) error {
	if object != nil {
		allowed := object.Spec.AllowedNamespaces
		if pod.Namespace != ref.namespace && !slices.Contains(allowed, pod.Namespace) && !slices.Contains(allowed, "*") {
			return refuse(codes.PermissionDenied, reasonAccess,
				"IPCSpace %s is not for pods of namespace %s; its owner can add it to spec.allowedNamespaces", ref, pod.Namespace)
		}
		accounts := object.Spec.AllowedServiceAccounts
		named := slices.Contains(accounts, pod.Namespace+"/"+account(pod)) ||
			pod.Namespace == ref.namespace && slices.Contains(accounts, account(pod))
		if len(accounts) > 0 && !named {
			return refuse(codes.PermissionDenied, reasonAccess,
				"IPCSpace %s is not for service account %s/%s; its owner can add it to spec.allowedServiceAccounts", ref, pod.Namespace, account(pod))
		}
	}
	q := question{pod.Namespace, account(pod), ref}
	allowed, err := n.review(ctx, q)
	if err != nil {
		return err
	}
	if !allowed {
		return refuse(codes.PermissionDenied, reasonAccess,
			"service account %s/%s may not use ipcspaces.ipcspace.io %s; grant it by the chart's role: kubectl -n %s create rolebinding use-%s --clusterrole=%s --serviceaccount=%s:%s",
			q.namespace, q.account, ref, ref.namespace, ref.name, n.cfg.UserRole, q.namespace, q.account)
	}
	return nil
}

// account is a pod's service account.
func account(pod *corev1.Pod) string {
	if pod.Spec.ServiceAccountName == "" {
		return "default"
	}
	return pod.Spec.ServiceAccountName
}

// review is a SubjectAccessReview, or what is known of an earlier one.
func (n *Node) review(ctx context.Context, q question) (bool, error) {
	before, ok := n.access.get(q)
	age := time.Since(before.at)
	if ok && (before.value && age < allowedFor || !before.value && age < refusedFor) {
		return before.value, nil
	}
	asked := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User:   "system:serviceaccount:" + q.namespace + ":" + q.account,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + q.namespace, "system:authenticated"},
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: v1alpha1.GroupVersion.Group, Version: v1alpha1.GroupVersion.Version, Resource: v1alpha1.Resource,
			Verb: "use", Namespace: q.space.namespace, Name: q.space.name,
		},
	}}
	reply, err := n.api.accessReviews().Create(ctx, asked, metav1.CreateOptions{})
	if err != nil {
		if ok && before.value && age < awayFor && !apierrors.IsForbidden(err) {
			n.log.Warn("access review not made; an earlier permission counts", "error", err)
			return true, nil
		}
		return false, failure("access review", err)
	}
	n.access.set(q, reply.Status.Allowed)
	return reply.Status.Allowed, nil
}

// sharesKernel refuses pods whose runtime has a kernel of its own: their memory is not the node's.
func (n *Node) sharesKernel(ctx context.Context, pod *corev1.Pod) error {
	if pod.Spec.RuntimeClassName == nil || *pod.Spec.RuntimeClassName == "" {
		return nil
	}
	name := *pod.Spec.RuntimeClassName
	handler, ok := n.classes.get(name)
	if !ok || time.Since(handler.at) > allowedFor {
		class, err := n.api.runtimeClasses().Get(ctx, name, metav1.GetOptions{})
		switch {
		case err == nil:
			handler.value = class.Handler
			n.classes.set(name, class.Handler)
		case !ok:
			return failure("runtime class "+name, err)
		}
	}
	for _, pattern := range n.cfg.ForeignRuntimes {
		for _, called := range []string{name, handler.value} {
			if foreign, _ := path.Match(pattern, called); foreign {
				return refuse(codes.InvalidArgument, reasonRuntime,
					"runtime class %s (handler %s) has a kernel of its own, which cannot share memory with others; use a runtime class of the node's kernel, or none", name, handler.value)
			}
		}
	}
	return nil
}
