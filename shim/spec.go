package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Bundle is an OCI bundle on disk: the specification as far as it matters here. What this program
// does not know of config.json is not touched.
type Bundle struct {
	Dir  string
	Spec specs.Spec
	Text []byte // config.json as it is
}

// ReadBundle reads <dir>/config.json.
func ReadBundle(dir string) (*Bundle, error) {
	b := &Bundle{Dir: dir}
	var err error
	if b.Text, err = os.ReadFile(filepath.Join(dir, "config.json")); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b.Text, &b.Spec); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, "config.json"), err)
	}
	return b, nil
}

// What CRI says of a container: it is a pod's sandbox, or one that shares its namespaces.
const (
	criType    = "io.kubernetes.cri.container-type"
	crioType   = "io.kubernetes.cri-o.ContainerType"
	criSandbox = "sandbox"
)

func (b *Bundle) inPod() bool {
	return b.Spec.Annotations[criType] != "" || b.Spec.Annotations[crioType] != ""
}

// Request is what the bundle's container asks for; nil: nothing. A pod's sandbox never asks.
func (b *Bundle) Request(root string) (*Request, error) {
	if b.Spec.Annotations[criType] == criSandbox || b.Spec.Annotations[crioType] == criSandbox {
		return nil, nil
	}
	var mounts []Mount
	for _, m := range b.Spec.Mounts {
		mounts = append(mounts, Mount{Destination: m.Destination, Source: m.Source, Options: m.Options})
	}
	return Parse(root, b.Spec.Annotations, mounts)
}

// hostNamespace tells whether path is the IPC namespace of the runtime itself. In doubt it is.
func hostNamespace(path string) bool {
	theirs, err := os.Stat(path)
	if err != nil {
		return true
	}
	ours, err := os.Stat("/proc/self/ns/ipc")
	return err != nil || os.SameFile(ours, theirs)
}

// KernelIPC tells whether the kernel's own System V IPC is to be closed in the container's IPC
// namespace. The namespace of others cannot be: ErrRefused, unless the container chose "open".
func (b *Bundle) KernelIPC(r *Request) (closed bool, err error) {
	if r.OpenKernel {
		return false, nil
	}
	if b.Spec.Linux == nil {
		return false, errors.New("config.json has no linux section")
	}
	for _, ns := range b.Spec.Linux.Namespaces {
		if ns.Type != specs.IPCNamespace {
			continue
		}
		// A pod's containers share one namespace, and the pod is the unit that has a space.
		if ns.Path != "" && !b.inPod() {
			return false, fmt.Errorf("%w: the container joins another one's IPC namespace, whose kernel tables are not its to close; drop --ipc=container:…, or set %s=open",
				ErrRefused, AnnotationKernelIPC)
		}
		if ns.Path != "" && hostNamespace(ns.Path) {
			break // hostIPC: the sandbox has none of its own
		}
		return true, nil
	}
	return false, fmt.Errorf("%w: the container shares the host's IPC namespace, whose kernel tables cannot be closed; drop --ipc=host (hostIPC), or set %s=open",
		ErrRefused, AnnotationKernelIPC)
}
