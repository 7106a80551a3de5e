package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// serving starts a driver on its sockets. stop ends it and waits.
func (c *cluster) serving(t *testing.T) (health string, stop func()) {
	t.Helper()
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	health = probe.Addr().String()
	probe.Close()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Serve(ctx, health) }()
	stop = func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the driver does not end")
		}
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if get(health, "/livez") == nil {
			return health, stop
		}
		if time.Now().After(end) {
			stop()
			t.Fatal("the driver does not serve")
		}
	}
}

func get(address, path string) error {
	resp, err := http.Get("http://" + address + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, body)
	}
	return nil
}

func dial(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// What a kubelet does with a socket that it finds in its registry.
func TestRegistration(t *testing.T) {
	c := newCluster(t)
	// A driver that was killed has left its sockets.
	for _, path := range []string{c.socket(), c.registry()} {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
	}
	health, stop := c.serving(t)
	kubelet := registration.NewRegistrationClient(dial(t, c.registry()))
	info, err := kubelet.GetInfo(t.Context(), &registration.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if info.GetType() != "CSIPlugin" || info.GetName() != "csi.ipcspace.io" || len(info.GetSupportedVersions()) != 1 || info.GetSupportedVersions()[0] != "1.0.0" {
		t.Errorf("introduced as %v", info)
	}
	if resp, err := csi.NewNodeClient(dial(t, info.GetEndpoint())).NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{}); err != nil || resp.GetNodeId() != "n1" {
		t.Errorf("%v %v", resp, err)
	}
	if err := get(health, "/readyz"); err == nil || !strings.Contains(err.Error(), "--root-dir") {
		t.Errorf("%v before the kubelet took the driver", err)
	}
	notify := func(s *registration.RegistrationStatus) {
		t.Helper()
		if _, err := kubelet.NotifyRegistrationStatus(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	notify(&registration.RegistrationStatus{PluginRegistered: false, Error: "not yet"})
	if err := get(health, "/readyz"); err == nil {
		t.Error("ready although the kubelet refused")
	}
	notify(&registration.RegistrationStatus{PluginRegistered: true})
	if err := get(health, "/readyz"); err != nil {
		t.Error(err)
	}
	c.manager.Stop()
	if err := get(health, "/readyz"); err == nil {
		t.Error("ready without a manager")
	}
	if err := get(health, "/livez"); err != nil {
		t.Error("a manager that is away would have the driver killed:", err)
	}
	stop()
	for _, path := range []string{filepath.Dir(c.socket()), c.registry()} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}

// csi-test's suite, the services that a driver without a controller has. Most of what needs CreateVolume
// it leaves out by itself; what it does not, TestPublish has.
func TestSanity(t *testing.T) {
	c := newCluster(t)
	_, stop := c.serving(t)
	defer stop()
	config := sanity.NewTestConfig()
	config.Address = "unix://" + c.socket()
	config.TargetPath = filepath.Join(c.config.Kubelet, "sanity-target")
	config.StagingPath = filepath.Join(c.config.Kubelet, "sanity-staging")
	suite := sanity.GinkgoTest(&config)
	defer suite.Finalize()
	gomega.RegisterFailHandler(ginkgo.Fail)
	suiteConfig, reporterConfig := ginkgo.GinkgoConfiguration()
	suiteConfig.FocusStrings = append(suiteConfig.FocusStrings, "Identity Service", "Node Service")
	suiteConfig.SkipStrings = append(suiteConfig.SkipStrings, "NodeUnpublishVolume should remove target path")
	reporterConfig.Succinct = true
	ginkgo.RunSpecs(t, "csi-sanity", suiteConfig, reporterConfig)
}
