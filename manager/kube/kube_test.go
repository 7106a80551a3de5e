package kube

import (
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/ipcspace/ipcspace/manager"
	"github.com/ipcspace/ipcspace/manager/admin"
	"github.com/ipcspace/ipcspace/manager/kube/v1alpha1"
)

func TestLocalName(t *testing.T) {
	const uid = "0f8fad5b-d9cb-469f-a165-70867728950e"
	for name, want := range map[string]string{
		"orders":                      "orders-" + uid,
		strings.Repeat("a-", 31):      strings.Repeat("a-", 12) + "a-" + uid,
		strings.Repeat("b", 63):       strings.Repeat("b", 26) + "-" + uid,
		"abcdefghijklmnopqrstuvwx-yz": "abcdefghijklmnopqrstuvwx-y-" + uid,
	} {
		got := localName(&v1alpha1.IPCSpace{ObjectMeta: metav1.ObjectMeta{Name: name, UID: uid}})
		if got != want || !manager.ValidName(got) || uidOf(got) != uid {
			t.Errorf("%s is called %s with uid %q, want %s", name, got, uidOf(got), want)
		}
	}
	for _, other := range []string{"orders", "a-b-c-d-e", uid, "", "-" + uid} {
		if uidOf(other) != "" {
			t.Errorf("%q has uid %q", other, uidOf(other))
		}
	}
}

// Two pods of a namespace meet; a third with the same name in another namespace does not. What the
// first pod costs the API server, what the others do, and that nothing is left of it.
func TestLife(t *testing.T) {
	leaks(t)
	c := newCluster(t)
	n := c.node(unique("node"), "boot-1")
	first, second := c.pod("first", n.cfg.NodeName, "orders"), c.pod("second", n.cfg.NodeName, "orders")
	eventually(t, "the pods are cached", func() bool { return n.cachedPod(string(second.UID)) != nil })
	before := len(n.requests.since(0))
	reply := n.publish(t, first)
	asked := n.requests.since(before)
	t.Logf("first pod of a space: %d requests: %q", len(asked), asked)
	if len(asked) != 5 {
		t.Errorf("the first pod took %d requests, want 5", len(asked))
	}
	eventually(t, "the claim is cached", func() bool { return n.objectOf(reply.GetSpace()) != nil })
	before = len(n.requests.since(0))
	if again := n.publish(t, second); again.GetDir() != reply.GetDir() {
		t.Errorf("the second is in %s, the first in %s", again.GetDir(), reply.GetDir())
	}
	n.publish(t, first)
	if asked := n.requests.since(before); len(asked) != 0 {
		t.Errorf("the second pod, and the first again, took requests: %q", asked)
	}
	object := c.space("orders")
	if object.Status.Node != n.cfg.NodeName || object.Status.BootID != "boot-1" || object.Labels[v1alpha1.LabelMadeBy] != "manager" {
		t.Errorf("object %+v", object)
	}
	info := n.manager.Spaces()
	if len(info) != 1 || !info[0].Closed || !slices.Equal(info[0].Pods, slices.Sorted(slices.Values([]string{string(first.UID), string(second.UID)}))) {
		t.Errorf("spaces %+v", info)
	}

	elsewhere := unique("other")
	c.makeNamespace(elsewhere)
	third := c.pod("third", n.cfg.NodeName, "orders", func(p *corev1.Pod) { p.Namespace = elsewhere })
	if other := n.publish(t, third); other.GetDir() == reply.GetDir() {
		t.Error("pods of two namespaces share a space")
	}

	n.reportSome(t.Context())
	eventually(t, "status", func() bool { return c.space("orders").Status.Pods == 2 })
	c.end(first)
	eventually(t, "one pod left", func() bool { return len(n.pods2(reply.GetSpace())) == 1 })
	c.end(second)
	eventually(t, "the object goes with its last pod", func() bool { return c.space("orders") == nil })
	c.end(third)
	eventually(t, "all spaces go", func() bool { return len(n.manager.Spaces()) == 0 })
	// The same name is another space.
	fourth := c.pod("fourth", n.cfg.NodeName, "orders")
	if again := n.publish(t, fourth); again.GetDir() == reply.GetDir() {
		t.Error("a name that is made anew leads to the old space")
	}
}

