package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// binaries has the commands as they are shipped, readable by every user: some
// scripts run them as another one.
var binaries string

func TestMain(m *testing.M) {
	code, err := withBinaries(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withBinaries(m *testing.M) (int, error) {
	var err error
	if binaries, err = os.MkdirTemp("", "ipcspace-test-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(binaries)
	if err := os.Chmod(binaries, 0o755); err != nil {
		return 1, err
	}
	for _, pkg := range []string{".", "../../manager/ipcspace-manager"} {
		build := exec.Command("go", "build", "-ldflags", "-X main.version=v0.0.0-test", "-o", binaries+"/", pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return 1, fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	if library, err := os.ReadFile("../../bin/libipcspace.so"); err == nil {
		if err := os.WriteFile(filepath.Join(binaries, "libipcspace.so"), library, 0o755); err != nil {
			return 1, err
		}
	}
	return m.Run(), nil
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", binaries+":"+os.Getenv("PATH"))
			env.Setenv("BIN", binaries)
			env.Setenv("HOME", env.WorkDir)
			// Scripts run parts of themselves as another user.
			for dir := env.WorkDir; strings.HasPrefix(dir, os.TempDir()+"/"); dir = filepath.Dir(dir) {
				if err := os.Chmod(dir, 0o755); err != nil {
					return err
				}
			}
			return nil
		},
		Condition: func(name string) (bool, error) {
			switch name {
			case "library":
				_, err := os.Stat(filepath.Join(binaries, "libipcspace.so"))
				return err == nil, nil
			case "root":
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":     exits,
			"waitfor":   waitForFile,
			"notexists": notExists,
		},
	})
}

// exits CODE COMMAND...: the command ends with exactly this code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// waitfor FILE: waits until the file is there, at most 20 seconds.
func waitForFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: waitfor FILE")
	}
	for range 2000 {
		if _, err := os.Lstat(ts.MkAbs(args[0])); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("%s did not appear", args[0])
}

// notexists PATTERN: nothing matches, or not for long.
func notExists(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: notexists PATTERN")
	}
	// What other scripts use at this time is gone when they are over.
	for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		found, _ := filepath.Glob(ts.MkAbs(args[0]))
		if len(found) == 0 {
			return
		}
		if time.Since(begun) > 30*time.Second {
			ts.Fatalf("left over: %v", found)
		}
	}
}
