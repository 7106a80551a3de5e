package driver

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// mounts counts those that stand at a path, one upon the other.
func mounts(t *testing.T, at string) (n int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Fields(line)[4] == at {
			n++
		}
	}
	return n
}

// published checks that a space stands at the target, once, and as it shall be.
func published(t *testing.T, target string) {
	t.Helper()
	if n := mounts(t, target); n != 1 {
		t.Errorf("%d mounts at the target", n)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(target, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Flags&unix.ST_RDONLY == 0 || fs.Flags&unix.ST_NOSUID == 0 || fs.Flags&unix.ST_NODEV == 0 || fs.Flags&unix.ST_NOEXEC != 0 {
		t.Errorf("mounted with flags %#x; want ro,nosuid,nodev and not noexec", fs.Flags)
	}
	if _, err := os.Stat(filepath.Join(target, "lib", "libipcspace.so")); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(target, "x"), nil, 0o644); err == nil {
		t.Error("the space's folder can be written through the mount")
	}
}

func TestPublish(t *testing.T) {
	c := newCluster(t)
	target := c.volume(t, podUID1)
	req := request(target, podUID1, "publish")
	c.publish(t, req)
	published(t, target)
	got := c.decide.got[0]
	if got.GetPodUid() != podUID1 || got.GetVolume() != "ipcspace" || got.GetPodName() != "p" || got.GetPodNamespace() != "shop" || got.GetServiceAccount() != "default" {
		t.Errorf("the manager was asked for %v", got)
	}
	if !maps.Equal(got.GetAttributes(), map[string]string{"space": "publish"}) {
		t.Errorf("attributes %v", got.GetAttributes())
	}
	// The kubelet asks again after its own restart, and after the driver's.
	c.publish(t, req)
	c.Driver = c.restarted(t, c.config)
	c.publish(t, req)
	published(t, target)
	c.unpublish(t, target)
	c.unpublish(t, target)
	c.Driver = c.restarted(t, c.config)
	c.unpublish(t, target)
	// The kubelet removes what it made itself; it may still ask.
	if err := os.RemoveAll(filepath.Join(c.config.Kubelet, "pods", podUID1)); err != nil {
		t.Fatal(err)
	}
	c.unpublish(t, target)
}

// What a target may have on it instead of the space, and that makes room.
func TestStale(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, space, target string) error{
		"a folder, and no mount": func(*testing.T, string, string) error { return nil },
		"another file system":    func(_ *testing.T, _, target string) error { return unix.Mount("x", target, "tmpfs", 0, "") },
		"the space, writable": func(_ *testing.T, space, target string) error {
			if err := unix.Mount(space, target, "", unix.MS_BIND, ""); err != nil {
				return err
			}
			return unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT, "")
		},
		"a folder within the space": func(_ *testing.T, space, target string) error {
			return unix.Mount(filepath.Join(space, "lib"), target, "", unix.MS_BIND, "")
		},
		"mounts one upon the other": func(_ *testing.T, space, target string) error {
			for _, source := range []string{space, "/", space, "/"} {
				if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
					return err
				}
			}
			return nil
		},
		"a mount whose server is dead": deadMount,
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			elsewhere := c.volume(t, "other")
			c.publish(t, request(elsewhere, "other", "stale"))
			target := c.volume(t, podUID1)
			for _, use := range []func(){
				func() { c.publish(t, request(target, podUID1, "stale")); published(t, target) },
				func() { c.unpublish(t, target) },
			} {
				if err := os.MkdirAll(target, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := spoil(t, elsewhere, target); err != nil {
					t.Fatal(err)
				}
				use()
				c.unpublish(t, target)
			}
			published(t, elsewhere)
			c.unpublish(t, elsewhere)
		})
	}
}

// deadMount is of a FUSE server that has died: everything on it is ENOTCONN.
func deadMount(t *testing.T, _, target string) error {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("no /dev/fuse:", err)
	}
	defer unix.Close(fd)
	return unix.Mount("x", target, "fuse", 0, "fd="+strconv.Itoa(fd)+",rootmode=40000,user_id=0,group_id=0")
}

func TestSymbolicLinks(t *testing.T) {
	c := newCluster(t)
	outside := t.TempDir()
	if err := os.Mkdir(filepath.Join(outside, "mount"), 0o755); err != nil {
		t.Fatal(err)
	}
	target := c.volume(t, podUID1)
	if err := os.Remove(filepath.Dir(target)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Dir(target)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.NodePublishVolume(t.Context(), request(target, podUID1, "links")); err == nil {
		t.Error("mounted where a symbolic link leads")
	}
	if _, err := c.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: "v", TargetPath: target}); err == nil {
		t.Error("removed where a symbolic link leads")
	}
	if n := mounts(t, filepath.Join(outside, "mount")); n != 0 {
		t.Error("a mount outside the kubelet's folder")
	}
	target = c.volume(t, "second")
	if err := os.Symlink(outside, target); err != nil {
		t.Fatal(err)
	}
	if _, err := c.NodePublishVolume(t.Context(), request(target, "second", "links")); err == nil || mounts(t, outside) != 0 {
		t.Errorf("%v, %d mounts; a link as target must be refused", err, mounts(t, outside))
	}
}

