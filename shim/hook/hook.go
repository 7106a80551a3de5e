// Package hook is an OCI hook of the stage createRuntime, for runtimes that are not wrapped: podman
// and CRI-O by their hooks directories, and all that know CDI. It gives a container that asks for a
// space the mount, unless its configuration has it, hides the kernel's tables, and closes the
// kernel's own System V IPC in the container's IPC namespace.
//
// It is privileged and works next to files that the image made: it reads no environment but the
// manager's root, and follows no symbolic link in the container's root.
package hook

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ipcspace/ipcspace/shim"
)

// mostState is the largest state that is read, in bytes.
const mostState = 1 << 20

// Main is "ipcspace-shim hook": the state comes on the standard input.
func Main(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("ipcspace-shim hook", flag.ContinueOnError)
	root := flags.String("root", shim.Root(), "the manager's `folder`")
	kernelIPC := flags.String("kernel-ipc", "", "closed or `open`, whatever the annotation "+shim.AnnotationKernelIPC+" says: for who knows more than the container's configuration does")
	install := flags.String("install", "", "write the hook's file into a hooks `directory` of podman or CRI-O, and end")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *install != "" {
		return writeHookFile(*install, *root)
	}
	text, err := io.ReadAll(io.LimitReader(os.Stdin, mostState))
	if err != nil {
		return err
	}
	var state specs.State
	if err := json.Unmarshal(text, &state); err != nil {
		return fmt.Errorf("the container's state on the standard input: %w; a runtime calls this hook, oci-hooks(5)", err)
	}
	return run(ctx, *root, *kernelIPC, state)
}

func run(ctx context.Context, root, kernelIPC string, state specs.State) error {
	b, err := shim.ReadBundle(state.Bundle)
	if err != nil {
		return err
	}
	if kernelIPC != "" {
		if b.Spec.Annotations == nil {
			b.Spec.Annotations = map[string]string{}
		}
		b.Spec.Annotations[shim.AnnotationKernelIPC] = kernelIPC
	}
	r, err := b.Request(root)
	if err != nil || r == nil {
		return err
	}
	if b.Spec.Root == nil || b.Spec.Process == nil || state.Pid <= 0 {
		return fmt.Errorf("container %s: no root, process or pid; the hook is for the stage createRuntime", state.ID)
	}
	p := plan{pid: state.Pid, rootfs: b.Spec.Root.Path}
	if !filepath.IsAbs(p.rootfs) {
		p.rootfs = filepath.Join(b.Dir, p.rootfs)
	}
	if p.close, err = b.KernelIPC(r); err != nil {
		return err
	}
	if r.Space != "" {
		dir, err := r.Ensure(ctx, root)
		if err != nil {
			return err
		}
		if !r.Mounted {
			p.space = dir
		}
		// A hook cannot change the environment, neither of the container nor of what is executed in it
		// later. The file does for both, with glibc.
		p.preload = filepath.Join(dir, shim.PreloadFile)
		p.needsFile = r.BindFile || !shim.Preloads(b.Spec.Process.Env)
	}
	return p.carryOut()
}

// Spec is the hook as a runtime is told of it. Its environment is explicit: an empty one would be
// filled with the runtime's own.
func Spec(program, root string, flags ...string) specs.Hook {
	return specs.Hook{
		Path: program, Args: append([]string{"ipcspace-shim", "hook", "--root", root}, flags...),
		Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
	}
}

// writeHookFile writes what oci-hooks(5) describes: for containers with our annotation, in the stage
// createRuntime.
func writeHookFile(dir, root string) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(map[string]any{
		"version": "1.0.0",
		"hook":    Spec(program, root),
		"when":    map[string]any{"annotations": map[string]string{`^ipcspace\.io/space$`: ".+"}},
		"stages":  []string{"createRuntime"},
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "ipcspace.json"), append(text, '\n'), 0o644)
}
