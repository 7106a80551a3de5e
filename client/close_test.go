package client_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/ipcspace/ipcspace/client"
)

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
