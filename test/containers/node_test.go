package containers_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// managerInContainer are the README's commands for it: one makes the image, one runs it.
func managerInContainer(t *testing.T) (image, run command) {
	t.Helper()
	text, err := os.ReadFile(readmes[0])
	must(t, err)
	for _, block := range marked.FindAllStringSubmatch(string(text), -1) {
		if c := commands(block[3]); block[1] == "TestManagerInContainer" && len(c) == 2 {
			return c[0], c[1]
		}
	}
	t.Fatal("the README has no manager in a container")
	return command{}, command{}
}

// managerFlags are those of the README, with the folder and the capabilities at hand.
func managerFlags(t *testing.T, dir string, capabilities []string) []string {
	t.Helper()
	_, run := managerInContainer(t)
	words := strings.Fields(strings.ReplaceAll(run.text, "\\\n", ""))
	var flags []string
	for i := 0; i < len(words); i++ {
		switch word := words[i]; {
		case word == "docker" || word == "run" || word == "-d" || strings.HasPrefix(word, "--restart="):
		case word == "--name":
			i++
		case word == "ipcspace-manager":
			for _, c := range capabilities {
				flags = append(flags, "--cap-add="+c)
			}
			return flags
		case strings.HasPrefix(word, "--cap-add="):
			if _, known := managerCapabilities[strings.TrimPrefix(word, "--cap-add=")]; !known {
				t.Errorf("the README gives the manager %s, which no test shows to be needed", word)
			}
		default:
			flags = append(flags, strings.ReplaceAll(word, root, dir))
		}
	}
	t.Fatalf("the README's %q runs no image ipcspace-manager", run.text)
	return nil
}

// managerCapabilities is what the manager needs, and what fails without it.
var managerCapabilities = map[string]string{
	"SYS_ADMIN":       "no right to mount",
	"LINUX_IMMUTABLE": "objects are not sealed",
	"SYS_PTRACE":      "a member of another user",
}

// The manager in a container: with the three capabilities it serves members of all kinds, and lacks
// something without any of them.
func TestManagerInContainer(t *testing.T) {
	needDocker(t)
	make, _ := managerInContainer(t)
	cmd := exec.Command("sh", "-ec", make.text)
	cmd.Dir = filepath.Dir(bin)
	cmd.Env = append(os.Environ(), "PATH="+docker.onPath(t))
	mustRun(t, cmd)
	var all []string
	for name := range managerCapabilities {
		all = append(all, name)
	}
	// start has a manager with a space; its log is the container's.
	start := func(t *testing.T, capabilities []string) (*container, *space) {
		dir := filepath.Join(directory(t), "root")
		must(t, os.Mkdir(dir, 0o755))
		t.Cleanup(func() { unmountBelow(dir) })
		c := dockerStart(t, managerFlags(t, dir, capabilities), "ipcspace-manager", "/ipcspace-manager", "--root", dir, "--space", "orders")
		c.awaits(t, "msg=ready")
		return c, &space{name: "orders", dir: filepath.Join(dir, "spaces", "orders")}
	}
	// members is the error of one of them.
	members := func(s *space) error {
		for _, flags := range [][]string{nil, {"--user", "1000:1000"}, {"--user", "1000:1000", "--cap-drop", "ALL", "--read-only"}} {
			for _, args := range [][]string{{"ipc", "put", "7", "hello"}, {"ipc", "send", "8", "letter"}, {"ipc", "receive", "8"}} {
				if _, err := runCommand(dockerRun(append(s.mountFlags(), flags...), imageGlibc, args...)); err != nil {
					return err
				}
			}
		}
		return nil
	}
	t.Run("all", func(t *testing.T) {
		c, s := start(t, all)
		if err := members(s); err != nil {
			t.Errorf("%v\nthe manager's log:\n%s", err, c.logs(t))
		}
		if logs := c.logs(t); strings.Contains(logs, "WARN") || strings.Contains(logs, "no right to mount") {
			t.Errorf("the manager lacks something:\n%s", logs)
		}
		// It is replaced, as by an upgrade: the space stays.
		mustRun(t, dockerCommand("restart", c.name))
		c.awaits(t, "space adopted")
		wants(t, mustRun(t, dockerRun(s.mountFlags(), imageMusl, "ipc", "get", "7")), "hello")
	})
	for dropped, lacks := range managerCapabilities {
		t.Run("without "+dropped, func(t *testing.T) {
			t.Parallel() // one of them waits for a time-out
			var rest []string
			for _, c := range all {
				if c != dropped {
					rest = append(rest, c)
				}
			}
			c, s := start(t, rest)
			if lacks == "a member of another user" {
				if err := members(s); err == nil {
					t.Errorf("all works without %s", dropped)
				}
				return
			}
			wants(t, c.logs(t), lacks)
		})
	}
}

// The units for a host with systemd name the same capabilities.
func TestUnits(t *testing.T) {
	text, err := os.ReadFile("../../shim/systemd/ipcspace-manager.service")
	must(t, err)
	bounding := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindStringSubmatch(string(text))
	if bounding == nil {
		t.Fatal("no CapabilityBoundingSet")
	}
	for name := range managerCapabilities {
		wants(t, bounding[1], "CAP_"+name)
	}
	if n := len(strings.Fields(bounding[1])); n != len(managerCapabilities) {
		t.Errorf("%d capabilities in the unit, %d needed", n, len(managerCapabilities))
	}
	verify, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze here to verify the units")
	}
	for _, unit := range []string{"ipcspace-manager.service", "ipcspace-cdi.service"} {
		text, err := os.ReadFile("../../shim/systemd/" + unit)
		must(t, err)
		dir := directory(t)
		path := filepath.Join(dir, unit)
		here := strings.ReplaceAll(string(text), "/usr/local/bin/", bin+"/")
		must(t, os.WriteFile(path, []byte(here), 0o644))
		output, err := exec.Command(verify, "verify", "--man=no", path).CombinedOutput()
		for line := range strings.Lines(string(output)) {
			if strings.Contains(line, unit) {
				t.Error(fmt.Sprint(line, err))
			}
		}
	}
}

// An upgrade puts a new library beside those that are in use: a process keeps the one that it began
// with, and who starts later gets the new one.
func TestLibraryUpgrade(t *testing.T) {
	needDocker(t)
	s := newSpace(t)
	old := dockerStart(t, s.mountFlags(), imageGlibc, "ipc", "storm", "7", "old")
	old.goesOn(t, "old")
	path := filepath.Join(bin, "libipcspace.so")
	before, err := os.ReadFile(path)
	must(t, err)
	must(t, node.stop())
	// As a package manager does it: beside, and renamed. Bytes after the end change no library.
	must(t, os.WriteFile(path+".new", append(append([]byte{}, before...), "a later build"...), 0o755))
	must(t, os.Rename(path+".new", path))
	must(t, node.start())
	t.Cleanup(func() {
		must(t, os.WriteFile(path+".new", before, 0o755))
		must(t, os.Rename(path+".new", path))
	})
	wants(t, mustRun(t, dockerRun(s.mountFlags(), imageGlibc, "grep", "-c", "a later build", "/run/ipcspace/lib/libipcspace.so")), "1")
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", old.pid(t)))
	must(t, err)
	wants(t, string(maps), "libipcspace.so (deleted)")
	old.goesOn(t, "old")
	later := dockerStart(t, s.mountFlags(), imageMusl, "ipc", "storm", "7", "later")
	later.goesOn(t, "later")
	old.goesOn(t, "old")
}
