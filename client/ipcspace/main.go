// Command ipcspace gives programs a System V IPC space of their own, and shows
// and steers the spaces of a node's manager.
//
// It owns what a person types and reads. It never touches an object: `run`
// starts a program with the preloaded library, all else goes through the
// manager's admin API.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/ipcspace/ipcspace/manager/admin"
)

// version is set when the command is linked.
var version = "unknown"

// Exit codes. Those of run are docker run's.
const (
	exitFailure       = 1
	exitUsage         = 2
	exitRun           = 125 // run itself failed
	exitNotExecutable = 126
	exitNotFound      = 127
)

// exitError ends the command with a code. A nil err says nothing: the program
// that run started had its own words.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func usageErrorf(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

func main() {
	if len(os.Args) > 3 && os.Args[1] == launchVerb {
		os.Exit(launch(os.Args[2], os.Args[3:], os.Stderr))
	}
	os.Exit(execute(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// execute runs one command line and returns its exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	code := exitFailure
	var exit *exitError
	if errors.As(err, &exit) {
		code = exit.code
		if exit.err == nil {
			return code
		}
	}
	fmt.Fprintf(stderr, "ipcspace: %v\n", err)
	return code
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "ipcspace",
		Short: "System V IPC in user space, in isolated spaces",
		Long: `ipcspace gives unmodified programs System V shared memory, semaphores and
message queues in user space. A space is one isolated key space: what an IPC
namespace is in the kernel.

Try it, as root or as an ordinary user:

  ipcspace run -- sh -c 'ipcmk -Q; ipcmk -S 3; ipcspace ipcs'

With a manager on the machine (ipcspace-manager), spaces outlive programs and
are shared by those that name them:

  ipcspace space create shop
  ipcspace run --space shop -- ./server
  ipcspace ipcs --space shop

Exit codes: 0 done, 1 failed, 2 wrong usage; of run: see ipcspace run --help.`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return usageErrorf("unknown command %q; see: ipcspace --help", args[0])
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageErrorf("%w; see: %s --help", err, cmd.CommandPath())
	})
	root.SetVersionTemplate("ipcspace {{.Version}}\n")
	root.PersistentFlags().String("root", defaultRoot(), "folder of the manager (also: IPCSPACE_ROOT)")
	root.AddCommand(newRunCommand(), newSpaceCommand(), newIpcsCommand(), newIpcrmCommand(), newDoctorCommand())
	return root
}

// rootEnv names the folder of the manager to talk to; run sets it for what it
// starts, so that `ipcspace ipcs` in there shows the space it is in.
const (
	rootEnv  = "IPCSPACE_ROOT"
	spaceEnv = "IPCSPACE_SPACE"
)

func defaultRoot() string {
	if root := os.Getenv(rootEnv); root != "" {
		return root
	}
	return admin.DefaultRoot
}

// exactArgs is cobra.ExactArgs with words of its own: what to give, not how many.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usageErrorf("%s is missing; see: %s --help", names[len(args)], cmd.CommandPath())
		case len(args) > len(names):
			return usageErrorf("%q is one argument too many; see: %s --help", args[len(names)], cmd.CommandPath())
		}
		return nil
	}
}

// dial connects to the manager that --root names and says what to do if none
// is there.
func dial(cmd *cobra.Command) (*admin.Client, error) {
	root, err := cmd.Flags().GetString("root")
	if err != nil {
		return nil, err
	}
	client, err := admin.Dial(cmd.Context(), root)
	switch {
	case errors.Is(err, admin.ErrNoManager):
		return nil, fmt.Errorf("%w: start one with `ipcspace-manager --root %s`, name another with --root, "+
			"or use `ipcspace run` without --space", err, root)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%w: only the manager's own user and root may steer it; try sudo", err)
	}
	return client, err
}
