package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	release       = "ipcspace"
	chartSpace    = "ipcspace-system" // the release's namespace
	chartFolder   = "../../charts/ipcspace"
	imageIpcspace = "e2e.test/ipcspace"
	nodeRoot      = "/run/ipcspace"
)

// hookPath is on the node's own disk; its /opt is the machine's.
const hookPath = "/var/lib/ipcspace/ipcspace-shim"

// What the tests set of the chart: spaces without pods shall not be waited for long.
var chartValues = []string{"manager.reclaimDelay=2s", "manager.logLevel=debug", "webhook.logLevel=debug", "nri.hook=" + hookPath}

var chart struct {
	sync.Mutex
	installed bool
}

// needChart has the chart installed.
func needChart(t *testing.T) {
	t.Helper()
	chart.Lock()
	defer chart.Unlock()
	if !chart.installed {
		began := time.Now()
		must(t, installChart("1"))
		chart.installed = true
		t.Logf("the chart was installed in %v", time.Since(began).Round(100*time.Millisecond))
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(chartLogs())
		}
	})
}

// installChart installs or upgrades it, with the image of this version, and waits for its pods.
func installChart(version string, values ...string) error {
	digest, err := importIpcspace(version)
	if err != nil {
		return err
	}
	arguments := []string{"upgrade", "--install", release, chartFolder, "--create-namespace", "--wait", "--timeout", startTimeout.String()}
	always := []string{"image.repository=" + imageIpcspace, "image.digest=" + digest, "kubeletDir=" + *kubeletDir}
	for _, value := range slices.Concat(always, chartValues, values) {
		arguments = append(arguments, "--set", value)
	}
	if _, err := runCommand(helm(arguments...)); err != nil {
		return fmt.Errorf("%w\n%s", err, chartLogs())
	}
	return rollout()
}

// rollout waits until the DaemonSet's pods are of its present template, and ready: --wait may be content before.
func rollout() error {
	_, err := kubectl("-n", chartSpace, "rollout", "status", "daemonset/"+release, "--timeout", startTimeout.String())
	if err != nil {
		return fmt.Errorf("%w\n%s", err, chartLogs())
	}
	return nil
}

// helmPath is where make chart builds it.
func helmPath() string {
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		cache = filepath.Join(os.Getenv("HOME"), ".cache")
	}
	return filepath.Join(cache, "ipcspace", "chart", "helm")
}

func helm(arguments ...string) *exec.Cmd {
	return exec.Command(helmPath(), append([]string{"--namespace", chartSpace, "--kubeconfig", pki("admin.kubeconfig")}, arguments...)...)
}

var digestPattern = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// importIpcspace makes the project's own image of bin/, with the files that the Dockerfile's has, and
// returns its digest. Versions differ in a label.
func importIpcspace(version string) (string, error) {
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		return "", err
	}
	content := image{
		"/bin/libipcspace.so":                filepath.Join(bin, "libipcspace.so"),
		"/lib/ipcspace/amd64/libipcspace.so": filepath.Join(bin, "libipcspace.so"),
	}
	for _, program := range []string{"ipcspace", "ipcspace-manager", "ipcspace-shim", "ipcspace-csi"} {
		content["/bin/"+program] = filepath.Join(bin, program)
	}
	name := imageIpcspace + ":" + version
	err = content.load(name, map[string]any{
		"Env": []string{"PATH=/bin"}, "Entrypoint": []string{"/bin/ipcspace-manager"},
		"Labels": map[string]string{"org.opencontainers.image.version": version},
	})
	if err != nil {
		return "", err
	}
	list, err := runCommand(ctr("images", "list", "name=="+name))
	if err != nil {
		return "", err
	}
	digest := digestPattern.FindString(list)
	if digest == "" {
		return "", fmt.Errorf("no digest of %s in:\n%s", name, list)
	}
	_, err = runCommand(ctr("images", "tag", "--force", name, imageIpcspace+"@"+digest))
	return digest, err
}

// chartLogs is what the release's pods say, for a test that failed.
func chartLogs() string {
	var text strings.Builder
	text.WriteString(state(chartSpace))
	pods, _ := kubectl("-n", chartSpace, "get", "pods", "-o", "name")
	for pod := range strings.FieldsSeq(pods) {
		logs, _ := kubectl("-n", chartSpace, "logs", pod, "--all-containers", "--prefix", "--tail", "60")
		text.WriteString(logs)
	}
	return text.String()
}

// nodeSpaces is the names of the spaces on the node.
func nodeSpaces() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(nodeRoot, "spaces"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names, nil
}

// without deletes an object of the cluster that the chart made, and returns what makes it anew.
func without(t *testing.T, kind, name string) (restore func()) {
	t.Helper()
	text, err := kubectl("get", kind, name, "-o", "json")
	must(t, err)
	var object map[string]any
	must(t, json.Unmarshal([]byte(text), &object))
	metadata := object["metadata"].(map[string]any)
	for _, field := range []string{"uid", "resourceVersion", "creationTimestamp", "generation"} {
		delete(metadata, field)
	}
	again, err := json.Marshal(object)
	must(t, err)
	_, err = kubectl("delete", kind, name)
	must(t, err)
	return func() { must(t, apply(string(again))) }
}
