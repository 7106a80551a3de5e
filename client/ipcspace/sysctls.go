package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/manager/procfs"
)

// The objects and limits of an IPC namespace are files in /proc/sysvipc and
// /proc/sys/kernel, which ipcs and installers of databases read. The command
// finds the space's there, as the manager serves them (package procfs). Where
// it has no FUSE, the limits are copies, read-only.

// bindProc binds the files of the folder proc over the kernel's.
func bindProc(proc string) error {
	over := map[string]string{"/proc/sysvipc": filepath.Join(proc, procfs.ListFolder)}
	for _, name := range procfs.Sysctls {
		over[filepath.Join("/proc/sys/kernel", name)] = filepath.Join(proc, procfs.SysctlFolder, name)
	}
	for target, source := range over {
		// ENOENT: a kernel without System V IPC, or without CHECKPOINT_RESTORE.
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("show %s at %s: %w", source, target, err)
		}
	}
	return nil
}

// sysctlFolder holds, below mountBase, the files that are bound over those of
// /proc/sys/kernel.
const sysctlFolder = "sysctl"

// writeSysctls writes the limits of the space at public into folder, in the
// formats of proc(5).
func writeSysctls(public, folder string) error {
	table, err := os.Open(filepath.Join(public, abi.TableName))
	if err != nil {
		return err
	}
	defer table.Close()
	var h abi.TableHeader
	if err := binary.Read(table, binary.LittleEndian, &h); err != nil {
		return fmt.Errorf("read the limits of %s: %w", public, err)
	}
	if err := os.Mkdir(folder, 0o755); err != nil {
		return err
	}
	for name, value := range map[string]string{
		"shmmax": fmt.Sprint(h.ShmMax), "shmall": fmt.Sprint(h.ShmAll), "shmmni": fmt.Sprint(h.ShmMni),
		"sem":    fmt.Sprintf("%d\t%d\t%d\t%d", h.SemMsl, h.SemMns, h.SemOpm, h.SemMni),
		"msgmax": fmt.Sprint(h.MsgMax), "msgmnb": fmt.Sprint(h.MsgMnb), "msgmni": fmt.Sprint(h.MsgMni),
	} {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o644); err != nil { // whatever the umask
			return err
		}
	}
	return nil
}

// bindSysctls binds the files of folder over /proc/sys/kernel's.
func bindSysctls(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		over := filepath.Join("/proc/sys/kernel", e.Name())
		err := unix.Mount(filepath.Join(folder, e.Name()), over, "", unix.MS_BIND, "")
		if errors.Is(err, unix.ENOENT) {
			continue // a kernel without System V IPC
		}
		if err == nil {
			err = unix.Mount("", over, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "")
		}
		if err != nil {
			return fmt.Errorf("show the space's limit at %s: %w", over, err)
		}
	}
	return nil
}
