package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

const (
	nodeName    = "node1"
	nodeAddress = "10.88.0.1"
	// That of a node that only some tests have.
	neighbourName = "neighbour"
)

// node is containerd and a kubelet, in mount and pid namespaces of their own. All nodes have the same
// network namespace.
type node struct {
	name, address string
	firstPod      string // pods' addresses count up from here
	port          int    // the kubelet's; the next one says whether it is well
	dir           string // of its files
}

// firstNode is the one that all tests have. Its dir is the suite's.
func firstNode() node { return node{nodeName, nodeAddress, "10.88.1.1", 10250, scratch} }

func neighbour() node {
	return node{neighbourName, "10.88.0.2", "10.88.128.1", 10260, filepath.Join(scratch, neighbourName)}
}

// cgroup is the path of its pods' in each hierarchy: below the suite's.
func (n node) cgroup() string {
	below, err := filepath.Rel(filepath.Dir(scratch), n.dir)
	if err != nil {
		panic(err) // both are absolute
	}
	return below
}

func (n node) file(name string) string { return filepath.Join(n.dir, name) }

func (n node) containerdArguments() []string { return []string{"--config", n.file("containerd.toml")} }

func (n node) kubeletArguments() []string {
	return []string{
		"--root-dir", *kubeletDir, "--config", n.file("kubelet.yaml"), "--kubeconfig", pki(n.name + ".kubeconfig"),
		"--hostname-override", n.name, "--node-ip", n.address, "--v", "2",
	}
}

// ready is an error unless pods can be placed on it.
func (n node) ready() error {
	status, err := kubectl("get", "node", n.name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
	if err == nil && status != "True" {
		err = fmt.Errorf("%s is not ready", n.name)
	}
	return err
}

// makeCgroups makes what its pods' are below.
func (n node) makeCgroups() error {
	for _, root := range cgroupRoots(n.cgroup()) {
		if err := os.MkdirAll(root, 0o755); err != nil {
			return err
		}
		// A cpuset of version 1 begins empty, and admits nobody so.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			text, err := os.ReadFile(filepath.Join(filepath.Dir(root), file))
			if errors.Is(err, os.ErrNotExist) {
				continue // another hierarchy
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(root, file), text, 0o644)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (n node) writeConfigurations() error {
	bridge := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "e2e", "plugins": [{
  "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "/run/cni", "routes": [{"dst": "0.0.0.0/0"}],
           "ranges": [[{"subnet": "%s", "rangeStart": "%s"}]]}
}]}`, podNetwork, n.firstPod)
	// Without CAP_SYS_RESOURCE no process may lower its oom_score_adj.
	containerd := fmt.Sprintf(`version = 3
root = '%[1]s/containerd'
state = '/run/containerd'
[grpc]
  address = '/run/containerd/containerd.sock'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '%[3]s'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['%[2]s']
    conf_dir = '%[1]s/cni'
    use_internal_loopback = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = '%[2]s/runc'
[plugins.'io.containerd.nri.v1.nri']
  socket_path = '/run/nri/nri.sock'
  [plugins.'io.containerd.nri.v1.nri'.default_validator]
    enable = true
`, n.dir, programs, imagePause)
	kubelet := fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %q}}
authorization: {mode: Webhook}
address: %s
port: %d
healthzPort: %d
cgroupDriver: cgroupfs
cgroupRoot: /%s
failSwapOn: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
volumePluginDir: %q
resolvConf: ""
makeIPTablesUtilChains: false
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 50Mi, nodefs.available: 1Mi, imagefs.available: 1Mi, nodefs.inodesFree: 1%%}
serializeImagePulls: false
maxPods: 200
`, pki("ca.crt"), n.address, n.port, n.port+1, n.cgroup(), n.file("plugins"))
	for path, text := range map[string]string{"cni/10-bridge.conflist": bridge, "containerd.toml": containerd, "kubelet.yaml": kubelet} {
		if err := os.MkdirAll(filepath.Dir(n.file(path)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(n.file(path), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
