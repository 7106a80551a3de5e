package driver

import (
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ipcspace/ipcspace/shim/bind"
)

// target is where the kubelet wants a pod's volume:
//
//	<kubelet>/pods/<pod's uid>/volumes/kubernetes.io~csi/<volume>/mount
//
// The kubelet has made all of it but the last name. It is the only proof of who asks: attributes are
// the pod author's text.
type target struct {
	path        string
	kubelet     string
	pod, volume string
}

var (
	podUID     = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z-]{0,63}$`)
	volumeName = regexp.MustCompile(`^[0-9a-z][0-9a-z-]{0,62}$`)
)

const leaf = "mount"

func (d *Driver) target(of string) (target, error) {
	t := target{path: of, kubelet: d.config.Kubelet}
	if of == "" {
		return t, status.Error(codes.InvalidArgument, "no target path")
	}
	below, ok := strings.CutPrefix(of, strings.TrimSuffix(t.kubelet, "/")+"/")
	names := strings.Split(below, "/")
	ok = ok && len(names) == 6 && names[0] == "pods" && podUID.MatchString(names[1]) &&
		names[2] == "volumes" && names[3] == "kubernetes.io~csi" && volumeName.MatchString(names[4]) && names[5] == leaf
	if !ok {
		return t, status.Errorf(codes.InvalidArgument,
			"%q is no volume of a pod below %s: give the driver the kubelet's --root-dir as --kubelet-dir (kubeletDir of the chart)", of, t.kubelet)
	}
	t.pod, t.volume = names[1], names[4]
	return t, nil
}

// open is the folder in which the target stands. ENOENT: there is none (any more).
func (t target) open() (int, error) {
	kubelet, err := unix.Open(t.kubelet, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: t.kubelet, Err: err}
	}
	defer unix.Close(kubelet)
	// A symbolic link could lead the mount anywhere on the node.
	below := path.Dir(strings.TrimPrefix(t.path[len(t.kubelet):], "/"))
	dir, err := unix.Openat2(kubelet, below, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path.Dir(t.path), Err: err}
	}
	return dir, nil
}

// mount puts a space's folder at the target, once: the right one there already is left as it is, and
// anything else makes room.
func (t target) mount(space string) error {
	tree, err := bind.Clone(space)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	dir, err := t.open()
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if err := unix.Mkdirat(dir, leaf, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return &os.PathError{Op: "mkdir", Path: t.path, Err: err}
	}
	if stands(dir, tree) {
		return nil
	}
	if err := detach(dir); err != nil {
		return err
	}
	at, err := openLeaf(dir)
	if err != nil {
		return &os.PathError{Op: "open", Path: t.path, Err: err}
	}
	defer unix.Close(at)
	return bind.Attach(tree, at)
}

// clear leaves nothing at the target. A target that is gone is what it wants.
func (t target) clear() error {
	dir, err := t.open()
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if err := detach(dir); err != nil {
		return err
	}
	if err := unix.Unlinkat(dir, leaf, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "rmdir", Path: t.path, Err: err}
	}
	return nil
}

func openLeaf(dir int) (int, error) {
	return unix.Openat2(dir, leaf, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
}

// stands tells whether what is mounted at the target is this tree, with its flags.
func stands(dir, tree int) bool {
	at, err := openLeaf(dir)
	if err != nil {
		return false
	}
	defer unix.Close(at)
	have, err := look(at)
	if err != nil || have.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false
	}
	want, err := look(tree)
	if err != nil || have.Ino != want.Ino || have.Dev_major != want.Dev_major || have.Dev_minor != want.Dev_minor {
		return false
	}
	const flags = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV
	var fs unix.Statfs_t
	return unix.Fstatfs(at, &fs) == nil && fs.Flags&(flags|unix.ST_NOEXEC) == flags
}

func look(fd int) (st unix.Statx_t, err error) {
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st)
	return st, err
}

// mostMounts is how many mounts one upon the other detach takes away: this driver never makes two.
const mostMounts = 16

// detach unmounts what is at the target, also what does not answer any more. Lazily: a process of the
// node that stands in it must not keep a pod from ending.
func detach(dir int) error {
	for range mostMounts {
		var st unix.Statx_t
		err := unix.Statx(dir, leaf, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC, 0, &st)
		if errors.Is(err, unix.ENOENT) || err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
			return nil
		}
		// An error is a broken mount's.
		if err := unix.Unmount(fmt.Sprintf("/proc/self/fd/%d/%s", dir, leaf), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount: %w", err)
		}
	}
	return fmt.Errorf("more than %d mounts are there, one upon the other: something else mounts there too", mostMounts)
}
