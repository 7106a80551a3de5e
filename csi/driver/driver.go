// Package driver is the CSI node driver: the kubelet's hand that puts a space's folder where a pod
// wants it. It owns the mounts below the kubelet's folder of pods, and its registration with the
// kubelet. It decides nothing: the manager says which space a pod gets, or why none.
//
// It keeps no state. What there is to know stands in the mount table, so that any call may come twice,
// after a restart of the kubelet or of the driver, or after either died in the middle of it.
package driver

import (
	"context"
	"errors"
	"log/slog"
	"path"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ipcspace/ipcspace/manager/admin"
	"github.com/ipcspace/ipcspace/manager/kube/v1alpha1"
)

// Name is the driver's, in CSIDriver objects and pods' volumes.
const Name = v1alpha1.Driver

// Config is what a driver must know.
type Config struct {
	Node    string // this node's name
	Root    string // the manager's folder
	Kubelet string // the kubelet's folder, under the name that the kubelet has for it
	Version string
	Log     *slog.Logger
}

// Driver serves the CSI identity and node services.
type Driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedNodeServer

	config Config
	// mounts is held while a mount is looked at and changed.
	mounts sync.Mutex
}

// New makes a driver.
func New(config Config) (*Driver, error) {
	switch {
	case config.Node == "":
		return nil, errors.New("the node's name is missing: give --node, or set NODE_NAME from the field spec.nodeName")
	case !path.IsAbs(config.Kubelet):
		return nil, errors.New("--kubelet-dir must be an absolute path: the kubelet's --root-dir")
	case !path.IsAbs(config.Root):
		return nil, errors.New("--root must be an absolute path: the manager's folder")
	}
	config.Kubelet = path.Clean(config.Kubelet)
	return &Driver{config: config}, nil
}

// GetPluginInfo says who this is.
func (d *Driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: Name, VendorVersion: d.config.Version}, nil
}

// GetPluginCapabilities: there is no controller, and volumes are no matter of topology.
func (d *Driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{}, nil
}

// Probe is ready when the manager answers: without it no volume can be published.
func (d *Driver) Probe(ctx context.Context, _ *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	client, err := admin.Dial(ctx, d.config.Root)
	if err != nil {
		d.config.Log.Warn("not ready", "error", err)
		return &csi.ProbeResponse{Ready: wrapperspb.Bool(false)}, nil
	}
	defer client.Close()
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// NodeGetInfo names the node.
func (d *Driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.config.Node}, nil
}

// NodeGetCapabilities: nothing is staged or expanded, and the folder's own usage says nothing of the
// space's, which stands in the status of its IPCSpace.
func (d *Driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

// NodeUnpublishVolume takes a pod's mount away. It needs nobody for it.
func (d *Driver) NodeUnpublishVolume(_ context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, status.Error(codes.InvalidArgument, "no volume id")
	}
	t, err := d.target(req.GetTargetPath())
	if err != nil {
		return nil, err
	}
	d.mounts.Lock()
	defer d.mounts.Unlock()
	if err := t.clear(); err != nil {
		return nil, status.Errorf(codes.Internal, "unmount %s: %v", t.path, err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}
