// Package suite gives the suites of whole programs what they have in common: namespaces of their
// own, an environment without the caller's space, and an end that leaves no process behind.
package suite

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// InsideVariable is set for a suite's second start, the one inside its namespaces.
const InsideVariable = "IPCSPACE_TEST_INSIDE"

// Inside tells whether EnterNamespaces has been passed.
func Inside() bool { return os.Getenv(InsideVariable) != "" }

// EnterNamespaces replaces this process by itself under unshare(1), with IPC and mount namespaces
// of its own and those that the options of unshare add. A last argument that is no option is a
// shell script that runs inside before. It returns only on failure, with the exit code.
func EnterNamespaces(options ...string) int {
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
	argv := []string{"unshare", "--ipc", "--mount", "--propagation", "private"}
	script := "true"
	for _, o := range options {
		if strings.HasPrefix(o, "--") {
			argv = append(argv, o)
		} else {
			script = o
		}
	}
	argv = append(argv, "--", "sh", "-c", script+` && exec "$0" "$@"`, self)
	argv = append(argv, os.Args[1:]...)
	err = syscall.Exec(unshare, argv, append(os.Environ(), InsideVariable+"=1"))
	fmt.Fprintf(os.Stderr, "exec %s: %v\n", strings.Join(argv, " "), err)
	return 1
}

// ClearEnvironment keeps the caller's own space out of the tests.
func ClearEnvironment() {
	for _, name := range []string{"LD_PRELOAD", "IPCSPACE_DIR", "IPCSPACE_DIR_WRITABLE", "IPCSPACE_REQUIRED", "IPCSPACE_ROOT", "IPCSPACE_SPACE"} {
		_ = os.Unsetenv(name) // fails for malformed names only
	}
}

// CopyCommands copies files of bin/ into a folder: the tree may lie in a private home, and a later
// make must not change them under a test. IPCSPACE_TEST_BIN names another bin/.
func CopyCommands(to string, files ...string) error {
	source := os.Getenv("IPCSPACE_TEST_BIN")
	if source == "" {
		source = "../../bin"
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, file := range files {
		content, err := os.ReadFile(filepath.Join(source, file))
		if err != nil {
			return fmt.Errorf("%w (make build, or make test-programs, makes it)", err)
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(file)), content, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// AdoptOrphans has orphans come to this process instead of init, so that KillRemaining finds them.
func AdoptOrphans() error {
	const prSetChildSubreaper = 36
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0); errno != 0 {
		return fmt.Errorf("prctl(PR_SET_CHILD_SUBREAPER): %w", errno)
	}
	return nil
}

// KillRemaining ends every process that the suite started and did not end, and names them.
func KillRemaining() []string {
	var named []string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		alive := 0
		for _, pid := range ChildrenOf(os.Getpid()) {
			if !Running(pid) {
				// An orphan that already ended: reaped, and no fault of anybody.
				_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
				continue
			}
			alive++
			named = append(named, fmt.Sprintf("%d %s", pid, CommandLine(pid)))
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

// ChildrenOf is the pids of all children of a process, those of all its threads.
func ChildrenOf(pid int) []int {
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

// Running says whether a process still executes: one that waits to be reaped (a zombie) does not.
func Running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ESRCH)
	}
	// The state follows the name, which stands in parentheses and may contain anything.
	after := stat[strings.LastIndexByte(string(stat), ')')+1:]
	state := strings.Fields(string(after))[0]
	return state != "Z" && state != "X"
}

// CommandLine is what a process was started as.
func CommandLine(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "(ended)"
	}
	return strings.TrimSpace(strings.ReplaceAll(string(text), "\x00", " "))
}
