package programs_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ipcspace/ipcspace/test/suite"
)

// container is a bundle for runc(8): a read-only root made of this machine's own directories, an
// unprivileged user without capabilities, and new pid, IPC, mount, network and host name namespaces.
type container struct {
	id, bundle, state string
}

// newContainer makes a bundle; inSpace is nil for a container without a space.
func newContainer(t *testing.T, inSpace *space, extra []mount, args ...string) *container {
	t.Helper()
	dir := directory(t, 0)
	c := &container{
		id:     fmt.Sprintf("ipcspace-%d-%s", os.Getpid(), strings.TrimPrefix(filepath.Base(dir), "test-")),
		bundle: dir,
		state:  filepath.Join(dir, "state"),
	}
	environment := []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	mounts := []mount{
		{"/proc", "proc", "proc", []string{"nosuid", "noexec", "nodev"}},
		{"/dev", "tmpfs", "tmpfs", []string{"nosuid", "mode=755", "size=1m"}},
		// Smaller than PostgreSQL's segment: what is in a space does not come from here.
		{"/dev/shm", "tmpfs", "shm", []string{"nosuid", "nodev", "noexec", "mode=1777", "size=16m"}},
		{"/tmp", "tmpfs", "tmpfs", []string{"nosuid", "nodev", "mode=1777", "size=16m"}},
		{"/usr", "bind", "/usr", []string{"rbind", "ro"}},
		{"/etc", "bind", "/etc", []string{"rbind", "ro"}},
	}
	ipcNamespace := map[string]any{"type": "ipc"}
	switch {
	case inSpace != nil && inSpace.kernelNamespace != "":
		ipcNamespace["path"] = inSpace.kernelNamespace
	case inSpace != nil:
		mounts = append(mounts, mount{"/run/ipcspace", "bind", inSpace.dir, []string{"rbind", "ro", "nosuid", "nodev"}})
		environment = append(environment, "LD_PRELOAD=/run/ipcspace/lib/libipcspace.so", "IPCSPACE_REQUIRED=1")
	}
	root := filepath.Join(dir, "rootfs")
	for _, name := range []string{"usr", "etc", "proc", "sys", "dev", "tmp", "run/ipcspace", "data"} {
		must(t, os.MkdirAll(filepath.Join(root, name), 0o755))
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		if _, err := os.Lstat(filepath.Join("/usr", name)); err == nil {
			must(t, os.Symlink(filepath.Join("usr", name), filepath.Join(root, name)))
		}
	}
	config := map[string]any{
		"ociVersion": "1.0.2",
		"hostname":   "container",
		"process": map[string]any{
			"user": map[string]any{"uid": nobody, "gid": nobody},
			"args": args, "env": environment, "cwd": "/",
			"noNewPrivileges": true, "capabilities": map[string]any{},
		},
		"root":   map[string]any{"path": "rootfs", "readonly": true},
		"mounts": append(mounts, extra...),
		"linux": map[string]any{
			"namespaces": []map[string]any{
				{"type": "pid"}, {"type": "mount"}, {"type": "network"}, {"type": "uts"}, ipcNamespace,
			},
			// ipcs reads the kernel's own tables while it can see them.
			"maskedPaths": []string{"/proc/sysvipc", "/proc/kcore"},
		},
	}
	text, err := json.Marshal(config)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "config.json"), text, 0o644))
	return c
}

type mount struct {
	Destination string   `json:"destination"`
	Type        string   `json:"type"`
	Source      string   `json:"source"`
	Options     []string `json:"options"`
}

func (c *container) runc(args ...string) *exec.Cmd {
	// Without a session keyring: their number per user is small.
	return exec.Command("runc", append([]string{"--root", c.state}, args...)...)
}

// run runs the container to its end and returns its output.
func (c *container) run(t *testing.T) string {
	t.Helper()
	t.Cleanup(func() { c.delete(t) })
	return mustRun(t, c.runc("run", "--no-new-keyring", "--bundle", c.bundle, c.id))
}

