package client_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client"
)

func init() {
	roles["opens"] = func() {
		s, err := client.Open(bg)
		do(err)
		do(s.Close())
	}
}

// A static program in an image that has only itself, and the space where it is
// by default, mounted read-only.
func TestScratchImage(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount and for chroot")
	}
	image := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(image, "program"), "./testdata/scratch")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "IPCSPACE_DIR=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir := filepath.Join(image, client.DefaultDir)
	check(t, os.MkdirAll(dir, 0o755))
	check(t, unix.Mount(testManager.dir(), dir, "", unix.MS_BIND, ""))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	s := open(t)
	q, err := s.Queue(bg, 0x99, client.CreateNew(0o600))
	check(t, err)
	defer q.Remove(bg)
	run := func() (string, error) {
		cmd := exec.Command("/program")
		cmd.Env, cmd.Dir = []string{}, "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: image}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	check(t, unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	if out, err := run(); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	buf := make([]byte, 100)
	n, typ, err := q.Receive(bg, 0, buf, client.NoWait)
	if err != nil || typ != 42 || string(buf[:n]) != "from scratch" {
		t.Fatal(string(buf[:n]), typ, err)
	}
}

func TestNoSpace(t *testing.T) {
	_, err := client.Open(bg, client.Dir(t.TempDir()))
	want(t, err, client.ErrNoSpace)
	want(t, err, os.ErrNotExist)
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "table"), make([]byte, 4096), 0o600))
	_, err = client.Open(bg, client.Dir(dir))
	want(t, err, client.ErrLayout)

	// A table that is right, in a folder that anybody could have made.
	table, err := os.ReadFile(filepath.Join(testManager.dir(), "table"))
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, "table"), table, 0o600))
	t.Setenv("IPCSPACE_DIR_WRITABLE", "")
	_, err = client.Open(bg, client.Dir(dir))
	want(t, err, client.ErrUntrusted)
	ctx, cancel := context.WithTimeout(bg, 30*time.Millisecond)
	defer cancel()
	_, err = client.Open(ctx, client.Dir(dir), client.Writable())
	want(t, err, client.ErrNoSpace)
}

// A path that is too long for a socket's address.
func TestLongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 30))
	check(t, os.MkdirAll(filepath.Dir(dir), 0o755))
	check(t, os.Symlink(testManager.dir(), filepath.Clean(dir)))
	cmd := role("opens")
	cmd.Env = append(cmd.Env, "IPCSPACE_DIR="+dir)
	if out, err := cmd.Output(); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
}
