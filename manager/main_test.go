package manager

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The tests mount: they run in a mount namespace of their own. Roles are
// what copies of the test binary do as other processes.

const (
	roleVariable  = "IPCSPACE_TEST_ROLE"
	spaceVariable = "IPCSPACE_TEST_SPACE"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(roleVariable); name != "" {
		role := roles[name]
		if role == nil {
			fmt.Fprintln(os.Stderr, "no role", name)
			os.Exit(2)
		}
		role()
		os.Exit(0)
	}
	if os.Geteuid() == 0 && os.Getenv("IPCSPACE_TEST_INNER") == "" {
		os.Exit(inner())
	}
	if os.Geteuid() == 0 {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			fmt.Fprintln(os.Stderr, "private mounts:", err)
			os.Exit(2)
		}
	}
	goleak.VerifyTestMain(m)
}

// inner runs the tests again in a fresh mount namespace.
func inner() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "IPCSPACE_TEST_INNER=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mount namespace:", err)
		return 2
	}
	return 0
}
