package programs_test

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// Valgrind finds no errors that the program does not have, and bad pointers are EFAULT under it.
func TestValgrind(t *testing.T) {
	t.Parallel()
	needs(t, map[string]string{"gcc": "gcc libc6-dev", "valgrind": "valgrind"})
	program := watched(t)
	quiet(t, embedded(0).command("valgrind", "-q", "--error-exitcode=99", program))
	if kernelOnly {
		return // where Valgrind looks at the pointers itself, and finds them bad
	}
	quiet(t, embedded(0).command("valgrind", "-q", "--error-exitcode=99", program, "nowhere"))
}

// gcc's AddressSanitizer wants to be the first library, unless told otherwise.
func TestAddressSanitizer(t *testing.T) {
	t.Parallel()
	needs(t, map[string]string{"gcc": "gcc libc6-dev"})
	cmd := embedded(0).command(watched(t, "-fsanitize=address,undefined"), "nowhere")
	cmd.Env = append(cmd.Env, "ASAN_OPTIONS=verify_asan_link_order=0")
	quiet(t, cmd)
}

func watched(t *testing.T, flags ...string) string {
	t.Helper()
	program := filepath.Join(directory(t, 0), "watched")
	args := append([]string{"-O1", "-g", "-Wall", "-Wextra", "-Werror", "-o", program, "testdata/watched.c"}, flags...)
	mustRun(t, exec.Command("gcc", args...))
	return program
}

// quiet runs a command that has nothing to say but "done", on standard error neither.
func quiet(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Args = append([]string{"sh", "-c", `exec "$@" 2>&1`, "sh"}, cmd.Args...)
	cmd.Path = "/bin/sh"
	if output := mustRun(t, cmd); output != "done\n" {
		t.Errorf("%s printed:\n%s", cmd, output)
	}
	requireKernelUnused(t)
}
