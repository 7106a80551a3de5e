package manager

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

// A call that hangs is given up soon; one that may wait for another thread of the manager, which has no
// CPU, is waited for, but not for ever.
func TestJamPatience(t *testing.T) {
	var j jams
	hang := make(chan struct{})
	defer close(hang)
	try := func() time.Duration {
		t.Helper()
		begun := time.Now()
		err := j.try(func() error { <-hang; return nil })
		if !errors.Is(err, errJammed) {
			t.Errorf("a call that hangs: %v", err)
		}
		return time.Since(begun)
	}
	quiet := try()
	var stop atomic.Bool
	defer stop.Store(true)
	go func() {
		for !stop.Load() { // it runs all the time
		}
	}()
	busy := try()
	t.Logf("given up after %v, beside a thread that runs after %v", quiet, busy)
	if quiet < jamPatience || busy < 3*jamPatience {
		t.Error("given up too soon")
	}
}
