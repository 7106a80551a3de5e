// Package conformance_test compares spaces with the kernel, rule by rule.
//
// rows/*.c are C programs against the plain C library, one per family of the rows of observable
// behaviour of System V IPC on Linux. Each runs once on the kernel, in an IPC namespace of its own,
// and once in a space, unchanged. The kernel is the oracle: a case that fails there is wrong itself.
// A case that fails in a space is a bug, unless it stands among the known differences.
//
// matrices/*.c make each call with all kinds of arguments and write down what comes of it, the same on both
// sides (TestMatrices).
//
// With -v the table of rows is printed at the end; CONFORMANCE_TABLE names a file for it. To run one program by
// hand: gcc -std=gnu11 -pthread rows/undo.c -o undo && unshare --ipc ./undo 140
package conformance_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// programTime is far more than a family takes: each case has a limit of its own.
const programTime = 20 * time.Minute

// lowLimits make every limit reachable, for the rows that are skipped where it is not.
const lowLimits = "shmmni=16,shmall=16,shmmax=65536,semmsl=60,semmns=100,semmni=8,semopm=20," +
	"msgmni=8,msgmax=300,msgmnb=1000"

// limitRows are the rows that lowLimits bring within reach.
var limitRows = []string{"42", "44", "45", "100", "104", "105", "113", "168", "169", "171"}

func TestMain(m *testing.M) {
	code := m.Run()
	if testing.Verbose() {
		table.print(os.Stdout)
	}
	// go test shows nothing of a package that passes.
	if path := os.Getenv("CONFORMANCE_TABLE"); path != "" {
		file, err := os.Create(path)
		if err != nil {
			fmt.Fprintln(os.Stderr, "the table:", err)
			os.Exit(1)
		}
		table.print(file)
		file.Close()
	}
	os.Exit(code)
}

// TestKernel is the test of the tests.
func TestKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for an IPC namespace of its own")
	}
	eachFamily(t, func(t *testing.T, family string) {
		cmd := exec.Command(build(t, "gcc", family))
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWIPC}
		for _, r := range runProgram(t, family, cmd) {
			table.add(r, onKernel)
			t.Run(r.name(), r.report)
		}
	})
}

// TestSpace runs the same programs under `ipcspace run`.
func TestSpace(t *testing.T) {
	needSpace(t)
	eachFamily(t, func(t *testing.T, family string) {
		cmd := inSpace(build(t, "gcc", family), "default")
		for _, r := range runProgram(t, family, cmd) {
			table.add(r, inASpace)
			t.Run(r.name(), r.reportUnlessKnown)
		}
	})
}

// TestSpaceLimits runs the rows of the limits in spaces where they are low.
func TestSpaceLimits(t *testing.T) {
	needSpace(t)
	for _, family := range []string{"shmget", "semget", "semop", "msgsnd"} {
		t.Run(family, func(t *testing.T) {
			cmd := inSpace(build(t, "gcc", family), "low", "--limit", lowLimits)
			cmd.Args = append(cmd.Args, limitRows...)
			for _, r := range runProgram(t, family, cmd, limitRows...) {
				table.add(r, inASpace)
				t.Run(r.name(), r.reportUnlessKnown)
			}
		})
	}
}

// TestMusl runs the families of the hot calls as programs of another C library.
func TestMusl(t *testing.T) {
	needSpace(t)
	if _, err := exec.LookPath("musl-gcc"); err != nil {
		t.Skip("no musl-gcc: ", err)
	}
	for _, family := range []string{"ids", "whose", "shmmem", "shmfork", "semop", "semwait", "undo", "semadj", "msgsnd", "msgwait", "msgrcv"} {
		t.Run(family, func(t *testing.T) {
			for _, r := range runProgram(t, family, inSpace(build(t, "musl-gcc", family), "default")) {
				t.Run(r.name(), r.reportUnlessKnown)
			}
		})
	}
}

// emulatedRows are those whose cases do not fork: qemu-user 7 says that it has done MADV_WIPEONFORK, by
// which the library knows a child, and has not. A family without any runs whole.
var emulatedRows = map[string]string{
	"shmget": "", "semget": "",
	"ids":     "1 2 3 4 7 8 9 10 11 12 13 14 15 17 18 21",
	"shmat":   "56 57 58 59 60 61 62 64 66 68 71 72",
	"shmctl":  "85 87 88 89 93 94 96 97 98",
	"semop":   "107 108 112 113 114 115 116 118 119 120 126 127 128 137",
	"semctl":  "152 154 155 157 158 159 161 164 165 166 167",
	"msgsnd":  "168 169 170 171 172 173",
	"msgwait": "176 177 180 181 182",
	"msgrcv":  "188 189 190 192 193 194 195 196 202 203 204 205 206",
	"msgctl":  "208 210 211 212 213 214",
}

