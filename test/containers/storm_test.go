package containers_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ipcspace/ipcspace/test/suite"
)

// progress is how many rounds a container in the storm has done.
func (c *container) progress(t *testing.T, name string) int {
	t.Helper()
	most := 0
	for line := range strings.Lines(c.logs(t)) {
		fields := strings.Fields(line)
		if len(fields) == 2 && fields[0] == name {
			if n, err := strconv.Atoi(fields[1]); err == nil {
				most = max(most, n)
			}
		}
	}
	return most
}

// goesOn waits until a container in the storm has done more.
func (c *container) goesOn(t *testing.T, name string) {
	t.Helper()
	from := c.progress(t, name)
	must(t, suite.Eventually(commandTimeout/3, func() error {
		if now := c.progress(t, name); now <= from {
			return fmt.Errorf("%s stands still at %d:\n%s", name, now, c.logs(t))
		}
		return nil
	}))
}

// In a storm of semop on one mutex, a container that is killed, killed for its memory, or paused,
// stops nobody else, nor does a restart of the manager or of the runtime.
func TestStorm(t *testing.T) {
	needDocker(t)
	s := newSpace(t)
	storm := func(name, image string, flags ...string) *container {
		return dockerStart(t, append(s.mountFlags(), flags...), image, "ipc", "storm", "7", name)
	}
	steady := storm("steady", imageGlibc)
	steady.goesOn(t, "steady")

	t.Run("kill -9", func(t *testing.T) {
		for range 3 {
			victim := storm("victim", imageMusl)
			victim.goesOn(t, "victim")
			mustRun(t, dockerCommand("kill", "-s", "KILL", victim.name))
			steady.goesOn(t, "steady")
		}
	})
	t.Run("pause", func(t *testing.T) {
		for range 3 {
			victim := storm("victim", imageMusl)
			victim.goesOn(t, "victim")
			// On a busy machine runc may give a freeze up, and thaws what it has frozen.
			must(t, suite.Eventually(commandTimeout, func() error {
				_, err := runCommand(dockerCommand("pause", victim.name))
				return err
			}))
			// Paused with the mutex in its hand it would hold it, as in the kernel: then the unit is
			// not there to be had. Unpaused it goes on either way.
			if holds := s.holds(t); !holds {
				steady.goesOn(t, "steady")
			}
			mustRun(t, dockerCommand("unpause", victim.name))
			victim.goesOn(t, "victim")
			steady.goesOn(t, "steady")
			mustRun(t, dockerCommand("kill", victim.name))
		}
	})
	t.Run("out of memory", func(t *testing.T) {
		victim := dockerStart(t, append(s.mountFlags(), "--memory", "48m"), imageGlibc,
			"sh", "-c", "ipc storm 7 victim & sleep 2; exec ipc touch 8 96")
		victim.wait(t)
		if killed := victim.inspect(t, "{{.State.OOMKilled}}"); killed != "true" {
			t.Errorf("not killed for its memory: %s", victim.logs(t))
		}
		steady.goesOn(t, "steady")
	})
	t.Run("manager restart", func(t *testing.T) {
		must(t, node.end(syscall.SIGKILL))
		steady.goesOn(t, "steady")
		must(t, node.start())
		steady.goesOn(t, "steady")
		other := storm("other", imageMusl)
		other.goesOn(t, "other")
		mustRun(t, dockerCommand("kill", other.name))
		steady.goesOn(t, "steady")
	})
	t.Run("runtime restart", func(t *testing.T) {
		must(t, dockerd.end(syscall.SIGTERM))
		must(t, dockerd.start())
		steady.goesOn(t, "steady")
		other := storm("other", imageMusl)
		other.goesOn(t, "other")
		mustRun(t, dockerCommand("kill", other.name))
		steady.goesOn(t, "steady")
	})
	mustRun(t, dockerCommand("stop", steady.name))
	wants(t, steady.logs(t), "steady ended")
}

