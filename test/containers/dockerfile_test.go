package containers_test

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipcspace/ipcspace/test/suite"
)

var dockerfile = flag.Bool("dockerfile", false, "build the project's image, twice (many minutes)")

const (
	imageBuilder = "ipcspace-test/golang"
	imageProject = "ipcspace-test/project"
	buildTimeout = 40 * time.Minute
)

// The Dockerfile builds the same image twice, and what is in it runs.
func TestDockerfile(t *testing.T) {
	if !*dockerfile {
		t.Skip("takes many minutes: make image-test")
	}
	needDocker(t)
	builderImage(t, dockerCommand)
	var layers []string
	for i := range 2 {
		name := fmt.Sprintf("%s:%d", imageProject, i)
		build := dockerCommand("build", "--network=none", "--no-cache", "--build-arg", "GOLANG="+imageBuilder, "--build-arg", "VERSION=v1.2.3", "-t", name, "../..")
		build.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
		_, err := suite.Run(buildTimeout, build)
		must(t, err)
		layers = append(layers, mustRun(t, dockerCommand("inspect", "-f", "{{json .RootFS.Layers}}", name)))
	}
	if layers[0] != layers[1] {
		t.Errorf("built twice, it has layers\n%sand\n%s", layers[0], layers[1])
	}
	name := imageProject + ":0"
	for program, flag := range map[string]string{"ipcspace-csi": "version", "ipcspace-shim": "version", "ipcspace": "--version"} {
		wants(t, mustRun(t, dockerRun([]string{"--entrypoint", "/bin/" + program}, name, flag)), "v1.2.3")
	}
	var labels map[string]string
	must(t, json.Unmarshal([]byte(mustRun(t, dockerCommand("inspect", "-f", "{{json .Config.Labels}}", name))), &labels))
	if labels["org.opencontainers.image.version"] != "v1.2.3" || labels["org.opencontainers.image.licenses"] != "Apache-2.0" {
		t.Errorf("labels %v", labels)
	}
	if got, want := imageContent(t, dockerCommand, name), content(elf.EM_X86_64); !maps.Equal(got, want) {
		t.Errorf("the image has %v; want %v", got, want)
	}
	t.Logf("%s bytes", strings.TrimSpace(mustRun(t, dockerCommand("inspect", "-f", "{{.Size}}", name))))
	// Its manager serves a space to a container.
	dir := filepath.Join(directory(t), "root")
	must(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() { unmountBelow(dir) })
	var all []string
	for capability := range managerCapabilities {
		all = append(all, capability)
	}
	m := dockerStart(t, managerFlags(t, dir, all), name, "--root", dir, "--space", "orders")
	m.awaits(t, "msg=ready")
	s := &space{name: "orders", dir: filepath.Join(dir, "spaces", "orders")}
	mustRun(t, dockerRun(s.mountFlags(), imageGlibc, "ipc", "put", "7", "hello"))
	wants(t, mustRun(t, dockerRun(s.mountFlags(), imageMusl, "ipc", "get", "7")), "hello")
}

// The same for arm64, where nothing of arm64 can run: by podman, for Docker's classic builder makes
// images of its own machine only. Podman can also lend the build this machine's cache of compiled
// packages, which Go keeps by the content of what they were made from: only the first time is long.
func TestDockerfileARM64(t *testing.T) {
	if !*dockerfile {
		t.Skip("takes many minutes: make image-test")
	}
	needPodman(t)
	local := "--pull=never"
	builderImage(t, podman.command, local)
	compiled, err := goEnv("GOCACHE")
	must(t, err)
	name := imageProject + ":arm64"
	_, err = suite.Run(buildTimeout, podman.command("build", local, "--platform", "linux/arm64", "--layers=false", "--network=none",
		"--volume", compiled+":/root/.cache/go-build", "--build-arg", "GOLANG="+imageBuilder, "--build-arg", "VERSION=v1.2.3", "-t", name, "../.."))
	must(t, err)
	if got := strings.TrimSpace(mustRun(t, podman.command("inspect", "-f", "{{.Os}}/{{.Architecture}}", name))); got != "linux/arm64" {
		t.Errorf("the image for linux/arm64 is one for %s", got)
	}
	if got, want := imageContent(t, podman.command, name), content(elf.EM_AARCH64); !maps.Equal(got, want) {
		t.Errorf("the image has %v; want %v", got, want)
	}
}

