package driver

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"

	"github.com/ipcspace/ipcspace/manager/admin"
	"github.com/ipcspace/ipcspace/test/suite"
)

// The tests mount: they have a mount namespace of their own. They run with a real manager and its
// spaces; what stands between is decide, for a manager gives pods nothing without a cluster.

var (
	scratch string
	node    *admin.Client // the real manager
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Println("skipped: mounts need root")
		return 0
	}
	if !suite.Inside() {
		return suite.EnterNamespaces()
	}
	var err error
	if scratch, err = os.MkdirTemp("", "ipcspace-csi-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(scratch)
	if err := suite.CopyCommands(filepath.Join(scratch, "bin"), "ipcspace-manager", "libipcspace.so"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	root := filepath.Join(scratch, "node")
	manager := exec.Command(filepath.Join(scratch, "bin", "ipcspace-manager"), "--root", root, "--ephemeral", "--log-level", "warn")
	manager.Stderr = os.Stderr
	manager.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := manager.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		_ = manager.Process.Signal(syscall.SIGTERM)
		_ = manager.Wait()
	}()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if node, err = admin.Dial(context.Background(), root); err == nil {
			break
		}
		if time.Now().After(end) {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	defer node.Close()
	return m.Run()
}

// decide answers Publish as a manager does that finds nothing against it. All else is the real
// manager's.
type decide struct {
	admin.UnimplementedAdminServer
	mu   sync.Mutex
	got  []*admin.PublishRequest
	fail error
}

func (d *decide) Version(ctx context.Context, req *admin.VersionRequest) (*admin.VersionResponse, error) {
	return node.Version(ctx, req)
}

func (d *decide) Publish(ctx context.Context, req *admin.PublishRequest) (*admin.PublishResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.got = append(d.got, req)
	if d.fail != nil {
		return nil, d.fail
	}
	name := req.GetAttributes()["space"]
	resp, err := node.EnsureSpace(ctx, &admin.EnsureSpaceRequest{Config: &admin.CreateSpaceRequest{Name: name}})
	if err != nil {
		return nil, err
	}
	return &admin.PublishResponse{Dir: resp.GetSpace().GetDir(), Space: name}, nil
}

// cluster is a driver with a folder of a kubelet.
type cluster struct {
	*Driver
	decide  *decide
	manager *grpc.Server // what the driver takes for it
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "test-")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{decide: &decide{}, manager: grpc.NewServer()}
	root, kubelet := filepath.Join(dir, "root"), filepath.Join(dir, "kubelet")
	for _, d := range []string{root, filepath.Join(kubelet, "pods"), filepath.Join(kubelet, "plugins"), filepath.Join(kubelet, "plugins_registry")} {
		if err := os.MkdirAll(d, 0o750); err != nil {
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("unix", admin.SocketPath(root))
	if err != nil {
		t.Fatal(err)
	}
	admin.RegisterAdminServer(c.manager, c.decide)
	go func() { _ = c.manager.Serve(listener) }()
	t.Cleanup(c.manager.Stop)
	c.Driver = c.restarted(t, Config{Node: "n1", Root: root, Kubelet: kubelet, Version: "test"})
	return c
}

// restarted is another driver in the place of the first.
func (c *cluster) restarted(t *testing.T, config Config) *Driver {
	t.Helper()
	config.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	d, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const podUID1 = "7d3c0b5e-6a51-4a4e-9c64-6f8a2f1f0001"

// volume is the path of a pod's volume, in a folder as the kubelet leaves it before it calls.
func (c *cluster) volume(t *testing.T, uid string) string {
	t.Helper()
	dir := filepath.Join(c.config.Kubelet, "pods", uid, "volumes", "kubernetes.io~csi", "ipcspace")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "mount")
}

// request is what the kubelet sends for a pod's inline volume.
func request(target, uid, space string) *csi.NodePublishVolumeRequest {
	return &csi.NodePublishVolumeRequest{
		VolumeId:   "csi-0123456789",
		TargetPath: target,
		Readonly:   true,
		VolumeCapability: &csi.VolumeCapability{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		},
		VolumeContext: map[string]string{
			"space":                                  space,
			"csi.storage.k8s.io/ephemeral":           "true",
			"csi.storage.k8s.io/pod.uid":             uid,
			"csi.storage.k8s.io/pod.name":            "p",
			"csi.storage.k8s.io/pod.namespace":       "shop",
			"csi.storage.k8s.io/serviceAccount.name": "default",
		},
	}
}

func (c *cluster) publish(t *testing.T, req *csi.NodePublishVolumeRequest) {
	t.Helper()
	if _, err := c.NodePublishVolume(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) unpublish(t *testing.T, target string) {
	t.Helper()
	if _, err := c.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: "csi-0123456789", TargetPath: target}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(target); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", target, err)
	}
	if n := mounts(t, target); n != 0 {
		t.Errorf("%d mounts are left", n)
	}
}
