package attacks_test

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// openAll gets every descriptor that a member can get.
func (h *hostile) openAll() error {
	if err := h.openShared(); err != nil {
		return err
	}
	for name, o := range map[string][2]int64{
		"small": {h.Small, 6}, "large": {h.Large, 6}, "small, read-only": {h.Small, 4},
	} {
		if _, err := h.open(name, shm, o[0], o[1]); err != nil {
			return fmt.Errorf("open %s: %w", name, err)
		}
	}
	return nil
}

func size(fd int) int64 {
	var st unix.Stat_t
	_ = unix.Fstat(fd, &st)
	return st.Size
}

// own is a file that only this process and the manager have: it may spoil it.
func own(name string) bool { return name == "page" }

func damageFiles(h *hostile) (string, error) {
	if err := h.openAll(); err != nil {
		return "", err
	}
	tried := 0
	for name, fd := range h.fds {
		before := size(fd)
		for what, f := range map[string]func() error{
			"ftruncate to 0":        func() error { return unix.Ftruncate(fd, 0) },
			"ftruncate to more":     func() error { return unix.Ftruncate(fd, before+1<<20) },
			"punch a hole":          func() error { return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, before) },
			"fallocate past it":     func() error { return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, before, 1<<20) },
			"collapse":              func() error { return unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 0, 4096) },
			"seal":                  func() error { _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, 15); return err },
			"set its flags":         func() error { return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, 0) },
			"fchmod":                func() error { return unix.Fchmod(fd, 0o777) },
			"fchown":                func() error { return unix.Fchown(fd, nobody, nobody) },
			"futimes":               func() error { return unix.Futimes(fd, []unix.Timeval{{}, {}}) },
			"an extended attribute": func() error { return unix.Fsetxattr(fd, "user.x", []byte("x"), 0) },
		} {
			// Root without CAP_LINUX_IMMUTABLE, as in a container. Its own page it may spoil.
			if own(name) {
				continue
			}
			tried++
			if err := f(); err == nil {
				return "", fmt.Errorf("%s: %s worked", name, what)
			}
			if size(fd) != before {
				return "", fmt.Errorf("%s: %s changed its length from %d to %d", name, what, before, size(fd))
			}
		}
	}
	return fmt.Sprintf("%d refusals", tried), nil
}

func reopenFiles(h *hostile) (string, error) {
	if err := h.openAll(); err != nil {
		return "", err
	}
	tried := 0
	for name, fd := range h.fds {
		if own(name) {
			continue
		}
		path := fmt.Sprintf("/proc/self/fd/%d", fd)
		for _, flags := range []int{unix.O_RDWR, unix.O_WRONLY, unix.O_RDONLY | unix.O_TRUNC, unix.O_RDWR | unix.O_APPEND} {
			tried++
			if again, err := unix.Open(path, flags, 0); err == nil {
				_ = unix.Close(again)
				return "", fmt.Errorf("%s was opened again with %#x", name, flags)
			}
		}
		if err := unix.Truncate(path, 0); err == nil {
			return "", fmt.Errorf("%s was truncated by its path", name)
		}
	}
	return fmt.Sprintf("%d refusals", tried), nil
}

func nameFiles(h *hostile) (string, error) {
	if err := h.openAll(); err != nil {
		return "", err
	}
	tried := 0
	for name, fd := range h.fds {
		proc := fmt.Sprintf("/proc/self/fd/%d", fd)
		target, _ := os.Readlink(proc)
		for what, err := range map[string]error{
			"link (AT_EMPTY_PATH)": unix.Linkat(fd, "", unix.AT_FDCWD, "/tmp/stolen", unix.AT_EMPTY_PATH),
			"link by /proc":        unix.Linkat(unix.AT_FDCWD, proc, unix.AT_FDCWD, "/tmp/stolen", unix.AT_SYMLINK_FOLLOW),
			"unlink by /proc":      unix.Unlink(proc),
			"openat its parent":    func() error { _, err := unix.Openat(fd, "..", unix.O_PATH, 0); return err }(),
		} {
			tried++
			if err == nil {
				return "", fmt.Errorf("%s (%s): %s worked", name, target, what)
			}
		}
	}
	return fmt.Sprintf("%d refusals", tried), nil
}

// appendToFiles writes past the ends with all its might.
func appendToFiles(h *hostile) (string, error) {
	if err := h.openAll(); err != nil {
		return "", err
	}
	before := map[string]int64{}
	for name, fd := range h.fds {
		before[name] = size(fd)
	}
	block := make([]byte, 1<<20)
	var all sync.WaitGroup
	var mu sync.Mutex
	written := 0
	end := time.Now().Add(2 * time.Second)
	for name, fd := range h.fds {
		all.Go(func() {
			for off := before[name]; time.Now().Before(end); off += int64(len(block)) {
				n, err := unix.Pwrite(fd, block, off)
				mu.Lock()
				written += max(n, 0)
				mu.Unlock()
				if errors.Is(err, unix.EBADF) {
					return // open for reading
				}
			}
		})
	}
	all.Wait()
	for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		long := ""
		for name, fd := range h.fds {
			if size(fd) > before[name] {
				long = fmt.Sprintf("%s has %d bytes, not %d", name, size(fd), before[name])
			}
		}
		if long == "" {
			break
		}
		if time.Now().After(deadline) {
			return "", errors.New(long)
		}
	}
	return fmt.Sprintf("%d MiB written, all cut back", written>>20), nil
}

// endlessWrite keeps the locks of its files' inodes: a page of what is to be written never comes.
func endlessWrite(h *hostile) (string, error) {
	if err := h.openAll(); err != nil {
		return "", err
	}
	const api, register = 0xc018aa3f, 0xc020aa00
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if errno != 0 {
		return "", fmt.Errorf("userfaultfd: %w", errno)
	}
	hello := [3]uint64{0xaa}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, api, uintptr(unsafe.Pointer(&hello))); errno != 0 {
		return "", fmt.Errorf("UFFDIO_API: %w", errno)
	}
	held := 0
	for name, file := range h.fds {
		if name == "table" || name == "small, read-only" {
			continue
		}
		mem, err := unix.Mmap(-1, 0, abi.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return "", err
		}
		area := [4]uint64{uint64(uintptr(unsafe.Pointer(&mem[0]))), abi.PageSize, 1}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, register, uintptr(unsafe.Pointer(&area))); errno != 0 {
			return "", fmt.Errorf("UFFDIO_REGISTER: %w", errno)
		}
		held++
		go func() { _, _ = unix.Pwrite(file, mem, 0) }()
	}
	time.Sleep(100 * time.Millisecond)
	// Now make the manager want the same locks.
	begun := time.Now()
	_, grown := h.call(abi.MsgGrow, nil, sem, h.Set, 5000, 0)
	_, removed := h.call(abi.MsgCtl, nil, msg, h.Queue, unix.IPC_RMID)
	_, spare := h.call(abi.MsgSpare, nil, 0)
	took := time.Since(begun)
	if took > 2*time.Second {
		return "", fmt.Errorf("the manager took %v", took)
	}
	time.Sleep(during)
	return fmt.Sprintf("%d held; grow: %v, remove: %v, spare: %v in %v", held, grown, removed, spare, took.Round(time.Millisecond)), nil
}
