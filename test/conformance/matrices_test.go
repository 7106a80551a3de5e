package conformance_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const matrixTime = 2 * time.Minute

// TestMatrices compares what nobody has thought of as a rule: the programs of matrices/ make each call with
// every argument that could matter, and write down what came of it. What they write in a space must be what
// they write on the kernel, line by line.
func TestMatrices(t *testing.T) {
	needMatrices(t)
	sources, err := filepath.Glob("matrices/*.c")
	if err != nil || len(sources) == 0 {
		t.Fatalf("no programs in matrices: %v", err)
	}
	for _, source := range sources {
		name := strings.TrimSuffix(filepath.Base(source), ".c")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program := compile(t, "gcc", source)
			kernel, space := matrixOnKernel(t, program), matrixInSpace(t, program)
			if d := firstDifference(kernel, space); d != "" {
				t.Error(d)
			}
			t.Logf("%d lines", strings.Count(kernel, "\n"))
		})
	}
}

// TestMatricesTell shows that a difference is found and named: a space that takes one operation less.
func TestMatricesTell(t *testing.T) {
	needMatrices(t)
	program := compile(t, "gcc", "matrices/semop.c")
	d := firstDifference(matrixOnKernel(t, program), matrixInSpace(t, program, "--limit", "semopm=499"))
	for _, part := range []string{"500 operations:", "kernel: semop(set, ops, n) = 0", "space:  semop(set, ops, n) = E2BIG"} {
		if !strings.Contains(d, part) {
			t.Fatalf("of semop with 500 operations where 499 are the most, the comparison says %q, not %q", d, part)
		}
	}
}

func needMatrices(t *testing.T) {
	t.Helper()
	needSpace(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root for an IPC namespace of its own, and to become other users")
	}
}

func matrixOnKernel(t *testing.T, program string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), matrixTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, program)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWIPC}
	return transcript(t, cmd)
}

func matrixInSpace(t *testing.T, program string, flags ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), matrixTime)
	defer cancel()
	inside := inSpace(program, "default", flags...)
	cmd := exec.CommandContext(ctx, inside.Path, inside.Args[1:]...)
	cmd.Env = inside.Env
	return transcript(t, cmd)
}

func transcript(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		lines := strings.Split(string(out), "\n")
		t.Fatalf("%s: %v, after\n%s", cmd, err, strings.Join(lines[max(0, len(lines)-5):], "\n"))
	}
	return string(out)
}

// firstDifference names the first line that differs, with the lines before it, for they say what it is about.
func firstDifference(kernel, space string) string {
	if kernel == space {
		return ""
	}
	k, s := strings.Split(kernel, "\n"), strings.Split(space, "\n")
	at := 0
	for at < len(k) && at < len(s) && k[at] == s[at] {
		at++
	}
	line := func(lines []string) string {
		if at < len(lines) {
			return lines[at]
		}
		return "(nothing)"
	}
	before := strings.Join(k[max(0, at-3):at], "\n        ")
	return fmt.Sprintf("line %d of %d, after\n        %s\nkernel: %s\nspace:  %s", at+1, len(k), before, line(k), line(s))
}
