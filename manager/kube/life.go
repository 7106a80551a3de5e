package kube

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ipcspace/ipcspace/manager"
	"github.com/ipcspace/ipcspace/manager/kube/v1alpha1"
)

const (
	// arrival is how long a pod that was let in may be missing in the cache.
	arrival = 15 * time.Second
	// ending is the pause between looks at a space whose last processes are ending.
	ending = time.Second
	// At most reportMost statuses are written in reportEvery, each at most every reportPause: every
	// write is shown to the watches of all nodes, so what all nodes together write must be little.
	reportEvery = 10 * time.Second
	reportPause = 30 * time.Second
	reportMost  = 1
)

// lookAtAll settles every space of Kubernetes that is here, and every claim.
func (n *Node) lookAtAll() {
	for _, info := range n.spaces.Spaces() {
		if info.Closed && uidOf(info.Name) != "" {
			n.queue.Add(task{space: info.Name})
		}
	}
	for _, o := range n.objects.GetStore().List() {
		n.queue.Add(task{space: localName(o.(*v1alpha1.IPCSpace))})
	}
}

// podGone settles the spaces that a pod had joined.
func (n *Node) podGone(pod *corev1.Pod) {
	uid := string(pod.UID)
	n.mu.Lock()
	delete(n.joined, uid)
	for container, of := range n.looked {
		if of == pod.UID {
			delete(n.looked, container)
		}
	}
	n.mu.Unlock()
	if !hasSpace(pod) {
		return
	}
	for _, info := range n.spaces.Spaces() {
		if slices.Contains(info.Pods, uid) {
			n.queue.Add(task{space: info.Name})
		}
	}
}

// hasSpace tells whether a pod has a volume that is a space.
func hasSpace(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, isSpace)
}

func isSpace(v corev1.Volume) bool { return v.CSI != nil && v.CSI.Driver == v1alpha1.Driver }

// settle brings a space in line with the pods that there are and with its object: pods that are gone
// may not register any more, and with the last one the space goes, unless it is retained, and then
// its claim. again: when to look next, if nothing tells.
func (n *Node) settle(ctx context.Context, name string) (again time.Duration, err error) {
	defer n.locks.lock(name)()
	object := n.objectOf(name)
	info, _, err := n.spaces.EnsureSpace(ctx, manager.SpaceConfig{Name: name}, true)
	if errors.Is(err, manager.ErrNoSpace) {
		if object == nil || object.Status.BootID == n.cfg.BootID && !n.holds(object) {
			return 0, nil
		}
		// Of an earlier boot, or of a manager that was killed between the two steps.
		n.log.Info("claim without a space", "space", name)
		return 0, n.release(ctx, object)
	}
	if err != nil {
		return 0, err
	}
	pods, again := n.present(info.Pods)
	drained := object != nil && object.Annotations[v1alpha1.AnnotationDrain] != ""
	retained := object != nil && object.Spec.Retain && !drained
	if len(pods) > 0 || again > 0 || retained {
		return again, errors.Join(n.spaces.Admit(ctx, name, pods), n.limit(ctx, object, info))
	}
	// The pods stay admitted until then: their processes are what keeps the space.
	err = n.spaces.RemoveSpace(ctx, name, false)
	if errors.Is(err, manager.ErrInUse) {
		return ending, nil
	}
	if err != nil && !errors.Is(err, manager.ErrNoSpace) {
		return 0, err
	}
	n.log.Info("space removed with its last pod", "space", name, "drained", drained)
	if object == nil {
		return 0, nil // deleted, or taken over
	}
	return 0, n.release(ctx, object)
}

// objectOf is the object of a space as it is cached. nil: there is none any more that this node has.
func (n *Node) objectOf(name string) *v1alpha1.IPCSpace {
	found, err := n.objects.GetIndexer().ByIndex(byUID, string(uidOf(name)))
	if err != nil || len(found) == 0 {
		return nil
	}
	return found[0].(*v1alpha1.IPCSpace)
}

// present are those of the pods that are there and not over; those that joined a moment ago count
// even if the cache does not have them yet. again: when that is to be looked at once more.
func (n *Node) present(uids []string) (there []string, again time.Duration) {
	there = []string{}
	for _, uid := range uids {
		if pod := n.cachedPod(uid); pod != nil {
			if !over(pod) {
				there = append(there, uid)
			}
			continue
		}
		n.mu.Lock()
		left := arrival - time.Since(n.joined[uid])
		if left <= 0 {
			delete(n.joined, uid)
		}
		n.mu.Unlock()
		if left > 0 {
			there, again = append(there, uid), max(again, left)
		}
	}
	return there, again
}

// limit gives a space the limits that its author wants now.
func (n *Node) limit(ctx context.Context, object *v1alpha1.IPCSpace, info manager.SpaceInfo) error {
	if object == nil || object.Spec.Limits == nil {
		return nil
	}
	want := *limitsOf(object.Spec.Limits)
	if want == info.Limits {
		return nil
	}
	_, err := n.spaces.SetLimits(ctx, info.Name, func(l *manager.Limits) { *l = want }, nil)
	return err
}

// report keeps the status of the objects until ctx is done.
func (n *Node) report(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			n.reportSome(ctx)
		}
	}
}

// reportSome writes the statuses that have changed, longest unwritten first.
func (n *Node) reportSome(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	type stale struct {
		object *v1alpha1.IPCSpace
		at     time.Time
	}
	var all []stale
	for _, info := range n.spaces.Spaces() {
		object := n.objectOf(info.Name)
		if object == nil || !n.holds(object) {
			continue
		}
		now := object.Status
		now.Objects, now.Bytes, now.Pods, now.Members = 0, int64(info.Used), int64(len(info.Pods)), int64(info.Sessions)
		for _, count := range info.Objects {
			now.Objects += int64(count)
		}
		n.mu.Lock()
		at := n.reported[object.UID]
		n.mu.Unlock()
		if now != object.Status && time.Since(at) >= reportPause {
			object = object.DeepCopy()
			object.Status = now
			all = append(all, stale{object, at})
		}
	}
	slices.SortFunc(all, func(a, b stale) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.object.UID, b.object.UID)) })
	for _, s := range all[:min(len(all), reportMost)] {
		n.mu.Lock()
		n.reported[s.object.UID] = time.Now()
		n.mu.Unlock()
		_, err := n.api.spaces(s.object.Namespace).UpdateStatus(ctx, s.object, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) { // the cache was behind
			n.mu.Lock()
			delete(n.reported, s.object.UID)
			n.mu.Unlock()
		} else if err != nil && !apierrors.IsNotFound(err) {
			n.log.Debug("status not written", "space", s.object.Namespace+"/"+s.object.Name, "error", err)
		}
	}
}

// locks are one for each space that somebody works on. The zero value is ready.
type locks struct {
	mu sync.Mutex
	m  map[string]*nameLock
}

type nameLock struct {
	sync.Mutex
	users int
}

// lock waits for the lock of name and returns its unlock.
func (l *locks) lock(name string) (unlock func()) {
	l.mu.Lock()
	if l.m == nil {
		l.m = map[string]*nameLock{}
	}
	one := l.m[name]
	if one == nil {
		one = &nameLock{}
		l.m[name] = one
	}
	one.users++
	l.mu.Unlock()
	one.Lock()
	return func() {
		one.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if one.users--; one.users == 0 {
			delete(l.m, name)
		}
	}
}