// TestARM64 runs programs for arm64 with the library for arm64, in an emulator.
func TestARM64(t *testing.T) {
	needSpace(t)
	const compiler, emulator, library = "aarch64-linux-gnu-gcc", "qemu-aarch64-static", "../../bin/arm64/libipcspace.so"
	for _, tool := range []string{compiler, emulator} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s: make deps", tool)
		}
	}
	preload, err := filepath.Abs(library)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(preload); err != nil {
		t.Fatalf("run make build first: %v", err)
	}
	for family, listed := range emulatedRows {
		t.Run(family, func(t *testing.T) {
			rows := strings.Fields(listed)
			// The emulator is static: what `run` preloads is not for it.
			cmd := inSpace(emulator, "default")
			cmd.Args = append(cmd.Args, "-L", "/usr/aarch64-linux-gnu", "-E", "LD_PRELOAD="+preload, build(t, compiler, family))
			cmd.Args = append(cmd.Args, rows...)
			for _, r := range runProgram(t, family, cmd, rows...) {
				t.Run(r.name(), r.reportUnlessKnown)
			}
		})
	}
}

// eachFamily runs f for every program, two at a time: most of a program's time is waiting, but the
// storms use what there is.
func eachFamily(t *testing.T, f func(t *testing.T, family string)) {
	sources, err := filepath.Glob("rows/*.c")
	if err != nil || len(sources) == 0 {
		t.Fatalf("no programs in rows: %v", err)
	}
	turns := make(chan struct{}, 2)
	for _, source := range sources {
		family := strings.TrimSuffix(filepath.Base(source), ".c")
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			turns <- struct{}{}
			defer func() { <-turns }()
			f(t, family)
		})
	}
}

func commandPath() string {
	if path := os.Getenv("IPCSPACE_BIN"); path != "" {
		return path
	}
	return filepath.Join("..", "..", "bin", "ipcspace")
}

func needSpace(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(commandPath()); err != nil {
		t.Fatalf("run make build first: %v", err)
	}
}

func inSpace(program, limits string, flags ...string) *exec.Cmd {
	args := append([]string{"run"}, flags...)
	cmd := exec.Command(commandPath(), append(args, "--", program)...)
	cmd.Env = append(os.Environ(), "CONFORMANCE_LIMITS="+limits)
	return cmd
}

// result is one line of a program: `ok 139 title`, `FAIL 139,140 title: msg` or `skip 139 title: reason`.
type result struct {
	family, rows, title string
	verdict             verdict
	detail              string
}

type verdict string

const (
	passed  verdict = "ok"
	failed  verdict = "FAIL"
	skipped verdict = "skip"
)

func (r result) name() string { return r.rows + " " + r.title }

func (r result) report(t *testing.T) {
	switch r.verdict {
	case failed:
		t.Error(r.detail)
	case skipped:
		t.Skip(r.detail)
	}
}

func (r result) reportUnlessKnown(t *testing.T) {
	known := knownDifference(r)
	switch {
	case known == nil:
		r.report(t)
	case r.verdict == failed:
		t.Skipf("known difference: %s (%s)", known.reason, r.detail)
	case r.verdict == passed:
		t.Log("a known difference that is none here: ", known.reason)
	}
}

// runProgram runs a family and returns one result for each of its cases, reported or not: a program
// that ends early has failed those it did not come to. only are the rows chosen; none is all.
func runProgram(t *testing.T, family string, cmd *exec.Cmd, only ...string) []result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), programTime)
	defer cancel()
	timed := exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
	timed.Env, timed.SysProcAttr = cmd.Env, cmd.SysProcAttr
	timed.WaitDelay = 10 * time.Second
	var stdout, stderr bytes.Buffer
	timed.Stdout, timed.Stderr = &stdout, &stderr
	err := timed.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v\n%s", family, err, stderr.String())
	}

	results := listCases(t, family, only)
	next := 0
	for _, r := range parse(family, &stdout) {
		// Programs report in the order of their list; a case that is missing stays failed.
		for next < len(results) && !strings.HasPrefix(r.name(), results[next].name()) {
			next++
		}
		if next == len(results) {
			t.Fatalf("%s: a result of no case: %s", family, r.name())
		}
		r.detail = strings.TrimPrefix(strings.TrimPrefix(r.name(), results[next].name()), ": ")
		r.title = results[next].title
		results[next] = r
		next++
	}
	if err != nil && exit.ExitCode() != 1 {
		t.Errorf("%s: %v\n%s", family, err, stderr.String())
	}
	return results
}

// listCases are the cases that the program has, all of them failed so far.
func listCases(t *testing.T, family string, only []string) []result {
	t.Helper()
	list, err := exec.Command(build(t, "gcc", family), "-l").Output()
	if err != nil {
		t.Fatalf("%s -l: %v", family, err)
	}
	var results []result
	for line := range strings.Lines(string(list)) {
		rows, title, _ := strings.Cut(strings.TrimSpace(line), " ")
		r := result{family: family, rows: rows, title: title, verdict: failed, detail: "the program ended before this case"}
		if len(only) == 0 || r.binds(only...) {
			results = append(results, r)
		}
	}
	return results
}

func (r result) binds(rows ...string) bool {
	for bound := range strings.SplitSeq(r.rows, ",") {
		for _, row := range rows {
			if bound == row {
				return true
			}
		}
	}
	return false
}

// parse reads the program's lines; a title still has its detail behind it.
func parse(family string, output *bytes.Buffer) []result {
	var results []result
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		first, rest, _ := strings.Cut(lines.Text(), " ")
		rows, title, ok := strings.Cut(strings.TrimSpace(rest), " ")
		switch v := verdict(first); v {
		case passed, failed, skipped:
			if ok {
				results = append(results, result{family: family, rows: rows, title: title, verdict: v})
			}
		}
	}
	return results
}
