package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// launchVerb starts this program as the launcher: what the command's process
// does between fork and exec. Arguments: the plan, the command's own.
const launchVerb = "launch-command"

// launchPlan tells the launcher what to prepare.
type launchPlan struct {
	Path      string // of the command
	OwnMounts bool   // a mount namespace of the command's own
	Hide      string // mounts at or below here are taken away
	Proc      string // folder of files to bind over those of /proc; empty: /proc/sysvipc is emptied
	Sysctls   string // without Proc, folder of files to bind over /proc/sys/kernel's
	Listener  int    // socket to send the seccomp listener on; -1: no filter
}

// launch becomes the command. It returns an exit code if it cannot.
func launch(text string, arguments []string, stderr io.Writer) int {
	var plan launchPlan
	if err := json.Unmarshal([]byte(text), &plan); err != nil {
		fmt.Fprintf(stderr, "ipcspace: run: the launcher's plan: %v\n", err)
		return exitRun
	}
	// Namespace and filter are this thread's, and its exec makes them the process's.
	runtime.LockOSThread()
	if err := plan.prepare(); err != nil {
		fmt.Fprintf(stderr, "ipcspace: run: %v\n", err)
		return exitRun
	}
	// package syscall: its Exec puts back the descriptor limit that Go raised.
	err := syscall.Exec(plan.Path, arguments, os.Environ())
	fmt.Fprintf(stderr, "ipcspace: run: execute %s: %v\n", plan.Path, err)
	if errors.Is(err, fs.ErrNotExist) {
		return exitNotFound
	}
	return exitNotExecutable
}

func (plan *launchPlan) prepare() error {
	if plan.OwnMounts {
		if err := plan.mount(); err != nil {
			return err
		}
	}
	if plan.Listener >= 0 {
		unix.CloseOnExec(plan.Listener)
		return installFilter(plan.Listener)
	}
	return nil
}

// mount separates the command's mounts from the manager's. Its copies
// of the manager's private mounts go: they would show it every object of the
// space, and pin the memory of segments that are removed.
func (plan *launchPlan) mount() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make the command's mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("separate the command's mounts: %w", err)
	}
	if plan.Proc != "" {
		if err := bindProc(plan.Proc); err != nil {
			return err
		}
	}
	if plan.Hide != "" {
		below, err := mountsBelow(plan.Hide)
		if err != nil {
			return err
		}
		for _, dir := range below {
			err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
				continue // its space was removed just now
			}
			if err != nil {
				return fmt.Errorf("take %s away from the command: %w", dir, err)
			}
		}
	}
	if plan.Proc != "" {
		return nil
	}
	// ipcs, ipcrm and lsipc read these files first and make the calls without them.
	err := unix.Mount("ipcspace", "/proc/sysvipc", "tmpfs",
		unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0555,size=4k")
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("hide /proc/sysvipc: %w", err)
	}
	return bindSysctls(plan.Sysctls)
}

// mountsBelow lists the mount points at and below dir, the last mounted first.
func mountsBelow(dir string) ([]string, error) {
	text, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read the mounts: %w", err)
	}
	// proc(5) writes these characters in octal.
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	dir = filepath.Clean(dir)
	var found []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := unescape.Replace(fields[4])
		if point == dir || strings.HasPrefix(point, dir+"/") {
			found = append(found, point)
		}
	}
	slices.Reverse(found)
	return found, nil
}
