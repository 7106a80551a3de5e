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
	"unsafe"

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

// Offsets and sizes of testdata/worker/ledger.h.
const (
	maxLives     = 65536
	messages     = 2048
	sections     = 3
	lifeSize     = 128
	livesOff     = 4096
	receivedOff  = livesOff + maxLives*lifeSize
	ledgerSize   = receivedOff + maxLives*messages/8
	roleUndo     = 0
	roleReceiver = 4
	roleSegment  = 5 // and those before it, Go programs have too
	roleChurn    = 6
	undoStart    = 10
)

// patience is how long a process may take for a step of its own. Nothing that it waits for takes a
// tenth of a second; a busy machine may take long to let it run.
const patience = time.Minute

var roleNames = []string{"undo", "lock", "count", "sender", "receiver", "segment", "churn", "signals"}

// life is testdata/worker/ledger.h's.
type life struct {
	pid, role, space, killed, ended, slept uint32
	progress, sentBegun, sentDone          uint64
	receiving                              uint64
	upBegun, upDone, downBegun, downDone   uint64
	sectionBegun                           [sections]uint64
	sectionDone, _                         uint64
}

// ledger is what the processes say of themselves.
type ledger struct {
	path string
	mem  []byte
}

func newLedger(t *testing.T) *ledger {
	t.Helper()
	if unsafe.Sizeof(life{}) != lifeSize {
		t.Fatal("the ledger's layout")
	}
	path := filepath.Join(scratch, "ledger")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(ledgerSize); err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(int(file.Fd()), 0, ledgerSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	return &ledger{path, mem}
}

func (l *ledger) count() *uint64    { return (*uint64)(unsafe.Pointer(&l.mem[0])) }
func (l *ledger) stop() *uint32     { return (*uint32)(unsafe.Pointer(&l.mem[8])) }
func (l *ledger) failures() *uint32 { return (*uint32)(unsafe.Pointer(&l.mem[12])) }
func (l *ledger) life(i int) *life {
	return (*life)(unsafe.Pointer(&l.mem[livesOff+i*lifeSize]))
}

func (l *ledger) received(i int, sequence uint64) bool {
	return l.mem[receivedOff+i*messages/8+int(sequence/8)]>>(sequence%8)&1 != 0
}

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
	p, err := start(c.envs[space], c.out, command(program), c.path, fmt.Sprint(space), fmt.Sprint(n), fmt.Sprint(role), fmt.Sprint(c.rnd.Uint64()))
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

func line(text, name string) string {
	for l := range strings.Lines(text) {
		if rest, found := strings.CutPrefix(l, name+" "); found {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

func (c *chaos) check(space int, ids string) {
	text, err := c.run(space, "end")
	if err != nil {
		c.t.Errorf("space %d: %v", space, err)
		ps, _ := finish(nil, "/bin/ps", "axo", "pid,ppid,stat,wchan:20,args")
		c.t.Log(ps)
		return
	}
	want := func(name, value string) {
		if got := line(text, name); got != value {
			c.t.Errorf("space %d: %s is %q, want %q", space, name, got, value)
		}
	}
	// Whom a worker forked nobody waits for, and on a busy machine it takes a
	// while until a killed process gets to its end.
	settled := func() bool {
		return line(text, "nattch") == "0 0" && line(text, "undo") == "10 10 10 10" && line(text, "lock") == "0 1 1 0"
	}
	for begun := time.Now(); !settled() && time.Since(begun) < 10*time.Second; time.Sleep(100 * time.Millisecond) {
		if text, err = c.run(space, "end"); err != nil {
			c.t.Errorf("space %d: %v", space, err)
			return
		}
	}
	want("ids", ids)
	want("nattch", "0 0")
	want("undo", "10 10 10 10")
	want("lock", "0 1 1 0")
	var upBegun, upDone, downBegun, downDone, done, lost, allowed, took, sent uint64
	var begun [sections]uint64
	for i := range int(*c.count()) {
		l := c.life(i)
		if l.space != uint32(space) {
			continue
		}
		upBegun, upDone = upBegun+l.upBegun, upDone+l.upDone
		downBegun, downDone = downBegun+l.downBegun, downDone+l.downDone
		done += l.sectionDone
		for k := range begun {
			begun[k] += l.sectionBegun[k]
		}
		if l.role == roleReceiver {
			allowed += l.receiving
		}
		sent += l.sentDone
		for s := range l.sentBegun {
			if c.received(i, s) {
				took++
			} else if s < l.sentDone {
				lost++
			}
		}
	}
	c.events["messages sent"] += int(sent)
	c.events["messages taken by those killed"] += int(lost)
	c.events["critical sections"] += int(done)
	c.events["P and V without undo"] += int(upDone + downDone)
	if lost > allowed {
		c.t.Errorf("space %d: %d messages of %d are lost, %d killed processes may have taken one", space, lost, sent, allowed)
	}
	var a [8]uint64
	sum := func(name string, n int) (total uint64) {
		fields := strings.Fields(line(text, name))
		for i := 0; i < n && i < len(fields); i++ {
			_, _ = fmt.Sscan(fields[i], &a[i])
			total += a[i]
		}
		return total
	}
	// A call of a process killed in it was made or not; at most begun more than done.
	if units := sum("count", 3); units+downBegun < upDone || units+downDone > upBegun {
		c.t.Errorf("space %d: %d units, %d…%d V, %d…%d P", space, units, upDone, upBegun, downDone, downBegun)
	}
	if total := sum("sections", sections); total < done || total > begun[0]+begun[1]+begun[2] {
		c.t.Errorf("space %d: %d critical sections, %d done of %d", space, total, done, begun[0]+begun[1]+begun[2])
	}
	// The manager hears of the last process's end a moment later than we do.
	for range 100 {
		if _, err = c.manager.verify(fmt.Sprintf("chaos-%d", space)); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	c.t.Error(err)
}

func (c *chaos) report() string {
	var text strings.Builder
	for _, name := range []string{"SIGKILL of a process", "  undo", "  lock", "  count", "  sender", "  receiver", "  segment", "  churn", "  signals",
		"SIGKILL of the manager", "SIGSTOP of a process", "signal with a handler", "processes started", "  of them, in Go", "processes forked",
		"messages sent", "messages taken by those killed", "critical sections", "P and V without undo"} {
		fmt.Fprintf(&text, "%9d %s\n", c.events[name], name)
	}
	return text.String()
}
