package admission

import (
	"context"
	"log/slog"
	"time"

	"github.com/ipcspace/ipcspace/csi/cluster"
)

// spaces finds out where spaces are.
type spaces struct {
	client *cluster.Client
	log    *slog.Logger
}

// patience is how long the API server may take; the webhook is waited for.
const patience = 2 * time.Second

// placement is where a space's pods may go: where its data is retained, or to each other.
func (s *spaces) placement(ctx context.Context, of space, podNamespace string) placement {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	object, err := s.client.Space(ctx, of.namespace, of.name)
	if err != nil {
		s.log.Warn("placed by affinity to pods", "error", err)
		return together(of, podNamespace, nil)
	}
	if object == nil {
		return together(of, podNamespace, nil)
	}
	if node := object.Status.Node; node != "" && object.Spec.Retain {
		has, err := s.client.HasNode(ctx, node)
		if err != nil {
			s.log.Warn("placed where the space was", "error", err)
		}
		if has || err != nil {
			return placement{node: node}
		}
	}
	return together(of, podNamespace, object.Spec.AllowedNamespaces)
}
