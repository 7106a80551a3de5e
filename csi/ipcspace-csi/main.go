// Command ipcspace-csi is the Kubernetes side: the CSI node driver, the admission of pods, and what an
// uninstall waits for.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/csi/admission"
	"github.com/ipcspace/ipcspace/csi/drain"
	"github.com/ipcspace/ipcspace/csi/driver"
)

// version is set when the command is linked.
var version = "unknown"

const usage = `ipcspace-csi gives spaces of System V IPC to pods.

  ipcspace-csi node       the CSI node driver: mounts a pod's space, as the node's manager decides
  ipcspace-csi webhook    gives annotated pods the volume, its mounts and an affinity
  ipcspace-csi drain      before an uninstall: refuses while pods have spaces, and ends the spaces
  ipcspace-csi version
`

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "ipcspace-csi:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return errors.New("no command given")
	}
	switch args[0] {
	case "node":
		return driver.Main(ctx, args[1:], version)
	case "webhook":
		return admission.Main(ctx, args[1:])
	case "drain":
		return drain.Main(ctx, args[1:])
	case "version":
		fmt.Fprintln(os.Stdout, version)
		return nil
	case "help", "-h", "--help":
		fmt.Fprint(os.Stdout, usage)
		return nil
	}
	return fmt.Errorf("unknown command %q; see ipcspace-csi help", args[0])
}
