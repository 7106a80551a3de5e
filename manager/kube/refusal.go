package kube

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/record"
)

// refusal is why a pod may not join, or not yet, and what to do. It is a gRPC status for the CSI
// driver and an event of the pod.
type refusal struct {
	code   codes.Code
	reason string // of the event
	text   string
}

func (r *refusal) Error() string { return r.text }

// GRPCStatus makes status.Convert and the server take code and text as they are.
func (r *refusal) GRPCStatus() *status.Status { return status.New(r.code, r.text) }

// Reasons of events.
const (
	reasonVolume   = "InvalidSpaceVolume"
	reasonRuntime  = "RuntimeSharesNoKernel"
	reasonNoSpace  = "NoSuchSpace"
	reasonAccess   = "SpaceAccessDenied"
	reasonNode     = "SpaceOnAnotherNode"
	reasonDraining = "SpaceDraining"
	reasonMany     = "TooManySpaces"
	reasonFailed   = "SpaceFailed"
	reasonAway     = "APIServerAway"
	reasonInjected = "LibraryNotInjected"
)

func refuse(code codes.Code, reason, format string, args ...any) error {
	return &refusal{code, reason, fmt.Sprintf(format, args...)}
}

// failure is an error of the API server on the way to a decision.
func failure(what string, err error) error {
	if r := (*refusal)(nil); errors.As(err, &r) {
		return err
	}
	if apierrors.IsForbidden(err) {
		return refuse(codes.Internal, reasonFailed, "%s: %v; the manager's ClusterRole is not the one of the chart", what, err)
	}
	return refuse(codes.Unavailable, reasonAway, "%s: %v; it is tried again", what, err)
}

// tell records a refusal where the pod's author looks.
func (n *Node) tell(ctx context.Context, pod *corev1.Pod, err error) {
	r := (*refusal)(nil)
	if !errors.As(err, &r) {
		r = &refusal{reason: reasonFailed, text: err.Error()}
	}
	n.log.WarnContext(ctx, "pod refused", slogPod(pod), "reason", r.reason, "error", r)
	if events := n.recorder(); events != nil {
		events.Event(pod, corev1.EventTypeWarning, r.reason, r.text)
	}
}

// recorder is nil before Run.
func (n *Node) recorder() record.EventRecorder {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.events
}
