// Package cdi keeps a specification of the Container Device Interface up to date: one device
// ipcspace.io/space=NAME for each space of a node's manager.
package cdi

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"tags.cncf.io/container-device-interface/specs-go"

	"github.com/ipcspace/ipcspace/manager/admin"
	"github.com/ipcspace/ipcspace/shim"
	"github.com/ipcspace/ipcspace/shim/hook"
)

// Kind is the vendor and class of the devices.
const Kind = "ipcspace.io/space"

// fileName is CDI's convention: vendor-class.
const fileName = "ipcspace.io-space.json"

// Main is "ipcspace-shim cdi".
func Main(ctx context.Context, args []string) error {
	k := keeper{log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	flags := flag.NewFlagSet("ipcspace-shim cdi", flag.ContinueOnError)
	flags.StringVar(&k.root, "root", shim.Root(), "the manager's `folder`")
	flags.StringVar(&k.dir, "dir", "/var/run/cdi", "`folder` of CDI specifications; runtimes look in /etc/cdi and /var/run/cdi")
	once := flags.Bool("once", false, "write the specification and end")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if k.program, err = os.Executable(); err != nil {
		return err
	}
	if err := os.MkdirAll(k.dir, 0o755); err != nil {
		return err
	}
	if *once {
		return k.write()
	}
	return k.follow(ctx)
}

type keeper struct {
	root, dir string
	program   string // this one, which the devices' hook is
	log       *slog.Logger
	last      string
}

// specification has a device for each name. The hook closes the kernel's own System V IPC and hides
// its tables; the mount and the environment are the runtime's to make.
//
// It is of the oldest version that has what is in it: podman 4 knows none after 0.5.0.
func (k *keeper) specification(names []string) (*specs.Spec, error) {
	h := hook.Spec(k.program, k.root)
	spec := &specs.Spec{Kind: Kind, Devices: []specs.Device{}}
	for _, name := range names {
		spec.Devices = append(spec.Devices, specs.Device{
			Name: name,
			ContainerEdits: specs.ContainerEdits{
				// An image could lead the library elsewhere by the last two.
				Env: []string{"LD_PRELOAD=" + shim.Library, "IPCSPACE_REQUIRED=1", "IPCSPACE_DIR=" + shim.Target, "IPCSPACE_DIR_WRITABLE="},
				Mounts: []*specs.Mount{{
					HostPath: filepath.Join(k.root, "spaces", name), ContainerPath: shim.Target,
					Type: "bind", Options: []string{"bind", "ro", "nosuid", "nodev"},
				}},
				Hooks: []*specs.Hook{{HookName: "createRuntime", Path: h.Path, Args: h.Args, Env: h.Env}},
			},
		})
	}
	var err error
	spec.Version, err = specs.MinimumRequiredVersion(spec)
	return spec, err
}

// names lists the spaces that are there: folders with a table.
func (k *keeper) names() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(k.root, "spaces"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(k.root, "spaces", e.Name(), "table")); err == nil && admin.ValidName(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// write replaces the specification, whole or not at all. With no space there is none: a
// specification without devices is invalid.
func (k *keeper) write() error {
	names, err := k.names()
	if err != nil {
		return fmt.Errorf("list the spaces: %w; is ipcspace-manager --root %s running?", err, k.root)
	}
	path := filepath.Join(k.dir, fileName)
	if len(names) == 0 {
		k.last = ""
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	spec, err := k.specification(names)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(spec, "", "  ")
	if err != nil || string(text) == k.last {
		return err
	}
	// CDI reads *.json and *.yaml only.
	fresh := filepath.Join(k.dir, "."+fileName+".new")
	if err := os.WriteFile(fresh, append(text, '\n'), 0o644); err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	k.last = string(text)
	k.log.Info("specification written", "path", path, "devices", len(names))
	return nil
}

// follow writes the specification anew whenever a space comes or goes: each is a mount, and the
// kernel tells of changes of the mounts, proc(5) on mountinfo. It tells of them a moment before they
// are to be seen, so the folder is looked at some times more.
func (k *keeper) follow(ctx context.Context) error {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer mounts.Close()
	over, end, err := os.Pipe()
	if err != nil {
		return err
	}
	defer over.Close()
	stop := context.AfterFunc(ctx, func() { _ = end.Close() })
	defer stop()
	for looks := 0; ; looks++ {
		if err := k.write(); err != nil && !errors.Is(err, os.ErrNotExist) { // the manager may not have started yet
			return err
		}
		wait := []unix.PollFd{{Fd: int32(mounts.Fd()), Events: unix.POLLPRI}, {Fd: int32(over.Fd()), Events: unix.POLLIN}}
		timeout := -1
		if looks < 10 {
			timeout = 1 << looks // ms: a second in all
		}
		changed, err := unix.Poll(wait, timeout)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for changes of the mounts: %w", err)
		}
		if changed > 0 {
			looks = -1
		}
		if wait[1].Revents != 0 {
			return nil
		}
	}
}
