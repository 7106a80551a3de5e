//go:build explore

package plane

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/ipcspace/ipcspace/client/abi"
)

// The explorer runs the data plane itself, a few calls of a few sessions, in
// every order of their steps: each access to the shared memory is one, as are
// FUTEX_WAIT and FUTEX_WAKE. One worker at a time has the baton.
//
// Where a worker runs on, nothing is decided. What else may happen at a step is
// a deviation: another worker goes on (a preemption), or the worker is killed,
// or stopped until nobody else can go on. All plans of at most so many
// deviations of each kind are run, one after the other.
//
// Who waits for another in a loop (pause) lets the others go on, in turn. Time
// passes when it is nobody's: whoever looks at the same lock a second time has
// had patience enough.

// roomy is so small that a second sleeper is left Pending.
var roomy = 20

type kind int

const (
	preempt kind = iota // another worker goes on
	kill
	stop
	pick  // at the end of a worker's way, another than the next one goes on
	kinds // how many
)

func (k kind) String() string { return []string{"preempt", "kill", "stop", "pick"}[k] }

type deviation struct {
	step int
	kind kind
	next int // the worker that goes on
}

// What a worker is up to.
type way int

const (
	runnable way = iota
	asleep
	stopped
	dead
	over
)

func (w way) String() string {
	return []string{"runnable", "asleep", "stopped", "dead", "over"}[w]
}

type worker struct {
	name    string
	session uint32
	mortal  bool // it may be killed and stopped
	run     func()
	way     way
	parked  bool    // it died asleep: its goroutine is there
	took    bool    // it has a message
	lost    bool    // it had a message when it died, or was about to
	on      *uint32 // it sleeps there
	err     error   // of its call, once it is over
	doing   string  // what it sends, or "?"
	got     []string
	sent    []string
	ops     []abi.SemOp
	baton   chan struct{}
}

// exploration is one run of a scenario by one plan.
type exploration struct {
	workers []*worker
	current *worker // nil: nothing is decided, nobody counts
	plan    []deviation
	steps   int
	back    chan struct{}
	abort   bool
	removed bool
	dead    map[uint32]bool
	died    func(w *worker)      // just now
	waiting func() error         // nobody sleeps who could go on
	reaper  func(session uint32) // a worker's way: what the manager does after a death
	burying *worker              // who cleans up after the dead
	stops   bool                 // there was one
	planted string               // a bug

	// What may be decided after the plan's last deviation.
	found []deviation
	left  [kinds]int
	trace *[]string
	wrong string
}

var exploring *exploration

const longest = 20000 // steps of a run

func (x *exploration) say(format string, args ...any) {
	if x.trace != nil {
		*x.trace = append(*x.trace, fmt.Sprintf("%5d %-10s ", x.steps, x.current.name)+fmt.Sprintf(format, args...))
	}
}

// others calls f with each worker that could go on instead of w, in turn.
func (x *exploration) others(w *worker, f func(n int)) {
	at := slices.Index(x.workers, w)
	for i := 1; i < len(x.workers); i++ {
		n := (at + i) % len(x.workers)
		if x.workers[n].way == runnable {
			f(n)
		}
	}
}

// decide is called where there is something to decide, in the current worker.
func (x *exploration) decide() (d deviation, deviates bool) {
	n := x.steps
	x.steps++
	if x.steps > longest && x.wrong == "" {
		x.wrong = "it does not end"
		x.abort = true
	}
	if len(x.plan) > 0 && x.plan[0].step == n {
		d, x.plan = x.plan[0], x.plan[1:]
		return d, true
	}
	return deviation{step: n}, false
}

// step is one access to shared memory of the current worker.
func (x *exploration) step() {
	w := x.current
	if w == nil {
		return
	}
	d, deviates := x.decide()
	switch {
	case x.abort:
		runtime.Goexit()
	case !deviates && len(x.plan) == 0:
		if x.left[preempt] > 0 {
			x.others(w, func(n int) { x.found = append(x.found, deviation{d.step, preempt, n}) })
		}
		for n, v := range x.workers {
			if x.left[kill] > 0 && v.mortal && (v == w || v.way == asleep) {
				x.found = append(x.found, deviation{d.step, kill, n})
			}
		}
		if w.mortal && x.left[stop] > 0 && !x.stops {
			x.found = append(x.found, deviation{d.step, stop, 0})
		}
	case deviates:
		x.say("--- %v %d", d.kind, d.next)
		switch d.kind {
		case preempt:
			x.pass(x.workers[d.next])
		case kill:
			v := x.workers[d.next]
			v.parked = v.way == asleep
			v.way = dead
			x.dead[v.session] = true
			x.died(v)
			x.burying = x.add("manager", abi.ManagerSession, func() { x.reaper(v.session) })
			if v == w {
				runtime.Goexit()
			}
		case stop:
			w.way, x.stops = stopped, true
			x.pass(nil)
		}
	}
}

