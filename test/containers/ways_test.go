package containers_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipcspace/ipcspace/test/suite"
)

// shares has containers of both C libraries share a space.
func shares(t *testing.T, e *engine, flags []string) {
	t.Helper()
	inSpace(t, func(image string, args ...string) *exec.Cmd { return e.run(flags, image, args...) })
}

// closed has them share a space, too, with the kernel's own System V IPC closed and hidden.
func closed(t *testing.T, e *engine, flags []string) {
	t.Helper()
	closedSpace(t, func(image string, args ...string) *exec.Cmd { return e.run(flags, image, args...) })
}

// executes: what is started in a running container has the space like its first process.
func executes(t *testing.T, e *engine, flags []string, images ...string) {
	t.Helper()
	for _, image := range images {
		c := e.start(t, flags, image, "ipc", "sleep")
		wants(t, mustRun(t, e.command("exec", c.name, "ipc", "get", "7")), "hello")
		mustRun(t, e.command("kill", c.name))
	}
}

func inSpace(t *testing.T, run func(image string, args ...string) *exec.Cmd) {
	t.Helper()
	mustRun(t, run(imageGlibc, "ipc", "put", "7", "hello"))
	wants(t, mustRun(t, run(imageMusl, "ipc", "get", "7")), "hello")
}

func closedSpace(t *testing.T, run func(image string, args ...string) *exec.Cmd) {
	t.Helper()
	inSpace(t, run)
	wants(t, mustRun(t, run(imageGlibc, "ipcs", "-m")), "0x00000007")
	kernelRefuses(t, run(imageGlibc, "ipc", "raw"))
	kernelRefuses(t, run(imageStatic, "ipc", "raw"))
	wants(t, refused(t, run(imageStatic, "ipc", "put", "7", "lost")), "shmget: No space left on device")
}

// kernelRefuses: what goes past the library fails, in all three families.
func kernelRefuses(t *testing.T, raw *exec.Cmd) {
	t.Helper()
	output := refused(t, raw)
	wants(t, output, "raw shmget: No space left on device")
	wants(t, output, "raw semget: Invalid argument") // more semaphores than semmsl
	wants(t, output, "raw msgget: No space left on device")
}

// The wrapper with Docker 20.10, which cannot hand on annotations: the mount asks.
func TestRuntimeDocker(t *testing.T) {
	needDocker(t)
	s := newSpace(t)
	flags := []string{"--runtime=ipcspace", "-v", s.dir + ":/run/ipcspace:ro"}
	closed(t, docker, flags)
	executes(t, docker, flags, imageGlibc, imageMusl)
	c := dockerStart(t, []string{"--runtime=ipcspace"}, imageGlibc, "ipc", "sleep")
	if env := mustRun(t, c.command("exec", c.name, "env")); strings.Contains(env, "LD_PRELOAD") {
		t.Errorf("a process in a container without a space got LD_PRELOAD:\n%s", env)
	}
	wants(t, refused(t, dockerRun([]string{"--runtime=ipcspace", "-v", s.dir + ":/run/ipcspace"}, imageGlibc, "true")),
		"mount it read-only (docker run -v "+s.dir+":/run/ipcspace:ro)")
	wants(t, refused(t, dockerRun([]string{"--runtime=ipcspace", "--ipc=host", "-v", s.dir + ":/run/ipcspace:ro"}, imageGlibc, "true")),
		"drop --ipc=host (hostIPC), or set ipcspace.io/kernel-ipc=open")
	// Nothing asked for, nothing changed: the kernel's own System V IPC works.
	wants(t, mustRun(t, dockerRun([]string{"--runtime=ipcspace"}, imageStatic, "ipc", "raw")), "raw shmget ")
}

