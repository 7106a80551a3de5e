package programs_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ipcspace/ipcspace/test/suite"
)

// Without its manager a space is an error, after the half minute for which a restart is waited
// for: never the kernel's own tables, and never "no object has that key".
func TestManagerAway(t *testing.T) {
	if kernelOnly {
		t.Skip("the kernel is always there")
	}
	t.Parallel()
	needs(t, map[string]string{"perl": "perl"})
	root := filepath.Join(t.TempDir(), "node")
	manager := exec.Command(filepath.Join(scratch, "bin/ipcspace-manager"), "--root", root)
	must(t, manager.Start())
	defer func() { _ = manager.Process.Kill() }() // it is gone mostly
	must(t, suite.Eventually(20*time.Second, func() error {
		_, err := runCommand(exec.Command(ipcspace(), "space", "create", "away", "--root", root))
		return err
	}))
	dir := filepath.Join(root, "spaces/away")
	perl := func(script string) *exec.Cmd {
		cmd := exec.Command("perl", "-e", script)
		cmd.Env = append(os.Environ(), "LC_ALL=C", "IPCSPACE_DIR="+dir, "LD_PRELOAD="+filepath.Join(dir, "lib/libipcspace.so"))
		return cmd
	}
	member := perl(`$| = 1; defined msgget(0, 0600) or die "$!"; print "here\n"; <STDIN>;
		print defined msgget(77, 01600) ? "made" : "$!", "\n"`)
	in, err := member.StdinPipe()
	must(t, err)
	out, err := member.StdoutPipe()
	must(t, err)
	member.Stderr = os.Stderr
	must(t, member.Start())
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); line != "here\n" {
		t.Fatal(line, err)
	}
	must(t, manager.Process.Signal(os.Interrupt)) // killed, it would leave its sockets
	must(t, manager.Wait())
	_, err = in.Write([]byte("\n"))
	must(t, err)

	stranger := mustRun(t, perl(`print defined msgget(77, 01600) ? "made" : "$!"`))
	if stranger != "Function not implemented" {
		t.Errorf("a program that begins without the manager: %s", stranger)
	}
	line, err := lines.ReadString('\n')
	must(t, err)
	if strings.TrimSpace(line) != "Connection refused" {
		t.Errorf("a program that began with the manager: %s", line)
	}
	must(t, member.Wait())
	requireKernelUnused(t)

	manager = exec.Command(filepath.Join(scratch, "bin/ipcspace-manager"), "--root", root)
	must(t, manager.Start())
	must(t, suite.Eventually(20*time.Second, func() error {
		_, err := runCommand(exec.Command(ipcspace(), "space", "remove", "away", "--root", root))
		return err
	}))
	must(t, manager.Process.Signal(os.Interrupt))
	must(t, manager.Wait())
}
