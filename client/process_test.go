package client_test

import (
	"bytes"
	"context"
	"errors"
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

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client"
)

// Tests with other processes: copies of this binary in a role, and C programs
// with the preloaded library.

func init() {
	roles["hold"] = hold
	roles["share"] = share
	roles["nobody"] = nobody
	roles["refused"] = func() {
		s, err := client.Open(bg)
		do(err)
		if err := s.SetByID(idOf(1)).Op(bg, client.Add(9, 1).Undo()); !errors.Is(err, unix.EFBIG) {
			do(fmt.Errorf("%w instead of EFBIG", err))
		}
	}
	roles["wait"] = func() {
		s, err := client.Open(bg)
		do(err)
		do(s.SetByID(idOf(1)).Op(bg, client.Zero(0)))
	}
	roles["make"] = makeUntilZero
	roles["opens"] = func() {
		s, err := client.Open(bg)
		do(err)
		do(s.Close())
	}
}

// idOf is the id in an argument.
func idOf(i int) int {
	n, err := strconv.Atoi(os.Args[i])
	if err != nil {
		panic(err)
	}
	return n
}

// do ends a role that fails.
func do(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// hold takes a semaphore with undo, says so, and waits for its end.
func hold() {
	s, err := client.Open(bg)
	do(err)
	do(s.SetByID(idOf(1)).Op(bg, client.Sub(0, 1).Undo()))
	a, err := s.SegmentByID(idOf(2)).Attach(bg)
	do(err)
	fmt.Println("held")
	if os.Args[3] == "exit" {
		return
	}
	defer a.Close()
	select {}
}

// An adjustment is applied, and an attach gone, when the process is: before its
// parent can know of it, however it ended.
func TestUndoAtTheEnd(t *testing.T) {
	s := open(t)
	set := newSet(t, s, 1)
	g, err := s.Segment(bg, client.Private, 4096, client.Create(0o600))
	check(t, err)
	defer g.Remove(bg)
	for round := range 40 {
		check(t, set.SetValue(0, 1))
		how := []string{"exit", "kill"}[round%2]
		cmd := role("hold", strconv.Itoa(set.ID()), strconv.Itoa(g.ID()), how)
		out, err := cmd.StdoutPipe()
		check(t, err)
		check(t, cmd.Start())
		var word string
		if _, err := fmt.Fscan(out, &word); err != nil || word != "held" {
			t.Fatalf("%q, %v", word, err)
		}
		if how == "kill" {
			if v, _ := set.Value(0); v != 0 {
				t.Fatalf("value %d while it is held", v)
			}
			_ = cmd.Process.Kill()
		}
		_ = cmd.Wait()
		if v, err := set.Value(0); v != 1 || err != nil {
			t.Fatalf("round %d, %s: value %d, %v", round, how, v, err)
		}
		st, err := g.Stat(bg)
		check(t, err)
		if st.Attaches != 0 {
			t.Fatalf("round %d, %s: %d attaches", round, how, st.Attaches)
		}
	}
}

// What has SEM_UNDO leaves a list of adjustments, also when it is refused: the
// process's end sets otime.
func TestUndoOfTheRefused(t *testing.T) {
	set := newSet(t, open(t), 1)
	check(t, role("refused", strconv.Itoa(set.ID())).Run())
	st, err := set.Stat(bg)
	check(t, err)
	if st.Operated.Unix() <= 0 {
		t.Error("the end of the process does not set otime")
	}
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

// makeUntilZero makes and removes queues while a set that it may read is not 0.
func makeUntilZero() {
	s, err := client.Open(bg)
	do(err)
	set := s.SetByID(idOf(1))
	for {
		v, err := set.Value(0)
		do(err)
		if v == 0 {
			return
		}
		q, err := s.Queue(bg, client.Private, client.Create(0o600))
		do(err)
		do(q.Remove(bg))
	}
}

// A manager that is ended, as for an upgrade, fails no call: what it has not done the next one does,
// also for those who sleep in its arms because they have only part of the rights.
func TestManagerUpgrades(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become another user")
	}
	needsLibrary(t)
	testManager.kill()
	check(t, testManager.start("lasting"))
	t.Cleanup(func() {
		testManager.end()
		check(t, testManager.start())
	})
	s := open(t)
	set, err := s.Set(bg, client.Private, 1, client.Create(0o644))
	check(t, err)
	defer set.Remove(bg)
	check(t, set.SetValue(0, 1))
	id := strconv.Itoa(set.ID())
	program := compile(t, "testdata/upgrade.c")
	var work sync.WaitGroup
	for name, cmd := range map[string]*exec.Cmd{
		"C, asleep": withLibrary(exec.Command(program, "wait", id)), "C": withLibrary(exec.Command(program, "make", id)),
		"Go, asleep": role("wait", id), "Go": role("make", id),
	} {
		cmd, output := asNobody(t, cmd), &bytes.Buffer{}
		cmd.Stdout, cmd.Stderr = output, output
		check(t, cmd.Start())
		work.Go(func() {
			if err := cmd.Wait(); err != nil {
				t.Errorf("%s: %v: %s", name, err, output)
			}
		})
	}
	for range 20 {
		time.Sleep(50 * time.Millisecond)
		testManager.end()
		check(t, testManager.start("lasting"))
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		n, err := set.WaitingForZero(0)
		check(t, err)
		if n == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("%d of 2 wait for zero", n)
			break
		}
	}
	check(t, set.SetValue(0, 0))
	work.Wait()
}

