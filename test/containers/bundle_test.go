package containers_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// bundle is an OCI bundle with a root of its own, for runc itself.
type bundle struct {
	dir         string
	args        []string
	annotations map[string]string
	users       bool // a user namespace
	hook        bool // ours, in the stage createRuntime
	unknown     bool // members that nobody knows
	mounts      []map[string]any
	env         []string
	hooks       map[string]any

	runc, id string // of the last run
}

func newBundle(t *testing.T, image string, args ...string) *bundle {
	t.Helper()
	b := &bundle{dir: directory(t), args: args, annotations: map[string]string{}, env: []string{"PATH=/usr/bin:/bin"}}
	layer, err := layerOf(image)
	must(t, err)
	must(t, unpack(layer, filepath.Join(b.dir, "rootfs")))
	return b
}

func unpack(layer []byte, to string) error {
	r := tar.NewReader(bytes.NewReader(layer))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(to, h.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, path)
		default:
			content, readErr := io.ReadAll(r)
			err = errors.Join(readErr, os.WriteFile(path, content, os.FileMode(h.Mode)))
		}
		if err != nil {
			return err
		}
	}
}

func (b *bundle) write(t *testing.T) {
	t.Helper()
	namespaces := []map[string]any{{"type": "pid"}, {"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "ipc"}}
	linux := map[string]any{}
	if b.users {
		namespaces = append(namespaces, map[string]any{"type": "user"})
		for _, ids := range []string{"uidMappings", "gidMappings"} {
			linux[ids] = []map[string]any{{"containerID": 0, "hostID": 200000, "size": 65536}}
		}
		must(t, filepath.Walk(filepath.Join(b.dir, "rootfs"), func(path string, _ os.FileInfo, err error) error {
			return errors.Join(err, os.Lchown(path, 200000, 200000))
		}))
	}
	linux["namespaces"] = namespaces
	config := map[string]any{
		"ociVersion": "1.0.2",
		"process": map[string]any{
			"user": map[string]any{"uid": 0, "gid": 0}, "args": b.args, "env": b.env, "cwd": "/", "noNewPrivileges": true,
		},
		"root":        map[string]any{"path": "rootfs"},
		"annotations": b.annotations,
		"mounts": append([]map[string]any{
			{"destination": "/proc", "type": "proc", "source": "proc", "options": []string{"nosuid", "noexec", "nodev"}},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755", "size=1m"}},
		}, b.mounts...),
		"linux": linux,
	}
	hooks := map[string]any{}
	for stage, list := range b.hooks {
		hooks[stage] = list
	}
	if b.hook {
		// What podman and CRI-O read, written by the program itself.
		install := exec.Command(filepath.Join(bin, "ipcspace-shim"), "hook", "--root", root, "--install", b.dir)
		mustRun(t, install)
		var file struct {
			Hook   map[string]any
			Stages []string
		}
		text, err := os.ReadFile(filepath.Join(b.dir, "ipcspace.json"))
		must(t, err)
		must(t, json.Unmarshal(text, &file))
		for _, stage := range file.Stages {
			hooks[stage] = []any{file.Hook}
		}
	}
	config["hooks"] = hooks
	if b.unknown {
		config["future"] = map[string]any{"big": json.Number("12345678901234567890")}
		linux["future"] = 1
		config["process"].(map[string]any)["future"] = []int{1}
	}
	text, err := json.Marshal(config)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(b.dir, "config.json"), text, 0o644))
}

// run is `runc run`; what is left of the container goes with the test.
func (b *bundle) run(t *testing.T, runc string) *exec.Cmd {
	t.Helper()
	b.write(t)
	id := fmt.Sprintf("ipcspace-bundle-%d-%d", os.Getpid(), containers.Add(1))
	state := filepath.Join(b.dir, "state")
	b.runc, b.id = runc, id
	t.Cleanup(func() { _, _ = runCommand(b.delete()) }) // mostly it is gone by itself
	cmd := exec.Command(runc, "--root", state, "run", "--no-new-keyring", "--bundle", b.dir, id)
	cmd.Env = append(os.Environ(), "IPCSPACE_ROOT="+root)
	return cmd
}

// delete ends what the last run left.
func (b *bundle) delete() *exec.Cmd {
	return exec.Command(b.runc, "--root", filepath.Join(b.dir, "state"), "delete", "--force", b.id)
}
