package driver

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/ipcspace/ipcspace/manager/admin"
)

// Main is "ipcspace-csi node".
func Main(ctx context.Context, args []string, version string) error {
	config := Config{Version: version}
	var level slog.Level
	flags := flag.NewFlagSet("ipcspace-csi node", flag.ContinueOnError)
	flags.StringVar(&config.Node, "node", os.Getenv("NODE_NAME"), "this node's `name`; the default is NODE_NAME's value")
	flags.StringVar(&config.Root, "root", admin.DefaultRoot, "the manager's `folder`")
	flags.StringVar(&config.Kubelet, "kubelet-dir", "/var/lib/kubelet", "the kubelet's `folder` (its --root-dir), here and on the node")
	health := flags.String("health", ":9808", "`address` of /livez and /readyz; empty: none")
	flags.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	if err := flags.Parse(args); err != nil {
		return err
	}
	config.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	d, err := New(config)
	if err != nil {
		return err
	}
	return d.Serve(ctx, *health)
}

// socket is where the kubelet calls the driver; registry is where it looks for drivers.
func (d *Driver) socket() string {
	return filepath.Join(d.config.Kubelet, "plugins", Name, "csi.sock")
}

func (d *Driver) registry() string {
	return filepath.Join(d.config.Kubelet, "plugins_registry", Name+"-reg.sock")
}

// stopPatience is how long calls under way may take at the end.
const stopPatience = 5 * time.Second

// Serve serves the kubelet until ctx ends, and takes the sockets away then, by which the kubelet
// learns that the driver is gone.
func (d *Driver) Serve(ctx context.Context, health string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 3)

	service := grpc.NewServer(grpc.UnaryInterceptor(d.logged))
	csi.RegisterIdentityServer(service, d)
	csi.RegisterNodeServer(service, d)
	registrar := &registrar{driver: d}
	registry := grpc.NewServer()
	registration.RegisterRegistrationServer(registry, registrar)

	// Nothing is left of the driver in the kubelet's folder, once its sockets are gone.
	defer func() { _ = os.Remove(filepath.Dir(d.socket())) }()
	// The driver first: the kubelet calls it as soon as it finds the other.
	servers := []*grpc.Server{service, registry}
	for i, path := range []string{d.socket(), d.registry()} {
		listener, err := listen(ctx, path)
		if err != nil {
			return err
		}
		server := servers[i]
		defer stop(server)
		go func() { ended <- server.Serve(listener) }()
	}
	if health != "" {
		listener, err := net.Listen("tcp", health)
		if err != nil {
			return fmt.Errorf("health: %w", err)
		}
		server := &http.Server{Handler: d.health(registrar), ReadHeaderTimeout: 5 * time.Second}
		defer server.Close()
		go func() { ended <- server.Serve(listener) }()
	}
	d.config.Log.Info("serving", "node", d.config.Node, "socket", d.socket(), "registry", d.registry())
	select {
	case <-ctx.Done():
		return nil
	case err := <-ended:
		return err
	}
}

// stop ends a server, with its calls under way for a while.
func stop(server *grpc.Server) {
	timer := time.AfterFunc(stopPatience, server.Stop)
	defer timer.Stop()
	server.GracefulStop()
}

// listen takes the place of a socket that an earlier driver left.
func listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, err
	}
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("%s is there and no socket; remove it", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return new(net.ListenConfig).Listen(ctx, "unix", path)
}

// logged logs each call that changes something, and what fails.
func (d *Driver) logged(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	begin := time.Now()
	resp, err := handler(ctx, req)
	log, level := d.config.Log.With("call", filepath.Base(info.FullMethod), "took", time.Since(begin).Round(time.Millisecond)), slog.LevelDebug
	if t, ok := req.(interface{ GetTargetPath() string }); ok {
		log, level = log.With("target", t.GetTargetPath()), slog.LevelInfo
	}
	if err != nil {
		log.Warn("refused", "code", status.Code(err), "error", status.Convert(err).Message())
	} else {
		log.Log(ctx, level, "done")
	}
	return resp, err
}

// registrar introduces the driver to the kubelet.
type registrar struct {
	registration.UnimplementedRegistrationServer
	driver     *Driver
	registered atomic.Bool
}

// GetInfo is the kubelet's question who is at a socket of its registry.
func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type:              "CSIPlugin",
		Name:              Name,
		Endpoint:          r.driver.socket(),
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

// NotifyRegistrationStatus is the kubelet's verdict. It tries again by itself after a failure.
func (r *registrar) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	r.registered.Store(s.GetPluginRegistered())
	if s.GetPluginRegistered() {
		r.driver.config.Log.Info("registered with the kubelet")
	} else {
		r.driver.config.Log.Error("the kubelet does not take the driver", "error", s.GetError())
	}
	return &registration.RegistrationStatusResponse{}, nil
}

// health answers /livez by calling the driver as the kubelet does, and /readyz if the manager answers
// and the kubelet knows the driver.
func (d *Driver) health(r *registrar) http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, req *http.Request) {
		answer(w, d.self(req.Context(), func(ctx context.Context, c csi.IdentityClient) error {
			_, err := c.GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
			return err
		}))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, req *http.Request) {
		if !r.registered.Load() {
			answer(w, fmt.Errorf("the kubelet has not taken the driver from %s: is %s its --root-dir?", d.registry(), d.config.Kubelet))
			return
		}
		answer(w, d.self(req.Context(), func(ctx context.Context, c csi.IdentityClient) error {
			resp, err := c.Probe(ctx, &csi.ProbeRequest{})
			if err == nil && !resp.GetReady().GetValue() {
				err = fmt.Errorf("no manager answers in %s", d.config.Root)
			}
			return err
		}))
	})
	return mux
}

// self calls the driver by its socket.
func (d *Driver) self(ctx context.Context, call func(context.Context, csi.IdentityClient) error) error {
	conn, err := grpc.NewClient("unix://"+d.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	return call(ctx, csi.NewIdentityClient(conn))
}
