package client_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client"
)

func TestSet(t *testing.T) {
	s := open(t)
	set := newSet(t, s, 3)
	check(t, set.Op(bg, client.Add(0, 2)))
	check(t, set.Op(bg, client.Sub(0, 1), client.Add(1, 5)))
	values, err := set.Values()
	check(t, err)
	if values[0] != 1 || values[1] != 5 || values[2] != 0 {
		t.Fatal(values)
	}
	want(t, set.Op(bg, client.Sub(0, 2).NoWait()), client.ErrWouldBlock)
	want(t, set.Op(bg, client.Sub(0, 2).NoWait()), unix.EAGAIN)
	want(t, set.Op(bg, client.Add(3, 1)), unix.EFBIG)
	want(t, set.Op(bg), client.ErrInvalid)
	check(t, set.SetValue(0, 32767))
	want(t, set.Op(bg, client.Add(0, 1)), client.ErrRange)
	want(t, set.SetValue(0, 32768), client.ErrRange)
	check(t, set.SetValues([]uint16{1, 2, 3}))
	v, err := set.Value(2)
	check(t, err)
	if v != 3 {
		t.Fatal(v)
	}
	pid, err := set.PID(2)
	check(t, err)
	if pid != s.PID() {
		t.Fatalf("pid %d, not %d", pid, s.PID())
	}
	st, err := set.Stat(bg)
	check(t, err)
	if st.Semaphores != 3 || st.Mode&0o777 != 0o600 || time.Since(st.Operated) > time.Minute {
		t.Fatalf("%+v", st)
	}
	check(t, set.Remove(bg))
	want(t, set.Op(bg, client.Add(0, 1)), client.ErrInvalid)
}

// A call that waits ends with its context, leaving no waiter.
func TestSetContext(t *testing.T) {
	s := open(t)
	set := newSet(t, s, 1)
	ctx, cancel := context.WithTimeout(bg, 30*time.Millisecond)
	defer cancel()
	err := set.Op(ctx, client.Sub(0, 1))
	want(t, err, context.DeadlineExceeded)
	want(t, err, unix.EINTR)
	ctx, cancel = context.WithCancel(bg)
	done := make(chan error)
	go func() { done <- set.Op(ctx, client.Sub(0, 1)) }()
	for n := 0; n == 0; {
		n, err = set.WaitingForMore(0)
		check(t, err)
	}
	cancel()
	want(t, <-done, context.Canceled)
	n, err := set.WaitingForMore(0)
	check(t, err)
	if n != 0 {
		t.Fatalf("%d waiters are left", n)
	}
	check(t, set.Op(bg, client.Add(0, 1)))
	if v, _ := set.Value(0); v != 1 {
		t.Fatal(v)
	}
}

// Row 113: more operations than SEMOPM.
func TestTooManyOperations(t *testing.T) {
	s := open(t)
	set := newSet(t, s, 1)
	ops := make([]client.Op, s.Limits().SemOpm+1)
	for i := range ops {
		ops[i] = client.Add(0, 1)
	}
	err := set.Op(bg, ops...)
	want(t, err, client.ErrTooBig)
	want(t, err, unix.E2BIG)
	check(t, set.Op(bg, ops[1:]...))
	if v, _ := set.Value(0); v != len(ops)-1 {
		t.Fatal(v)
	}
}

// Calls whose context ends while they wait at a queue leave no waiter: what
// comes later is not handed to them, and does not take their places.
func TestQueueContext(t *testing.T) {
	s := open(t)
	q := newQueue(t, s)
	buf := make([]byte, 8192)
	var calls sync.WaitGroup
	cancelled := func(err error) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v instead of %v", err, context.Canceled)
		}
	}
	for range 20 {
		ctx, cancel := context.WithCancel(bg)
		calls.Go(func() {
			_, _, err := q.Receive(ctx, 0, make([]byte, 10))
			cancelled(err)
		})
		time.AfterFunc(20*time.Millisecond, cancel)
	}
	calls.Wait()
	check(t, q.Send(bg, 1, []byte("kept")))
	if n, _, err := q.Receive(bg, 0, buf, client.NoWait); err != nil || string(buf[:n]) != "kept" {
		t.Fatal(n, err)
	}
	for range 2 {
		check(t, q.Send(bg, 1, buf))
	}
	for range 20 {
		ctx, cancel := context.WithCancel(bg)
		calls.Go(func() { cancelled(q.Send(ctx, 2, []byte("never"))) })
		time.AfterFunc(20*time.Millisecond, cancel)
	}
	calls.Wait()
	for range 2 {
		if _, typ, err := q.Receive(bg, 0, buf, client.NoWait); err != nil || typ != 1 {
			t.Fatal(typ, err)
		}
	}
	_, _, err := q.Receive(bg, 0, buf, client.NoWait)
	want(t, err, client.ErrNoMessage)
}

