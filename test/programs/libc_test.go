package programs_test

import (
	"debug/elf"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A program of musl and one of glibc in one space: messages both ways, one semaphore, one segment,
// and holders of the semaphore that die with it on both sides.
func TestTwoLibcsInOneSpace(t *testing.T) {
	t.Parallel()
	needs(t, map[string]string{"gcc": "gcc libc6-dev", "musl-gcc": "musl-tools"})
	dir := directory(t, 0)
	glibc := compile(t, "gcc", filepath.Join(dir, "peer-glibc"), "/ld-linux")
	musl := compile(t, "musl-gcc", filepath.Join(dir, "peer-musl"), "/ld-musl")

	const rounds = 10_000
	for _, pair := range [][2]string{{glibc, musl}, {musl, glibc}} {
		t.Run(fmt.Sprintf("%s sends first", filepath.Base(pair[0])), func(t *testing.T) {
			t.Parallel()
			s := newSpace(t)
			type outcome struct {
				output string
				err    error
			}
			outcomes := make(chan outcome, 2)
			for i, role := range []string{"first", "second"} {
				go func() {
					output, err := runCommand(s.commandAs(nobody, pair[i], role, fmt.Sprint(rounds)))
					outcomes <- outcome{output, err}
				}()
			}
			for range 2 {
				o := <-outcomes
				if want := fmt.Sprintf("done %d\n", 2*rounds); o.err == nil && o.output != want {
					t.Errorf("a peer printed %q, want %q: a count was lost", o.output, want)
				}
				if o.err != nil {
					t.Error(o.err)
				}
			}
			for _, family := range []string{"-m", "-s", "-q"} {
				if rows := s.ipcs(t, family); len(rows) != 1 {
					t.Errorf("ipcs %s shows %d objects, want the one that both used: %v", family, len(rows), rows)
				}
			}
			requireKernelUnused(t)
		})
	}
}

// compile builds peer.c, and checks by the program's interpreter that it is of the libc meant.
func compile(t *testing.T, compiler, to, interpreter string) string {
	t.Helper()
	mustRun(t, exec.Command(compiler, "-O1", "-Wall", "-Wextra", "-Werror", "-o", to, "testdata/peer.c"))
	file, err := elf.Open(to)
	must(t, err)
	defer file.Close()
	section := file.Section(".interp")
	if section == nil {
		t.Fatalf("%s is static: nothing could be preloaded", to)
	}
	path, err := section.Data()
	must(t, err)
	if !strings.Contains(string(path), interpreter) {
		t.Fatalf("%s has the interpreter %s, want one of %s", to, path, interpreter)
	}
	return to
}