// pods2 are the pods that a space admits.
func (m *member) pods2(space string) []string {
	for _, info := range m.manager.Spaces() {
		if info.Name == space {
			return info.Pods
		}
	}
	return nil
}

func TestRefusals(t *testing.T) {
	c := newCluster(t)
	n := c.node(unique("node"), "boot-1")
	node := n.cfg.NodeName
	other := unique("foreign")
	c.makeNamespace(other)
	in := func(namespace string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Namespace = namespace } }
	stranger := func(p *corev1.Pod) { p.Spec.ServiceAccountName = "stranger" }

	check(t, post("node.k8s.io/v1", "runtimeclasses", nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: unique("isolated")}, Handler: "none"}))
	class := unique("isolated")
	check(t, post("node.k8s.io/v1", "runtimeclasses", nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: class}, Handler: "kata-qemu"}))
	_, err := c.describe("shut", v1alpha1.IPCSpaceSpec{})
	check(t, err)
	_, err = c.describe("open", v1alpha1.IPCSpaceSpec{AllowedNamespaces: []string{other}})
	check(t, err)
	_, err = c.describe("picky", v1alpha1.IPCSpaceSpec{AllowedServiceAccounts: []string{"worker"}})
	check(t, err)
	_, err = c.spaces(c.namespace).Create(t.Context(), &v1alpha1.IPCSpace{ObjectMeta: metav1.ObjectMeta{
		Name: "drained", Namespace: c.namespace, Annotations: map[string]string{v1alpha1.AnnotationDrain: "true"},
	}}, metav1.CreateOptions{})
	check(t, err)

	alter := func(f func(*admin.PublishRequest)) func(*admin.PublishRequest) { return f }
	for _, r := range []struct {
		name   string
		pod    *corev1.Pod
		ask    func(*admin.PublishRequest)
		code   codes.Code
		reason string
		says   []string
	}{
		{"uid of nobody", c.pod("a1", node, "x"), alter(func(r *admin.PublishRequest) { r.PodUid = "0f8fad5b-d9cb-469f-a165-70867728950e" }), codes.NotFound, "", nil},
		{"another pod's name", c.pod("a2", node, "x"), alter(func(r *admin.PublishRequest) { r.PodName = "a1" }), codes.InvalidArgument, reasonVolume, nil},
		{"another account", c.pod("a3", node, "x"), alter(func(r *admin.PublishRequest) { r.ServiceAccount = "root" }), codes.InvalidArgument, reasonVolume, nil},
		{"another node's pod", c.pod("a4", "elsewhere", "x"), nil, codes.InvalidArgument, reasonVolume, []string{"elsewhere"}},
		{"no such volume", c.pod("a5", node, "x"), alter(func(r *admin.PublishRequest) { r.Volume = "data" }), codes.InvalidArgument, reasonVolume, nil},
		{"other attributes", c.pod("a6", node, "x"), alter(func(r *admin.PublishRequest) { r.Attributes["space"] = "picky" }), codes.InvalidArgument, reasonVolume, nil},
		{"unknown attribute", c.pod("a7", node, "x", func(p *corev1.Pod) { p.Spec.Volumes[0].CSI.VolumeAttributes["size"] = "1" }),
			alter(func(r *admin.PublishRequest) { r.Attributes["size"] = "1" }), codes.InvalidArgument, reasonVolume, []string{`"size"`}},
		{"another driver", c.pod("a8", node, "x", func(p *corev1.Pod) { p.Spec.Volumes[0].CSI.Driver = "other.example" }), nil, codes.InvalidArgument, reasonVolume, nil},
		{"a path for a name", c.pod("b1", node, "../../etc"), nil, codes.InvalidArgument, reasonVolume, []string{"NAMESPACE/NAME"}},
		{"upper case", c.pod("b2", node, "Orders"), nil, codes.InvalidArgument, reasonVolume, nil},
		{"no name", c.pod("b3", node, ""), nil, codes.InvalidArgument, reasonVolume, nil},
		{"kernel of its own", c.pod("b4", node, "x", func(p *corev1.Pod) { p.Spec.RuntimeClassName = &class }), nil, codes.InvalidArgument, reasonRuntime, []string{"kata-qemu"}},
		{"none in another namespace", c.pod("c1", node, c.namespace+"/none", in(other)), nil, codes.NotFound, reasonNoSpace, []string{"allowedNamespaces"}},
		{"namespace not allowed", c.pod("c2", node, c.namespace+"/shut", in(other)), nil, codes.PermissionDenied, reasonAccess, []string{"allowedNamespaces"}},
		{"allowed, but not granted", c.pod("c3", node, c.namespace+"/open", in(other)), nil, codes.PermissionDenied, reasonAccess, []string{"rolebinding", "--clusterrole=ipcspace-user"}},
		{"account not allowed", c.pod("c4", node, "picky", stranger), nil, codes.PermissionDenied, reasonAccess, []string{"allowedServiceAccounts"}},
		{"drained", c.pod("c5", node, "drained"), nil, codes.FailedPrecondition, reasonDraining, []string{v1alpha1.AnnotationDrain}},
	} {
		ask := request(r.pod)
		if r.ask != nil {
			r.ask(ask)
		}
		_, err := n.Publish(t.Context(), ask)
		if status.Code(err) != r.code {
			t.Errorf("%s: %v, want %v", r.name, err, r.code)
			continue
		}
		contains(t, status.Convert(err).Message(), r.says...)
		if r.reason != "" {
			contains(t, c.eventOf(r.pod, r.reason), status.Convert(err).Message())
		}
	}
	if left := n.manager.Spaces(); len(left) != 0 {
		t.Errorf("refused pods made spaces: %+v", left)
	}
	// Granted, the same pod joins, after the refusal's few seconds.
	c.grant(c.namespace, rbacv1.Subject{Kind: "ServiceAccount", Namespace: other, Name: "worker"})
	p := c.pod("c6", node, c.namespace+"/open", in(other))
	eventually(t, "a right that is granted helps", func() bool {
		_, err := n.Publish(t.Context(), request(p))
		return err == nil
	})
	n.publish(t, c.pod("c7", node, "picky"))
}