// holds tells whether the mutex is taken and stays so.
func (s *space) holds(t *testing.T) bool {
	t.Helper()
	built, err := programs()
	must(t, err)
	for range 20 {
		if out := mustRun(t, ipcspace("run", "--space", s.name, "--", built[imageGlibc], "value", "7")); strings.TrimSpace(out) != "0" {
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
	return true
}

// 50 containers at once, each one a member.
func TestFiftyAtOnce(t *testing.T) {
	needDocker(t)
	s := newSpace(t)
	mustRun(t, dockerRun(s.mountFlags(), imageGlibc, "ipc", "put", "7", "hello"))
	var all sync.WaitGroup
	errs := make(chan error, 50)
	for i := range 50 {
		all.Go(func() {
			image := []string{imageGlibc, imageMusl}[i%2]
			// On a busy machine the last of them waits long for its turn.
			output, err := suite.Run(4*commandTimeout, dockerRun(append(s.mountFlags(), "--runtime=ipcspace"), image, "sh", "-c",
				fmt.Sprintf("ipc get 7 && ipc send 8 letter-%d", i)))
			if err == nil && !strings.Contains(output, "hello") {
				err = fmt.Errorf("container %d printed %q", i, output)
			}
			errs <- err
		})
	}
	all.Wait()
	for range 50 {
		must(t, <-errs)
	}
	wants(t, mustRun(t, dockerRun(s.mountFlags(), imageGlibc, "sh", "-c", "i=0; while [ $i -lt 50 ]; do ipc receive 8; i=$((i+1)); done")), "letter-49")
}

// A hostile container, root, with and without CAP_DAC_OVERRIDE, does no harm to its own space nor to
// another one.
func TestHostileContainer(t *testing.T) {
	needDocker(t)
	s, other := newSpace(t), newSpace(t)
	mustRun(t, dockerRun(s.mountFlags(), imageGlibc, "ipc", "put", "7", "mine"))
	mustRun(t, dockerRun(other.mountFlags(), imageGlibc, "ipc", "put", "7", "theirs"))
	steady := dockerStart(t, s.mountFlags(), imageGlibc, "ipc", "storm", "9", "steady")
	steady.goesOn(t, "steady")
	library, err := os.ReadFile(filepath.Join(s.dir, "lib/libipcspace.so"))
	must(t, err)
	// Everything that a shell can do to the folder; each command must fail.
	attack := `
bad() { if "$@" 2>/tmp/err; then echo "DONE: $*"; fi; }
cd /run/ipcspace
for f in table register lib/libipcspace.so lib lib/ld.so.preload channels channels/*; do
	bad rm -rf "$f"; bad chmod 777 "$f"; bad sh -c "echo x >>'$f'" </dev/null
done
for d in . lib channels; do bad touch "$d/new"; bad ln -s /bin/sh "$d/link"; bad mknod "$d/node" p; done
bad mount -o remount,rw /run/ipcspace; bad mount -o remount,rw,bind /run/ipcspace; bad umount /run/ipcspace
bad ls /run/ipcspace/../private; bad ls /run/ipcspace/private
i=0; while [ $i -lt 2000 ]; do echo "garbage $i ipcspace 1 zzz"; i=$((i+1)); done >register
i=0; while [ $i -lt 100 ]; do printf '\nipcspace 1 0123456789abcdef\n'; i=$((i+1)); done >register
dd if=/dev/zero of=register bs=64k count=4
echo over`
	for _, flags := range [][]string{nil, {"--cap-drop", "DAC_OVERRIDE"}, {"--cap-add", "LINUX_IMMUTABLE"}} {
		for _, mount := range []string{":ro", ""} { // the host's mount is read-only: so is a container's without :ro
			output := mustRun(t, dockerRun(append(flags, "--tmpfs", "/tmp", "-v", s.dir+":/run/ipcspace"+mount), imageGlibc, "sh", "-c", attack))
			wants(t, output, "over")
			for line := range strings.Lines(output) {
				// Writing to the register is what it is for.
				if strings.HasPrefix(line, "DONE") && !strings.Contains(line, "echo x >>'register'") {
					t.Errorf("flags %v, mount %q: a hostile container could do: %s", flags, mount, line)
				}
			}
		}
	}
	steady.goesOn(t, "steady")
	wants(t, mustRun(t, dockerRun(s.mountFlags(), imageMusl, "ipc", "get", "7")), "mine")
	wants(t, mustRun(t, dockerRun(other.mountFlags(), imageMusl, "ipc", "get", "7")), "theirs")
	now, err := os.ReadFile(filepath.Join(s.dir, "lib/libipcspace.so"))
	must(t, err)
	if string(now) != string(library) {
		t.Error("the library changed")
	}
}

// A mount that a runtime makes writable all the same is refused by the library, and inspect says why.
func TestWritableMount(t *testing.T) {
	s := newSpace(t)
	b := newBundle(t, imageGlibc, "sh", "-c", "ipc put 7 hello; echo ended $?; exec sleep 60")
	b.env = append(b.env, "LD_PRELOAD=/run/ipcspace/lib/libipcspace.so")
	b.mounts = []map[string]any{{"destination": "/run/ipcspace", "type": "bind", "source": s.dir, "options": []string{"bind"}}}
	b.hooks = map[string]any{"createContainer": []any{map[string]any{
		"path": "/bin/mount", "args": []string{"mount", "-o", "remount,bind,rw", filepath.Join(b.dir, "rootfs/run/ipcspace")},
		"env": []string{"PATH=/usr/bin:/bin"},
	}}}
	cmd := b.run(t, "runc")
	log, err := os.Create(filepath.Join(b.dir, "log"))
	must(t, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	must(t, suite.Eventually(commandTimeout/3, func() error {
		if text := suite.Tail(log.Name()); !strings.Contains(text, "ended") {
			return fmt.Errorf("not ended:\n%s", text)
		}
		return nil
	}))
	wants(t, suite.Tail(log.Name()), "shmget: Function not implemented")
	wants(t, s.inspect(t), "REFUSED: writable; mount it read-only (:ro)")
	_ = cmd.Process.Signal(syscall.SIGKILL)
	<-ended
	_, _ = runCommand(b.delete())
}
