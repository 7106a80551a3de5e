// Package limits_test fills every limit of a space, by the calls that any program makes: each has
// its errno, never SIGBUS and never a stuck call, and what is freed can be had again.
//
//	make limits
//
// What a hostile member does at the limits is in test/attacks; the order of errors in
// test/conformance.
package limits_test

import (
	"bytes"
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

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Println("skipped: these tests need root, for namespaces")
		return
	}
	if !suite.Inside() {
		os.Exit(suite.EnterNamespaces("--pid", "--fork", "--kill-child", "--mount-proc"))
	}
	suite.ClearEnvironment()
	os.Exit(m.Run())
}

// spaces are filled one row at a time: rows take from no other's limit.
var spaces = []struct {
	name    string
	options []string
	rows    []string
}{
	{
		"limits", []string{"--size", "64m", "--limit", "shmmni=5,shmmax=1048576,shmall=512,semmni=5,semmns=20,semmsl=10,semopm=8,msgmni=5,msgmax=4096,msgmnb=16384"},
		[]string{"shmmni", "shmmax", "shmall", "semmni", "semmns", "semmsl", "semopm", "semvmx", "msgmni", "msgmax", "msgmnb", "descriptors"},
	},
	{"bytes", []string{"--size", "2m"}, []string{"bytes, by segments", "bytes, by sets", "bytes, by messages"}},
	{"inodes", []string{"--size", "64m", "--inodes", "60"}, []string{"inodes", "inodes"}},
	{"sessions", []string{"--sessions", "12"}, []string{"sessions"}},
}

// TestLimits prints the table.
func TestLimits(t *testing.T) {
	dir := t.TempDir()
	if err := suite.CopyCommands(dir, "ipcspace", "ipcspace-manager", "libipcspace.so"); err != nil {
		t.Fatal(err)
	}
	program, root := filepath.Join(dir, "full"), filepath.Join(dir, "root")
	if out, err := exec.Command("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, "testdata/full.c").CombinedOutput(); err != nil {
		t.Fatalf("compile: %v\n%s", err, out)
	}
	// With so few descriptors of its own that it cannot keep every object open.
	manager := exec.Command("sh", "-c", `ulimit -n 256; exec "$@"`, "sh", filepath.Join(dir, "ipcspace-manager"), "--root", root, "--ephemeral")
	var log bytes.Buffer
	manager.Stderr = &log
	if err := manager.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = manager.Process.Signal(syscall.SIGTERM)
		if err := manager.Wait(); err != nil {
			t.Errorf("the manager: %v", err)
		}
		if t.Failed() {
			t.Logf("its log:\n%s", log.String())
		}
	}()
	ipcspace := func(args ...string) ([]byte, error) {
		return exec.Command(filepath.Join(dir, "ipcspace"), append(args, "--root", root)...).CombinedOutput()
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := ipcspace("space", "list"); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal("the manager does not come up")
		}
	}
	var table strings.Builder
	had := map[string]string{}
	for _, s := range spaces {
		if out, err := ipcspace(append([]string{"space", "create", s.name}, s.options...)...); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, row := range s.rows {
			cmd := exec.Command(program, row)
			cmd.Env = append(os.Environ(), "LD_PRELOAD="+filepath.Join(dir, "libipcspace.so"), "IPCSPACE_REQUIRED=1",
				"IPCSPACE_DIR_WRITABLE=ok", "IPCSPACE_DIR="+filepath.Join(root, "spaces", s.name))
			out, err := cmd.CombinedOutput()
			result := strings.TrimSpace(string(out))
			if err != nil {
				result += fmt.Sprintf(" (%v)", err)
				t.Errorf("%s: %s", row, result)
			}
			if before, again := had[row]; again && before != result {
				t.Errorf("%s: at first %s, then %s", row, before, result)
			}
			had[row] = result
			fmt.Fprintf(&table, "%-20s %s\n", row, result)
		}
		out, err := ipcspace("doctor", "--space", s.name)
		if err != nil {
			t.Errorf("doctor of %s: %v\n%s", s.name, err, out)
		}
	}
	t.Logf("filled, freed and filled again:\n%-20s %-26s\n%s", "limit", "had, and then", table.String())
}
