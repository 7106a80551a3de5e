// Package cluster is what the webhook and the drain know of the API server: pods, nodes, IPCSpaces.
package cluster

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/ipcspace/ipcspace/manager/kube/v1alpha1"
)

// Client asks the API server.
type Client struct {
	core   kubernetes.Interface
	spaces dynamic.NamespaceableResourceInterface
}

// Connect makes a client from a kubeconfig file; with none, from the pod's service account.
func Connect(kubeconfig string) (*Client, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("where the API server is: %w", err)
	}
	return New(config)
}

// New makes a client.
func New(config *rest.Config) (*Client, error) {
	core, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	any, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &Client{core: core, spaces: any.Resource(v1alpha1.GroupVersion.WithResource(v1alpha1.Resource))}, nil
}

// Space is an IPCSpace; nil: there is none.
func (c *Client) Space(ctx context.Context, namespace, name string) (*v1alpha1.IPCSpace, error) {
	object, err := c.spaces.Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("IPCSpace %s/%s: %w", namespace, name, err)
	}
	space := &v1alpha1.IPCSpace{}
	return space, runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, space)
}

// page is how many objects are asked for at a time.
const page = 500

// Spaces are all IPCSpaces of the cluster; none if it has no such resource.
func (c *Client) Spaces(ctx context.Context) (all []v1alpha1.IPCSpace, err error) {
	options := metav1.ListOptions{Limit: page}
	for {
		list, err := c.spaces.List(ctx, options)
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list IPCSpaces: %w", err)
		}
		for _, object := range list.Items {
			var space v1alpha1.IPCSpace
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &space); err != nil {
				return nil, fmt.Errorf("IPCSpace %s/%s: %w", object.GetNamespace(), object.GetName(), err)
			}
			all = append(all, space)
		}
		if options.Continue = list.GetContinue(); options.Continue == "" {
			return all, nil
		}
	}
}

// PatchSpace applies a merge patch (RFC 7386) to an IPCSpace, unless it is gone.
func (c *Client) PatchSpace(ctx context.Context, space *v1alpha1.IPCSpace, patch string) error {
	_, err := c.spaces.Namespace(space.Namespace).Patch(ctx, space.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("IPCSpace %s/%s: %w", space.Namespace, space.Name, err)
	}
	return nil
}

// Pods are those that have, or will have, a volume of the driver mounted.
func (c *Client) Pods(ctx context.Context) (all []corev1.Pod, err error) {
	options := metav1.ListOptions{Limit: page}
	for {
		list, err := c.core.CoreV1().Pods("").List(ctx, options)
		if err != nil {
			return nil, fmt.Errorf("list pods: %w", err)
		}
		for _, pod := range list.Items {
			over := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
			for _, v := range pod.Spec.Volumes {
				if !over && v.CSI != nil && v.CSI.Driver == v1alpha1.Driver {
					all = append(all, pod)
					break
				}
			}
		}
		if options.Continue = list.Continue; options.Continue == "" {
			return all, nil
		}
	}
}

// HasNode tells whether the cluster has a node of this name.
func (c *Client) HasNode(ctx context.Context, name string) (bool, error) {
	_, err := c.core.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("node %s: %w", name, err)
	}
	return true, nil
}
