// Package attacks_test is a hostile member: a process of a space that holds every descriptor a
// client can hold, and does its worst with them. Each row of the table is an attack, what must come
// of it, and what came of it; meanwhile processes that mean well use the same objects, the same
// space and another one, and the manager is watched.
//
//	make attacks
//
// The suite has mount, IPC and process namespaces of its own: nothing of it outlives it.
package attacks_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

const (
	insideVariable = "IPCSPACE_TEST_INSIDE" // set for the suite's second start, in its namespaces
	attackVariable = "IPCSPACE_TEST_ATTACK" // set for a hostile process: the attack's number
)

// scratch is the suite's folder.
var scratch string

func TestMain(m *testing.M) {
	if name := os.Getenv(attackVariable); name != "" {
		hostileMain(name)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Println("skipped: these tests need root, for namespaces")
		return 0
	}
	if os.Getenv(insideVariable) == "" {
		return enterNamespaces()
	}
	var err error
	if scratch, err = os.MkdirTemp("", "ipcspace-attacks-"); err == nil {
		err = os.Chmod(scratch, 0o755)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(scratch)
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// enterNamespaces runs the suite as the child of unshare(1).
func enterNamespaces() int {
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "the test binary's own path:", err)
		return 1
	}
	args := append([]string{"--ipc", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "--", self}, os.Args[1:]...)
	cmd := exec.Command("unshare", args...)
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "unshare (util-linux) is needed for private namespaces:", err)
		}
		return 1
	}
	return 0
}

// self is a copy of this binary that every user may run.
func self() string { return filepath.Join(folder(), "hostile") }

// folder is scratch, in copies of this binary too.
func folder() string {
	if scratch == "" {
		path, _ := os.Executable()
		return filepath.Dir(path)
	}
	return scratch
}

// build copies what is attacked into scratch and compiles the witness.
func build() error {
	path, err := os.Executable()
	if err != nil {
		return err
	}
	for to, from := range map[string]string{
		"hostile": path, "ipcspace": "../../bin/ipcspace",
		"ipcspace-manager": "../../bin/ipcspace-manager", "libipcspace.so": "../../bin/libipcspace.so",
	} {
		content, err := os.ReadFile(from)
		if err != nil {
			return fmt.Errorf("%w (make build makes it)", err)
		}
		if err := os.WriteFile(filepath.Join(scratch, to), content, 0o755); err != nil {
			return err
		}
	}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "gcc"
	}
	out, err := exec.Command(cc, "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-o", filepath.Join(scratch, "witness"), "testdata/witness.c").CombinedOutput()
	if err != nil {
		return fmt.Errorf("compile the witness: %w\n%s", err, out)
	}
	return nil
}
