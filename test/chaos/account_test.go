package chaos_test

import (
	"fmt"
	"strings"
	"time"
)

// line is what a worker says behind this name.
func line(text, name string) string {
	for l := range strings.Lines(text) {
		if rest, found := strings.CutPrefix(l, name+" "); found {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// check compares what is left in a space with what its processes said in the ledger.
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
