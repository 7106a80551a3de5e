package chaos_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	crowd     = 9               // processes of each role in a space: hundreds in all
	stepWaits = 4 * time.Second // for the load to bring the manager to a step
	roleCount = 2               // makes direct calls alone
)

// managerSteps are the names of all steps between which the manager's changes can be cut, but for
// those of making and removing a space (TestKilledInSpace in manager).
func managerSteps(t *testing.T) []string {
	t.Helper()
	sources, _ := filepath.Glob("../../manager/*.go")
	var steps []string
	for _, path := range sources {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\bstep\("([^"]+)"\)`).FindAllStringSubmatch(string(text), -1) {
			if name := m[1]; !strings.HasPrefix(name, "space: ") && !strings.HasPrefix(name, "destroy: ") {
				steps = append(steps, name)
			}
		}
	}
	slices.Sort(steps)
	return slices.Compact(steps)
}

// TestManagerSteps kills the manager at each step of its changes while hundreds of processes are at
// work, are killed and stopped: direct calls go on without it, others wait and succeed, and nothing
// is lost.
func TestManagerSteps(t *testing.T) {
	c := newChaos(t, "ipcspace-manager-fail")
	c.populate(crowd)
	var table strings.Builder
	deaths := 0
	for _, step := range managerSteps(t) {
		pass := 1 + c.rnd.IntN(2)
		if strings.HasPrefix(step, "recover: ") {
			pass = 1
		}
		c.manager.kill()
		c.manager.startWith(t, []string{fmt.Sprintf("IPCSPACE_MANAGER_DIES_AT=%s@%d", step, pass)})
		began := time.Now()
		for c.manager.alive() && time.Since(began) < stepWaits && !t.Failed() {
			c.moment()
		}
		fate := fmt.Sprintf("killed after %v", time.Since(began).Round(time.Millisecond))
		if c.manager.alive() {
			fate = "not come to"
			c.manager.kill()
		} else if s := c.manager.process.status; !s.Signaled() || s.Signal() != syscall.SIGKILL {
			t.Errorf("%s: the manager ended by itself: status %#x", step, s)
		} else {
			deaths++
		}
		waits := c.direct()
		fmt.Fprintf(&table, "%-28s %-20s direct calls of every space within %v\n", step, fate, waits.Round(time.Millisecond))
		if t.Failed() || atomic.LoadUint32(c.failures()) != 0 {
			t.Errorf("at %q", step)
			break
		}
	}
	c.manager.kill()
	c.manager.start(t)
	busy := len(c.alive)
	c.finish()
	t.Logf("%d deaths of the manager at its steps, %d processes at work at the end:\n%s\n%s", deaths, busy, table.String(), c.report())
	if deaths < 25 { // a busy machine does not come to all of them in time
		t.Errorf("only %d deaths", deaths)
	}
}

// moment is a short time with an event.
func (c *chaos) moment() {
	time.Sleep(time.Duration(c.rnd.IntN(4000)) * time.Microsecond)
	c.wake(false)
	c.look()
	c.event()
}

// direct waits until processes of each space have made calls in its memory, while no manager is
// there. Those that have just begun wait for it: they open their objects.
func (c *chaos) direct() time.Duration {
	c.wake(true)
	before, want := map[int]uint64{}, map[uint32]bool{}
	for n := range c.alive {
		if l := c.life(n); l.role == roleCount && l.progress > 100 && atomic.LoadUint32(&l.killed) == 0 {
			before[n], want[l.space] = atomic.LoadUint64(&l.progress), true
		}
	}
	began := time.Now()
	for went := map[uint32]bool{}; len(went) < len(want); time.Sleep(time.Millisecond) {
		for n, p := range before {
			if l := c.life(n); atomic.LoadUint64(&l.progress) > p+1 {
				went[l.space] = true
			}
		}
		if time.Since(began) > 10*time.Second {
			c.t.Errorf("without a manager, direct calls go on in %d of %d spaces", len(went), len(want))
			break
		}
	}
	return time.Since(began)
}
