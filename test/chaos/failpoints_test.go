package chaos_test

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
)

var (
	failTable = flag.Bool("failpoints.table", false, "print each case")
	failOnly  = flag.String("failpoints.only", "", "one operation of testdata/failpoints")
)

// TestFailPoints kills, stops, siglongjmps out of and calls from a handler at each step of each
// operation: others go on, nothing is lost, doubled or half seen, and nothing is left over.
func TestFailPoints(t *testing.T) {
	m := newManager(t)
	env := m.space(t, "failpoints", command("libipcspace-fail.so"), "--limit", "msgmax=131072,msgmnb=262144")
	argv := []string{command("failpoints")}
	if *failOnly != "" {
		argv = append(argv, *failOnly)
	}
	text, err := finish(env, argv...)
	if err != nil {
		t.Error(err)
	}
	type row struct{ operation, action string }
	type result struct {
		cases, failed int
		worst         float64
		points        map[string]bool
	}
	results := map[row]*result{}
	var order []row
	points := map[string]bool{}
	for line := range strings.Lines(text) {
		// Columns of testdata/failpoints.
		if len(line) < 81 || !strings.Contains(line, " ms  ") {
			if strings.HasPrefix(line, "FAILED") {
				t.Log(strings.TrimSpace(line))
			}
			continue
		}
		key := row{strings.TrimSpace(line[:26]), strings.TrimSpace(line[27:35])}
		point, verdict := strings.TrimSpace(line[40:68]), strings.TrimSpace(line[strings.Index(line, " ms  ")+5:])
		var worst float64
		_, _ = fmt.Sscan(line[69:], &worst)
		r := results[key]
		if r == nil {
			r = &result{points: map[string]bool{}}
			results[key] = r
			order = append(order, key)
		}
		r.cases++
		r.worst = max(r.worst, worst)
		r.points[point], points[point] = true, true
		if verdict != "ok" {
			r.failed++
			t.Error(strings.TrimSpace(line))
		}
	}
	if *failOnly == "" && len(points) < 40 {
		t.Errorf("only %d points in %d operations and actions", len(points), len(order))
	}
	if *failTable {
		t.Logf("operation, action, pass, point, longest call of others, result:\n%s", text)
	}
	var table strings.Builder
	fmt.Fprintf(&table, "%-26s %-8s %6s %6s %7s %s\n", "operation", "action", "cases", "points", "failed", "longest call of others")
	total := 0
	for _, key := range order {
		r := results[key]
		total += r.cases
		fmt.Fprintf(&table, "%-26s %-8s %6d %6d %7d %6.1f ms\n", key.operation, key.action, r.cases, len(r.points), r.failed, r.worst)
	}
	names := make([]string, 0, len(points))
	for name := range points {
		names = append(names, name)
	}
	slices.Sort(names)
	t.Logf("%d cases at %d points (%s)\n%s", total, len(points), strings.Join(names, "; "), table.String())
	// A part of the objects is still there: nothing of the dead is in them.
	checked, err := m.verifySoon("failpoints")
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d objects verified", checked)
}
