// Package containers_test runs real containers with spaces: Docker, podman, containerd and runc, with
// the manager and the shim as built in bin/.
//
// It owns whole containers only; programs in spaces are test/programs' business. Each test makes
// spaces of its own in one running manager.
//
// The suite has private IPC and mount namespaces (TestMain), in which mounts are shared with nobody
// outside and propagate inside, as on a node, and a /run of its own: the manager's folder is
// /run/ipcspace, as in the README. What it mounts ends with it, however it ends.
package containers_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ipcspace/ipcspace/test/suite"
)

// No single command of these tests takes longer than this, on a busy machine either.
const commandTimeout = 4 * time.Minute

var (
	// scratch is the suite's directory, which any user may enter.
	scratch string
	// bin is where scratch has a copy of bin/: the tree may lie in a private home.
	bin string
	// cache keeps what is built from other people's sources.
	cache string
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Println("skipped: containers need root")
		return 0
	}
	if !suite.Inside() {
		// Slave first: without it, what is mounted here would show on a host whose / is shared.
		return suite.EnterNamespaces("mount --make-rslave / && mount --make-rshared / && mount -t tmpfs -o mode=755 tmpfs /run")
	}
	if err := suite.AdoptOrphans(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	suite.ClearEnvironment()
	_ = os.Unsetenv("DOCKER_HOST")
	if err := prepareScratch(); err != nil {
		fmt.Fprintln(os.Stderr, "prepare the tests' directory:", err)
		return 1
	}
	code := m.Run()
	for _, stop := range []func() error{dockerd.stop, dockerd29.stop, remapped.stop, containerd.stop, node.stop} {
		if err := stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	if left := suite.KillRemaining(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "processes left behind by the tests, killed now:\n\t%s\n", strings.Join(left, "\n\t"))
		code = max(code, 1)
	}
	if code != 0 && os.Getenv("IPCSPACE_TEST_KEEP") != "" {
		fmt.Fprintln(os.Stderr, "kept:", scratch)
		return code
	}
	unmountBelow(scratch)
	if err := os.RemoveAll(scratch); err != nil {
		fmt.Fprintln(os.Stderr, "remove the tests' directory:", err)
	}
	return code
}

func prepareScratch() (err error) {
	if scratch, err = os.MkdirTemp("", "ipcspace-containers-"); err != nil {
		return err
	}
	if err := os.Chmod(scratch, 0o755); err != nil {
		return err
	}
	if cache, err = os.UserCacheDir(); err != nil {
		return err
	}
	cache = filepath.Join(cache, "ipcspace", "containers")
	bin = filepath.Join(scratch, "bin")
	if err := suite.CopyCommands(bin, "ipcspace", "ipcspace-manager", "ipcspace-shim", "libipcspace.so"); err != nil {
		return err
	}
	return os.Symlink("ipcspace-shim", filepath.Join(bin, "ipcspace-runc"))
}

// unmountBelow takes away all mounts at and below dir, the last made first.
func unmountBelow(dir string) {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	lines := strings.Split(string(text), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if f := strings.Fields(lines[i]); len(f) > 4 && strings.HasPrefix(f[4], dir) {
			_ = syscall.Unmount(f[4], syscall.MNT_DETACH)
		}
	}
}

// needTool skips the test where a program is missing; in continuous integration nothing may be.
func needTool(t *testing.T, tool, source string) string {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		missing(t, fmt.Sprintf("%s is missing: apt-get install %s, or make deps", tool, source))
	}
	return path
}

func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// runCommand runs to the end and returns the standard output.
func runCommand(cmd *exec.Cmd) (string, error) { return suite.Run(commandTimeout, cmd) }

func mustRun(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	output, err := runCommand(cmd)
	must(t, err)
	return output
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused runs what must fail, and returns what it said.
func refused(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	output, err := runCommand(cmd)
	if err == nil {
		t.Fatalf("%s succeeded and printed:\n%s", cmd, output)
	}
	return err.Error()
}

// wants fails the test unless text contains part.
func wants(t *testing.T, text, part string) {
	t.Helper()
	if !strings.Contains(text, part) {
		t.Errorf("no %q in:\n%s", part, text)
	}
}

// directory is a new directory of the test, on a path that all may walk.
func directory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "test-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // run() removes all of scratch again and reports
	must(t, os.Chmod(dir, 0o755))
	return dir
}
