package attacks_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// register registers n times, from several threads at once.
func register(n int) func(h *hostile) (string, error) {
	return func(h *hostile) (string, error) {
		var mu sync.Mutex
		refused, members, failure := map[error]int{}, []*member{}, error(nil)
		var threads sync.WaitGroup
		for range 8 {
			threads.Go(func() {
				for range n / 8 {
					m, err := join(h.Dir)
					mu.Lock()
					var errno unix.Errno
					if err == nil {
						members = append(members, m)
					} else if errors.As(err, &errno) {
						refused[errno]++
					} else {
						failure = err
					}
					mu.Unlock()
				}
			})
		}
		threads.Wait()
		for _, m := range members {
			m.leave()
		}
		if len(members) > 64 {
			failure = fmt.Errorf("%d sessions for one process", len(members))
		}
		return fmt.Sprintf("%d sessions, refused %v", len(members), refused), failure
	}
}

// crowded registers as a process with so many mappings that a look at them takes long.
func crowded(h *hostile) (string, error) {
	const pages = 60_000 // the kernel's limit is 65,530
	mem, err := unix.Mmap(-1, 0, pages*os.Getpagesize(), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return "", err
	}
	for i := 0; i < pages; i += 2 {
		if err := unix.Mprotect(mem[i*os.Getpagesize():(i+1)*os.Getpagesize()], unix.PROT_READ); err != nil {
			return "", err
		}
	}
	return register(200)(h)
}

func lieAboutIDs(h *hostile) (string, error) {
	for what, cred := range map[string]*unix.Ucred{
		"uid 0":         {Pid: int32(os.Getpid())},
		"the manager's": {Pid: int32(h.Manager), Uid: nobody, Gid: nobody},
		"gid 0":         {Pid: int32(os.Getpid()), Uid: nobody},
	} {
		err := unix.Sendmsg(h.fd, packet(abi.MsgOpen, 9, nil, sem, h.SecretSet, 6), unix.UnixCredentials(cred), nil, 0)
		if !errors.Is(err, unix.EPERM) {
			return "", fmt.Errorf("%s: %w, want EPERM", what, err)
		}
	}
	return "EPERM", nil
}

// lendChannel lets a process of another user speak on root's channel.
func lendChannel(h *hostile) (string, error) {
	if _, err := h.open("secret", sem, h.SecretSet, 6); err != nil {
		return "", fmt.Errorf("root's own set: %w", err)
	}
	// The helper sends by itself: sh cannot, this binary can.
	cmd := exec.Command(self())
	cmd.Env = append(os.Environ(), borrowVariable+"=1")
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(h.fd), "channel")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

const borrowVariable = "IPCSPACE_TEST_BORROW"

// borrow is the other user's process: it wants no right and no descriptor.
func borrow(h *hostile) (string, error) {
	h.member = &member{fd: 3, fds: map[string]int{}, seq: 100}
	a, err := h.open("set", sem, h.SecretSet, 6)
	if err == nil && (a.val[1] != 0 || len(a.fds) > 0) {
		return "", fmt.Errorf("rights %d, %d descriptors", a.val[1], len(a.fds))
	}
	_, err = h.open("segment", shm, h.Secret, 4)
	if !errors.Is(err, unix.EACCES) {
		return "", fmt.Errorf("root's segment: %w, want EACCES", err)
	}
	return "no right, EACCES", nil
}

func (m *member) cookie() []byte {
	c := (*abi.SessionPage)(unsafe.Pointer(&m.page[0])).Cookie
	return c[:]
}

// resume tries to get into a session that is named.
func resume(dir string, number uint32, cookie []byte, state int64) error {
	fd, err := dial(dir)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Sendmsg(fd, packet(abi.MsgHello, 1, cookie, abi.LayoutMajor, int64(number), state), nil, nil, 0); err != nil {
		return err
	}
	a, err := receive(fd)
	if err == nil && a.val[0] != 0 {
		return nil
	}
	return err
}

