package kube

import (
	"context"
	"errors"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/ipcspace/ipcspace/manager/kube/v1alpha1"
)

// api are clients of the few kinds that are used. client-go's clientset has all of Kubernetes, which
// is most of what a program with it weighs.
type api struct {
	scheme *runtime.Scheme
	codec  runtime.ParameterCodec

	core, node, authorization, own rest.Interface
}

// What a node asks at most of the API server, of all groups together: requests a second, and at once.
// A pod's start waits for up to five; with client-go's 5 and 10 a node full of pods begins at the pace
// of this limit instead of the kubelet's. The API server has a fairness of its own.
const (
	requestRate  = 50
	requestBurst = 100
)

func newAPI(cfg *rest.Config) (*api, error) {
	a := &api{scheme: runtime.NewScheme()}
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, nodev1.AddToScheme, authorizationv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(a.scheme); err != nil {
			return nil, err
		}
	}
	a.codec = runtime.NewParameterCodec(a.scheme)
	// One pool of connections for all groups.
	transport, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, err
	}
	limiter := flowcontrol.NewTokenBucketRateLimiter(requestRate, requestBurst)
	var errs [4]error
	client := func(group schema.GroupVersion, path, content string) (rest.Interface, error) {
		one := rest.CopyConfig(cfg)
		one.GroupVersion, one.APIPath, one.ContentType = &group, path, content
		one.RateLimiter = limiter
		one.NegotiatedSerializer = serializer.NewCodecFactory(a.scheme).WithoutConversion()
		return rest.RESTClientForConfigAndClient(one, transport)
	}
	a.core, errs[0] = client(corev1.SchemeGroupVersion, "/api", runtime.ContentTypeProtobuf)
	a.node, errs[1] = client(nodev1.SchemeGroupVersion, "/apis", runtime.ContentTypeProtobuf)
	a.authorization, errs[2] = client(authorizationv1.SchemeGroupVersion, "/apis", runtime.ContentTypeProtobuf)
	a.own, errs[3] = client(v1alpha1.GroupVersion, "/apis", runtime.ContentTypeJSON)
	return a, errors.Join(errs[:]...)
}

func (a *api) spaces(namespace string) *gentype.Client[*v1alpha1.IPCSpace] {
	return gentype.NewClient(v1alpha1.Resource, a.own, a.codec, namespace, func() *v1alpha1.IPCSpace { return &v1alpha1.IPCSpace{} })
}

func (a *api) pods(namespace string) *gentype.Client[*corev1.Pod] {
	return gentype.NewClient("pods", a.core, a.codec, namespace, func() *corev1.Pod { return &corev1.Pod{} })
}

func (a *api) nodes() *gentype.Client[*corev1.Node] {
	return gentype.NewClient("nodes", a.core, a.codec, "", func() *corev1.Node { return &corev1.Node{} })
}

func (a *api) events(namespace string) *gentype.Client[*corev1.Event] {
	return gentype.NewClient("events", a.core, a.codec, namespace, func() *corev1.Event { return &corev1.Event{} })
}

func (a *api) runtimeClasses() *gentype.Client[*nodev1.RuntimeClass] {
	return gentype.NewClient("runtimeclasses", a.node, a.codec, "", func() *nodev1.RuntimeClass { return &nodev1.RuntimeClass{} })
}

func (a *api) accessReviews() *gentype.Client[*authorizationv1.SubjectAccessReview] {
	return gentype.NewClient("subjectaccessreviews", a.authorization, a.codec, "",
		func() *authorizationv1.SubjectAccessReview { return &authorizationv1.SubjectAccessReview{} })
}

// sink is a record.EventSink.
type sink struct{ api *api }

func (s sink) Create(e *corev1.Event) (*corev1.Event, error) {
	return s.api.events(e.Namespace).Create(context.Background(), e, metav1.CreateOptions{})
}

func (s sink) Update(e *corev1.Event) (*corev1.Event, error) {
	return s.api.events(e.Namespace).Update(context.Background(), e, metav1.UpdateOptions{})
}

func (s sink) Patch(e *corev1.Event, patch []byte) (*corev1.Event, error) {
	return s.api.events(e.Namespace).Patch(context.Background(), e.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
}
