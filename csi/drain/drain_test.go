package drain

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"
	"sigs.k8s.io/yaml"

	"github.com/ipcspace/ipcspace/csi/cluster"
	"github.com/ipcspace/ipcspace/manager/kube/v1alpha1"
)

// What the drain decides, on client-go's own store of objects; test/e2e uninstalls for real.

var (
	spaces     = v1alpha1.GroupVersion.WithResource(v1alpha1.Resource)
	everything = map[schema.GroupVersionResource]string{
		spaces:                             "IPCSpaceList",
		{Version: "v1", Resource: "pods"}:  "PodList",
		{Version: "v1", Resource: "nodes"}: "NodeList",
	}
)

const (
	node    = `{apiVersion: v1, kind: Node, metadata: {name: n1}}`
	claimed = `{apiVersion: ipcspace.io/v1alpha1, kind: IPCSpace, metadata: {namespace: shop, name: orders}, status: {node: n1}}`
	retain  = `{apiVersion: ipcspace.io/v1alpha1, kind: IPCSpace, metadata: {namespace: shop, name: stock}, spec: {retain: true}, status: {node: n1}}`
	pod     = `{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: till}, spec: {nodeName: n1, volumes: [{name: v, csi: {driver: csi.ipcspace.io}}]}, status: {phase: Running}}`
)

type run struct {
	*drain
	api *fake.FakeDynamicClient
	out bytes.Buffer
}

func newRun(t *testing.T, objects ...string) *run {
	t.Helper()
	var all []runtime.Object
	for _, text := range objects {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &object.Object); err != nil {
			t.Fatal(err)
		}
		all = append(all, object)
	}
	r := &run{api: fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), everything, all...)}
	r.drain = &drain{client: cluster.New(r.api), out: &r.out, pause: time.Millisecond}
	return r
}

// drained runs it, for a second at most.
func (r *run) drained(t *testing.T) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	return r.run(ctx)
}

// patches counts what it changed.
func (r *run) patches() (n int) {
	for _, action := range r.api.Actions() {
		if action.GetVerb() == "patch" {
			n++
		}
	}
	return n
}

// manager ends a space as a node's manager does once it is marked, or by itself.
func (r *run) manager(t *testing.T, name string, marked bool) {
	for t.Context().Err() == nil {
		object, err := r.api.Resource(spaces).Namespace("shop").Get(t.Context(), name, metav1.GetOptions{})
		if err == nil && (!marked || object.GetAnnotations()[v1alpha1.AnnotationDrain] != "") {
			unstructured.RemoveNestedField(object.Object, "status", "node")
			if _, err := r.api.Resource(spaces).Namespace("shop").UpdateStatus(t.Context(), object, metav1.UpdateOptions{}); err == nil {
				return
			}
		}
		time.Sleep(time.Millisecond)
	}
}

func (r *run) unmarked(t *testing.T, name string) {
	t.Helper()
	object, err := r.api.Resource(spaces).Namespace("shop").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, is := object.GetAnnotations()[v1alpha1.AnnotationDrain]; is {
		t.Errorf("IPCSpace %s is left marked", name)
	}
}

func wants(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v; want %q in it", err, part)
		}
	}
}

func TestPodsRefuse(t *testing.T) {
	r := newRun(t, node, claimed, pod)
	wants(t, r.drained(t), "shop/till on node n1", "End them first")
	if n := r.patches(); n > 0 {
		t.Errorf("%d changes before it refused", n)
	}
}

// Pods that are over have no mounts any more, and others no space.
func TestPodsThatDoNotCount(t *testing.T) {
	r := newRun(t, node, strings.Replace(pod, "Running", "Succeeded", 1), strings.NewReplacer("csi.ipcspace.io", "other.driver", "till", "shelf").Replace(pod))
	if err := r.drained(t); err != nil {
		t.Error(err)
	}
}

func TestRetainedRefuse(t *testing.T) {
	r := newRun(t, node, retain)
	wants(t, r.drained(t), "node n1: shop/stock", "what is in them would be lost", "kubectl annotate")
	if n := r.patches(); n > 0 {
		t.Errorf("%d changes before it refused", n)
	}
}

func TestRetainedByValue(t *testing.T) {
	r := newRun(t, node, retain)
	r.removeRetained = true
	go r.manager(t, "stock", true)
	if err := r.drained(t); err != nil {
		t.Error(err)
	}
	r.unmarked(t, "stock")
}

func TestWaitsForNodes(t *testing.T) {
	r := newRun(t, node, claimed)
	go r.manager(t, "orders", true)
	if err := r.drained(t); err != nil {
		t.Error(err)
	}
	if text := r.out.String(); !strings.Contains(text, "waiting for:\n  node n1: shop/orders") || !strings.Contains(text, "no node has a space") {
		t.Errorf("it said: %s", text)
	}
	r.unmarked(t, "orders")
}

func TestGivesUp(t *testing.T) {
	r := newRun(t, node, claimed)
	wants(t, r.drained(t), "node n1: shop/orders", "pods run")
	r.unmarked(t, "orders")
}

// An author who has marked a retained space wants it to end. The mark is the author's until all is over.
func TestMarkedByAuthor(t *testing.T) {
	marked := strings.Replace(retain, "name: stock", `name: stock, annotations: {ipcspace.io/drain: "yes"}`, 1)
	r := newRun(t, node, marked)
	wants(t, r.drained(t), "have not let go", "node n1: shop/stock")
	if n := r.patches(); n > 0 {
		t.Errorf("%d changes of what the author has marked", n)
	}
	go r.manager(t, "stock", true)
	if err := r.drained(t); err != nil {
		t.Error(err)
	}
	r.unmarked(t, "stock")
}

// A drain that was killed has left its marks: the next one takes them for its own.
func TestAfterOneThatWasKilled(t *testing.T) {
	r := newRun(t, node, strings.Replace(retain, "name: stock", `name: stock, annotations: {ipcspace.io/drain: uninstall}`, 1))
	wants(t, r.drained(t), "these spaces are retained", "node n1: shop/stock")
	r = newRun(t, node, strings.Replace(claimed, "name: orders", `name: orders, annotations: {ipcspace.io/drain: uninstall}`, 1))
	wants(t, r.drained(t), "have not let go")
	r.unmarked(t, "orders")
}

// What a node had that is no more, or is off, is gone with it.
func TestNodeThatIsNoMore(t *testing.T) {
	off := strings.Replace(node, "n1}", "n1}, spec: {taints: [{key: node.kubernetes.io/out-of-service, effect: NoExecute}]}", 1)
	for _, objects := range [][]string{{claimed}, {claimed, off}} {
		r := newRun(t, objects...)
		if err := r.drained(t); err != nil {
			t.Error(err)
		}
	}
}
