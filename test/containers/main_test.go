// Package containers_test runs real containers with spaces: Docker, containerd and runc, with the
// manager and the shim as built in bin/.
//
// It owns whole containers only; programs in spaces are test/programs' business. Each test makes
// spaces of its own in one running manager.
//
// The suite has private IPC and mount namespaces (TestMain), in which mounts are shared with nobody
// outside and propagate inside, as on a node. What it mounts ends with it, however it ends.
package containers_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Set for the suite's second start, the one inside its namespaces.
const insideVariable = "IPCSPACE_TEST_INSIDE"

// No single command of these tests takes longer than this, on a busy machine either.
const commandTimeout = 90 * time.Second

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
	if os.Getenv(insideVariable) == "" {
		return enterNamespaces()
	}
	// Orphans come to this process instead of init, so that what is left behind is found.
	const prSetChildSubreaper = 36
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0); errno != 0 {
		fmt.Fprintln(os.Stderr, "prctl(PR_SET_CHILD_SUBREAPER):", errno)
		return 1
	}
	for _, name := range []string{"LD_PRELOAD", "IPCSPACE_DIR", "IPCSPACE_DIR_WRITABLE", "IPCSPACE_REQUIRED", "IPCSPACE_ROOT", "IPCSPACE_SPACE", "DOCKER_HOST"} {
		_ = os.Unsetenv(name) // fails for malformed names only
	}
	if err := prepareScratch(); err != nil {
		fmt.Fprintln(os.Stderr, "prepare the tests' directory:", err)
		return 1
	}
	code := m.Run()
	for _, stop := range []func() error{docker.stop, containerd.stop, node.stop} {
		if err := stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	if left := killRemaining(); len(left) > 0 {
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

// enterNamespaces replaces this process by itself under unshare(1). It returns only on failure.
func enterNamespaces() int {
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		fmt.Fprintln(os.Stderr, "unshare (util-linux) is needed for private namespaces:", err)
		return 1
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "the test binary's own path:", err)
		return 1
	}
	// Slave first: without it, what is mounted here would show on a host whose / is shared.
	script := `mount --make-rslave / && mount --make-rshared / && exec "$0" "$@"`
	argv := append([]string{"unshare", "--ipc", "--mount", "--propagation", "private", "--", "sh", "-c", script, self}, os.Args[1:]...)
	err = syscall.Exec(unshare, argv, append(os.Environ(), insideVariable+"=1"))
	fmt.Fprintf(os.Stderr, "exec %s: %v\n", strings.Join(argv, " "), err)
	return 1
}

func prepareScratch() (err error) {
	if scratch, err = os.MkdirTemp("", "ipcspace-containers-"); err != nil {
		return err
	}
	if err := os.Chmod(scratch, 0o755); err != nil {
		return err
	}
	if cache = os.Getenv("XDG_CACHE_HOME"); cache == "" {
		if cache, err = os.UserCacheDir(); err != nil {
			return err
		}
	}
	cache = filepath.Join(cache, "ipcspace", "containers")
	bin = filepath.Join(scratch, "bin")
	source, err := filepath.Abs("../../bin")
	if err != nil {
		return err
	}
	for _, file := range []string{"ipcspace", "ipcspace-manager", "ipcspace-shim", "libipcspace.so"} {
		if err := copyFile(filepath.Join(source, file), filepath.Join(bin, file)); err != nil {
			return fmt.Errorf("%w (make build makes it)", err)
		}
	}
	return os.Symlink("ipcspace-shim", filepath.Join(bin, "ipcspace-runc"))
}

func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o755)
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

// killRemaining ends every process that the suite started and did not end, and names them.
func killRemaining() []string {
	var named []string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		alive := 0
		for _, pid := range childrenOf(os.Getpid()) {
			if state(pid) == "" || state(pid) == "Z" || state(pid) == "X" {
				// An orphan that already ended: reaped, and no fault of anybody.
				_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
				continue
			}
			alive++
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			named = append(named, fmt.Sprintf("%d %s", pid, strings.ReplaceAll(string(line), "\x00", " ")))
			_ = syscall.Kill(pid, syscall.SIGKILL) // may have ended meanwhile
		}
		// The children of those just killed arrive in the next round.
		if alive == 0 {
			return named
		}
		time.Sleep(20 * time.Millisecond)
	}
	return named
}

// childrenOf is the pids of all children of a process, those of all its threads.
func childrenOf(pid int) []int {
	var children []int
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		text, _ := os.ReadFile(list) // of a thread that ended: nothing
		for field := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}

// state is the letter of a process in /proc, "" for none.
func state(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// It follows the name, which stands in parentheses and may contain anything.
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))[0]
}

// runCommand returns what a command prints on its standard output; its error has what it printed on the other.
func runCommand(cmd *exec.Cmd) (string, error) { return runCommandFor(commandTimeout, cmd) }

func runCommandFor(timeout time.Duration, cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Pipes held open by a program's background children must not hold up the test.
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start %s: %w", cmd, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer stop()
	if err := cmd.Wait(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s%s", cmd, err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

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

// eventually repeats a check until it has no error; the last error when the time is over.
func eventually(within time.Duration, check func() error) error {
	for deadline := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) {
		err := check()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("still so after %v: %w", within, err)
		}
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

func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-8192):])
}