// Two nodes at once: one gets the space, the other's pod is told where it is. A node that is no more,
// is off, or has been started again, has no claims.
func TestClaim(t *testing.T) {
	c := newCluster(t)
	a, b := c.node(unique("node"), "boot-a"), c.node(unique("node"), "boot-b")
	_, err := c.describe("kept", v1alpha1.IPCSpaceSpec{Retain: true})
	check(t, err)
	for _, space := range []string{"made", "kept"} {
		pods := []*corev1.Pod{c.pod(space+"-a", a.cfg.NodeName, space), c.pod(space+"-b", b.cfg.NodeName, space)}
		var errs [2]error
		var both sync.WaitGroup
		for i, n := range []*member{a, b} {
			both.Go(func() { _, errs[i] = n.Publish(t.Context(), request(pods[i])) })
		}
		both.Wait()
		winner, loser, lost := a, pods[1], errs[1]
		if errs[0] != nil {
			winner, loser, lost = b, pods[0], errs[0]
		}
		if (errs[0] == nil) == (errs[1] == nil) || status.Code(lost) != codes.FailedPrecondition {
			t.Fatalf("%s: %v and %v; one must win", space, errs[0], errs[1])
		}
		contains(t, lost.Error(), "is on node "+winner.cfg.NodeName)
		c.eventOf(loser, reasonNode)
		if at := c.space(space).Status.Node; at != winner.cfg.NodeName {
			t.Errorf("%s is claimed by %q", space, at)
		}
		next := a
		if winner == a {
			next = b
		}
		// Lost.
		check(t, c.nodes().Delete(t.Context(), winner.cfg.NodeName, metav1.DeleteOptions{}))
		next.publish(t, loser)
		if at := c.space(space).Status.Node; at != next.cfg.NodeName {
			t.Errorf("%s of a lost node is claimed by %q", space, at)
		}
		// Started again: its Node says so.
		_, err := c.nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: winner.cfg.NodeName}}, metav1.CreateOptions{})
		check(t, err)
		node, err := c.nodes().Get(t.Context(), next.cfg.NodeName, metav1.GetOptions{})
		check(t, err)
		saved := node.Status.NodeInfo.BootID
		node.Status.NodeInfo.BootID = "boot-later"
		node, err = c.nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{})
		check(t, err)
		winner.publish(t, c.pod(space+"-c", winner.cfg.NodeName, space))
		node.Status.NodeInfo.BootID = saved
		_, err = c.nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{})
		check(t, err)
		// Off, as somebody vouches.
		taint := func(taints ...corev1.Taint) {
			t.Helper()
			node, err := c.nodes().Get(t.Context(), winner.cfg.NodeName, metav1.GetOptions{})
			check(t, err)
			node.Spec.Taints = taints
			_, err = c.nodes().Update(t.Context(), node, metav1.UpdateOptions{})
			check(t, err)
		}
		taint(corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute})
		next.publish(t, c.pod(space+"-d", next.cfg.NodeName, space))
		if at := c.space(space).Status.Node; at != next.cfg.NodeName {
			t.Errorf("%s of a node that is off is claimed by %q", space, at)
		}
		taint()
	}
}