func TestInvalid(t *testing.T) {
	c := newCluster(t)
	target := c.volume(t, podUID1)
	for name, test := range map[string]struct {
		spoil  func(*csi.NodePublishVolumeRequest)
		remedy string
	}{
		"no volume id":  {func(r *csi.NodePublishVolumeRequest) { r.VolumeId = "" }, "volume id"},
		"no target":     {func(r *csi.NodePublishVolumeRequest) { r.TargetPath = "" }, "target path"},
		"no capability": {func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability = nil }, "capability"},
		"a block device": {func(r *csi.NodePublishVolumeRequest) {
			r.VolumeCapability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		}, "folder"},
		"a file system":         {func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability.GetMount().FsType = "ext4" }, "drop fsType"},
		"mount options":         {func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability.GetMount().MountFlags = []string{"rw"} }, "drop mountOptions"},
		"a persistent one":      {func(r *csi.NodePublishVolumeRequest) { delete(r.VolumeContext, attributeEphemeral) }, "spec.volumes[].csi"},
		"writable":              {func(r *csi.NodePublishVolumeRequest) { r.Readonly = false }, "readOnly: true"},
		"no pod":                {func(r *csi.NodePublishVolumeRequest) { delete(r.VolumeContext, attributePodUID) }, "podInfoOnMount"},
		"another pod":           {func(r *csi.NodePublishVolumeRequest) { r.VolumeContext[attributePodUID] = "other" }, "of pod other"},
		"another folder":        {func(r *csi.NodePublishVolumeRequest) { r.TargetPath = "/mnt/mount" }, "--root-dir"},
		"dots in the path":      {func(r *csi.NodePublishVolumeRequest) { r.TargetPath = strings.Replace(target, podUID1, "..", 1) }, "--root-dir"},
		"a path that is longer": {func(r *csi.NodePublishVolumeRequest) { r.TargetPath += "/x" }, "--root-dir"},
		"another driver's":      {func(r *csi.NodePublishVolumeRequest) { r.TargetPath = strings.Replace(target, "~csi", "~secret", 1) }, "--root-dir"},
	} {
		t.Run(name, func(t *testing.T) {
			req := request(target, podUID1, "invalid")
			test.spoil(req)
			_, err := c.NodePublishVolume(t.Context(), req)
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), test.remedy) {
				t.Errorf("%v; want InvalidArgument with %q", err, test.remedy)
			}
		})
	}
	if len(c.decide.got) > 0 {
		t.Errorf("the manager was asked: %v", c.decide.got)
	}
	if mounts(t, target) != 0 {
		t.Error("something was mounted")
	}
}

// The manager's refusals reach the kubelet as they are, and nothing is mounted.
func TestRefused(t *testing.T) {
	c := newCluster(t)
	target := c.volume(t, podUID1)
	c.decide.fail = status.Error(codes.FailedPrecondition, "space shop/orders is on node n2: wait for its pods there to end")
	_, err := c.NodePublishVolume(t.Context(), request(target, podUID1, "refused"))
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "is on node n2") {
		t.Error(err)
	}
	if _, err := os.Lstat(target); !os.IsNotExist(err) {
		t.Errorf("a refused target was made: %v", err)
	}
}

func TestNoManager(t *testing.T) {
	c := newCluster(t)
	target := c.volume(t, podUID1)
	c.publish(t, request(target, podUID1, "orphan"))
	if resp, err := c.Probe(t.Context(), &csi.ProbeRequest{}); err != nil || !resp.GetReady().GetValue() {
		t.Errorf("ready %v, %v with a manager", resp.GetReady(), err)
	}
	c.manager.Stop()
	if resp, err := c.Probe(t.Context(), &csi.ProbeRequest{}); err != nil || resp.GetReady() == nil || resp.GetReady().GetValue() {
		t.Errorf("ready %v, %v without a manager", resp.GetReady(), err)
	}
	second := c.volume(t, "second")
	if _, err := c.NodePublishVolume(t.Context(), request(second, "second", "orphan")); status.Code(err) != codes.Unavailable {
		t.Errorf("%v; want Unavailable, so that the kubelet tries again", err)
	}
	published(t, target)
	c.unpublish(t, target)
}

// What is mounted below a space's folder later is for no pod.
func TestPrivate(t *testing.T) {
	c := newCluster(t)
	target := c.volume(t, podUID1)
	c.publish(t, request(target, podUID1, "private"))
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); f[4] == target && slices.ContainsFunc(f[6:], func(o string) bool { return strings.HasPrefix(o, "master:") }) {
			t.Errorf("mounts propagate into the volume: %s", line)
		}
	}
	c.unpublish(t, target)
}