// start leaves it running; the channel yields its end. All that it prints goes to a file.
func (c *container) start(t *testing.T, logFile string) <-chan error {
	t.Helper()
	log, err := os.Create(logFile)
	must(t, err)
	defer log.Close()
	cmd := c.runc("run", "--no-new-keyring", "--bundle", c.bundle, c.id)
	cmd.Stdout, cmd.Stderr = log, log
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		c.delete(t)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Errorf("%s did not end within 10 s of its container's removal", cmd)
		}
	})
	return ended
}

// delete removes what is left of the container; of one that ended by itself nothing is.
func (c *container) delete(t *testing.T) {
	if _, err := runCommand(c.runc("delete", "--force", c.id)); err != nil {
		t.Error(err)
	}
}

// PostgreSQL in one container, ipcs in a second one of the same space, and in a third without it.
func TestPostgresInContainer(t *testing.T) {
	t.Parallel()
	needs(t, map[string]string{"runc": "runc"})
	p := debianPostgres(t)
	s := newSpace(t)
	data := directory(t, nobody)
	dataMount := []mount{{"/data", "bind", data, []string{"rbind", "rw", "nosuid", "nodev"}}}

	must(t, os.WriteFile(filepath.Join(data, "settings"), fmt.Appendf(nil, settings, "/data"), 0o644))

	server := newContainer(t, s, dataMount, "sh", "-euc", fmt.Sprintf(`
		%[1]s/initdb -D /data/data -U postgres -A trust -E UTF8 --no-locale --no-sync
		cat /data/settings >>/data/data/postgresql.conf
		exec %[1]s/postgres -D /data/data`, p.bin))
	log := filepath.Join(data, "log")
	ended := server.start(t, log)

	// The same server seen from outside: its socket and lock file lie in the mounted directory.
	c := &cluster{postgres: p, space: s, dir: data}
	must(t, suite.Eventually(commandTimeout, func() error {
		select {
		case err := <-ended:
			t.Fatalf("the container ended: %v\n%s", err, suite.Tail(log))
		default:
		}
		if status := c.lockFile(statusLine); status != "ready" {
			return fmt.Errorf("PostgreSQL in the container is %q, not ready\n%s", status, suite.Tail(log))
		}
		return nil
	}))
	if err := c.exercise("in a container"); err != nil {
		t.Fatalf("%v\n%s", err, suite.Tail(log))
	}

	key, id := c.segment(t)
	shown := fmt.Sprintf("%#08x %s", key, id)
	all := []string{"ipcs"}
	neighbour := newContainer(t, s, nil, all...).run(t)
	if !contains(ipcsRows(neighbour), shown) {
		t.Errorf("ipcs in a second container of the space does not show %s:\n%s", shown, neighbour)
	}
	stranger := newContainer(t, nil, nil, all...).run(t)
	if rows := ipcsRows(stranger); len(rows) != 0 {
		t.Errorf("ipcs in a container without the space shows:\n%s", stranger)
	}
	// What the second creates is the first's to see, and the other way round is shown above.
	made := newContainer(t, s, nil, "sh", "-euc", "ipcmk -Q; ipcmk -S 2").run(t)
	for _, family := range []string{"-q", "-s"} {
		if rows := s.ipcs(t, family); len(rows) != 1 {
			t.Errorf("ipcs %s shows %v after a container made one, which said:\n%s", family, rows, made)
		}
	}
	requireKernelUnused(t)

	// pid 1 of the container is the server: a fast shutdown ends the container, and its segments.
	must(t, firstProcess(server, syscall.SIGINT))
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the server's container: %v\n%s", err, suite.Tail(log))
		}
	case <-time.After(commandTimeout):
		t.Fatalf("the container did not end in %v\n%s", commandTimeout, suite.Tail(log))
	}
	if rows := s.ipcs(t, "-m"); len(rows) != 0 {
		t.Errorf("segments after shutdown: %v", rows)
	}
}

func contains(rows [][]string, keyAndID string) bool {
	for _, row := range rows {
		if row[0]+" "+row[1] == keyAndID {
			return true
		}
	}
	return false
}

// firstProcess signals the container's pid 1.
func firstProcess(c *container, signal syscall.Signal) error {
	_, err := runCommand(c.runc("kill", c.id, strconv.Itoa(int(signal))))
	if err != nil {
		return errors.Join(fmt.Errorf("signal %v to container %s", signal, c.id), err)
	}
	return nil
}