// A retained space stays without pods, and goes when it is drained. One of an earlier boot is given
// back at the start; a manager that was stopped finds out which pods are gone.
func TestRetained(t *testing.T) {
	c := newCluster(t)
	root, name := t.TempDir(), unique("node")
	n := c.nodeAt(root, name, "boot-1")
	size := resource.MustParse("8Mi")
	shmmni := int64(7)
	_, err := c.describe("kept", v1alpha1.IPCSpaceSpec{
		Retain: true, Size: &size, Access: v1alpha1.AccessBrokered, HugePages: v1alpha1.HugePagesDisabled,
		LeftBehind: v1alpha1.LeftUnused, Limits: &v1alpha1.Limits{ShmMni: &shmmni},
	})
	check(t, err)
	p := c.pod("p", name, "kept")
	reply := n.publish(t, p)
	info := n.manager.Spaces()[0]
	if info.Size != 8<<20 || info.Limits.ShmMni != 7 || !info.Brokered || !info.SmallPages || info.LeftBehind != manager.LeftUnused {
		t.Errorf("made as %+v", info)
	}
	n.stop()
	made := c.pod("q", name, "made")
	n = c.nodeAt(root, name, "boot-1")
	n.publish(t, made)
	n.stop()
	c.end(p)
	c.end(made)
	n = c.nodeAt(root, name, "boot-1")
	eventually(t, "pods that went meanwhile are shut out", func() bool {
		return len(n.manager.Spaces()) == 1 && len(n.pods2(reply.GetSpace())) == 0 && c.space("made") == nil
	})
	if c.space("kept").Status.Node != name {
		t.Error("the claim of a retained space was given back")
	}

	// Limits change in use.
	object := c.space("kept")
	shmmni = 9
	object.Spec.Limits.ShmMni = &shmmni
	_, err = c.spaces(c.namespace).Update(t.Context(), object, metav1.UpdateOptions{})
	check(t, err)
	eventually(t, "new limits", func() bool { return n.manager.Spaces()[0].Limits.ShmMni == 9 })

	drain := []byte(`{"metadata":{"annotations":{"` + v1alpha1.AnnotationDrain + `":"true"}}}`)
	_, err = c.spaces(c.namespace).Patch(t.Context(), "kept", types.MergePatchType, drain, metav1.PatchOptions{})
	check(t, err)
	eventually(t, "a drained space goes", func() bool { return len(n.manager.Spaces()) == 0 && c.space("kept").Status.Node == "" })
	undo := []byte(`{"metadata":{"annotations":{"` + v1alpha1.AnnotationDrain + `":null}}}`)
	_, err = c.spaces(c.namespace).Patch(t.Context(), "kept", types.MergePatchType, undo, metav1.PatchOptions{})
	check(t, err)

	n.publish(t, c.pod("r", name, "kept"))
	n.stop()
	// The node starts again: /run is empty.
	n = c.node(name, "boot-2")
	eventually(t, "the claim of an earlier boot is given back", func() bool { return c.space("kept").Status.Node == "" })
}

