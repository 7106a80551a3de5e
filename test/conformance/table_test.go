package conformance_test

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// difference is a case that a space is known not to pass, with the reason. An empty title is every
// case that binds the row; otherwise it is the beginning of the titles meant.
type difference struct {
	row, title, reason string
}

var knownDifferences = []difference{
	{"124", "", "a futex does not return from SIGSTOP and SIGCONT"},
	{"238", "", "a futex does not return from SIGSTOP, so a stopped sleeper stays in the queue"},
	{"30", "sleepers outlive an IPC_SET that takes rights away: one", "who loses a right begins its semop again, on the set that replaces the old one"},
	{"70", "with the id for an inode", "the inode is the file's; the key stands in the name"},
	{"230", "with a descriptor limit of 0, for good", "to open an object takes a descriptor for a moment, and a hard limit of 0 allows none anywhere"},
	{"241", "", "calls made by libc's syscall() are served; a system call of the program's own passes by"},
}

func knownDifference(r result) *difference {
	for i, d := range knownDifferences {
		if r.binds(d.row) && strings.HasPrefix(r.title, d.title) {
			return &knownDifferences[i]
		}
	}
	return nil
}

type side int

const (
	onKernel side = iota
	inASpace
)

// conformanceTable collects the results of both sides, by case.
type conformanceTable struct {
	mu    sync.Mutex
	cases map[string]*[2]result
}

var table = conformanceTable{cases: map[string]*[2]result{}}

// add keeps the first result that says something: a case that was skipped for want of reachable
// limits runs again with lower ones.
func (c *conformanceTable) add(r result, s side) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sides := c.cases[r.name()]
	if sides == nil {
		sides = new([2]result)
		c.cases[r.name()] = sides
	}
	if old := sides[s].verdict; old == "" || old == skipped || r.verdict == failed {
		sides[s] = r
	}
}

// print writes a Markdown table, one line a case, in the order of the rows.
func (c *conformanceTable) print(w io.Writer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.cases) == 0 {
		return
	}
	names := make([]string, 0, len(c.cases))
	for name := range c.cases {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if d := firstRow(a) - firstRow(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	fmt.Fprintf(w, "\n| row | test | kernel | space |\n|---|---|---|---|\n")
	for _, name := range names {
		rows, title, _ := strings.Cut(name, " ")
		sides := c.cases[name]
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", strings.ReplaceAll(rows, ",", ", "), escape(title),
			mark(sides[onKernel], nil), mark(sides[inASpace], knownDifference(sides[inASpace])))
	}
}

func firstRow(name string) int {
	end := strings.IndexAny(name, ", ")
	if end < 0 {
		return 0
	}
	row, err := strconv.Atoi(name[:end])
	if err != nil {
		return 0
	}
	return row
}

func mark(r result, known *difference) string {
	switch {
	case r.verdict == passed:
		return "✓"
	case r.verdict == failed && known != nil:
		return "differs: " + escape(known.reason)
	case r.verdict == failed:
		return "**fails**: " + escape(r.detail)
	case r.verdict == skipped:
		return "skipped: " + escape(r.detail)
	}
	return "not run"
}

func escape(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
