package kube

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ipcspace/ipcspace/manager"
	"github.com/ipcspace/ipcspace/manager/admin"
	"github.com/ipcspace/ipcspace/manager/kube/v1alpha1"
)

// cluster is one test's part of the server: a namespace whose service accounts may use all spaces.
type cluster struct {
	*api
	t         *testing.T
	namespace string
}

var serial atomic.Int64

func newCluster(t *testing.T) *cluster {
	t.Helper()
	if server == nil {
		t.Skip("the API server is not built: make cluster")
	}
	cfg := as(adminToken)
	a, err := newAPI(cfg)
	check(t, err)
	c := &cluster{api: a, t: t, namespace: unique("test")}
	c.makeNamespace(c.namespace)
	return c
}

func unique(prefix string) string {
	return prefix + "-" + time.Now().Format("150405") + "-" + string(rune('a'+serial.Add(1)%26)) + string(rune('a'+serial.Load()/26%26))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// makeNamespace makes one whose service accounts may use its spaces.
func (c *cluster) makeNamespace(name string) {
	c.t.Helper()
	check(c.t, post("v1", "namespaces", corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	c.grant(name, rbacv1.Subject{Kind: "Group", APIGroup: rbacv1.GroupName, Name: "system:serviceaccounts:" + name})
}

// grant lets somebody use the spaces of a namespace.
func (c *cluster) grant(namespace string, who rbacv1.Subject) {
	c.t.Helper()
	name := unique("use")
	check(c.t, errors.Join(
		post("rbac.authorization.k8s.io/v1", "namespaces/"+namespace+"/roles", rbacv1.Role{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"ipcspace.io"}, Resources: []string{"ipcspaces"}, Verbs: []string{"use"}}},
		}),
		post("rbac.authorization.k8s.io/v1", "namespaces/"+namespace+"/rolebindings", rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: []rbacv1.Subject{who},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		})))
}

// member is a Node with its manager, and what it asked of the server.
type member struct {
	*Node
	manager  *manager.Manager
	requests *requests
	stop     func()
}

// requests counts those that are no watches, and can cut the server off.
type requests struct {
	mu  sync.Mutex
	all []string
	cut atomic.Bool
}

var errCut = errors.New("the API server is away")

func (r *requests) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(q *http.Request) (*http.Response, error) {
		if r.cut.Load() {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errCut}
		}
		if q.URL.Query().Get("watch") == "" {
			r.mu.Lock()
			r.all = append(r.all, q.Method+" "+q.URL.Path)
			r.mu.Unlock()
		}
		return next.RoundTrip(q)
	})
}

// since are those after the first n.
func (r *requests) since(n int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all[n:])
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }

// node starts a Node of a name and boot, whose Node object is there.
func (c *cluster) node(name, boot string) *member {
	c.t.Helper()
	return c.nodeAt(c.t.TempDir(), name, boot)
}

