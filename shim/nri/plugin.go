// Package nri is a plugin of the Node Resource Interface, for containerd from 2.0 on and CRI-O. It
// does what a Kubernetes volume cannot: it joins LD_PRELOAD and IPCSPACE_REQUIRED for containers that
// have a space mounted, and closes the kernel's own System V IPC for them.
//
// It never mounts, so a space is never there twice. What needs a mount, the hiding of the kernel's
// tables, it leaves to package hook, whose program it can put on the node. Its handlers ask nobody and
// open nothing but what the request names: a runtime cuts off a plugin that answers late. It fails
// closed: a container that cannot have what it asks for is not created.
package nri

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"golang.org/x/mod/semver"

	"github.com/ipcspace/ipcspace/shim"
	"github.com/ipcspace/ipcspace/shim/hook"
)

// reconnectPause is how long the plugin waits before it connects to the runtime again.
const reconnectPause = time.Second

// Main is "ipcspace-shim nri".
func Main(ctx context.Context, args []string) error {
	p := &plugin{log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	flags := flag.NewFlagSet("ipcspace-shim nri", flag.ContinueOnError)
	flags.StringVar(&p.root, "root", shim.Root(), "the manager's `folder` as the runtime knows it")
	flags.StringVar(&p.hook, "hook", "", "`path` of ipcspace-shim on the node: it closes the kernel's IPC as a hook, also with runtimes whose NRI sets no sysctls (containerd before 2.2), and has ipcs, ipcrm and lsipc show the space")
	install := flags.Bool("install-hook", false, "put this program at the path of --hook while the plugin runs")
	socket := flags.String("socket", "/var/run/nri/nri.sock", "the runtime's NRI `socket`")
	name := flags.String("name", "ipcspace", "the plugin's name")
	index := flags.String("index", "10", "the plugin's place among others, two digits")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *install {
		remove, err := installHook(ctx, p.hook)
		if err != nil {
			p.log.Warn("no hook: ipcs, ipcrm and lsipc show the kernel's tables in containers with a space", "hook", p.hook, "error", err)
			p.hook = ""
		} else {
			defer remove()
		}
	}
	last := ""
	for {
		err := p.serve(ctx, *socket, *name, *index)
		if ctx.Err() != nil {
			return nil
		}
		if err.Error() != last { // a runtime without NRI says the same every second
			last = err.Error()
			p.log.Warn("not connected to the runtime; trying on", "socket", *socket, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(reconnectPause):
		}
	}
}

type plugin struct {
	root, hook string
	log        *slog.Logger
	noSysctls  bool // the runtime at hand ignores them
}

// serve is one connection, until it ends.
func (p *plugin) serve(ctx context.Context, socket, name, index string) error {
	if _, err := os.Stat(socket); err != nil {
		return err // the stub waits long for a socket that is not there
	}
	s, err := stub.New(p, stub.WithPluginName(name), stub.WithPluginIdx(index), stub.WithSocketPath(socket))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	if err := s.Run(ctx); err != nil {
		return err
	}
	return errors.New("the runtime closed the connection")
}

// Configure learns which runtime it is.
func (p *plugin) Configure(_ context.Context, _, runtime, version string) (stub.EventMask, error) {
	p.noSysctls = lacksSysctls(runtime, version)
	p.log.Info("connected", "runtime", runtime, "version", version, "sysctls", !p.noSysctls)
	if p.noSysctls && p.hook == "" {
		p.log.Warn("this runtime's NRI sets no sysctls: containers with a space are refused unless there is a hook (--hook, --install-hook; the chart's nri.installHook), or they choose "+shim.AnnotationKernelIPC+"=open", "runtime", runtime, "version", version)
	}
	return api.MustParseEventMask("CreateContainer"), nil
}

// lacksSysctls: the plugin API has them from 0.11 on, containerd from 2.2, and Docker 29 passes over
// them. A runtime whose version says nothing is taken for a new one.
func lacksSysctls(runtime, version string) bool {
	if runtime == "docker" {
		return true
	}
	if !strings.HasPrefix(version, "v") {
		version = "v" + version
	}
	return runtime == "containerd" && semver.IsValid(version) && semver.Compare(version, "v2.2.0-0") < 0
}

// Synchronize comes with each connection. A container that runs keeps its environment and its IPC
// namespace as they are: what it has not got it cannot get now, and is told of.
func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	for _, c := range containers {
		if r, err := p.request(nil, c); err == nil && r != nil && shim.Preloads(c.GetEnv()) {
			continue
		} else if r != nil {
			p.log.Warn("a container has a space and no LD_PRELOAD: it was created while this plugin was away; start it again", "container", c.GetId(), "name", c.GetName())
		}
	}
	p.log.Info("synchronized", "pods", len(pods), "containers", len(containers))
	return nil, nil
}

// CreateContainer adjusts a container that has a space mounted.
func (p *plugin) CreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	r, err := p.request(pod, c)
	if err != nil {
		return nil, nil, fmt.Errorf("ipcspace: %w", err)
	}
	if r == nil {
		return nil, nil, nil
	}
	a := &api.ContainerAdjustment{}
	preload := ""
	for _, pair := range c.GetEnv() {
		name, value, _ := strings.Cut(pair, "=")
		switch name {
		case "LD_PRELOAD":
			preload = value
		// What an image says does not count. (Removed, they would stay, with containerd 2.4.)
		case "IPCSPACE_DIR":
			a.AddEnv(name, shim.Target)
		case "IPCSPACE_DIR_WRITABLE":
			a.AddEnv(name, "")
		}
	}
	a.AddEnv("LD_PRELOAD", shim.JoinPreload(preload))
	a.AddEnv("IPCSPACE_REQUIRED", "1")
	if err := p.kernelIPC(a, pod, r.OpenKernel); err != nil {
		return nil, nil, fmt.Errorf("ipcspace: %w", err)
	}
	p.log.Info("container adjusted", "pod", pod.GetName(), "namespace", pod.GetNamespace(), "container", c.GetName(), "space", r.Space, "kernel_ipc_open", r.OpenKernel)
	return a, nil, nil
}

