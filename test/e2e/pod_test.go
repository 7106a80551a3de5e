package e2e_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
)

var namespaces atomic.Int32

// newNamespace is a namespace of the test's own, which goes with it and all that is in it. Labels are
// lines of YAML.
func newNamespace(t *testing.T, labels ...string) string {
	t.Helper()
	words := strings.FieldsFunc(strings.ToLower(strings.TrimPrefix(t.Name(), "Test")), func(r rune) bool { return r < 'a' || r > 'z' })
	name := fmt.Sprintf("%.40s-%d", strings.Join(words, "-"), namespaces.Add(1))
	must(t, apply(fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: %s\n  labels: {%s}\n", name, strings.Join(labels, ", "))))
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(state(name))
		}
		if _, err := kubectl("delete", "namespace", name, "--timeout", patience.String()); err != nil {
			t.Error(err)
		}
	})
	// Pods are refused until the namespace has its service account.
	must(t, eventually(patience, func() error {
		_, err := kubectl("-n", name, "get", "serviceaccount", "default")
		return err
	}))
	return name
}

// state is what there is to know of a namespace when a test has failed in it.
func state(namespace string) string {
	pods, _ := kubectl("-n", namespace, "get", "pods", "-o", "wide")
	events, _ := kubectl("-n", namespace, "get", "events", "-o", `jsonpath={range .items[*]}{.involvedObject.name}{"\t"}{.reason}{"\t"}{.message}{"\n"}{end}`)
	return "pods:\n" + pods + "events:\n" + events
}

// pod is one of the cluster.
type pod struct{ namespace, name string }

// container is a container of a pod as lines of YAML, like all manifests here: they are what people write.
func container(name, image string, command ...string) string {
	words, err := json.Marshal(command)
	if err != nil {
		panic(err) // there are no strings that JSON has not
	}
	return fmt.Sprintf("{name: %s, image: %q, command: %s, securityContext: %s}", name, image, words, restricted)
}

// restricted is what the Pod Security Standard of that name wants of each container.
const restricted = `{runAsNonRoot: true, runAsUser: 1000, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}`

// newPod makes a pod with the annotation that asks for a space ("": none) and the fields of its spec.
func newPod(t *testing.T, namespace, name, space string, fields ...string) pod {
	t.Helper()
	p, err := tryPod(namespace, name, space, fields...)
	must(t, err)
	return p
}

func tryPod(namespace, name, space string, fields ...string) (pod, error) {
	annotations := "{}"
	if space != "" {
		annotations = fmt.Sprintf("{ipcspace.io/space: %q}", space)
	}
	spec := strings.Join(append([]string{"terminationGracePeriodSeconds: 1", "automountServiceAccountToken: false"}, fields...), "\n  ")
	return pod{namespace, name}, apply(fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata:\n  name: %s\n  namespace: %s\n  annotations: %s\nspec:\n  %s\n", name, namespace, annotations, spec))
}

// sleeper is a ready pod that has a container for each image, named after it, and waits for exec.
func sleeper(t *testing.T, namespace, name, space string, images ...string) pod {
	t.Helper()
	var containers []string
	for _, image := range images {
		containers = append(containers, container(shortName(image), image, "ipc", "sleep"))
	}
	p := newPod(t, namespace, name, space, "containers: ["+strings.Join(containers, ", ")+"]")
	p.awaitReady(t)
	return p
}

// shortName of e2e.test/glibc:1 is glibc.
func shortName(image string) string {
	_, name, _ := strings.Cut(image, "/")
	name, _, _ = strings.Cut(name, ":")
	return name
}

func (p pod) kubectl(arguments ...string) (string, error) {
	return kubectl(append([]string{"-n", p.namespace}, arguments...)...)
}

// field is a field of the pod by a JSON path.
func (p pod) field(path string) (string, error) {
	return p.kubectl("get", "pod", p.name, "-o", "jsonpath={"+path+"}")
}

func (p pod) awaitReady(t *testing.T) {
	t.Helper()
	if _, err := p.kubectl("wait", "--for=condition=Ready", "pod/"+p.name, "--timeout", patience.String()); err != nil {
		t.Fatalf("%v\n%s", err, state(p.namespace))
	}
}

// try runs a command in a container of the pod.
func (p pod) try(container string, command ...string) (string, error) {
	return p.kubectl(append([]string{"exec", p.name, "-c", container, "--"}, command...)...)
}

func (p pod) run(t *testing.T, container string, command ...string) string {
	t.Helper()
	output, err := p.try(container, command...)
	must(t, err)
	return output
}

// fails runs a command that must fail, and returns what it said.
func (p pod) fails(t *testing.T, container string, command ...string) string {
	t.Helper()
	output, err := p.try(container, command...)
	if err == nil {
		t.Fatalf("%v in %s succeeded and printed:\n%s", command, p.name, output)
	}
	return err.Error()
}

// awaitEvent waits for an event of the pod that says so, and returns its text.
func (p pod) awaitEvent(t *testing.T, part string) string {
	t.Helper()
	var found string
	must(t, eventually(patience, func() error {
		text, err := p.kubectl("get", "events", "--field-selector", "involvedObject.name="+p.name, "-o",
			`jsonpath={range .items[*]}{.reason}{": "}{.message}{"\n"}{end}`)
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			if strings.Contains(line, part) {
				found = line
				return nil
			}
		}
		return fmt.Errorf("no event of %s says %q, but:\n%s", p.name, part, text)
	}))
	return found
}

// isNotStarted fails the test if any container of the pod runs or ran.
func (p pod) isNotStarted(t *testing.T) {
	t.Helper()
	started, err := p.field(".status.containerStatuses[*].state.running.startedAt}{.status.containerStatuses[*].state.terminated.startedAt")
	must(t, err)
	if started != "" {
		t.Errorf("%s started at %s", p.name, started)
	}
}

func (p pod) delete(t *testing.T) {
	t.Helper()
	_, err := p.kubectl("delete", "pod", p.name, "--timeout", patience.String())
	must(t, err)
}
