// Package bind makes read-only mounts of a space's folder, whole before anybody can see them: there
// is no moment in which one can be written through, and nothing half-made for a crash to leave.
package bind

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Clone is a mount of source that stands nowhere yet: read-only, nosuid, nodev, and private, so that
// what is mounted at the source later shows in no container. Never noexec, for the library is in it.
func Clone(source string) (tree int, err error) {
	tree, err = unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: source, Err: err}
	}
	attr := unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV,
		Propagation: unix.MS_PRIVATE,
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		_ = unix.Close(tree)
		return -1, &os.PathError{Op: "mount_setattr", Path: source, Err: err}
	}
	return tree, nil
}

// Attach mounts a tree at an open file or folder.
func Attach(tree, at int) error {
	if err := unix.MoveMount(tree, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}