// pass gives the baton to next, and comes back with it. nil: to any other.
func (x *exploration) pass(next *worker) {
	w := x.current
	if next == nil {
		next = x.choose(w)
	}
	x.hand(next)
	<-w.baton
	if x.abort {
		runtime.Goexit()
	}
}

// choose finds who goes on after w, which does not.
func (x *exploration) choose(w *worker) *worker {
	var able []int
	x.others(w, func(n int) { able = append(able, n) })
	if len(able) == 0 {
		return nil
	}
	d, deviates := x.decide()
	if deviates {
		return x.workers[d.next]
	}
	if len(x.plan) == 0 && x.left[pick] > 0 {
		for _, n := range able[1:] {
			x.found = append(x.found, deviation{d.step, pick, n})
		}
	}
	return x.workers[able[0]]
}

// hand passes the baton on, to the one who runs it all if there is nobody.
func (x *exploration) hand(next *worker) {
	x.current = next
	if next == nil {
		x.back <- struct{}{}
	} else {
		next.baton <- struct{}{}
	}
}

// add makes a worker.
func (x *exploration) add(name string, session uint32, run func()) *worker {
	w := &worker{name: name, session: session, run: run, baton: make(chan struct{}, 1)}
	x.workers = append(x.workers, w)
	go func() {
		<-w.baton
		defer func() {
			if w.way == runnable {
				w.way = over
			}
			if x.abort {
				x.back <- struct{}{}
				return
			}
			x.hand(x.choose(w))
		}()
		if !x.abort {
			w.run()
		}
	}()
	return w
}

// run runs to where nobody can go on any more.
func (x *exploration) run() {
	for {
		var next *worker
		for _, w := range x.workers {
			if w.way == runnable {
				next = w
				break
			}
		}
		if next == nil {
			for _, w := range x.workers {
				if w.way == stopped {
					if err := x.quiet(x.waiting); err != nil {
						x.wrong = fmt.Sprintf("while %s is stopped: %v", w.name, err)
					}
					next, w.way = w, runnable
					break
				}
			}
		}
		if next == nil || x.abort {
			break
		}
		x.hand(next)
		<-x.back
	}
	x.current = nil
}

// quiet runs f without steps.
func (x *exploration) quiet(f func() error) error {
	w := x.current
	x.current = nil
	defer func() { x.current = w }()
	return f()
}

// end ends the goroutines of workers that sleep.
func (x *exploration) end() {
	x.abort = true
	for _, w := range x.workers {
		if w.way == asleep || w.way == runnable || w.way == stopped || w.parked {
			w.baton <- struct{}{}
			<-x.back
		}
	}
}

// --- scenarios ---

// scenario sets up what a run begins with; the workers, and what must hold when
// nobody can go on any more.
type scenario struct {
	name    string
	left    [kinds]int // how many deviations of each kind
	planted string     // a bug that must be found
	begin   func(x *exploration) (check func() error)
}

// explore runs all plans. It returns how many runs and steps that took, what is
// wrong with the last one, and its plan.
func (s *scenario) explore() (runs, steps int, wrong string, wrongPlan []deviation) {
	var visit func(plan []deviation, left [kinds]int)
	visit = func(plan []deviation, left [kinds]int) {
		x, problem := s.once(plan, left, nil)
		runs++
		steps += x.steps
		if problem != "" {
			wrong, wrongPlan = problem, plan
			return
		}
		for _, d := range x.found {
			rest := left
			rest[d.kind]--
			if visit(append(slices.Clip(plan), d), rest); wrong != "" {
				return
			}
		}
	}
	visit(nil, s.left)
	return runs, steps, wrong, wrongPlan
}

func (s *scenario) once(plan []deviation, left [kinds]int, trace *[]string) (*exploration, string) {
	x := &exploration{plan: plan, left: left, back: make(chan struct{}, 1), dead: map[uint32]bool{},
		planted: s.planted, trace: trace}
	check := s.begin(x)
	exploring = x
	x.run()
	problem := x.wrong
	if problem == "" && len(x.plan) > 0 {
		problem = "the plan was not followed: a run is not repeatable"
	}
	if problem == "" {
		if err := check(); err != nil {
			problem = err.Error()
		}
	}
	x.end()
	exploring = nil
	return x, problem
}

func (x *exploration) String() string {
	var b strings.Builder
	for _, w := range x.workers {
		fmt.Fprintf(&b, "%s is %v, err %v, got %q\n", w.name, w.way, w.err, w.got)
	}
	return b.String()
}
