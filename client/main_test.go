package client_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client"
	"github.com/ipcspace/ipcspace/manager"
)

// The tests use a real space, of a manager that is a copy of the test binary
// and can be killed. As root they have a mount namespace of their own.

const (
	roleVariable  = "IPCSPACE_TEST_ROLE"
	innerVariable = "IPCSPACE_TEST_INNER"
)

// roles are what copies of the test binary do as other processes.
var roles = map[string]func(){}

var bg = context.Background()

// testManager is the manager of the tests' space.
var testManager *managerProcess

func TestMain(m *testing.M) {
	if name := os.Getenv(roleVariable); name == "manager" {
		managerRole()
		return
	} else if name != "" {
		roles[name]()
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Geteuid() == 0 {
		if os.Getenv(innerVariable) == "" {
			return inner()
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			fmt.Fprintln(os.Stderr, "private mounts:", err)
			return 2
		}
	}
	root, err := os.MkdirTemp("", "ipcspace-client-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer os.RemoveAll(root)
	testManager = &managerProcess{root: root}
	if err := testManager.start(); err != nil {
		fmt.Fprintln(os.Stderr, "manager:", err)
		return 2
	}
	defer testManager.end()
	os.Unsetenv("LD_PRELOAD")
	os.Setenv("IPCSPACE_DIR", testManager.dir())
	os.Setenv("IPCSPACE_DIR_WRITABLE", "ok")
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// inner runs the tests again in a fresh mount namespace.
func inner() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), innerVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
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

// managerProcess is a manager that can be killed and started again.
type managerProcess struct {
	root string
	cmd  *exec.Cmd
	in   io.WriteCloser // its end is the manager's
}

func (m *managerProcess) dir() string { return filepath.Join(m.root, "spaces", "test") }

// start starts it and waits until it serves. With "lasting", the space stays when it ends.
func (m *managerProcess) start(how ...string) error {
	m.cmd = role("manager", append([]string{m.root}, how...)...)
	var err error
	if m.in, err = m.cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := m.cmd.Start(); err != nil {
		return err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		return fmt.Errorf("%q instead of ready: %w", line, err)
	}
	return nil
}

func (m *managerProcess) kill() {
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
}

// end ends it, and the space with it unless that is lasting.
func (m *managerProcess) end() {
	_ = m.in.Close()
	_ = m.cmd.Wait()
}

func managerRole() {
	signal.Ignore(os.Interrupt)
	library, _ := filepath.Abs(filepath.Join("..", "bin", "libipcspace.so"))
	if _, err := os.Stat(library); err != nil {
		library = ""
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	m, err := manager.New(manager.Config{Root: os.Args[1], Library: library, Log: log, Ephemeral: len(os.Args) == 2})
	if err == nil {
		_, err = m.CreateSpace(bg, manager.SpaceConfig{Name: "test", Size: 1 << 30})
	}
	if err != nil && !errors.Is(err, manager.ErrExists) {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = m.Close()
}

// role is a copy of the test binary in that role.
func role(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+name)
	cmd.Stderr = os.Stderr
	return cmd
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// want fails unless err is what is wanted.
func want(t testing.TB, err, wanted error) {
	t.Helper()
	if !errors.Is(err, wanted) {
		t.Fatalf("%v instead of %v", err, wanted)
	}
}

// open opens the tests' space for a test.
func open(t testing.TB) *client.Space {
	t.Helper()
	s, err := client.Open(bg)
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	return s
}

// newSet makes a set for a test.
func newSet(t testing.TB, s *client.Space, n int) *client.Set {
	t.Helper()
	set, err := s.Set(bg, client.Private, n, client.Create(0o600))
	check(t, err)
	t.Cleanup(func() { _ = set.Remove(bg) })
	return set
}

func newQueue(t testing.TB, s *client.Space) *client.Queue {
	t.Helper()
	q, err := s.Queue(bg, client.Private, client.Create(0o600))
	check(t, err)
	t.Cleanup(func() { _ = q.Remove(bg) })
	return q
}

// idOf is the id in an argument.
func idOf(i int) int {
	n, err := strconv.Atoi(os.Args[i])
	if err != nil {
		panic(err)
	}
	return n
}

// do ends a role that fails.
func do(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
