package client_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ipcspace/ipcspace/client"
)

// Tests with C programs that have the preloaded library.

func init() {
	roles["share"] = share
}

// share adds to a counter in a segment under a semaphore.
func share() {
	s, err := client.Open(bg)
	do(err)
	a, err := s.SegmentByID(idOf(2)).Attach(bg)
	do(err)
	n, err := client.View[int64](a.Bytes(), 8)
	do(err)
	set := s.SetByID(idOf(1))
	for range 3000 {
		do(set.Op(bg, client.Sub(0, 1).Undo()))
		*n++
		do(set.Op(bg, client.Add(0, 1).Undo()))
	}
}

// C and Go programs share a counter, a semaphore and a segment.
func TestShareWithC(t *testing.T) {
	needsLibrary(t)
	peer := compile(t, "testdata/share.c")
	s := open(t)
	set := newSet(t, s, 1)
	check(t, set.SetValue(0, 1))
	g, err := s.Segment(bg, client.Private, 4096, client.Create(0o600))
	check(t, err)
	defer g.Remove(bg)
	var wait sync.WaitGroup
	for i := range 4 {
		args := []string{strconv.Itoa(set.ID()), strconv.Itoa(g.ID())}
		cmd := role("share", args...)
		if i%2 == 0 {
			cmd = withLibrary(exec.Command(peer, args...))
		}
		wait.Go(func() {
			if out, err := cmd.Output(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wait.Wait()
	a, err := g.Attach(bg)
	check(t, err)
	defer a.Close()
	n, err := client.View[int64](a.Bytes(), 8)
	check(t, err)
	if *n != 12000 {
		t.Fatalf("%d instead of 12000", *n)
	}
}

// A vfork child that is killed as it waits for the manager leaves its answer, and
// the library's lock, to its parent.
func TestKilledVforkChild(t *testing.T) {
	needsLibrary(t)
	program := compile(t, "testdata/stray.c")
	manager := testManager.cmd.Process
	defer func() { _ = manager.Signal(syscall.SIGCONT) }()
	for _, family := range []string{"msg", "shm"} {
		cmd := withLibrary(exec.Command(program, family, strconv.Itoa(manager.Pid)))
		cmd.Stderr = nil
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", family, err, out)
		}
	}
}

// A sender in C that ends the wait of a goroutine with too little room goes on
// to the next, which has room.
func TestTooBigForTheFirst(t *testing.T) {
	needsLibrary(t)
	send := compile(t, "testdata/send.c")
	q := newQueue(t, open(t))
	var others sync.WaitGroup
	const threads = 8 // so many calls sleep with a thread each, which those below do not
	for range threads {
		others.Go(func() {
			if _, _, err := q.Receive(bg, 2, make([]byte, 1)); err != nil {
				t.Error(err)
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	errs := make([]chan error, 3)
	for i, room := range []int{4, 4, 100} {
		errs[i] = make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(bg, 20*time.Second)
			defer cancel()
			_, _, err := q.Receive(ctx, 1, make([]byte, room))
			errs[i] <- err
		}()
		time.Sleep(100 * time.Millisecond) // in this order
	}
	check(t, withLibrary(exec.Command(send, strconv.Itoa(q.ID()), "1", "ten bytes.")).Run())
	want(t, <-errs[0], client.ErrTooBig)
	want(t, <-errs[1], client.ErrTooBig)
	check(t, <-errs[2])
	for range threads {
		check(t, q.Send(bg, 2, []byte("x")))
	}
	others.Wait()
}

// KeyOf is the C library's ftok.
func TestKeyOf(t *testing.T) {
	peer := compile(t, "testdata/ftok.c")
	for _, path := range []string{"/", "/proc/self/exe", "testdata", "/dev/null", "/dev/shm", t.TempDir()} {
		for _, project := range []int{0, 1, 'A', 255, 256, -1, 0x12345678} {
			out, err := exec.Command(peer, path, strconv.Itoa(project)).Output()
			check(t, err)
			if path == "/proc/self/exe" {
				continue // another one there
			}
			key, err := client.KeyOf(path, project)
			check(t, err)
			if got := fmt.Sprint(int32(key)); got != strings.TrimSpace(string(out)) {
				t.Errorf("%s, %d: %s instead of %s", path, project, got, out)
			}
		}
	}
	_, err := client.KeyOf("/nowhere", 1)
	want(t, err, os.ErrNotExist)
}

// compile compiles a C program.
func compile(t testing.TB, source string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	out, err := exec.Command("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, source).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

func needsLibrary(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(os.Getenv("IPCSPACE_DIR"), "lib", "libipcspace.so")); err != nil {
		t.Fatalf("%v; run make library first", err)
	}
}

// withLibrary has a C program use the space.
func withLibrary(cmd *exec.Cmd) *exec.Cmd {
	library := filepath.Join(os.Getenv("IPCSPACE_DIR"), "lib", "libipcspace.so")
	cmd.Env = append(os.Environ(), "LD_PRELOAD="+library, "IPCSPACE_REQUIRED=1")
	cmd.Stderr = os.Stderr
	return cmd
}
