// Command ipcspace-shim gives spaces to containers: a wrapper of the OCI runtime, an OCI hook, a CDI
// specification kept up to date, and an NRI plugin.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/shim/cdi"
	"github.com/ipcspace/ipcspace/shim/hook"
	"github.com/ipcspace/ipcspace/shim/nri"
	"github.com/ipcspace/ipcspace/shim/runtime"
)

// version is set when the command is linked.
var version = "unknown"

const usage = `ipcspace-shim gives spaces of System V IPC to containers.

  ipcspace-shim runtime ARGS…   what an OCI runtime does, for containers that ask for a space; then runc
                                does the rest. Installed as ipcspace-runc it needs no first argument,
                                and as ipcspace-crun it wraps crun
  ipcspace-shim hook            an OCI hook of the stage createRuntime, for podman and CRI-O
  ipcspace-shim hook --install DIR   writes the hook's file into a hooks directory
  ipcspace-shim cdi             keeps a CDI specification with one device for each space
  ipcspace-shim nri             an NRI plugin, for containerd 2 and CRI-O
  ipcspace-shim version
`

func main() {
	if err := run(os.Args); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "ipcspace:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	// A runtime is configured by its path alone: the name says which one is wrapped.
	if real, ok := strings.CutPrefix(filepath.Base(args[0]), "ipcspace-"); ok && real != "shim" {
		return runtime.Run(ctx, real, args[1:])
	}
	if len(args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		return errors.New("no command given")
	}
	switch args[1] {
	case "runtime":
		return runtime.Run(ctx, "runc", args[2:])
	case "hook":
		return hook.Main(ctx, args[2:])
	case "cdi":
		return cdi.Main(ctx, args[2:])
	case "nri":
		return nri.Main(ctx, args[2:])
	case "version":
		_, err := fmt.Fprintln(os.Stdout, version)
		return err
	case "help", "-h", "--help":
		_, err := fmt.Fprint(os.Stdout, usage)
		return err
	}
	return fmt.Errorf("unknown command %q; see ipcspace-shim help", args[1])
}
