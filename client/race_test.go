//go:build race

package client_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/ipcspace/ipcspace/client"
)

func init() {
	manyGoroutines = 500 // the race detector makes each step dear
	roles["race"] = race
}

// What goroutines order by an object of a space is no race: the detector fails
// the test that it reports one in.
func TestOrderedByObjects(t *testing.T) {
	s := open(t)
	set, queue := newSet(t, s, 2), newQueue(t, s)
	n := 0
	for _, way := range []struct {
		name       string
		tell, wait func() error
	}{
		{"Op", func() error { return set.Op(bg, client.Add(0, 1)) }, func() error { return set.Op(bg, client.Sub(0, 1)) }},
		{"several", func() error { return set.Op(bg, client.Add(0, 1), client.Add(1, 1).Undo()) },
			func() error { return set.Op(bg, client.Sub(1, 1).Undo(), client.Sub(0, 1)) }},
		{"other handles", func() error { return s.SetByID(set.ID()).Op(bg, client.Add(0, 1)) },
			func() error { return s.SetByID(set.ID()).Op(bg, client.Sub(0, 1)) }},
		{"SetValue", func() error { return set.SetValue(0, 1) }, func() error { return set.Op(bg, client.Sub(0, 1)) }},
		{"Value", func() error { return set.SetValues([]uint16{0, 7}) }, func() error {
			for v := 0; v != 7; {
				var err error
				if v, err = set.Value(1); err != nil {
					return err
				}
			}
			return set.SetValue(1, 0)
		}},
		{"message", func() error { return queue.Send(bg, 1, nil) }, func() error {
			_, _, err := queue.Receive(bg, 0, nil)
			return err
		}},
		{"Stat", func() error { return queue.Send(bg, 1, nil) }, func() error {
			for {
				if st, err := queue.Stat(bg); err != nil || st.Messages > 0 {
					return err
				}
			}
		}},
		{"Remove", func() error { return queue.Remove(bg) }, func() error {
			for {
				if err := queue.Send(bg, 1, make([]byte, 8192)); err != nil {
					return err
				}
			}
		}},
	} {
		var other sync.WaitGroup
		started := make(chan struct{})
		other.Go(func() {
			close(started)
			if err := way.wait(); err != nil && way.name != "Remove" {
				t.Errorf("%s: %v", way.name, err)
			}
			n++
		})
		<-started
		n++
		check(t, way.tell())
		other.Wait()
	}
}

// race has two goroutines change a variable, each under a semaphore of its own.
func race() {
	s, err := client.Open(bg)
	do(err)
	n := 0
	var both, ready sync.WaitGroup
	ready.Add(2)
	for range 2 {
		set, err := s.Set(bg, client.Private, 1, client.Create(0o600))
		do(err)
		do(set.SetValue(0, 1))
		both.Go(func() {
			ready.Done()
			ready.Wait()
			for range 10_000 {
				do(set.Op(bg, client.Sub(0, 1)))
				n++
				do(set.Op(bg, client.Add(0, 1)))
			}
		})
	}
	both.Wait()
}

// What no object orders is a race as ever.
func TestRaceIsReported(t *testing.T) {
	cmd := role("race")
	cmd.Stderr = nil
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "DATA RACE") {
		t.Fatalf("%v: %s", err, out)
	}
}