// Killing the manager disturbs nothing that takes no message, and what takes
// one goes on with the next manager.
func TestManagerRestarts(t *testing.T) {
	s := open(t)
	set, queue := newSet(t, s, 2), newQueue(t, s)
	check(t, set.Op(bg, client.Add(0, 3)))
	received := make(chan error, 1)
	go func() {
		buf := make([]byte, 10)
		_, _, err := queue.Receive(bg, 0, buf)
		received <- err
	}()
	for round := range 5 {
		testManager.kill()
		check(t, set.Op(bg, client.Sub(0, 1)))
		check(t, set.Op(bg, client.Add(0, 1), client.Add(1, 1)))
		made := make(chan error)
		go func() {
			q, err := s.Queue(bg, client.Private, client.Create(0o600))
			if err == nil {
				err = q.Remove(bg)
			}
			made <- err
		}()
		if round%2 == 0 {
			time.Sleep(20 * time.Millisecond)
		}
		check(t, testManager.start())
		check(t, <-made)
	}
	check(t, queue.Send(bg, 1, []byte("x")))
	check(t, <-received)
	if v, err := set.Value(1); v != 5 || err != nil {
		t.Fatal(v, err)
	}
}

// A call that needs the manager ends with its context while there is none.
func TestNoManager(t *testing.T) {
	s := open(t)
	testManager.kill()
	defer func() { check(t, testManager.start()) }()
	ctx, cancel := context.WithTimeout(bg, 50*time.Millisecond)
	defer cancel()
	_, err := s.Queue(ctx, client.Private, client.Create(0o600))
	want(t, err, context.DeadlineExceeded)
}

// The last Close ends what waits, and a space can be opened again: it is the
// same session, with what it holds.
func TestClose(t *testing.T) {
	s, err := client.Open(bg)
	check(t, err)
	other, err := client.Open(bg)
	check(t, err)
	set := newSet(t, s, 1)
	check(t, set.Op(bg, client.Add(0, 1).Undo()))
	g, err := s.Segment(bg, client.Private, 4096, client.Create(0o600))
	check(t, err)
	a, err := g.Attach(bg)
	check(t, err)
	check(t, g.Remove(bg))
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			err := set.Op(bg, client.Sub(0, 5))
			if !errors.Is(err, client.ErrClosed) {
				t.Error(err)
			}
		})
	}
	for n := 0; n < 20; {
		n, err = set.WaitingForMore(0)
		check(t, err)
	}
	check(t, s.Close())
	check(t, s.Close())
	check(t, set.Op(bg, client.Add(0, 1)))
	check(t, other.Close())
	wait.Wait()
	want(t, set.Op(bg, client.Add(0, 1)), client.ErrClosed)
	_, err = set.Value(0)
	want(t, err, client.ErrClosed)
	_, err = other.Queue(bg, client.Private, client.Create(0o600))
	want(t, err, client.ErrClosed)
	a.Bytes()[0] = 1 // stays
	check(t, a.Close())

	s, err = client.Open(bg)
	check(t, err)
	defer s.Close()
	v, err := set.Value(0)
	check(t, err)
	if v != 2 {
		t.Fatalf("value %d", v)
	}
	n, err := set.WaitingForMore(0)
	check(t, err)
	if n != 0 {
		t.Fatalf("%d waiters are left", n)
	}
	_, err = g.Stat(bg)
	want(t, err, client.ErrInvalid)
	check(t, set.Remove(bg))
}

// Contexts end at every moment of calls that are served meanwhile: each unit
// goes to exactly one, and nobody is left.
func TestCancelStress(t *testing.T) {
	s := open(t)
	set, queue := newSet(t, s, 1), newQueue(t, s)
	var units, messages sync.Map
	var wait sync.WaitGroup
	count := func(m *sync.Map) (n int) {
		m.Range(func(any, any) bool { n++; return true })
		return n
	}
	stop := make(chan struct{})
	for k := range 40 {
		wait.Go(func() {
			buf := make([]byte, 16)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(bg, time.Duration((k*31+i*17)%400)*time.Microsecond)
				var err error
				if k%2 == 0 {
					if err = set.Op(ctx, client.Sub(0, 1)); err == nil {
						units.Store([2]int{k, i}, true)
					}
				} else {
					if _, _, err = queue.Receive(ctx, 0, buf); err == nil {
						messages.Store([2]int{k, i}, true)
					}
				}
				cancel()
				if err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
					return
				}
			}
		})
	}
	const given = 2000
	for i := range given {
		check(t, set.Op(bg, client.Add(0, 1)))
		check(t, queue.Send(bg, 1, []byte{byte(i)}))
	}
	deadline := time.Now().Add(20 * time.Second)
	for (count(&units) < given || count(&messages) < given) && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	close(stop)
	wait.Wait()
	v, _ := set.Value(0)
	n, _ := set.WaitingForMore(0)
	st, _ := queue.Stat(bg)
	if count(&units) != given || count(&messages) != given || v != 0 || n != 0 || st.Messages != 0 {
		t.Fatalf("%d units and %d messages of %d, value %d, %d waiters, %d messages left",
			count(&units), count(&messages), given, v, n, st.Messages)
	}
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
