package chaos_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	chaosTime   = flag.Duration("chaos.time", 15*time.Second, "how long events go on")
	chaosSeed   = flag.Uint64("chaos.seed", 0, "of the events; 0: a new one")
	chaosSpaces = flag.Int("chaos.spaces", 3, "spaces of the one manager")
	chaosEach   = flag.Int("chaos.each", 2, "processes of each role in a space")
	chaosRoles  = flag.String("chaos.roles", "", "only these, with commas")
	chaosAway   = flag.Duration("chaos.manager", 400*time.Millisecond, "mean time between two deaths of the manager; 0: it lives")
)

// patience is how long a process may take for a step of its own. Nothing that it waits for takes a
// tenth of a second; a busy machine may take long to let it run.
const patience = time.Minute

// chaos is one run.
type chaos struct {
	*ledger
	t       *testing.T
	rnd     *rand.Rand
	manager *manager
	envs    [][]string // of each space
	ids     []string   // of its objects
	out     *os.File
	alive   map[int]*running
	known   int               // lives looked at
	forked  map[int]time.Time // lives that a worker has announced
	events  map[string]int
}

// running is a process that has not ended, as far as we know.
type running struct {
	fd       int // pidfd
	child    *process
	wake     time.Time // stopped until then
	progress uint64
	since    time.Time // of this progress
}

const nice = "/usr/bin/nice"

func (c *chaos) spawn(space, role int) {
	c.t.Helper()
	n := int(atomic.AddUint64(c.count(), 1)) - 1
	if n >= maxLives {
		c.t.Fatal("too many lives")
	}
	c.life(n).role, c.life(n).space = uint32(role), uint32(space)
	program := "worker"
	if role <= roleSegment && c.rnd.IntN(2) == 0 {
		program = "goworker"
		c.events["  of them, in Go"]++
	}
	// To the manager, the crowd is not hundreds of its equals: on a node each container shares in the
	// CPUs as one.
	p, err := start(c.envs[space], c.out, nice, "-n", "10", command(program), c.path, fmt.Sprint(space), fmt.Sprint(n), fmt.Sprint(role), fmt.Sprint(c.rnd.Uint64()))
	if err != nil {
		c.t.Fatal(err)
	}
	c.meet(n, p.pid, p)
	c.events["processes started"]++
}

// meet notes a process if it is still there.
func (c *chaos) meet(n, pid int, child *process) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	if child == nil {
		// Not our child: the pid may be another's by now.
		if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); exe != command("worker") {
			_ = unix.Close(fd)
			return
		}
	}
	c.alive[n] = &running{fd: fd, child: child, since: time.Now()}
}

// look finds children of workers, and those that ended.
func (c *chaos) look() {
	for ; c.known < int(atomic.LoadUint64(c.count())); c.known++ {
		if c.alive[c.known] == nil {
			c.forked[c.known] = time.Now()
		}
	}
	for n, seen := range c.forked {
		if pid := atomic.LoadUint32(&c.life(n).pid); pid != 0 {
			c.meet(n, int(pid), nil)
			c.events["processes forked"]++
			delete(c.forked, n)
		} else if time.Since(seen) > 10*time.Second {
			delete(c.forked, n) // its parent was killed before
		}
	}
	for n, r := range c.alive {
		fds := []unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}}
		if ready, err := unix.Poll(fds, 0); err != nil || ready == 0 {
			continue
		}
		l := c.life(n)
		if r.child != nil {
			<-r.child.done
			if s := r.child.status; s != 0 && !(s.Signaled() && s.Signal() == syscall.SIGKILL && l.killed != 0) {
				c.t.Errorf("life %d (%s) ended with status %#x", n, roleNames[l.role], s)
			}
			if atomic.LoadUint32(c.stop()) == 0 {
				defer c.spawn(int(l.space), int(l.role))
			}
		}
		_ = unix.Close(r.fd)
		delete(c.alive, n)
	}
}

func (c *chaos) any() (int, *running) {
	k := c.rnd.IntN(max(1, len(c.alive)))
	for n, r := range c.alive {
		if k == 0 {
			return n, r
		}
		k--
	}
	return -1, nil
}

func (c *chaos) signal(n int, r *running, sig unix.Signal) bool {
	if sig == unix.SIGTERM && atomic.LoadUint32(&c.life(n).pid) == 0 {
		return false // it has no handler yet
	}
	return unix.PidfdSendSignal(r.fd, sig, nil, 0) == nil
}

func (c *chaos) event() {
	n, r := c.any()
	if r == nil {
		return
	}
	switch k := c.rnd.IntN(10); {
	case k < 6:
		atomic.StoreUint32(&c.life(n).killed, 1)
		if c.signal(n, r, unix.SIGKILL) {
			c.events["SIGKILL of a process"]++
			c.events["  "+roleNames[c.life(n).role]]++
		}
	case k < 9:
		if c.signal(n, r, unix.SIGSTOP) {
			c.events["SIGSTOP of a process"]++
			atomic.StoreUint32(&c.life(n).slept, 1)
			r.wake = time.Now().Add(time.Duration(1+c.rnd.IntN(60)) * time.Millisecond)
		}
	default:
		if c.signal(n, r, unix.SIGTERM) {
			c.events["signal with a handler"]++
		}
	}
}