// The wrapper with containerd 2 and annotations: the space is made on first use, with its limits.
func TestRuntimeContainerd(t *testing.T) {
	needContainerd(t)
	s := namedSpace(t)
	flags := []string{"--annotation", "ipcspace.io/space=" + s.name, "--annotation", "ipcspace.io/size=64m", "--annotation", "ipcspace.io/limits=shmmni=5,semmni=6"}
	closedSpace(t, func(image string, args ...string) *exec.Cmd { return ctrRun(t, true, flags, image, args...) })
	shown := s.inspect(t)
	wants(t, shown, "promised of 64")
	wants(t, shown, "shmmni 5")

	// The environment is joined, and what the image says of our variables does not count.
	output := mustRun(t, ctrRun(t, true, append(flags, "--env", "LD_PRELOAD=/lib/other.so", "--env", "IPCSPACE_DIR=/evil"), imageStatic, "env"))
	wants(t, output, "LD_PRELOAD=/run/ipcspace/lib/libipcspace.so:/lib/other.so\n")
	if strings.Contains(output, "evil") {
		t.Errorf("the image's IPCSPACE_DIR came through:\n%s", output)
	}
	wants(t, mustRun(t, ctrRun(t, true, append(flags, "--annotation", "ipcspace.io/kernel-ipc=open"), imageStatic, "ipc", "raw")), "raw shmget ")
	// Programs that lose their environment.
	wants(t, mustRun(t, ctrRun(t, true, append(flags, "--annotation", "ipcspace.io/ld-so-preload=bind"), imageGlibc, "env", "-i", "/bin/ipc", "get", "7")), "hello")

	for name, want := range map[string]string{
		"../../etc":             `\"../../etc\" is no name of a space`,
		"UPPER":                 "is no name of a space",
		strings.Repeat("a", 64): "is no name of a space",
	} {
		wants(t, refused(t, ctrRun(t, true, []string{"--annotation", "ipcspace.io/space=" + name}, imageStatic, "true")), strings.ReplaceAll(want, `\"`, ""+`"`))
	}
	wants(t, refused(t, ctrRun(t, true, []string{"--annotation", "ipcspace.io/space=nobody", "--annotation", "ipcspace.io/create=never"}, imageStatic, "true")),
		"no such space; make it with: ipcspace space create")
	wants(t, refused(t, ctrRun(t, true, []string{"--annotation", "ipcspace.io/space=" + s.name, "--annotation", "ipcspace.io/kernel-ipc=ajar"}, imageStatic, "true")),
		"it is one of: closed, open")
}

// The hook alone, as podman and CRI-O call it, with both versions of runc: it mounts, hides and closes.
func TestHook(t *testing.T) {
	dir := needTools(t)
	for _, runc := range []string{needTool(t, "runc", "runc"), filepath.Join(dir, "runc")} {
		for _, users := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/userns=%v", filepath.Base(filepath.Dir(runc)), users), func(t *testing.T) {
				s := newSpace(t)
				run := func(image string, args ...string) *exec.Cmd {
					b := newBundle(t, image, args...)
					b.annotations["ipcspace.io/space"] = s.name
					b.users = users
					b.hook = true
					return b.run(t, runc)
				}
				// Without LD_PRELOAD glibc's programs have the library by /etc/ld.so.preload.
				mustRun(t, run(imageGlibc, "ipc", "put", "7", "hello"))
				wants(t, mustRun(t, run(imageGlibc, "env", "-i", "/bin/ipc", "get", "7")), "hello")
				wants(t, mustRun(t, run(imageGlibc, "ipcs", "-m")), "0x00000007")
				kernelRefuses(t, run(imageStatic, "ipc", "raw"))
			})
		}
	}
}

// An image cannot lead the hook's mounts elsewhere by symbolic links.
func TestHookFollowsNoLinks(t *testing.T) {
	s := newSpace(t)
	outside := directory(t)
	must(t, os.Mkdir(filepath.Join(outside, "ipcspace"), 0o755))
	for _, link := range []struct{ name, to string }{
		{"run", outside}, {"run/ipcspace", outside}, {"etc", outside}, {"etc/ld.so.preload", filepath.Join(outside, "file")},
	} {
		b := newBundle(t, imageGlibc, "ls", "/run/ipcspace")
		b.annotations["ipcspace.io/space"] = s.name
		b.hook = true
		path := filepath.Join(b.dir, "rootfs", link.name)
		must(t, os.RemoveAll(path))
		must(t, os.Symlink(link.to, path))
		message := refused(t, b.run(t, "runc"))
		wants(t, message, "/"+link.name+" is a symbolic link in the image")
		entries, err := os.ReadDir(outside)
		must(t, err)
		if len(entries) != 1 {
			t.Errorf("the hook wrote outside of the container: %v", entries)
		}
	}
}

