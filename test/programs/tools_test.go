package programs_test

import (
	"path/filepath"
	"strings"
	"testing"
)

// A place is one way to bring a program into a space.
type place struct {
	name string
	make func(t *testing.T) *space
	// seesIPCS: util-linux's ipcs shows the space there. It reads /proc/sysvipc, the kernel's own
	// tables, unless these are hidden, and only root may always hide them.
	seesIPCS bool
	uid      int
}

var places = []place{
	{"embedded manager, root", func(*testing.T) *space { return embedded(0) }, true, 0},
	{"embedded manager, ordinary user", func(*testing.T) *space { return embedded(nobody) }, kernelOnly, 0},
	{"running manager, root", newSpace, true, 0},
	{"running manager, another user", newSpace, true, nobody},
}

// script runs a file of testdata in each place; its last word must be "done".
func script(t *testing.T, interpreter, file string, in func(place) bool) {
	for _, place := range places {
		if !in(place) {
			continue
		}
		t.Run(place.name, func(t *testing.T) {
			t.Parallel()
			cmd := place.make(t).commandAs(place.uid, interpreter, filepath.Join(scratch, "testdata", file))
			if place.seesIPCS {
				cmd.Env = append(cmd.Env, "SEES_IPCS=1")
			}
			cmd.Dir = "/"
			if output := mustRun(t, cmd); !strings.HasSuffix(output, "done\n") {
				t.Errorf("%s ended early, its output:\n%s", cmd, output)
			}
			requireKernelUnused(t)
		})
	}
}

// Message queues, semaphores with SEM_UNDO, and another preloaded library beside ours.
func TestFakeroot(t *testing.T) {
	t.Parallel()
	needs(t, map[string]string{"fakeroot-sysv": "fakeroot"})
	script(t, "sh", "fakeroot.sh", func(place) bool { return true })
}

// IPC::Msg, IPC::Semaphore, IPC::SharedMem and Perl's built-in calls.
func TestPerl(t *testing.T) {
	t.Parallel()
	needs(t, map[string]string{"perl": "perl"})
	script(t, "perl", "sysv.pl", func(place) bool { return true })
}

// util-linux shows and removes exactly what is in the space (row 224).
func TestUtilLinux(t *testing.T) {
	t.Parallel()
	needs(t, map[string]string{"ipcs": "util-linux", "ipcrm": "util-linux", "ipcmk": "util-linux-extra or util-linux"})
	script(t, "sh", "tools.sh", func(p place) bool { return p.seesIPCS })
}
