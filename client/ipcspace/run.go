package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/manager/admin"
)

// runOptions is what `run` was asked for.
type runOptions struct {
	root    string
	space   string // of a running manager; empty: an embedded one
	strict  bool
	debug   bool
	size    uint64
	limits  *admin.Limits
	library string // libipcspace.so; empty: looked for beside this program
	// outside is the mount namespace that run was started in, once it has
	// moved into one of its own; 0 before.
	outside uint64
	command []string
}

func newRunCommand() *cobra.Command {
	var opts runOptions
	var size string
	var limits []string
	cmd := &cobra.Command{
		Use:   "run [--space NAME] [--strict] [--] COMMAND [ARGUMENT...]",
		Short: "Run a command in a space",
		Long: `Run a command with a System V IPC space instead of the kernel's.

Without --space the command gets a space of its own: run is its manager, and the
space with all its objects is gone when the command ends. This needs no daemon
and no rights. Children of the command that go on after it (daemons) lose the
space then: run the daemon itself in the foreground, or use --space.

With --space NAME the command joins a space of the manager at --root, which
outlives it and which others may join too.

As root, run moves into mount namespaces of its own. The command finds the space
mounted read-only, and in /proc/sysvipc and /proc/sys/kernel the space's objects
and limits, so that the system's own ipcs, ipcrm and lsipc show the space and
sysctl changes it. An ordinary user gets a private folder on /dev/shm; ipcs then
still shows the kernel's objects, ` + "`ipcspace ipcs`" + ` shows the space's.

A space reaches programs through the C library (LD_PRELOAD). Static programs and
raw system calls do not pass there and would use the kernel's IPC unseen.
--strict refuses them: their calls fail with ENOSYS, and a line says which
process made one. Without the right to do otherwise it sets no_new_privs:
setuid programs run with the caller's rights only.

The command keeps the terminal, the input and output, and all its descriptors.
Signals that run gets go to the command.

Exit codes: the command's own; 128+n if signal n ended it; 125 run itself
failed; 126 the command cannot be executed; 127 it was not found.`,
		Example: `  ipcspace run -- sh -c 'ipcmk -M 4096; ipcspace ipcs'
  ipcspace run --strict -- ./legacy-server
  ipcspace run --space shop -- su postgres -c 'postgres -D /srv/db'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return &exitError{exitRun, errors.New("run: COMMAND is missing; see: ipcspace run --help")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.command = args
			var err error
			if opts.root, err = cmd.Flags().GetString("root"); err != nil {
				return err
			}
			if opts.size, err = parseSize(size); err != nil {
				return runErrorf("--size: %w", err)
			}
			if opts.limits, err = parseLimits(limits); err != nil {
				return runErrorf("--limit: %w", err)
			}
			if opts.space != "" && (opts.size != 0 || opts.limits != nil) {
				return runErrorf("--size and --limit are for a space of its own; those of %q were set when it was created", opts.space)
			}
			return run(cmd.Context(), opts)
		},
	}
	flags := cmd.Flags()
	// What follows the command's name is the command's.
	flags.SetInterspersed(false)
	flags.StringVar(&opts.space, "space", "", "join this space of the manager at --root")
	flags.BoolVar(&opts.strict, "strict", false, "refuse static programs and raw system calls")
	flags.StringVar(&size, "size", "", "bytes that all objects may have together, as 512m or 2g (default half of the memory)")
	flags.StringSliceVar(&limits, "limit", nil, "a limit, as shmmni=64; several by commas or repeated")
	flags.StringVar(&opts.library, "library", "", "path of libipcspace.so (default beside this program)")
	flags.BoolVar(&opts.debug, "debug", false, "show the log of the embedded manager")
	flags.Uint64Var(&opts.outside, outsideFlag, 0, "")
	// The flags were registered the lines before; nothing else can fail.
	_ = flags.MarkHidden(outsideFlag)
	_ = cmd.RegisterFlagCompletionFunc("space", completeSpaces)
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return runErrorf("%w; see: ipcspace run --help", err)
	})
	return cmd
}

// runErrorf is a failure of run itself, told apart from the command's by its code.
func runErrorf(format string, args ...any) error {
	return &exitError{exitRun, fmt.Errorf("run: "+format, args...)}
}

func run(ctx context.Context, opts runOptions) error {
	path, err := findCommand(opts.command[0])
	if err != nil {
		return err
	}
	mounts, err := ownMounts(opts.outside)
	if err != nil {
		return runErrorf("%w", err)
	}

	var where *place
	if opts.space != "" {
		where, err = joinSpace(opts.root, opts.space, mounts)
	} else {
		where, err = embedManager(ctx, opts, mounts)
	}
	if err != nil {
		return runErrorf("%w", err)
	}
	code, err := supervise(where, path, opts)
	err = errors.Join(err, where.close())
	switch {
	case err != nil && code == 0:
		return runErrorf("%w", err)
	case err != nil:
		return &exitError{code, fmt.Errorf("run: %w", err)}
	case code != 0:
		return &exitError{code, nil}
	}
	return nil
}

// findCommand resolves a command as the shell does.
func findCommand(name string) (string, error) {
	path, err := exec.LookPath(name)
	switch {
	case err == nil, errors.Is(err, exec.ErrDot): // who has . in PATH means it
		return path, nil
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EISDIR):
		return "", &exitError{exitNotExecutable, fmt.Errorf("run: %w", err)}
	}
	return "", &exitError{exitNotFound, fmt.Errorf("run: %w", err)}
}

// findLibrary looks where builds and packages put libipcspace.so.
func findLibrary(named string) (string, error) {
	if named != "" {
		if _, err := os.Stat(named); err != nil {
			return "", fmt.Errorf("--library: %w", err)
		}
		return absolute(named)
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find libipcspace.so: %w", err)
	}
	return libraryNear(self)
}