// An image's own /etc/ld.so.preload is not hidden: who needs ours is refused, who has LD_PRELOAD goes without.
func TestHookKeepsPreloadFile(t *testing.T) {
	needTool(t, "runc", "runc")
	s := newSpace(t)
	b := newBundle(t, imageGlibc, "cat", "/etc/ld.so.preload")
	b.annotations["ipcspace.io/space"] = s.name
	b.hook = true
	must(t, os.WriteFile(filepath.Join(b.dir, "rootfs/etc/ld.so.preload"), []byte("/lib/theirs.so\n"), 0o644))
	wants(t, refused(t, b.run(t, "runc")), "the image has a /etc/ld.so.preload of its own; set LD_PRELOAD=/run/ipcspace/lib/libipcspace.so")
	b.env = append(b.env, "LD_PRELOAD=/run/ipcspace/lib/libipcspace.so")
	wants(t, mustRun(t, b.run(t, "runc")), "/lib/theirs.so")
}

// CDI: one device for each space, with containerd 2 as ctr sees it.
func TestCDI(t *testing.T) {
	needContainerd(t)
	s := newSpace(t)
	dir := "/var/run/cdi" // ctr reads no other but /etc/cdi; /run is the suite's own
	keeper := daemon{
		name: "cdi",
		command: func() (*exec.Cmd, error) {
			return exec.Command(filepath.Join(bin, "ipcspace-shim"), "cdi", "--root", root), nil
		},
		ready: func() error {
			_, err := os.Stat(filepath.Join(dir, "ipcspace.io-space.json"))
			return err
		},
	}
	must(t, keeper.start())
	t.Cleanup(func() { must(t, keeper.stop()) })
	later := newSpace(t) // a device comes with its space
	must(t, suite.Eventually(commandTimeout/9, func() error {
		if text := suite.Tail(filepath.Join(dir, "ipcspace.io-space.json")); !strings.Contains(text, later.name) {
			return fmt.Errorf("no %s in %s", later.name, text)
		}
		return nil
	}))
	for _, one := range []*space{s, later} {
		closedSpace(t, func(image string, args ...string) *exec.Cmd {
			return ctrRun(t, false, []string{"--device", "ipcspace.io/space=" + one.name}, image, args...)
		})
	}
	mustRun(t, ipcspace("space", "remove", later.name))
	must(t, suite.Eventually(commandTimeout/9, func() error {
		if text := suite.Tail(filepath.Join(dir, "ipcspace.io-space.json")); strings.Contains(text, later.name) {
			return fmt.Errorf("%s in %s", later.name, text)
		}
		return nil
	}))
	wants(t, refused(t, ctrRun(t, false, []string{"--device", "ipcspace.io/space=" + later.name}, imageStatic, "true")), "ipcspace.io/space="+later.name)
}

// A container that asks for nothing keeps its config.json to the byte; one that asks keeps what the
// wrapper does not know.
func TestRuntimeKeepsConfig(t *testing.T) {
	s := newSpace(t)
	b := newBundle(t, imageStatic, "true")
	b.unknown = true
	b.write(t)
	before := suite.Tail(filepath.Join(b.dir, "config.json"))
	wrapper := func() {
		cmd := exec.Command(filepath.Join(bin, "ipcspace-runc"), "--root", filepath.Join(b.dir, "state"), "create", "--bundle", b.dir, "test")
		cmd.Env = append(os.Environ(), "IPCSPACE_ROOT="+root, "IPCSPACE_RUNTIME=/bin/true")
		mustRun(t, cmd)
	}
	wrapper()
	if after := suite.Tail(filepath.Join(b.dir, "config.json")); after != before {
		t.Errorf("config.json changed from\n%s\nto\n%s", before, after)
	}
	b.annotations["ipcspace.io/space"] = s.name
	b.write(t)
	wrapper()
	text, err := os.ReadFile(filepath.Join(b.dir, "config.json"))
	must(t, err)
	var config map[string]any
	must(t, json.Unmarshal(text, &config))
	if config["future"] == nil || config["linux"].(map[string]any)["future"] == nil || config["process"].(map[string]any)["future"] == nil {
		t.Errorf("unknown members are lost:\n%s", text)
	}
	wants(t, string(text), `{"destination":"/run/ipcspace","type":"bind","source":"`+s.dir+`","options":["bind","ro","nosuid","nodev"]}`)
	wants(t, string(text), `"big":12345678901234567890`)
}
