// Package chaos_test kills, stops and interrupts processes that use a space, and its manager, and
// checks that nothing is lost: at random (TestChaos), at each step of each operation
// (TestFailPoints), at any instruction of it (TestInstructions), at each step of the manager's
// changes (TestManagerSteps), and under each call that needs it (TestControl, TestBrokered).
//
// It owns deaths only; what each call must do is the conformance tests' business.
//
// The suite has mount, IPC and process namespaces of its own: no signal of it can reach a process
// of others, and nothing of it outlives it.
package chaos_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ipcspace/ipcspace/test/suite"
)

// scratch is the suite's folder.
var scratch string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Println("skipped: these tests need root, for namespaces")
		return 0
	}
	if !suite.Inside() {
		return suite.EnterNamespaces("--pid", "--fork", "--kill-child", "--mount-proc")
	}
	suite.ClearEnvironment()
	var err error
	if scratch, err = os.MkdirTemp("", "ipcspace-chaos-"); err == nil {
		err = os.Chmod(scratch, 0o755) // not all processes are root's
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		_ = os.RemoveAll(scratch)
		return 1
	}
	go reap()
	code := m.Run()
	if err := os.RemoveAll(scratch); err != nil {
		fmt.Fprintln(os.Stderr, "remove the tests' folder:", err)
		code = max(code, 1)
	}
	return code
}

// build puts what the tests run into scratch: the commands from bin/ (so that a later make does not
// change them under a test), and the C programs, of which each has a folder of testdata.
func build() error {
	if err := suite.CopyCommands(scratch, "ipcspace", "ipcspace-manager", "libipcspace.so", "test/libipcspace-fail.so", "test/ipcspace-manager-fail"); err != nil {
		return err
	}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "gcc"
	}
	folders, _ := filepath.Glob("testdata/*")
	for _, folder := range folders {
		sources, _ := filepath.Glob(filepath.Join(folder, "*.c"))
		args := append([]string{"-O2", "-g", "-Wall", "-Wextra", "-Werror", "-o", command(filepath.Base(folder))}, sources...)
		if out, err := exec.Command(cc, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("compile %s: %w\n%s", folder, err, out)
		}
	}
	out, err := exec.Command("go", "build", "-o", command("goworker"), "./goworker").CombinedOutput()
	if err != nil {
		return fmt.Errorf("build goworker: %w\n%s", err, out)
	}
	return nil
}

// process is a child of the suite, or a grandchild that has lost its parent.
type process struct {
	pid    int
	status syscall.WaitStatus // after done
	done   chan struct{}
}

// reaped guards the pid of every child: while it is held, none is given up.
var reaped struct {
	sync.Mutex
	processes map[int]*process
}

// reap waits for all children: the suite is the first process of its namespace.
func reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch err {
		case nil:
		case syscall.ECHILD:
			time.Sleep(time.Millisecond)
			continue
		default:
			continue
		}
		reaped.Lock()
		p := reaped.processes[pid]
		delete(reaped.processes, pid)
		reaped.Unlock()
		if p != nil {
			p.status = status
			close(p.done)
		}
	}
}

// start runs a program with its output in a file.
func start(env []string, out *os.File, argv ...string) (*process, error) {
	reaped.Lock()
	defer reaped.Unlock()
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Env:   append(os.Environ(), env...),
		Files: []uintptr{0, out.Fd(), out.Fd()},
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	if reaped.processes == nil {
		reaped.processes = map[int]*process{}
	}
	p := &process{pid: pid, done: make(chan struct{})}
	reaped.processes[pid] = p
	return p, nil
}

// finish runs a program to its end, which comes in minutes.
func finish(env []string, argv ...string) (string, error) {
	return finishWithin(8*time.Minute, env, argv...)
}

func finishWithin(longest time.Duration, env []string, argv ...string) (string, error) {
	out, err := os.CreateTemp(scratch, "out-")
	if err != nil {
		return "", err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	p, err := start(env, out, argv...)
	if err != nil {
		return "", err
	}
	select {
	case <-p.done:
	case <-time.After(longest):
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
		<-p.done
	}
	text, err := os.ReadFile(out.Name())
	if err == nil && p.status != 0 {
		err = fmt.Errorf("%v: status %#x\n%s", argv, p.status, text)
	}
	return string(text), err
}