func (c *chaos) wake(all bool) {
	now := time.Now()
	for n, r := range c.alive {
		if r.wake.IsZero() || !all && now.Before(r.wake) {
			continue
		}
		_ = c.signal(n, r, unix.SIGCONT)
		r.wake, r.since = time.Time{}, now
		atomic.StoreUint32(&c.life(n).slept, 0)
	}
}

// stuck finds processes that go on no more.
func (c *chaos) stuck(longest time.Duration) bool {
	found := false
	for n, r := range c.alive {
		l := c.life(n)
		if p := atomic.LoadUint64(&l.progress); p != r.progress || r.progress == 0 && l.role == roleChurn && r.child == nil {
			r.progress, r.since = p, time.Now()
		}
		if time.Since(r.since) > longest {
			c.t.Errorf("life %d (%s, space %d, pid %d, progress %d, receiving %d, killed %d) is stuck\n%s", n, roleNames[l.role], l.space, l.pid,
				l.progress, l.receiving, l.killed, where(int(l.pid)))
			found = true
		}
	}
	return found
}

func where(pid int) string {
	var text strings.Builder
	for _, name := range []string{"wchan", "syscall", "stack", "status"} {
		content, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		if name == "status" {
			content = content[:min(len(content), 120)]
		}
		fmt.Fprintf(&text, "%s: %s\n", name, content)
	}
	return text.String()
}

// TestChaos has many processes at work on all three families while they and
// the manager are killed, stopped and interrupted.
func TestChaos(t *testing.T) {
	c := newChaos(t, "ipcspace-manager")
	c.populate(*chaosEach)
	c.storm()
	c.finish()
	c.t.Logf("survived in %v:\n%s", *chaosTime, c.report())
}

// newChaos makes the spaces and what is in them.
func newChaos(t *testing.T, manager string) *chaos {
	t.Helper()
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d", seed)
	c := &chaos{ledger: newLedger(t), t: t, rnd: rand.New(rand.NewPCG(seed, 1)), alive: map[int]*running{}, forked: map[int]time.Time{}, events: map[string]int{}}
	c.manager = newManagerOf(t, manager)
	var err error
	if c.out, err = os.Create(filepath.Join(scratch, "workers.log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.out.Close() })
	for i := range *chaosSpaces {
		c.envs = append(c.envs, c.manager.space(t, fmt.Sprintf("chaos-%d", i), command("libipcspace.so")))
		text, err := c.run(i, "begin")
		if err != nil {
			t.Fatal(err)
		}
		c.ids = append(c.ids, line(text, "ids"))
	}
	return c
}

// populate starts so many processes of each role in each space.
func (c *chaos) populate(each int) {
	c.t.Helper()
	for i := range *chaosSpaces {
		for role, name := range roleNames {
			if *chaosRoles != "" && !slices.Contains(strings.Split(*chaosRoles, ","), name) {
				continue
			}
			for range each {
				c.spawn(i, role)
			}
		}
	}
}

// finish ends all and looks at what is left.
func (c *chaos) finish() {
	c.t.Helper()
	c.calm()
	for i := range *chaosSpaces {
		c.check(i, c.ids[i])
	}
	if c.t.Failed() {
		text, _ := os.ReadFile(c.out.Name())
		c.t.Logf("the workers' log:\n%s", text[:min(len(text), 6000)])
	}
}

// run has a worker of a space that sets things up or looks at them.
func (c *chaos) run(space int, what string) (string, error) {
	n := atomic.AddUint64(c.count(), 1) - 1
	return finish(c.envs[space], command("worker"), c.path, fmt.Sprint(space), fmt.Sprint(n), what, "1")
}

// storm is the time of events.
func (c *chaos) storm() {
	began := time.Now()
	nextDeath := began.Add(*chaosAway)
	checked := began
	for time.Since(began) < *chaosTime && atomic.LoadUint32(c.failures()) == 0 && !c.t.Failed() {
		time.Sleep(time.Duration(c.rnd.IntN(4000)) * time.Microsecond)
		c.wake(false)
		c.look()
		if c.known > 0 { // all are met
			c.event()
		}
		if time.Since(checked) > time.Second {
			checked = time.Now()
			if c.stuck(patience) {
				break
			}
		}
		if *chaosAway > 0 && time.Now().After(nextDeath) {
			if !c.manager.alive() {
				c.t.Errorf("the manager ended by itself: status %#x", c.manager.process.status)
				break
			}
			c.manager.kill()
			c.events["SIGKILL of the manager"]++
			// It may be away for a while.
			for range c.rnd.IntN(20) {
				time.Sleep(2 * time.Millisecond)
				c.look()
				c.event()
				c.wake(false)
			}
			c.manager.start(c.t)
			nextDeath = time.Now().Add(time.Duration(c.rnd.Int64N(int64(2 * *chaosAway))))
		}
	}
}

// calm ends all workers: each comes to the end of its round.
func (c *chaos) calm() {
	atomic.StoreUint32(c.stop(), 1)
	deadline := time.Now().Add(patience)
	for len(c.alive) > 0 && time.Now().Before(deadline) {
		c.wake(true)
		for n, r := range c.alive {
			_ = c.signal(n, r, unix.SIGTERM)
		}
		time.Sleep(20 * time.Millisecond)
		c.look()
	}
	c.stuck(0)
	for n, r := range c.alive {
		atomic.StoreUint32(&c.life(n).killed, 1)
		_ = c.signal(n, r, unix.SIGKILL)
	}
	for range 1000 {
		if c.look(); len(c.alive) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
}