func (c *cluster) nodeAt(root, name, boot string) *member {
	c.t.Helper()
	object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	made, err := c.nodes().Create(c.t.Context(), object, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		made, err = c.nodes().Get(c.t.Context(), name, metav1.GetOptions{})
	}
	check(c.t, err)
	made.Status.NodeInfo.BootID = boot
	_, err = c.nodes().UpdateStatus(c.t.Context(), made, metav1.UpdateOptions{})
	check(c.t, err)
	spaces, err := manager.New(manager.Config{Root: root, Unprivileged: true, DefaultSize: 1 << 20})
	check(c.t, err)
	r := &requests{}
	cfg := as(managerToken)
	cfg.Wrap(r.wrap)
	cfg.Dial = (&net.Dialer{}).DialContext // a transport of its own, not one that client-go keeps for ever
	n, err := New(Config{
		Client: cfg, NodeName: name, BootID: boot, ForeignRuntimes: DefaultForeignRuntimes,
		Log: slog.New(slog.NewTextHandler(c.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}, spaces)
	check(c.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { n.Run(ctx); close(ended) }()
	m := &member{Node: n, manager: spaces, requests: r, stop: sync.OnceFunc(func() {
		cancel()
		<-ended
		check(c.t, spaces.Close())
	})}
	c.t.Cleanup(m.stop)
	if !within(20*time.Second, n.synced.Load) {
		c.t.Fatal("the caches are not filled")
	}
	return m
}

// pod makes one on a node with a volume that names a space.
func (c *cluster) pod(name, node, space string, change ...func(*corev1.Pod)) *corev1.Pod {
	c.t.Helper()
	readOnly := true
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: c.namespace},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: "worker",
			Containers: []corev1.Container{{Name: "main", Image: "example.invalid/none"}},
			Volumes: []corev1.Volume{{Name: "ipcspace", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{
				Driver: v1alpha1.Driver, ReadOnly: &readOnly, VolumeAttributes: map[string]string{v1alpha1.AttributeSpace: space},
			}}}},
		},
	}
	for _, f := range change {
		f(p)
	}
	made, err := c.pods(p.Namespace).Create(c.t.Context(), p, metav1.CreateOptions{})
	check(c.t, err)
	return made
}

// end deletes a pod as the kubelet does when its containers have ended.
func (c *cluster) end(p *corev1.Pod) {
	c.t.Helper()
	now := int64(0)
	check(c.t, c.pods(p.Namespace).Delete(c.t.Context(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}))
}

// request is what the driver asks for a pod.
func request(p *corev1.Pod) *admin.PublishRequest {
	return &admin.PublishRequest{
		PodUid: string(p.UID), Volume: "ipcspace", PodName: p.Name, PodNamespace: p.Namespace, ServiceAccount: p.Spec.ServiceAccountName,
		Attributes: map[string]string{
			v1alpha1.AttributeSpace: p.Spec.Volumes[0].CSI.VolumeAttributes[v1alpha1.AttributeSpace], "csi.storage.k8s.io/ephemeral": "true",
		},
	}
}

func (m *member) publish(t *testing.T, p *corev1.Pod) *admin.PublishResponse {
	t.Helper()
	reply, err := m.Publish(t.Context(), request(p))
	check(t, err)
	return reply
}

// space reads an object; nil: there is none.
func (c *cluster) space(name string) *v1alpha1.IPCSpace {
	c.t.Helper()
	o, err := c.spaces(c.namespace).Get(c.t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	check(c.t, err)
	return o
}

func (c *cluster) describe(name string, spec v1alpha1.IPCSpaceSpec) (*v1alpha1.IPCSpace, error) {
	return c.spaces(c.namespace).Create(c.t.Context(), &v1alpha1.IPCSpace{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: c.namespace}, Spec: spec,
	}, metav1.CreateOptions{})
}

// eventually waits for what the informers bring about.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	if !within(30*time.Second, is) {
		t.Fatal("not so after 30 s: " + what)
	}
}

// leaks looks for goroutines that outlive a Node.
func leaks(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		goleak.VerifyNone(t, before,
			goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
			goleak.IgnoreAnyFunction("net/http.(*http2ClientConn).readLoop"), goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*clientConnReadLoop).run"))
	})
}

// eventOf waits for an event of a pod with this reason.
func (c *cluster) eventOf(p *corev1.Pod, reason string) string {
	c.t.Helper()
	text := ""
	eventually(c.t, "event "+reason+" of "+p.Name, func() bool {
		list := &corev1.EventList{}
		err := c.core.Get().Namespace(p.Namespace).Resource("events").Do(c.t.Context()).Into(list)
		check(c.t, err)
		i := slices.IndexFunc(list.Items, func(e corev1.Event) bool { return e.InvolvedObject.UID == p.UID && e.Reason == reason })
		if i >= 0 {
			text = list.Items[i].Message
		}
		return i >= 0
	})
	return text
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q does not say %q", text, part)
		}
	}
}
