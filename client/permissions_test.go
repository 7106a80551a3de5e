package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client"
)

func init() {
	roles["nobody"] = nobody
}

// nobody is a user without rights but those of the mode.
func nobody() {
	s, err := client.Open(bg)
	do(err)
	set, queue := s.SetByID(idOf(1)), s.QueueByID(idOf(2))
	expect := func(what string, err, wanted error) {
		if !errors.Is(err, wanted) {
			do(fmt.Errorf("%s: %w instead of %w", what, err, wanted))
		}
	}
	// May read the set (0644) and write the queue (0622).
	v, err := set.Value(0)
	do(err)
	if v != 7 {
		do(fmt.Errorf("value %d", v))
	}
	values, err := set.Values()
	do(err)
	if len(values) != 2 || values[0] != 7 {
		do(fmt.Errorf("values %v", values))
	}
	expect("V", set.Op(bg, client.Add(0, 1)), client.ErrPermission)
	expect("SETVAL", set.SetValue(0, 1), unix.EACCES)
	do(set.Op(bg, client.Zero(1)))
	ctx, cancel := context.WithTimeout(bg, 50*time.Millisecond)
	defer cancel()
	expect("zero", set.Op(ctx, client.Zero(0)), context.DeadlineExceeded)
	do(queue.Send(bg, 3, []byte("brokered")))
	_, _, err = queue.Receive(bg, 0, make([]byte, 10), client.NoWait)
	expect("msgrcv", err, client.ErrPermission)
	_, err = s.Queue(bg, 0x77, client.Want(0o400))
	expect("msgget", err, client.ErrPermission)
	expect("IPC_RMID", set.Remove(bg), unix.EPERM)
	_, err = s.SegmentByID(idOf(3)).Attach(bg)
	expect("shmat", err, client.ErrPermission)
	a, err := s.SegmentByID(idOf(3)).Attach(bg, client.ReadOnly())
	do(err)
	if a.Bytes()[0] != 'r' {
		do(errors.New("segment"))
	}
	fmt.Println("fine")
}

// Rights are those of the caller's ids; what there is only part of goes by the
// manager.
func TestPermissions(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become another user")
	}
	s := open(t)
	set, err := s.Set(bg, client.Private, 2, client.Create(0o644))
	check(t, err)
	defer set.Remove(bg)
	check(t, set.SetValue(0, 7))
	queue, err := s.Queue(bg, 0x77, client.CreateNew(0o622))
	check(t, err)
	defer queue.Remove(bg)
	g, err := s.Segment(bg, client.Private, 100, client.Create(0o644))
	check(t, err)
	defer g.Remove(bg)
	a, err := g.Attach(bg)
	check(t, err)
	defer a.Close()
	a.Bytes()[0] = 'r'
	cmd := asNobody(t, role("nobody", strconv.Itoa(set.ID()), strconv.Itoa(queue.ID()), strconv.Itoa(g.ID())))
	if out, err := cmd.Output(); err != nil || string(out) != "fine\n" {
		t.Fatalf("%s, %v", out, err)
	}
	buf := make([]byte, 100)
	n, typ, err := queue.Receive(bg, 0, buf)
	if err != nil || typ != 3 || string(buf[:n]) != "brokered" {
		t.Fatal(typ, string(buf[:n]), err)
	}
}

// asNobody makes a command another user's. Its program may stand where that user may not look.
func asNobody(t testing.TB, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	check(t, os.Chmod(testManager.root, 0o755))
	program, err := os.ReadFile(cmd.Path)
	check(t, err)
	f, err := os.CreateTemp(testManager.root, "program-")
	check(t, err)
	t.Cleanup(func() { _ = os.Remove(f.Name()) })
	_, err = f.Write(program)
	check(t, err)
	check(t, f.Chmod(0o755))
	check(t, f.Close())
	cmd.Path, cmd.Dir = f.Name(), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	return cmd
}