// While the API server is away, pods that are known join spaces that are claimed here.
func TestServerAway(t *testing.T) {
	c := newCluster(t)
	n := c.node(unique("node"), "boot-1")
	node := n.cfg.NodeName
	reply := n.publish(t, c.pod("first", node, "orders"))
	second, third := c.pod("second", node, "orders"), c.pod("third", node, "new")
	eventually(t, "pods and claim are cached", func() bool {
		return n.cachedPod(string(third.UID)) != nil && n.cachedPod(string(second.UID)) != nil && n.objectOf(reply.GetSpace()) != nil
	})
	n.requests.cut.Store(true)
	if again := n.publish(t, second); again.GetDir() != reply.GetDir() {
		t.Errorf("joined %s, want %s", again.GetDir(), reply.GetDir())
	}
	_, err := n.Publish(t.Context(), request(third))
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a space that is not claimed: %v, want Unavailable", err)
	}
	n.reportSome(t.Context())
	n.requests.cut.Store(false)
	n.publish(t, third)
}

// What the CRD refuses.
func TestValidation(t *testing.T) {
	c := newCluster(t)
	size, none := resource.MustParse("1Gi"), resource.MustParse("100")
	long := int64(40000)
	for what, spec := range map[string]v1alpha1.IPCSpaceSpec{
		"a size of 100 bytes": {Size: &none},
		"limits over Linux's": {Limits: &v1alpha1.Limits{ShmMni: &long}},
		"no such access":      {Access: "Sometimes"},
		"no namespace's name": {AllowedNamespaces: []string{"A_B"}},
		"two slashes":         {AllowedServiceAccounts: []string{"a/b/c"}},
		"twice the same":      {AllowedNamespaces: []string{"a", "a"}},
	} {
		if _, err := c.describe("bad", spec); err == nil {
			t.Errorf("%s: accepted", what)
			check(t, c.spaces(c.namespace).Delete(t.Context(), "bad", metav1.DeleteOptions{}))
		}
	}
	if _, err := c.describe("dotted.name", v1alpha1.IPCSpaceSpec{}); err == nil {
		t.Error("a name that is no DNS label: accepted")
	}
	object, err := c.describe("good", v1alpha1.IPCSpaceSpec{Size: &size})
	check(t, err)
	if object.Spec.Access != v1alpha1.AccessDirect || object.Spec.LeftBehind != v1alpha1.LeftPrivate || object.Spec.HugePages != v1alpha1.HugePagesEnabled {
		t.Errorf("defaults: %+v", object.Spec)
	}
	object.Status.Node, object.Status.BootID = "somewhere", "boot"
	object, err = c.spaces(c.namespace).UpdateStatus(t.Context(), object, metav1.UpdateOptions{})
	check(t, err)
	half := resource.MustParse("512Mi")
	object.Spec.Size = &half
	_, err = c.spaces(c.namespace).Update(t.Context(), object, metav1.UpdateOptions{})
	if err == nil {
		t.Error("the size of a space that a node has: changed")
	} else {
		contains(t, err.Error(), "status.node")
	}
	object.Spec.Size, object.Spec.Retain = &size, true
	_, err = c.spaces(c.namespace).Update(t.Context(), object, metav1.UpdateOptions{})
	check(t, err)
}

// The README's example is accepted as it stands.
func TestExample(t *testing.T) {
	c := newCluster(t)
	readme, err := os.ReadFile("../../README.md")
	check(t, err)
	_, rest, _ := strings.Cut(string(readme), "```yaml\napiVersion: ipcspace.io/")
	example, _, _ := strings.Cut("apiVersion: ipcspace.io/"+rest, "```")
	object := &v1alpha1.IPCSpace{}
	check(t, yaml.UnmarshalStrict([]byte(example), object))
	object.Namespace = c.namespace
	made, err := c.spaces(c.namespace).Create(t.Context(), object, metav1.CreateOptions{FieldValidation: "Strict"})
	check(t, err)
	if made.Spec.IDs != v1alpha1.IDsContainer || made.Spec.Size.Value() != 4<<30 {
		t.Errorf("made as %+v", made.Spec)
	}
}
