package manager

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// readOnlyClone is a mount of dir that stands nowhere yet.
func readOnlyClone(dir string) (tree int, err error) {
	tree, err = unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: dir, Err: err}
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		_ = unix.Close(tree)
		return -1, &os.PathError{Op: "mount_setattr", Path: dir, Err: err}
	}
	return tree, nil
}

// mountTmpfs mounts with huge pages where the kernel has them.
func mountTmpfs(path, options, huge string) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	err := unix.Mount("ipcspace", path, "tmpfs", flags, options+",huge="+huge)
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("ipcspace", path, "tmpfs", flags, options)
	}
	if err != nil {
		return &os.PathError{Op: "mount tmpfs on", Path: path, Err: err}
	}
	return nil
}

// mayMount tries whether this process may mount below dir.
func mayMount(dir string) bool {
	probe := filepath.Join(dir, ".probe")
	if err := os.Mkdir(probe, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return false
	}
	defer func() { _ = os.Remove(probe) }()
	for unix.Unmount(probe, unix.MNT_DETACH) == nil { // of a manager killed right here
	}
	if err := unix.Mount("ipcspace", probe, "tmpfs", 0, "size=4096"); err != nil {
		return false
	}
	return unix.Unmount(probe, unix.MNT_DETACH) == nil
}

// isMount tells whether path is the root of a mount.
func isMount(path string) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st); err != nil {
		return false, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}