// kernelIPC closes the pod's IPC namespace, unless it is to stay open: its containers share one. The
// host's is not the pod's to close. A hook hides the kernel's tables besides.
func (p *plugin) kernelIPC(a *api.ContainerAdjustment, pod *api.PodSandbox, open bool) error {
	own, choice := false, "closed"
	for _, ns := range pod.GetLinux().GetNamespaces() {
		own = own || ns.GetType() == "ipc"
	}
	if open {
		choice = "open"
	} else if !own {
		return fmt.Errorf("%w: the pod shares the host's IPC namespace, whose kernel tables cannot be closed; drop hostIPC, or set the annotation %s=open",
			shim.ErrRefused, shim.AnnotationKernelIPC)
	}
	switch {
	case p.hook != "":
		h := hook.Spec(p.hook, p.root, "--kernel-ipc", choice)
		a.AddHooks(&api.Hooks{CreateRuntime: []*api.Hook{{Path: h.Path, Args: h.Args, Env: h.Env}}})
	case open:
	case p.noSysctls:
		return fmt.Errorf("%w: this runtime's NRI sets no sysctls, so the kernel's own System V IPC stays open; give the plugin a hook (the chart's nri.installHook), use containerd 2.2 or later, or set the annotation %s=open",
			shim.ErrRefused, shim.AnnotationKernelIPC)
	default:
		for name, value := range shim.Sysctls {
			a.SetLinuxSysctl(name, value)
		}
	}
	return nil
}

// volumes is in the path of what a kubelet mounts for a CSI driver.
const volumes = "/volumes/kubernetes.io~csi/"

// request is what the container asks for by its mounts; nil: nothing. The choice comes from the
// container's annotations or the pod's, where one for a container alone is called
// ipcspace.io/kernel-ipc.<container>.
func (p *plugin) request(pod *api.PodSandbox, c *api.Container) (*shim.Request, error) {
	r := &shim.Request{}
	for _, m := range c.GetMounts() {
		if filepath.Clean("/"+m.GetDestination()) != shim.Target {
			continue
		}
		name, known := shim.SpaceOf(p.root, m.GetSource())
		if known || strings.Contains(filepath.Clean(m.GetSource()), volumes) {
			r.Space, r.Mounted = name, true
		}
	}
	if !r.Mounted {
		return nil, nil
	}
	choice := "closed"
	for _, has := range []struct {
		annotations map[string]string
		key         string
	}{
		{pod.GetAnnotations(), shim.AnnotationKernelIPC},
		{pod.GetAnnotations(), shim.AnnotationKernelIPC + "." + c.GetName()},
		{c.GetAnnotations(), shim.AnnotationKernelIPC},
	} {
		if value, set := has.annotations[has.key]; set {
			choice = value
		}
	}
	switch choice {
	case "closed":
	case "open":
		r.OpenKernel = true
	default:
		return nil, fmt.Errorf("%w: %s=%q; it is one of: closed, open", shim.ErrRefused, shim.AnnotationKernelIPC, choice)
	}
	return r, nil
}
