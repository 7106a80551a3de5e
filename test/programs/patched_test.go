package programs_test

import (
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// A program may write a jump into the functions that the library exports, and come back by
// syscall().
func TestPatched(t *testing.T) {
	t.Parallel()
	if runtime.GOARCH != "amd64" {
		t.Skip("the jump is x86-64's")
	}
	needs(t, map[string]string{"gcc": "gcc libc6-dev"})
	program := filepath.Join(directory(t, 0), "patched")
	mustRun(t, exec.Command("gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, "testdata/patched.c"))
	if output := mustRun(t, embedded(0).command(program)); output != "3 1 0 1 0\n" {
		t.Errorf("printed %q", output)
	}
	requireKernelUnused(t)
}
