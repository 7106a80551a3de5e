package programs_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ipcspace/ipcspace/test/suite"
)

// No single command of these tests takes longer than this, on a busy machine either.
const commandTimeout = 90 * time.Second

// space is where a test's programs have their IPC objects.
type space struct {
	// prefix is put before a program to run it there, as root: the only difference between a
	// space, a program with an embedded manager, and a kernel namespace.
	prefix []string
	// dir is the public folder for containers; empty where there is none.
	dir string
	// kernelNamespace is a path for setns(2) in kernelOnly mode.
	kernelNamespace string
}

// manager is the one ipcspace-manager of the suite, started by the first test that needs it.
type manager struct {
	once    sync.Once
	err     error
	root    string
	log     string
	process *exec.Cmd
}

var node manager

func (m *manager) start() error {
	m.once.Do(func() {
		m.root, m.log = filepath.Join(scratch, "node"), filepath.Join(scratch, "manager.log")
		log, err := os.Create(m.log)
		if err != nil {
			m.err = err
			return
		}
		defer log.Close()
		process := exec.Command(filepath.Join(scratch, "bin/ipcspace-manager"), "--root", m.root)
		process.Stdout, process.Stderr = log, log
		if m.err = process.Start(); m.err != nil {
			return
		}
		m.process = process
		m.err = suite.Eventually(20*time.Second, func() error {
			if !suite.Running(process.Process.Pid) {
				return fmt.Errorf("%s ended", process)
			}
			_, err := runCommand(exec.Command(ipcspace(), "space", "list", "--root", m.root))
			return err
		})
		if m.err != nil {
			m.err = fmt.Errorf("start the manager: %w\nits log:\n%s", m.err, suite.Tail(m.log))
		}
	})
	return m.err
}

// stop ends the manager as systemd would. Dying of anything but the signal is an error.
func (m *manager) stop() error {
	if m.process == nil {
		return nil
	}
	ended := make(chan error, 1)
	go func() { ended <- m.process.Wait() }()
	_ = m.process.Process.Signal(syscall.SIGTERM) // Wait tells if it was gone already
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("%s after SIGTERM: %w\nits log:\n%s", m.process, err, suite.Tail(m.log))
		}
		return nil
	case <-time.After(10 * time.Second):
		_ = m.process.Process.Kill()
		return fmt.Errorf("%s did not end within 10 s of SIGTERM\nits log:\n%s", m.process, suite.Tail(m.log))
	}
}

func ipcspace() string { return filepath.Join(scratch, "bin/ipcspace") }

// newSpace makes a space of the running manager, removed with the test.
func newSpace(t *testing.T) *space {
	t.Helper()
	if kernelOnly {
		return newKernelSpace(t)
	}
	if err := node.start(); err != nil {
		t.Fatal(err)
	}
	name := suite.SpaceName(t.Name())
	mustRun(t, exec.Command(ipcspace(), "space", "create", name, "--root", node.root))
	t.Cleanup(func() {
		// Not by force: it is refused while a process is registered, and none may be left. The
		// manager may hear of the last one's end a moment later than we do.
		err := suite.Eventually(10*time.Second, func() error {
			_, err := runCommand(exec.Command(ipcspace(), "space", "remove", name, "--root", node.root))
			return err
		})
		if err != nil {
			t.Error(err)
			_, _ = runCommand(exec.Command(ipcspace(), "space", "remove", "--force", name, "--root", node.root))
		}
		if t.Failed() {
			t.Logf("the manager's log:\n%s", suite.Tail(node.log))
		}
	})
	return &space{
		prefix: []string{ipcspace(), "run", "--root", node.root, "--space", name, "--"},
		dir:    filepath.Join(node.root, "spaces", name),
	}
}

// newKernelSpace is an IPC namespace, held by a process that does nothing else.
func newKernelSpace(t *testing.T) *space {
	t.Helper()
	holder := exec.Command("unshare", "--ipc", "--", "sleep", "infinity")
	if err := holder.Start(); err != nil {
		t.Fatalf("start %s: %v", holder, err)
	}
	t.Cleanup(func() {
		_ = holder.Process.Kill()
		_ = holder.Wait() // "signal: killed"
	})
	own, err := os.Readlink("/proc/self/ns/ipc")
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/proc/%d/ns/ipc", holder.Process.Pid)
	must(t, suite.Eventually(5*time.Second, func() error {
		theirs, err := os.Readlink(path)
		if err == nil && theirs == own {
			err = fmt.Errorf("%s has no namespace of its own yet", holder)
		}
		return err
	}))
	return &space{prefix: []string{"nsenter", "--ipc=" + path, "--"}, kernelNamespace: path}
}

// embedded runs one program with a manager of its own; uid is the user who runs ipcspace itself.
func embedded(uid int) *space {
	if kernelOnly {
		return &space{prefix: append([]string{"unshare", "--ipc", "--"}, becoming(uid)...)}
	}
	return &space{prefix: append(becoming(uid), ipcspace(), "run", "--")}
}

// becoming is the prefix that makes root another user before it starts a program.
func becoming(uid int) []string {
	if uid == 0 {
		return nil
	}
	id := fmt.Sprint(uid)
	return []string{"setpriv", "--reuid", id, "--regid", id, "--clear-groups", "--inh-caps=-all", "--"}
}

// command prepares a program in the space, run by root; commandAs by another user.
func (s *space) command(args ...string) *exec.Cmd { return s.commandAs(0, args...) }

func (s *space) commandAs(uid int, args ...string) *exec.Cmd {
	argv := slices.Concat(s.prefix, becoming(uid), args)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME=/nonexistent")
	return cmd
}

// ipcs is the rows that util-linux's own ipcs prints in the space: key, id, owner, perms, ….
// family is -m, -s or -q.
func (s *space) ipcs(t *testing.T, family string) [][]string {
	t.Helper()
	return ipcsRows(mustRun(t, s.command("ipcs", family)))
}

func ipcsRows(output string) [][]string {
	var rows [][]string
	for line := range strings.Lines(output) {
		if strings.HasPrefix(line, "0x") {
			rows = append(rows, strings.Fields(line))
		}
	}
	return rows
}

// requireKernelUnused fails if anything stands in the suite's own kernel tables.
func requireKernelUnused(t *testing.T) {
	t.Helper()
	for _, family := range []string{"shm", "sem", "msg"} {
		text, err := os.ReadFile("/proc/sysvipc/" + family)
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Split(strings.TrimSpace(string(text)), "\n"); len(lines) > 1 {
			t.Errorf("the kernel's own table %s is not empty:\n%s", family, text)
		}
	}
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

// directory is a new directory of the test that belongs to a user, on a path that all may walk.
func directory(t *testing.T, uid int) string {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "test-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // run() removes all of scratch again and reports
	must(t, os.Chmod(dir, 0o755))
	must(t, os.Chown(dir, uid, uid))
	return dir
}

func needs(t *testing.T, tools map[string]string) {
	t.Helper()
	for tool, source := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is missing (apt-get install %s): %v", tool, source, err)
		}
	}
}