func TestQueue(t *testing.T) {
	s := open(t)
	q := newQueue(t, s)
	buf := make([]byte, 100)
	_, _, err := q.Receive(bg, 0, buf, client.NoWait)
	want(t, err, client.ErrNoMessage)
	want(t, err, unix.ENOMSG)
	check(t, q.Send(bg, 5, []byte("five")))
	check(t, q.Send(bg, 3, []byte("three")))
	_, _, err = q.Receive(bg, 3, buf[:2], client.NoWait)
	want(t, err, client.ErrTooBig)
	n, typ, err := q.Receive(bg, -4, buf)
	check(t, err)
	if typ != 3 || string(buf[:n]) != "three" {
		t.Fatal(typ, string(buf[:n]))
	}
	n, typ, err = q.Receive(bg, 0, buf, client.Copy, client.NoWait)
	check(t, err)
	if typ != 5 || string(buf[:n]) != "five" {
		t.Fatal(typ, string(buf[:n]))
	}
	n, typ, err = q.Receive(bg, 3, buf[:2], client.Except, client.Truncate)
	check(t, err)
	if typ != 5 || string(buf[:n]) != "fi" {
		t.Fatal(typ, string(buf[:n]))
	}
	want(t, q.Send(bg, 0, nil), client.ErrInvalid)
	want(t, q.Send(bg, 1, make([]byte, 8193)), client.ErrInvalid)
	check(t, q.Send(bg, 1, make([]byte, 8192)))
	check(t, q.Send(bg, 1, make([]byte, 8192)))
	want(t, q.Send(bg, 1, []byte("x"), client.NoWait), client.ErrWouldBlock)
	st, err := q.Stat(bg)
	check(t, err)
	if st.Messages != 2 || st.Bytes != 16384 || st.Sender != s.PID() || st.Receiver != s.PID() {
		t.Fatalf("%+v", st)
	}
	ctx, cancel := context.WithTimeout(bg, 30*time.Millisecond)
	defer cancel()
	want(t, q.Send(ctx, 1, []byte("x")), context.DeadlineExceeded)
	done := make(chan error)
	go func() {
		_, _, err := q.Receive(bg, 77, buf)
		done <- err
	}()
	time.Sleep(20 * time.Millisecond)
	check(t, q.Remove(bg))
	want(t, <-done, client.ErrRemoved)
	_, _, err = q.Receive(bg, 0, buf)
	want(t, err, client.ErrInvalid)
}

func TestSegment(t *testing.T) {
	s := open(t)
	g, err := s.Segment(bg, client.Private, 10000, client.Create(0o600))
	check(t, err)
	a, err := g.Attach(bg)
	check(t, err)
	b, err := g.Attach(bg, client.ReadOnly())
	check(t, err)
	copy(a.Bytes(), "hello")
	if len(b.Bytes()) != 10000 || string(b.Bytes()[:5]) != "hello" {
		t.Fatal(len(b.Bytes()))
	}
	st, err := g.Stat(bg)
	check(t, err)
	if st.Attaches != 2 || st.Size != 10000 || st.Creator != s.PID() || st.Last != s.PID() {
		t.Fatalf("%+v", st)
	}
	check(t, g.Remove(bg))
	check(t, a.Close())
	st, err = g.Stat(bg)
	check(t, err)
	if st.Attaches != 1 || !st.Removed {
		t.Fatalf("%+v", st)
	}
	check(t, b.Close())
	check(t, b.Close())
	_, err = g.Stat(bg)
	want(t, err, client.ErrInvalid)
}

func TestGet(t *testing.T) {
	s := open(t)
	const key = client.Key(0x1234)
	_, err := s.Queue(bg, key)
	want(t, err, client.ErrNotExist)
	want(t, err, fs.ErrNotExist)
	q, err := s.Queue(bg, key, client.CreateNew(0o600))
	check(t, err)
	defer q.Remove(bg)
	_, err = s.Queue(bg, key, client.CreateNew(0o600))
	want(t, err, client.ErrExist)
	again, err := s.Queue(bg, key)
	check(t, err)
	if again.ID() != q.ID() {
		t.Fatal(again.ID(), q.ID())
	}
	check(t, s.QueueByID(q.ID()).Send(bg, 1, nil))
	_, err = s.Set(bg, key, 1)
	want(t, err, client.ErrNotExist)
}

// manyGoroutines is how many wait at once.
var manyGoroutines = 5000

// Thousands of goroutines wait for messages, with a few threads.
func TestThousandsReceive(t *testing.T) {
	s := open(t)
	q := newQueue(t, s)
	n := manyGoroutines
	got := make([]atomic.Int32, n+1)
	var done sync.WaitGroup
	for i := 1; i <= n; i++ {
		done.Go(func() {
			buf := make([]byte, 8)
			_, typ, err := q.Receive(bg, int64(i), buf)
			if err != nil || typ != int64(i) {
				t.Errorf("%d: type %d, %v", i, typ, err)
			}
			got[i].Add(1)
		})
	}
	for deadline := time.Now().Add(time.Minute); runtime.NumGoroutine() < n && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond)
	if n := threads(t); n > 60 {
		t.Errorf("%d threads", n)
	}
	for i := n; i > 0; i-- {
		check(t, q.Send(bg, int64(i), []byte("x")))
	}
	done.Wait()
	for i := 1; i <= n; i++ {
		if k := got[i].Load(); k != 1 {
			t.Fatalf("message %d was received %d times", i, k)
		}
	}
}

// threads counts this process's.
func threads(t *testing.T) int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	check(t, err)
	return len(tasks)
}