// forked runs f in a process that is forked with the descriptors of this one, and waits for it:
// a copy of this binary that is told the session.
func forkedResume(number uint32, cookie []byte, pid int) (string, error) {
	cmd := exec.Command(self())
	cmd.Env = append(os.Environ(), resumeVariable+"="+fmt.Sprintf("%d %x", number, cookie))
	if pid != 0 {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
			return "", err
		}
	}
	out, err := cmd.CombinedOutput()
	if pid != 0 && cmd.Process != nil && cmd.Process.Pid != pid {
		return "", errMissed
	}
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

var errMissed = errors.New("another process took the pid")

const resumeVariable = "IPCSPACE_TEST_RESUME"

func resumer(h *hostile) (string, error) {
	var number uint32
	var cookie []byte
	if _, err := fmt.Sscanf(os.Getenv(resumeVariable), "%d %x", &number, &cookie); err != nil {
		return "", err
	}
	for state := range int64(3) {
		err := resume(h.Dir, number, cookie, state)
		if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ESRCH) {
			return "", fmt.Errorf("resumed as %d: %w", state, err)
		}
	}
	return "refused", nil
}

func stolenCookie(h *hostile) (string, error) { return forkedResume(h.num, h.cookie(), 0) }

// reusedPID lets a process register and die, and another with its pid come for its session.
func reusedPID(h *hostile) (string, error) {
	for range 50 {
		cmd := exec.Command(self())
		cmd.Env = append(os.Environ(), resumeVariable+"=tell")
		out, err := cmd.Output()
		if err != nil {
			return "", err
		}
		var number uint32
		var cookie []byte
		if _, err := fmt.Sscanf(string(out), "%d %x", &number, &cookie); err != nil {
			return "", err
		}
		result, err := forkedResume(number, cookie, cmd.Process.Pid)
		if !errors.Is(err, errMissed) {
			return result + ", same pid", err
		}
	}
	return "", errMissed
}

// publicFolder is what a container's root sees: the folder bound read-only.
func publicFolder(h *hostile) (string, error) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return "", err
	}
	at := "/mnt"
	if err := unix.Mount(h.Dir, at, "", unix.MS_BIND, ""); err != nil {
		return "", err
	}
	if err := unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return "", err
	}
	defer unix.Unmount(at, unix.MNT_DETACH)
	in := func(name string) string { return filepath.Join(at, name) }
	tried := 0
	for what, err := range map[string]error{
		"symlink in channels":     os.Symlink("/etc/passwd", in("channels/0123456789abcdef")),
		"unlink the register":     os.Remove(in(abi.RegisterName)),
		"chmod the table":         os.Chmod(in(abi.TableName), 0o666),
		"open the table to write": func() error { _, err := os.OpenFile(in(abi.TableName), os.O_RDWR, 0); return err }(),
		"truncate the table":      os.Truncate(in(abi.TableName), 0),
		"replace the library":     os.Rename(in(abi.LibraryName), in("lib/x")),
		"make a folder":           os.Mkdir(in("x"), 0o777),
		"chown the register":      os.Chown(in(abi.RegisterName), nobody, nobody),
	} {
		tried++
		if !errors.Is(err, unix.EROFS) {
			return "", fmt.Errorf("%s: %w, want EROFS", what, err)
		}
	}
	return fmt.Sprintf("%d refusals", tried), nil
}

func managersProc(h *hostile) (string, error) {
	private := filepath.Join(filepath.Dir(filepath.Dir(h.Dir)), "private")
	proc := fmt.Sprintf("/proc/%d", h.Manager)
	for what, path := range map[string]string{
		"the private folder": private, "its state": filepath.Join(private, filepath.Base(h.Dir), "state"),
		"root": proc + "/root/etc", "descriptors": proc + "/fd", "memory": proc + "/mem", "map_files": proc + "/map_files", "admin socket": "",
	} {
		var err error
		if path != "" {
			_, err = os.ReadDir(path)
			if errors.Is(err, unix.ENOTDIR) {
				_, err = os.ReadFile(path)
			}
		} else {
			err = unix.Connect(func() int { fd, _ := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); return fd }(),
				&unix.SockaddrUnix{Name: filepath.Join(filepath.Dir(filepath.Dir(h.Dir)), "admin.sock")})
		}
		if !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
			return "", fmt.Errorf("%s: %w, want EACCES", what, err)
		}
	}
	return "EACCES", nil
}
