package containers_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ipcspace/ipcspace/test/suite"
)

// daemon is one long-running program of the suite, started by the first test that needs it.
type daemon struct {
	name    string
	command func() (*exec.Cmd, error)
	ready   func() error

	mu      sync.Mutex
	process *exec.Cmd
	ended   chan error
}

func (d *daemon) log() string { return filepath.Join(scratch, d.name+".log") }

// start starts it unless it runs.
func (d *daemon) start() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.process != nil {
		return nil
	}
	process, err := d.command()
	if err != nil {
		return fmt.Errorf("%s: %w", d.name, err)
	}
	log, err := os.OpenFile(d.log(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	process.Stdout, process.Stderr = log, log
	process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := process.Start(); err != nil {
		return err
	}
	d.process, d.ended = process, make(chan error, 1)
	go func(ended chan<- error) { ended <- process.Wait() }(d.ended)
	var ended error
	err = suite.Eventually(30*time.Second, func() error {
		if !suite.Running(process.Process.Pid) {
			ended = fmt.Errorf("%s ended", process)
			return nil
		}
		return d.ready()
	})
	if err = errors.Join(err, ended); err != nil {
		return fmt.Errorf("start %s: %w\nits log:\n%s", d.name, err, suite.Tail(d.log()))
	}
	return nil
}

// end ends it with a signal and waits. Nothing if it does not run.
func (d *daemon) end(signal syscall.Signal) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.process == nil {
		return nil
	}
	process := d.process
	d.process = nil
	_ = process.Process.Signal(signal) // Wait tells if it was gone already
	select {
	case err := <-d.ended:
		if err != nil && signal == syscall.SIGTERM {
			return fmt.Errorf("%s after SIGTERM: %w\nits log:\n%s", d.name, err, suite.Tail(d.log()))
		}
		return nil
	case <-time.After(20 * time.Second):
		_ = process.Process.Kill()
		return fmt.Errorf("%s did not end within 20 s of %v\nits log:\n%s", d.name, signal, suite.Tail(d.log()))
	}
}

func (d *daemon) stop() error { return d.end(syscall.SIGTERM) }

// node is the one manager of the suite.
var node = daemon{
	name: "manager",
	command: func() (*exec.Cmd, error) {
		return exec.Command(filepath.Join(bin, "ipcspace-manager"), "--root", root, "--log-level", "debug", "--reclaim-delay", "10s"), nil
	},
	ready: func() error {
		_, err := runCommand(ipcspace("space", "list"))
		return err
	},
}

// root is the manager's default folder: /run is the suite's own.
const root = "/run/ipcspace"

// ipcspace is the command line, for the suite's manager.
func ipcspace(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(bin, "ipcspace"), args...)
	cmd.Env = append(os.Environ(), "IPCSPACE_ROOT="+root)
	return cmd
}

// space is a space of the test's own.
type space struct{ name, dir string }

// newSpace makes a space, removed with the test.
func newSpace(t *testing.T, flags ...string) *space {
	t.Helper()
	must(t, node.start())
	s := namedSpace(t)
	mustRun(t, ipcspace(append([]string{"space", "create", s.name}, flags...)...))
	return s
}

// namedSpace is one that something else makes; it is removed with the test.
func namedSpace(t *testing.T) *space {
	t.Helper()
	must(t, node.start())
	name := suite.SpaceName(t.Name())
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the manager's log:\n%s", suite.Tail(node.log()))
		}
		if output, err := runCommand(ipcspace("space", "list")); err == nil && !strings.Contains(output, name) {
			return
		}
		// Not by force: it is refused while a process is registered, and none may be left. The
		// manager may hear of the last one's end a moment later than we do.
		err := suite.Eventually(10*time.Second, func() error {
			_, err := runCommand(ipcspace("space", "remove", name))
			return err
		})
		if err != nil {
			t.Error(err)
			_, _ = runCommand(ipcspace("space", "remove", "--force", name))
		}
	})
	return &space{name: name, dir: filepath.Join(root, "spaces", name)}
}

// inspect is what the command line shows of it.
func (s *space) inspect(t *testing.T) string {
	t.Helper()
	return mustRun(t, ipcspace("space", "inspect", s.name))
}
