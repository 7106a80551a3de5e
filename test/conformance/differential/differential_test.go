package differential

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var searchTime = flag.Duration("differential.for", time.Minute, "how long to search for divergences")

const (
	// A process that sleeps for so long is taken to be blocked.
	shortSettle = 3 * time.Millisecond
	// The same when a divergence is to be confirmed: then nobody was only slow.
	longSettle = 60 * time.Millisecond
	// Between the two, for the many programs that shrinking tries.
	shrinkSettle = 10 * time.Millisecond
	// Races that the kernel itself decides either way: so often it is asked.
	kernelRuns = 6
	// How many programs make one search, from one seed.
	programsPerSeed = "50"
)

// TestDifferential searches for as long as -differential.for says.
func TestDifferential(t *testing.T) {
	needs(t)
	binary := compile(t)
	search(t, onKernel(t, binary), inSpace(t, binary, ""), *searchTime, func(r *rapid.T) []program {
		return []program{programs().Draw(r, "program")}
	})
}

// search plays what draw has, for some time.
func search(t *testing.T, kernel, space *stage, howLong time.Duration, draw func(r *rapid.T) []program) {
	t.Helper()
	set(t, "rapid.nofailfile", "true")
	set(t, "rapid.checks", programsPerSeed)
	set(t, "rapid.shrinktime", "0s") // smallest
	played := 0
	var found *divergence
	for end := time.Now().Add(howLong); time.Now().Before(end) && !t.Failed(); {
		rapid.Check(t, func(r *rapid.T) {
			for _, p := range draw(r) {
				if found == nil && time.Now().Before(end) {
					played++
					if d := compare(kernel, space, p); d != nil {
						found = smallest(kernel, space, d)
					}
				}
			}
			if found != nil { // rapid asks a second time
				r.Fatalf("\n%s", found)
			}
		})
	}
	t.Logf("%d programs", played)
	for _, d := range unconfirmed {
		t.Logf("once, and not again: %s", d)
	}
	unconfirmed = nil
}

// needs says what both stages need.
func needs(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for an IPC namespace of its own, and to be other users")
	}
	if _, err := os.Stat(commandPath()); err != nil {
		t.Fatalf("run make build first: %v", err)
	}
}

func set(t *testing.T, name, value string) {
	t.Helper()
	if err := flag.Set(name, value); err != nil {
		t.Fatal(err)
	}
}

// divergence is a program that is not the same on both.
type divergence struct {
	program       program
	kernel, space played
}

func (d *divergence) String() string {
	return fmt.Sprintf("program:\n%s\nkernel (-), space (+):\n%s%s", d.program,
		diff(d.kernel.transcript, d.space.transcript), d.space.trouble)
}

// compare plays p on both stages. nil means that no process could tell them apart.
func compare(kernel, space *stage, p program) *divergence {
	inSpace := make(chan played, 1)
	go func() { inSpace <- play(space, p, shortSettle) }()
	first := &divergence{program: p, kernel: play(kernel, p, shortSettle)}
	if first.space = <-inSpace; first.space == first.kernel {
		return nil
	}
	d := confirm(kernel, space, p, longSettle)
	if d == nil && (first.space.stuck() || first.kernel.stuck()) {
		unconfirmed = append(unconfirmed, first)
	}
	return d
}

// unconfirmed are programs in which somebody got stuck, but only once.
var unconfirmed []*divergence

func (p played) stuck() bool {
	return p.trouble != "" || strings.Contains(p.transcript, "neither done nor asleep")
}

// confirm plays p on one stage after the other, with time for everybody to come to rest.
func confirm(kernel, space *stage, p program, settle time.Duration) *divergence {
	d := &divergence{program: p, space: play(space, p, settle)}
	for range kernelRuns {
		d.kernel = play(kernel, p, settle)
		if d.kernel == d.space {
			return nil
		}
	}
	return d
}

// smallest leaves out one step after the other, as long as a divergence remains. (It does here what
// rapid would do by itself, but knows that the steps after the first difference do not matter.)
func smallest(kernel, space *stage, d *divergence) *divergence {
	for again := true; again; {
		again = false
		for i := len(d.program) - 1; i >= 0; i-- {
			if i >= len(d.program) {
				continue
			}
			shorter := slices.Delete(slices.Clone(d.program), i, i+1)
			if s := confirm(kernel, space, shorter, shrinkSettle); s != nil {
				d, again = s, true
				d.program = d.program[:min(len(d.program), d.stepsToDifference())]
			}
		}
	}
	if s := confirm(kernel, space, d.program, longSettle); s != nil {
		return s
	}
	return d
}

// stepsToDifference counts the steps up to the one after which the transcripts differ.
func (d *divergence) stepsToDifference() int {
	steps := 0
	g := strings.Split(d.space.transcript, "\n")
	for i, line := range strings.Split(d.kernel.transcript, "\n") {
		if !strings.HasPrefix(line, "  ") {
			steps++
		}
		if i >= len(g) || g[i] != line {
			break
		}
	}
	return steps
}

type played struct{ transcript, trouble string }

func play(s *stage, p program, settle time.Duration) played {
	transcript, err := s.play(p, settle)
	if err != nil {
		return played{transcript, err.Error()}
	}
	return played{transcript: transcript}
}

// diff shows the transcripts up to the first step in which they differ.
func diff(want, got string) string {
	var b strings.Builder
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	i := 0
	for ; i < len(w) && i < len(g) && w[i] == g[i]; i++ {
		fmt.Fprintln(&b, " ", w[i])
	}
	for _, rest := range []struct {
		sign  string
		lines []string
	}{{"-", w[i:]}, {"+", g[i:]}} {
		for n, line := range rest.lines {
			if n > 0 && !strings.HasPrefix(line, "  ") {
				break // the next step
			}
			fmt.Fprintln(&b, rest.sign, line)
		}
	}
	return b.String()
}
