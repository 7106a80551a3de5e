// Package programs_test runs unmodified programs in spaces: PostgreSQL, fakeroot, Perl, util-linux,
// programs of two C libraries, containers.
//
// It owns whole programs only; what each call must do is the conformance tests' business. Each test
// makes spaces of its own in one running manager, or runs under `ipcspace run` with an embedded one.
//
// The suite has private IPC and mount namespaces (TestMain). So the kernel's tables that it sees
// belong to it alone and must stay empty (requireKernelUnused): whatever a program took from the
// kernel instead of from its space would stand there. Mounts end with the suite, however it ends.
//
// With IPCSPACE_TEST_KERNEL=1 the same steps run without ipcspace: a space is then a kernel IPC
// namespace. That is how the tests themselves are tested, since the kernel is the oracle.
package programs_test

import (
	"errors"
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

// The unprivileged user of all tests: every Linux has it, and it owns nothing.
const nobody = 65534

// Set for the suite's second start, the one inside its namespaces.
const insideVariable = "IPCSPACE_TEST_INSIDE"

var (
	// kernelOnly runs the steps without ipcspace.
	kernelOnly = os.Getenv("IPCSPACE_TEST_KERNEL") == "1"
	// scratch is the suite's directory, which any user may enter: copies of bin/ and testdata/
	// (the tree may lie in a private home), the manager's root, and each test's own directory.
	scratch string
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Println("skipped: these tests need root, for namespaces and to become other users")
		return 0
	}
	if os.Getenv(insideVariable) == "" {
		return enterNamespaces()
	}
	// Orphans come to this process instead of init, so that killRemaining can find them.
	const prSetChildSubreaper = 36
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0); errno != 0 {
		fmt.Fprintln(os.Stderr, "prctl(PR_SET_CHILD_SUBREAPER):", errno)
		return 1
	}
	// Nothing of the caller's own space may leak into the tests.
	for _, name := range []string{"LD_PRELOAD", "IPCSPACE_DIR", "IPCSPACE_DIR_WRITABLE", "IPCSPACE_REQUIRED", "IPCSPACE_ROOT", "IPCSPACE_SPACE"} {
		_ = os.Unsetenv(name) // fails for malformed names only
	}
	if err := prepareScratch(); err != nil {
		fmt.Fprintln(os.Stderr, "prepare the tests' directory:", err)
		return 1
	}
	code := m.Run()
	if err := node.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if left := killRemaining(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "processes left behind by the tests, killed now:\n\t%s\n", strings.Join(left, "\n\t"))
		code = max(code, 1)
	}
	if code != 0 && os.Getenv("IPCSPACE_TEST_KEEP") != "" {
		fmt.Fprintln(os.Stderr, "kept:", scratch)
		return code
	}
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
	argv := append([]string{"unshare", "--ipc", "--mount", "--propagation", "private", "--", self}, os.Args[1:]...)
	err = syscall.Exec(unshare, argv, append(os.Environ(), insideVariable+"=1"))
	fmt.Fprintf(os.Stderr, "exec %s: %v\n", strings.Join(argv, " "), err)
	return 1
}

func prepareScratch() (err error) {
	if scratch, err = os.MkdirTemp("", "ipcspace-programs-"); err != nil {
		return err
	}
	if err := os.Chmod(scratch, 0o755); err != nil {
		return err
	}
	if err := os.CopyFS(filepath.Join(scratch, "testdata"), os.DirFS("testdata")); err != nil {
		return err
	}
	if kernelOnly {
		return nil
	}
	source, err := filepath.Abs("../../bin")
	if err != nil {
		return err
	}
	for _, file := range []string{"ipcspace", "ipcspace-manager", "libipcspace.so"} {
		if err := copyFile(filepath.Join(source, file), filepath.Join(scratch, "bin", file)); err != nil {
			return fmt.Errorf("%w (make build makes it)", err)
		}
	}
	return nil
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

// killRemaining ends every process that the suite started and did not end, and names them.
func killRemaining() []string {
	var named []string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		children := childrenOf(os.Getpid())
		alive := 0
		for _, pid := range children {
			if !running(pid) {
				// An orphan that already ended: reaped, and no fault of anybody.
				_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
				continue
			}
			alive++
			named = append(named, fmt.Sprintf("%d %s", pid, commandLine(pid)))
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
		text, err := os.ReadFile(list)
		if err != nil {
			continue // that thread ended
		}
		for _, field := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}

// running says whether a process still executes: one that waits to be reaped (a zombie) does not.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ESRCH)
	}
	// The state follows the name, which stands in parentheses and may contain anything.
	after := stat[strings.LastIndexByte(string(stat), ')')+1:]
	state := strings.Fields(string(after))[0]
	return state != "Z" && state != "X"
}

func commandLine(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "(ended)"
	}
	return strings.TrimSpace(strings.ReplaceAll(string(text), "\x00", " "))
}
