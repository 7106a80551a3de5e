package containers_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// tools are containerd 2 and a new runc, as tools/go.mod pins them.
var tools = sync.OnceValues(func() (string, error) {
	dir, err := buildOnce("tools")
	if err != nil {
		return "", fmt.Errorf("build containerd and runc (needs libseccomp-dev and pkg-config): %w", err)
	}
	return dir, nil
})

// cached is where the tools are built to that a module of this folder pins.
func cached(module string) (string, error) {
	var sums []byte
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return "", err
		}
		sums = append(sums, text...)
	}
	return filepath.Join(cache, fmt.Sprintf("%x", sha256.Sum256(sums))[:12]), nil
}

// buildOnce builds them, unless the cache has them.
func buildOnce(module string) (string, error) {
	dir, err := cached(module)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, "built")); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-C", module, "-trimpath", "-tags", "seccomp", "-o", dir+"/", "tool")
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, output)
	}
	return dir, os.WriteFile(filepath.Join(dir, "built"), nil, 0o644)
}

// containerd is version 2, with NRI on and CDI specifications from below scratch.
var containerd = daemon{
	name: "containerd",
	command: func() (*exec.Cmd, error) {
		dir, err := tools()
		if err != nil {
			return nil, err
		}
		base := filepath.Join(scratch, "containerd")
		config := fmt.Sprintf(`version = 3
root = '%[1]s/root'
state = '%[1]s/state'
[grpc]
  address = '%[1]s/socket'
[plugins.'io.containerd.nri.v1.nri']
  disable = false
  socket_path = '%[1]s/nri.sock'
  plugin_path = '%[1]s/nri-plugins'
  plugin_config_path = '%[1]s/nri-conf'
  plugin_registration_timeout = '30s'
  plugin_request_timeout = '20s'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  cdi_spec_dirs = ['%[1]s/cdi']
  disable_apparmor = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    conf_dir = '%[1]s/cni'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.ipcspace]
    runtime_type = 'io.containerd.runc.v2'
    pod_annotations = ['ipcspace.io/*']
    container_annotations = ['ipcspace.io/*']
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.ipcspace.options]
      BinaryName = '%[3]s/ipcspace-runc'
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'native'
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = '%[2]s'
`, base, ctrImage(imageStatic), bin)
		if err := os.MkdirAll(base, 0o711); err != nil {
			return nil, err
		}
		if err := os.WriteFile(base+"/config.toml", []byte(config), 0o644); err != nil {
			return nil, err
		}
		cmd := exec.Command(filepath.Join(dir, "containerd"), "--config", base+"/config.toml")
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		return cmd, nil
	},
	ready: func() error {
		cmd, err := ctr("version")
		if err == nil {
			_, err = runCommand(cmd)
		}
		return err
	},
}

func containerdSocket() string { return filepath.Join(scratch, "containerd", "socket") }

// ctr is containerd's own client, in the namespace that CRI has too.
func ctr(args ...string) (*exec.Cmd, error) {
	dir, err := tools()
	if err != nil {
		return nil, err
	}
	return exec.Command(filepath.Join(dir, "ctr"), append([]string{"--address", containerdSocket(), "-n", "k8s.io"}, args...)...), nil
}

func mustCtr(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd, err := ctr(args...)
	must(t, err)
	return cmd
}

// ctrImage is the full name that containerd wants.
func ctrImage(image string) string { return "docker.io/" + image + ":latest" }

var importImages = sync.OnceValue(func() error {
	for _, image := range images {
		text, err := dockerArchive(image)
		if err != nil {
			return err
		}
		path := filepath.Join(scratch, filepath.Base(image)+".tar")
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
		cmd, err := ctr("images", "import", "--local", "--snapshotter", "native", path)
		if err != nil {
			return err
		}
		if _, err := runCommand(cmd); err != nil {
			return err
		}
	}
	return nil
})

// dockerArchive is an image as docker save writes it.
func dockerArchive(image string) ([]byte, error) {
	layer, err := layerOf(image)
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Cmd": []string{"/bin/ipc", "sleep"}, "Env": []string{"PATH=/usr/bin:/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{image + ":latest"}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, content := range map[string][]byte{"config.json": config, "manifest.json": manifest, "layer.tar": layer} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

// needTools is where the tools are, which are built first if need be.
func needTools(t *testing.T) string {
	t.Helper()
	needTool(t, "go", "golang")
	needTool(t, "pkg-config", "pkg-config libseccomp-dev")
	dir, err := tools()
	must(t, err)
	return dir
}

// needContainerd has the daemon running and the images imported.
func needContainerd(t *testing.T) {
	t.Helper()
	needTools(t)
	must(t, containerd.start())
	must(t, importImages())
}

// ctrRun is `ctr run --rm FLAGS IMAGE NAME ARGS`, with the new runc or the wrapper around it.
func ctrRun(t *testing.T, wrapped bool, flags []string, image string, args ...string) *exec.Cmd {
	t.Helper()
	dir, err := tools()
	must(t, err)
	binary := filepath.Join(dir, "runc")
	if wrapped {
		binary = filepath.Join(bin, "ipcspace-runc")
	}
	all := append([]string{"run", "--rm", "--snapshotter", "native", "--runc-binary", binary}, flags...)
	cmd := mustCtr(t, append(append(all, ctrImage(image), fmt.Sprintf("test-%d", containers.Add(1))), args...)...)
	return cmd
}
