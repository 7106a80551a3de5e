// Package kube lets the pods of one node into spaces. It owns the decision who may join: what a
// pod says of its volume, the IPCSpace object, the access review, the claim of the node; and it
// ends spaces whose pods are gone. It mounts nothing, and trusts neither attributes of volumes
// (their author's text) nor names for paths.
//
// What is decided is cached: while the API server is away, pods that are known here join spaces
// that are claimed here, and nothing that runs needs it.
//
// Lock order: the lock of one space (Node.locks) → Node.mu. The API is called under the former,
// never under the latter.
package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"github.com/ipcspace/ipcspace/manager"
	"github.com/ipcspace/ipcspace/manager/kube/v1alpha1"
)

// Config says which node this is. Client, NodeName and BootID are required.
type Config struct {
	Client   *rest.Config
	NodeName string
	// BootID is the kernel's, of this boot: random(4). See BootID.
	BootID string
	// ForeignRuntimes are patterns (path.Match) of names and handlers of RuntimeClasses whose pods
	// do not share the node's kernel.
	ForeignRuntimes []string
	// UserRole is the ClusterRole that lets a service account use spaces, for who is refused to be told.
	UserRole string
	Log      *slog.Logger
}

// DefaultForeignRuntimes are Kata's and gVisor's usual names.
var DefaultForeignRuntimes = []string{"kata*", "gvisor*", "runsc*"}

// DefaultUserRole is the chart's, of a release with the chart's name.
const DefaultUserRole = "ipcspace-user"

// BootID reads the kernel's.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// Spaces is what a Node asks of the manager; *manager.Manager is one.
type Spaces interface {
	EnsureSpace(ctx context.Context, cfg manager.SpaceConfig, mustExist bool) (info manager.SpaceInfo, created bool, err error)
	Spaces() []manager.SpaceInfo
	Admit(ctx context.Context, space string, pods []string) error
	RemoveSpace(ctx context.Context, name string, force bool) error
	SetLimits(ctx context.Context, space string, change func(*manager.Limits), next manager.NextIDs) (manager.SpaceInfo, error)
}

// Node is the Kubernetes side of one node's manager.
type Node struct {
	cfg    Config
	log    *slog.Logger
	spaces Spaces
	api    *api

	pods    cache.SharedIndexInformer // of this node
	objects cache.SharedIndexInformer // IPCSpaces that this node has claimed
	events  record.EventRecorder
	queue   workqueue.TypedRateLimitingInterface[task]
	synced  atomic.Bool
	locks   locks
	access  verdicts
	classes handlers

	mu       sync.Mutex
	joined   map[string]time.Time    // pods let in by this process, by uid: the cache may not have them yet
	released map[types.UID]struct{}  // objects whose claim was given back: the cache may not know it yet
	looked   map[string]types.UID    // containers whose environment was looked at, with their pod
	reported map[types.UID]time.Time // when the status of an object was last written
}

// task is one thing to look at: a space by its name on this node, or a container of a pod.
type task struct {
	space     string
	pod       types.UID
	container string
	again     bool // it was looked at before
}

// byUID is the index of pods and objects.
const byUID = "uid"

// New makes a Node. Nothing is asked before Run.
func New(cfg Config, spaces Spaces) (*Node, error) {
	if cfg.NodeName == "" || cfg.BootID == "" {
		return nil, errors.New("the node's name or boot id is not known; give --node-name")
	}
	if cfg.UserRole == "" {
		cfg.UserRole = DefaultUserRole
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	n := &Node{
		cfg: cfg, log: cfg.Log, spaces: spaces,
		queue:  workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[task](time.Second, time.Minute)),
		joined: map[string]time.Time{}, released: map[types.UID]struct{}{},
		looked: map[string]types.UID{}, reported: map[types.UID]time.Time{},
	}
	var err error
	if n.api, err = newAPI(cfg.Client); err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	index := cache.Indexers{byUID: func(o any) ([]string, error) {
		return []string{string(o.(interface{ GetUID() types.UID }).GetUID())}, nil
	}}
	n.pods = cache.NewSharedIndexInformer(
		cache.NewListWatchFromClient(n.api.core, "pods", "", fields.OneTermEqualSelector("spec.nodeName", cfg.NodeName)),
		&corev1.Pod{}, 0, index)
	n.objects = cache.NewSharedIndexInformer(
		cache.NewListWatchFromClient(n.api.own, v1alpha1.Resource, "", fields.OneTermEqualSelector("status.node", cfg.NodeName)),
		&v1alpha1.IPCSpace{}, 0, index)
	return n, n.watch()
}

// watch says what is to be looked at when pods and objects change.
func (n *Node) watch() error {
	pods := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { n.podChanged(o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { n.podChanged(o.(*corev1.Pod)) },
		DeleteFunc: func(o any) {
			if gone, ok := deleted[*corev1.Pod](o); ok {
				n.podGone(gone)
			}
		},
	}
	objects := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { n.queue.Add(task{space: localName(o.(*v1alpha1.IPCSpace))}) },
		UpdateFunc: func(_, o any) { n.queue.Add(task{space: localName(o.(*v1alpha1.IPCSpace))}) },
		DeleteFunc: func(o any) {
			if gone, ok := deleted[*v1alpha1.IPCSpace](o); ok {
				n.mu.Lock()
				delete(n.released, gone.UID)
				delete(n.reported, gone.UID)
				n.mu.Unlock()
				n.queue.Add(task{space: localName(gone)})
			}
		},
	}
	_, err := n.pods.AddEventHandler(pods)
	_, err2 := n.objects.AddEventHandler(objects)
	return errors.Join(err, err2)
}

// deleted is the object of a deletion, or its last known state if the deletion was missed.
func deleted[T any](o any) (T, bool) {
	if missed, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = missed.Obj
	}
	gone, ok := o.(T)
	return gone, ok
}

// Run serves until ctx is done. It waits for the API server as long as it takes.
func (n *Node) Run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	recording := broadcaster.StartRecordingToSink(sink{n.api})
	defer recording.Stop()
	n.mu.Lock()
	n.events = broadcaster.NewRecorder(n.api.scheme, corev1.EventSource{Component: "ipcspace", Host: n.cfg.NodeName})
	n.mu.Unlock()
	defer n.queue.ShutDown()
	work.Go(func() { n.pods.Run(ctx.Done()) })
	work.Go(func() { n.objects.Run(ctx.Done()) })
	if !cache.WaitForCacheSync(ctx.Done(), n.pods.HasSynced, n.objects.HasSynced) {
		return
	}
	n.log.Info("pods and IPCSpaces of this node are known", "pods", len(n.pods.GetStore().ListKeys()), "claims", len(n.objects.GetStore().ListKeys()))
	n.lookAtAll()
	n.synced.Store(true)
	work.Go(n.work)
	n.report(ctx)
}

func (n *Node) work() {
	for {
		t, shutdown := n.queue.Get()
		if shutdown {
			return
		}
		again, err := n.do(t)
		switch {
		case err != nil:
			n.log.Warn("to be tried again", "space", t.space, "error", err)
			n.queue.AddRateLimited(t)
		case again > 0:
			n.queue.Forget(t)
			n.queue.AddAfter(t, again)
		default:
			n.queue.Forget(t)
		}
		n.queue.Done(t)
	}
}

func (n *Node) do(t task) (again time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if t.container != "" {
		n.lookInside(t)
		return 0, nil
	}
	return n.settle(ctx, t.space)
}

// patience is how long the API server may take for all that one call here needs of it.
const patience = 20 * time.Second
