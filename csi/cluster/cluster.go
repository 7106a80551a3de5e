// Package cluster is what the webhook and the drain know of the API server: pods, nodes, IPCSpaces.
package cluster

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/ipcspace/ipcspace/manager/kube/v1alpha1"
)

// Client asks the API server. One client for all kinds does: a typed one for each would be compiled of
// all that Kubernetes has.
type Client struct{ api dynamic.Interface }

var (
	spaces = v1alpha1.GroupVersion.WithResource(v1alpha1.Resource)
	pods   = corev1.SchemeGroupVersion.WithResource("pods")
	nodes  = corev1.SchemeGroupVersion.WithResource("nodes")
)

// Connect makes a client from a kubeconfig file; with none, from the pod's service account.
func Connect(kubeconfig string) (*Client, error) {
	find := rest.InClusterConfig
	if kubeconfig != "" {
		find = func() (*rest.Config, error) { return clientcmd.BuildConfigFromFlags("", kubeconfig) }
	}
	config, err := find()
	if err != nil {
		return nil, fmt.Errorf("where the API server is: %w", err)
	}
	api, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return New(api), nil
}

// New makes a client.
func New(api dynamic.Interface) *Client { return &Client{api} }

// page is how many objects are asked for at a time.
const page = 500

// list is all objects of a kind in the cluster that T can hold; none if the cluster has no such kind.
func list[T any](ctx context.Context, c *Client, kind schema.GroupVersionResource) (all []T, err error) {
	options := metav1.ListOptions{Limit: page}
	for {
		part, err := c.api.Resource(kind).List(ctx, options)
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", kind.Resource, err)
		}
		for _, object := range part.Items {
			var one T
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &one); err != nil {
				return nil, fmt.Errorf("%s %s/%s: %w", kind.Resource, object.GetNamespace(), object.GetName(), err)
			}
			all = append(all, one)
		}
		if options.Continue = part.GetContinue(); options.Continue == "" {
			return all, nil
		}
	}
}

// Space is an IPCSpace; nil: there is none.
func (c *Client) Space(ctx context.Context, namespace, name string) (*v1alpha1.IPCSpace, error) {
	object, err := c.api.Resource(spaces).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("IPCSpace %s/%s: %w", namespace, name, err)
	}
	space := &v1alpha1.IPCSpace{}
	return space, runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, space)
}

// Spaces are all IPCSpaces of the cluster.
func (c *Client) Spaces(ctx context.Context) ([]v1alpha1.IPCSpace, error) {
	return list[v1alpha1.IPCSpace](ctx, c, spaces)
}

// PatchSpace applies a merge patch (RFC 7386) to an IPCSpace, unless it is gone.
func (c *Client) PatchSpace(ctx context.Context, space *v1alpha1.IPCSpace, patch string) error {
	_, err := c.api.Resource(spaces).Namespace(space.Namespace).Patch(ctx, space.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("IPCSpace %s/%s: %w", space.Namespace, space.Name, err)
	}
	return nil
}

// Pods are those that have, or will have, a volume of the driver mounted.
func (c *Client) Pods(ctx context.Context) ([]corev1.Pod, error) {
	all, err := list[corev1.Pod](ctx, c, pods)
	return slices.DeleteFunc(all, func(pod corev1.Pod) bool {
		over := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		return over || !slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
			return v.CSI != nil && v.CSI.Driver == v1alpha1.Driver
		})
	}), err
}

// HasNode tells whether the cluster has a node of this name that is not known to be off.
func (c *Client) HasNode(ctx context.Context, name string) (bool, error) {
	object, err := c.api.Resource(nodes).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("node %s: %w", name, err)
	}
	node := &corev1.Node{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, node); err != nil {
		return false, fmt.Errorf("node %s: %w", name, err)
	}
	return !v1alpha1.OutOfService(node), nil
}
