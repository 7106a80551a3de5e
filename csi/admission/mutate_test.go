package admission

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

const namespace = "shop"

// apply is what the API server does with a patch.
func apply(t *testing.T, object []byte, p patch) []byte {
	t.Helper()
	if len(p) == 0 {
		return object
	}
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := jsonpatch.DecodePatch(text)
	if err != nil {
		t.Fatal(err)
	}
	patched, err := decoded.Apply(object)
	if err != nil {
		t.Fatalf("%v\nthe patch: %s", err, text)
	}
	return patched
}

func parsePod(t *testing.T, object []byte) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{}
	if err := json.Unmarshal(object, pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

func fromYAML(t *testing.T, text string) []byte {
	t.Helper()
	object, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return object
}

// admit is a pod as it comes out of the webhook; a second turn must change nothing.
func admit(t *testing.T, object []byte, at func(space) placement) []byte {
	t.Helper()
	for turn := range 2 {
		pod := parsePod(t, object)
		w, err := read(pod, namespace)
		if err != nil {
			t.Fatal(err)
		}
		if w == nil {
			return object
		}
		p := w.forNew(pod, namespace, at(w.space))
		if turn > 0 && len(p) > 0 {
			t.Errorf("a second turn patches again: %v", p)
		}
		object = apply(t, object, p)
	}
	return object
}

func alone(s space) placement { return together(s, namespace, nil) }

func TestMutate(t *testing.T) {
	for _, c := range []struct{ name, pod, want string }{
		{"nothing but a container", `
metadata: {name: p, annotations: {ipcspace.io/space: orders}}
spec:
  containers: [{name: c, image: i}]
`, `
metadata: {name: p, annotations: {ipcspace.io/space: orders}, labels: {ipcspace.io/space: shop.orders}}
spec:
  affinity:
    podAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {ipcspace.io/space: shop.orders}}}
  containers: [{name: c, image: i, volumeMounts: [{name: ipcspace, mountPath: /run/ipcspace, readOnly: true}]}]
  volumes: [{name: ipcspace, csi: {driver: csi.ipcspace.io, readOnly: true, volumeAttributes: {space: orders}}}]
`},
		{"init containers, sidecars, a container that has something there, fields of a later Kubernetes", `
metadata: {name: p, labels: {app: a}, annotations: {ipcspace.io/space: stock/parts}}
spec:
  fieldOfLater: {a: 1}
  initContainers:
    - {name: i, image: i}
    - {name: sidecar, image: i, restartPolicy: Always, volumeMounts: [{name: data, mountPath: /data}]}
  containers:
    - {name: c, image: i, newer: true, volumeMounts: []}
    - {name: own, image: i, volumeMounts: [{name: data, mountPath: /run/ipcspace/}]}
  volumes: [{name: data, emptyDir: {}}]
  affinity:
    podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}
    podAffinity:
      requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone, labelSelector: {matchLabels: {app: a}}}]
`, `
metadata: {name: p, labels: {app: a, ipcspace.io/space: stock.parts}, annotations: {ipcspace.io/space: stock/parts}}
spec:
  fieldOfLater: {a: 1}
  initContainers:
    - {name: i, image: i, volumeMounts: [{name: ipcspace, mountPath: /run/ipcspace, readOnly: true}]}
    - {name: sidecar, image: i, restartPolicy: Always, volumeMounts: [{name: data, mountPath: /data}, {name: ipcspace, mountPath: /run/ipcspace, readOnly: true}]}
  containers:
    - {name: c, image: i, newer: true, volumeMounts: [{name: ipcspace, mountPath: /run/ipcspace, readOnly: true}]}
    - {name: own, image: i, volumeMounts: [{name: data, mountPath: /run/ipcspace/}]}
  volumes:
    - {name: data, emptyDir: {}}
    - {name: ipcspace, csi: {driver: csi.ipcspace.io, readOnly: true, volumeAttributes: {space: stock/parts}}}
  affinity:
    podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}
    podAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        - {topologyKey: zone, labelSelector: {matchLabels: {app: a}}}
        - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {ipcspace.io/space: stock.parts}}, namespaces: [shop, stock]}
`},
		{"a pod that names the volume itself: the author says who mounts it", `
metadata: {name: p}
spec:
  containers: [{name: c, image: i}]
  volumes: [{name: ipc, csi: {driver: csi.ipcspace.io, readOnly: true, volumeAttributes: {space: orders}}}]
`, `
metadata: {name: p, labels: {ipcspace.io/space: shop.orders}}
spec:
  affinity:
    podAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {ipcspace.io/space: shop.orders}}}
  containers: [{name: c, image: i}]
  volumes: [{name: ipc, csi: {driver: csi.ipcspace.io, readOnly: true, volumeAttributes: {space: orders}}}]
`},
		{"a pod that is placed already", `
metadata: {name: p, annotations: {ipcspace.io/space: orders}}
spec:
  nodeName: n1
  containers: [{name: c, image: i}]
`, `
metadata: {name: p, annotations: {ipcspace.io/space: orders}}
spec:
  nodeName: n1
  containers: [{name: c, image: i, volumeMounts: [{name: ipcspace, mountPath: /run/ipcspace, readOnly: true}]}]
  volumes: [{name: ipcspace, csi: {driver: csi.ipcspace.io, readOnly: true, volumeAttributes: {space: orders}}}]
`},
		{"a pod that is none of ours", `
metadata: {name: p}
spec: {containers: [{name: c, image: i}]}
`, `
metadata: {name: p}
spec: {containers: [{name: c, image: i}]}
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := admit(t, fromYAML(t, c.pod), alone)
			if !jsonpatch.Equal(got, fromYAML(t, c.want)) {
				text, _ := yaml.JSONToYAML(got)
				t.Errorf("got:\n%s\nwant:%s", text, c.want)
			}
		})
	}
}

// A container that another webhook adds between two turns gets its mount, too.
func TestReinvocation(t *testing.T) {
	object := admit(t, fromYAML(t, `
metadata: {name: p, annotations: {ipcspace.io/space: orders}}
spec: {containers: [{name: c, image: i}]}
`), alone)
	object = apply(t, object, patch{{Op: "add", Path: "/spec/containers/-", Value: map[string]string{"name": "proxy"}}})
	pod := parsePod(t, admit(t, object, alone))
	if len(pod.Spec.Volumes) != 1 || len(pod.Spec.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution) != 1 {
		t.Errorf("volumes %v, affinity %v", pod.Spec.Volumes, pod.Spec.Affinity)
	}
	for _, c := range pod.Spec.Containers {
		if len(c.VolumeMounts) != 1 {
			t.Errorf("container %s has mounts %v", c.Name, c.VolumeMounts)
		}
	}
}

func TestNodeAffinity(t *testing.T) {
	at := func(space) placement { return placement{node: "n1"} }
	is := []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: "In", Values: []string{"n1"}}}
	pod := parsePod(t, admit(t, fromYAML(t, `
metadata: {name: p, annotations: {ipcspace.io/space: orders}}
spec: {containers: [{name: c, image: i}]}
`), at))
	if pod.Spec.Affinity.PodAffinity != nil {
		t.Error("a pod affinity beside that to the node")
	}
	terms := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(terms) != 1 || len(terms[0].MatchFields) != 1 || terms[0].MatchFields[0].Values[0] != is[0].Values[0] {
		t.Errorf("terms: %v", terms)
	}
	// One term is enough for the scheduler, so the node must be in each.
	pod = parsePod(t, admit(t, fromYAML(t, `
metadata: {name: p, annotations: {ipcspace.io/space: orders}}
spec:
  containers: [{name: c, image: i}]
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [
    {matchExpressions: [{key: a, operator: Exists}]}, {matchFields: [{key: metadata.name, operator: NotIn, values: [n2]}]}]}}}
`), at))
	terms = pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(terms) != 2 || len(terms[0].MatchExpressions) != 1 || len(terms[0].MatchFields) != 1 || len(terms[1].MatchFields) != 2 {
		t.Errorf("terms: %v", terms)
	}
}

// Whose pods count: a label is anybody's to write.
func TestWhosePods(t *testing.T) {
	orders := space{"shop", "orders"}
	for _, c := range []struct {
		podNamespace string
		allowed      []string
		namespaces   []string // of the term
		all          bool
	}{
		{"shop", nil, nil, false},
		{"shop", []string{"stock", "office"}, []string{"office", "shop", "stock"}, false},
		{"stock", []string{"stock", "office"}, []string{"office", "shop", "stock"}, false},
		{"stock", nil, []string{"shop", "stock"}, false}, // its author may allow it yet
		{"stock", []string{"*"}, nil, true},
	} {
		term := together(orders, c.podNamespace, c.allowed).term
		if !slices.Equal(term.Namespaces, c.namespaces) || (term.NamespaceSelector != nil) != c.all {
			t.Errorf("from %s, allowed %v: namespaces %v, selector %v", c.podNamespace, c.allowed, term.Namespaces, term.NamespaceSelector)
		}
	}
}

func TestDenied(t *testing.T) {
	for name, c := range map[string]struct{ pod, remedy string }{
		"no name": {`
metadata: {annotations: {ipcspace.io/space: ""}}`, "write its name"},
		"no DNS label": {`
metadata: {annotations: {ipcspace.io/space: ../../etc}}`, "write its name"},
		"a path": {`
metadata: {annotations: {ipcspace.io/space: a/b/c}}`, "write its name"},
		"the volume's name is taken": {`
metadata: {annotations: {ipcspace.io/space: orders}}
spec: {volumes: [{name: ipcspace, emptyDir: {}}]}`, "give it another name"},
		"two spaces": {`
metadata: {annotations: {ipcspace.io/space: orders}}
spec: {volumes: [{name: v, csi: {driver: csi.ipcspace.io, readOnly: true, volumeAttributes: {space: stock}}}]}`, "drop one of them"},
		"two volumes": {`
spec:
  volumes:
    - {name: v, csi: {driver: csi.ipcspace.io, readOnly: true, volumeAttributes: {space: stock}}}
    - {name: w, csi: {driver: csi.ipcspace.io, readOnly: true, volumeAttributes: {space: orders}}}`, "drop one of them"},
		"writable": {`
spec: {volumes: [{name: v, csi: {driver: csi.ipcspace.io, volumeAttributes: {space: stock}}}]}`, "readOnly: true"},
		"a volume of no space": {`
spec: {volumes: [{name: v, csi: {driver: csi.ipcspace.io, readOnly: true}}]}`, "write its name"},
		"Windows": {`
metadata: {annotations: {ipcspace.io/space: orders}}
spec: {os: {name: windows}}`, "Linux"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := read(parsePod(t, fromYAML(t, c.pod)), namespace)
			if err == nil || !strings.Contains(err.Error(), c.remedy) {
				t.Errorf("%v; want %q in it", err, c.remedy)
			}
		})
	}
}

func TestEphemeralContainers(t *testing.T) {
	object := admit(t, fromYAML(t, `
metadata: {name: p, annotations: {ipcspace.io/space: orders}}
spec: {containers: [{name: c, image: i}]}
`), alone)
	object = apply(t, object, patch{{Op: "add", Path: "/spec/ephemeralContainers", Value: []any{map[string]any{"name": "first", "image": "i"}}}})
	old := parsePod(t, object)
	object = apply(t, object, patch{{Op: "add", Path: "/spec/ephemeralContainers/-", Value: map[string]any{"name": "second", "image": "i"}}})
	pod := parsePod(t, object)
	w, err := read(pod, namespace)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := w.forEphemeral(pod, old)
	pod = parsePod(t, apply(t, object, p))
	if first := pod.Spec.EphemeralContainers[0]; len(first.VolumeMounts) > 0 {
		t.Error("a container that runs was changed, which the API server refuses")
	}
	if second := pod.Spec.EphemeralContainers[1]; len(second.VolumeMounts) != 1 || !second.VolumeMounts[0].ReadOnly {
		t.Errorf("mounts: %v", second.VolumeMounts)
	}
	// A pod from before the webhook has no volume, and can get none.
	bare := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: pod.Annotations}}
	w, err = read(bare, namespace)
	if err != nil {
		t.Fatal(err)
	}
	if p, warnings := w.forEphemeral(bare, bare); len(p) > 0 || len(warnings) == 0 {
		t.Errorf("patch %v, warnings %v", p, warnings)
	}
}

// Labels are at most 63 characters, and different for different spaces.
func TestLabel(t *testing.T) {
	long := strings.Repeat("a", 63)
	seen := map[string]space{}
	for _, s := range []space{{"a", "b"}, {"a", long}, {long, "b"}, {long, long}, {long, "c"}, {strings.Repeat("a", 45) + "-", "b" + long[1:]}} {
		value := s.label()
		if len(value) > 63 || strings.Trim(value, "-.") != value {
			t.Errorf("%v: label %q", s, value)
		}
		if other, twice := seen[value]; twice {
			t.Errorf("%v and %v have the label %q", s, other, value)
		}
		seen[value] = s
	}
}

func TestHostIPC(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{HostIPC: true}}
	if len(warnings(pod)) != 1 {
		t.Error("no warning of hostIPC")
	}
	pod.Annotations = map[string]string{"ipcspace.io/kernel-ipc": "open"}
	if len(warnings(pod)) != 0 {
		t.Error("a warning of what was chosen")
	}
}
