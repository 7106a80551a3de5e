package attacks_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestUpgrade kills the manager and starts a newer one over the same spaces: the same sources with
// the layout's minor version raised. Processes with the older library go on, others come. One of
// another major version refuses the spaces, says so, and leaves them as they are.
func TestUpgrade(t *testing.T) {
	newer := otherManager(t, "LayoutMinor")
	foreign := otherManager(t, "LayoutMajor")
	root := filepath.Join(scratch, "upgraded")
	m := startManager(t, filepath.Join(scratch, "ipcspace-manager"), root)
	check(t, m.ipcspace("space", "create", "shop", "--size", "64m"))
	dir := filepath.Join(root, "spaces", "shop")
	w := newWitness(t, "upgrade", dir, "private")
	defer w.end()
	time.Sleep(300 * time.Millisecond)
	m.kill()

	out, err := exec.Command(foreign, "--root", root).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "version") {
		t.Errorf("a manager of another major version: %v\n%s", err, out)
	}

	w.begin(false)
	m = startManager(t, newer, root)
	for n := range 3 {
		time.Sleep(500 * time.Millisecond)
		if _, complaint := w.judge(); complaint != "" {
			t.Errorf("look %d: %s", n, complaint)
		}
	}
	for range 3 { // newcomers with the older library
		cmd := exec.Command(filepath.Join(scratch, "witness"), "once")
		cmd.Env = witnessEnv(dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("a newcomer: %v\n%s", err, out)
		}
	}
	w.end()
	check(t, m.ipcspace("space", "remove", "shop", "--force"))
	m.kill()
}

// otherManager builds the manager with one of the layout's versions raised by one.
func otherManager(t *testing.T, version string) string {
	t.Helper()
	const source = "../../client/abi/abi.go"
	text, err := os.ReadFile(source)
	check(t, err)
	raised, found := "", false
	for line := range strings.Lines(string(text)) {
		var n int
		if _, err := fmt.Sscanf(strings.TrimSpace(line), version+" = %d", &n); err == nil {
			line, found = fmt.Sprintf("\t%s = %d\n", version, n+1), true
		}
		raised += line
	}
	if !found {
		t.Fatalf("%s has no %s", source, version)
	}
	changed := filepath.Join(scratch, version+".go")
	check(t, os.WriteFile(changed, []byte(raised), 0o600))
	absolute, err := filepath.Abs(source)
	check(t, err)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{absolute: changed}})
	check(t, err)
	check(t, os.WriteFile(changed+".json", overlay, 0o600))
	binary := filepath.Join(scratch, "manager-"+version)
	cmd := exec.Command("go", "build", "-overlay", changed+".json", "-o", binary, "../../manager/ipcspace-manager")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build a manager of another version: %v\n%s", err, out)
	}
	return binary
}

// kill ends the manager as a crash would.
func (m *managed) kill() {
	_ = m.Process.Signal(unix.SIGKILL)
	<-m.done
}
