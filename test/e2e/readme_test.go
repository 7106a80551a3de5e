package e2e_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The README's commands and its pod are what works here: the helm line with the tests' own values, the
// rest to the letter but for the pod's namespace and image.
func TestReadme(t *testing.T) {
	needChart(t)
	t.Parallel()
	text, err := os.ReadFile("../../README.md")
	must(t, err)
	_, section, _ := strings.Cut(string(text), "\n## Kubernetes\n")
	section, _, _ = strings.Cut(section, "\n## ")
	first := func(pattern string) string {
		t.Helper()
		found := regexp.MustCompile(pattern).FindStringSubmatch(section)
		if found == nil {
			t.Fatalf("the README has no %s", pattern)
		}
		return found[1]
	}
	install := strings.Fields(strings.ReplaceAll(first(`\$ helm install ((?:.*\\\n)*.*)\n`), "\\\n", " "))
	if want := []string{release, strings.TrimPrefix(chartFolder, "../../"), "--namespace", chartSpace}; !slices.Equal(install[:4], want) {
		t.Errorf("it installs %v, these tests %v", install[:4], want)
	}
	install[1] = chartFolder
	_, err = runCommand(helm(append([]string{"template"}, install...)...))
	must(t, err)
	_, err = kubectl(strings.Fields(first(`\$ kubectl (.* rollout status .*)\n`))...)
	must(t, err)

	namespace := newNamespace(t, "pod-security.kubernetes.io/enforce: restricted")
	exec := strings.Fields(first("`kubectl (exec [^`]*)`"))
	manifest := first("```yaml\n((?s:.*?kind: Pod\n.*?))```")
	manifest = strings.Replace(manifest, "metadata:\n", "metadata:\n  namespace: "+namespace+"\n", 1)
	manifest = strings.Replace(manifest, "{name: "+exec[1]+", image: my-image}", container(exec[1], imageGlibc, "ipc", "sleep"), 1)
	must(t, apply(manifest))
	p := pod{namespace, exec[1]}
	p.awaitReady(t)
	p.run(t, exec[1], "ipc", "put", "7", "hello")
	shown, err := p.kubectl(exec...)
	must(t, err)
	wants(t, shown, "0x00000007")
}
