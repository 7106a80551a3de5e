package programs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// A plugin loaded with RTLD_DEEPBIND, as PHP loads its extensions, is in the program's space, and
// dlopen still looks along the run path of who calls it.
func TestDeepBinding(t *testing.T) {
	t.Parallel()
	needs(t, map[string]string{"gcc": "gcc libc6-dev"})
	dir := directory(t, 0)
	plugin, program := filepath.Join(dir, "plugin.so"), filepath.Join(dir, "program")
	must(t, os.Mkdir(filepath.Join(dir, "named"), 0o755))
	gcc := func(args ...string) {
		mustRun(t, exec.Command("gcc", append([]string{"-O1", "-Wall", "-Wextra", "-Werror"}, args...)...))
	}
	for _, sealed := range []string{"-Wl,-z,relro,-z,now", "-Wl,-z,lazy"} {
		gcc("-shared", "-fPIC", sealed, "-o", filepath.Join(dir, "libneeded.so"), "testdata/deep/needed.c")
		gcc("-shared", "-fPIC", sealed, "-o", plugin, "testdata/deep/plugin.c", "-L"+dir, "-lneeded", "-Wl,-rpath,"+dir)
		gcc("-shared", "-fPIC", "-o", filepath.Join(dir, "named/libnamed.so"), "testdata/deep/needed.c")
		gcc("-DPLUGIN=\""+plugin+"\"", "-o", program, "testdata/deep/main.c", "-Wl,-rpath,"+filepath.Join(dir, "named"), "-ldl")
		for _, binding := range []string{"lazy", "now"} {
			if output := mustRun(t, embedded(0).command(program, binding)); output != "done\n" {
				t.Errorf("%s, %s: printed %q", sealed, binding, output)
			}
		}
	}
	requireKernelUnused(t)
}

// PHP's own extensions.
func TestPHP(t *testing.T) {
	t.Parallel()
	needs(t, map[string]string{"php": "php-cli"})
	s := embedded(0)
	output := mustRun(t, s.command("php", "-r", `
		$q = msg_get_queue(4711, 0600); msg_send($q, 1, "a message"); msg_receive($q, 0, $type, 1000, $got);
		$s = sem_get(4712); sem_acquire($s); sem_release($s);
		$m = shm_attach(4713, 10000); shm_put_var($m, 1, $got);
		passthru("ipcs | grep -c ^0x"); echo shm_get_var($m, 1), "\n";`))
	if want := "3\na message\n"; output != want {
		t.Errorf("printed %q, want %q", output, want)
	}
	requireKernelUnused(t)
}
