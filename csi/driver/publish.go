package driver

import (
	"context"
	"errors"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ipcspace/ipcspace/manager/admin"
)

// What the kubelet adds to a volume's attributes when the CSIDriver object says podInfoOnMount.
const (
	reserved            = "csi.storage.k8s.io/"
	attributeEphemeral  = reserved + "ephemeral"
	attributePodUID     = reserved + "pod.uid"
	attributePodName    = reserved + "pod.name"
	attributeNamespace  = reserved + "pod.namespace"
	attributeServiceAcc = reserved + "serviceAccount.name"
)

// NodePublishVolume asks the manager for the pod's space and mounts its folder. An error is tried
// again by the kubelet, which does not start the pod before.
func (d *Driver) NodePublishVolume(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	capability, attributes := req.GetVolumeCapability(), req.GetVolumeContext()
	invalid := ""
	switch {
	case req.GetVolumeId() == "":
		invalid = "no volume id"
	case capability == nil:
		invalid = "no volume capability"
	case capability.GetMount() == nil:
		invalid = "a space is a folder: a block device cannot be had of it"
	case capability.GetMount().GetFsType() != "":
		invalid = "a space has no file system to choose: drop fsType from the volume"
	case len(capability.GetMount().GetMountFlags()) > 0:
		invalid = "mount options cannot be chosen: drop mountOptions"
	case attributes[attributeEphemeral] != "true":
		invalid = "spaces are inline volumes only: name the driver in the pod, under spec.volumes[].csi, not in a PersistentVolume"
	case !req.GetReadonly():
		invalid = "set readOnly: true under spec.volumes[].csi: programs trust a space by its mount being read-only"
	case attributes[attributePodUID] == "":
		invalid = "the kubelet does not say for which pod: set podInfoOnMount: true in the CSIDriver object " + Name
	}
	if invalid != "" {
		return nil, status.Error(codes.InvalidArgument, invalid)
	}
	t, err := d.target(req.GetTargetPath())
	if err != nil {
		return nil, err
	}
	if uid := attributes[attributePodUID]; uid != t.pod {
		return nil, status.Errorf(codes.InvalidArgument, "the target path is of pod %s, the volume's attributes are of pod %s", t.pod, uid)
	}
	published, err := d.ask(ctx, t, attributes)
	if err != nil {
		return nil, err
	}
	d.mounts.Lock()
	defer d.mounts.Unlock()
	if err := t.mount(published.GetDir()); err != nil {
		return nil, status.Errorf(codes.Internal, "mount %s at %s: %v", published.GetDir(), t.path, err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// ask has the manager decide. Its refusals are for the kubelet as they are: they name the remedy.
func (d *Driver) ask(ctx context.Context, t target, attributes map[string]string) (*admin.PublishResponse, error) {
	client, err := admin.Dial(ctx, d.config.Root)
	if errors.Is(err, admin.ErrNoManager) {
		return nil, status.Errorf(codes.Unavailable, "%v: see the container \"manager\" of this node's ipcspace pod", err)
	}
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	defer client.Close()
	req := &admin.PublishRequest{
		PodUid:         t.pod,
		Volume:         t.volume,
		Attributes:     map[string]string{},
		PodName:        attributes[attributePodName],
		PodNamespace:   attributes[attributeNamespace],
		ServiceAccount: attributes[attributeServiceAcc],
	}
	for key, value := range attributes {
		if !strings.HasPrefix(key, reserved) {
			req.Attributes[key] = value
		}
	}
	return client.Publish(ctx, req)
}