// content is the files of an image, and what they are for: it has the library for both.
func content(machine elf.Machine) map[string]elf.Machine {
	return map[string]elf.Machine{
		"bin/ipcspace": machine, "bin/ipcspace-csi": machine, "bin/ipcspace-manager": machine, "bin/ipcspace-shim": machine,
		"bin/libipcspace.so":                machine,
		"lib/ipcspace/amd64/libipcspace.so": elf.EM_X86_64,
		"lib/ipcspace/arm64/libipcspace.so": elf.EM_AARCH64,
	}
}

// builderImage is what the Dockerfile builds in: Debian, this machine's Go, the modules that go.mod
// names. There is no network in the build. flags are the engine's for building.
func builderImage(t *testing.T, engine func(...string) *exec.Cmd, flags ...string) {
	t.Helper()
	dir := directory(t)
	system := filepath.Join(cache, "builder.tar")
	if _, err := os.Stat(system); err != nil {
		_, err := suite.Run(buildTimeout, exec.Command("debootstrap", "--variant=minbase",
			"--include=make,ca-certificates,gcc,libc6-dev,gcc-aarch64-linux-gnu,libc6-dev-arm64-cross", "bookworm", filepath.Join(dir, "system")))
		must(t, err)
		must(t, os.MkdirAll(cache, 0o755))
		mustRun(t, exec.Command("tar", "-C", filepath.Join(dir, "system"), "--exclude=./dev/*", "--exclude=./proc/*", "-cf", system+".new", "."))
		must(t, os.Rename(system+".new", system))
	}
	modules, err := goEnv("GOMODCACHE")
	must(t, err)
	toolchain, err := goEnv("GOROOT")
	must(t, err)
	proxy, err := goEnv("GOPROXY") // for what builds on this machine never needed
	must(t, err)
	download := exec.Command("go", "mod", "download")
	download.Dir = "../.."
	download.Env = append(os.Environ(), "GOMODCACHE="+filepath.Join(dir, "modules"), "GOPROXY=file://"+filepath.Join(modules, "cache", "download")+","+proxy, "GONOSUMDB=*", "GOFLAGS=-modcacherw")
	_, err = suite.Run(buildTimeout, download)
	must(t, err)
	// A proxy is a folder of zips.
	context := filepath.Join(dir, "context")
	must(t, os.MkdirAll(context, 0o755))
	must(t, os.Rename(filepath.Join(dir, "modules", "cache", "download"), filepath.Join(context, "proxy")))
	mustRun(t, exec.Command("cp", "-a", toolchain, filepath.Join(context, "go")))
	_, err = suite.Run(buildTimeout, engine("import", system, imageBuilder+"-system"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(context, "Dockerfile"), []byte("FROM "+imageBuilder+"-system\nCOPY go /usr/local/go\nCOPY proxy /proxy\n"+
		"ENV PATH=/usr/local/go/bin:/usr/sbin:/usr/bin GOPROXY=file:///proxy GONOSUMDB=* GOFLAGS=-modcacherw GOTOOLCHAIN=local\n"), 0o644))
	build := engine(slices.Concat([]string{"build", "--network=none", "-t", imageBuilder}, flags, []string{context})...)
	build.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
	_, err = suite.Run(buildTimeout, build)
	must(t, err)
}

func goEnv(name string) (string, error) {
	text, err := runCommand(exec.Command("go", "env", name))
	return strings.TrimSpace(text), err
}

// imageContent is the programs and libraries in an image, and what they are for.
func imageContent(t *testing.T, engine func(...string) *exec.Cmd, image string) map[string]elf.Machine {
	t.Helper()
	c := strings.TrimSpace(mustRun(t, engine("create", image, "x")))
	defer func() { mustRun(t, engine("rm", c)) }()
	path := filepath.Join(directory(t), "export.tar")
	mustRun(t, engine("export", "-o", path, c))
	file, err := os.Open(path)
	must(t, err)
	defer file.Close()
	content := map[string]elf.Machine{}
	for r := tar.NewReader(file); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return content
		}
		must(t, err)
		// Engines add places for their own mounts (etc/hosts, dev/console, …), which are empty.
		if header.Typeflag != tar.TypeReg || header.Size == 0 {
			continue
		}
		text, err := io.ReadAll(r)
		must(t, err)
		program, err := elf.NewFile(bytes.NewReader(text))
		if err != nil {
			t.Errorf("%s in the image: %v", header.Name, err)
			continue
		}
		content[header.Name] = program.Machine
	}
}
