// Command bench runs one unmodified program, and PostgreSQL, on the kernel and
// in a space in turn, and reports the medians and their ratio (kernel time /
// space time) row by row: as a table, as JSON (-json) and as a plot (-svg).
// It also reports what has no figure to reach: how the calls grow with
// contenders, objects and sessions, and what a space and its manager take.
//
//	go run ./test/bench [-pairs N] [-scale X] [-json FILE] [-svg FILE] [-postgres=false] [-growth=false] [ROW...]
//
// Rows that begin with go_ are of a Go program, by the kernel's calls and by
// package client. It is a benchmark, not a test: nothing fails for being slow.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// report is what -json writes.
type report struct {
	Machine  machine       `json:"machine"`
	Results  []result      `json:"results"`
	Growth   []growth      `json:"growth,omitempty"`
	Space    *footprint    `json:"space,omitempty"`
	Duration time.Duration `json:"duration_ns"`
}

type machine struct {
	CPU    string    `json:"cpu"`
	CPUs   int       `json:"cpus"`
	Kernel string    `json:"kernel"`
	Date   time.Time `json:"date"`
	Load   string    `json:"load_before"`
}

// bench is one run: where its programs are and how long it takes.
type bench struct {
	dir       string // scratch, removed at the end
	program   string // ipcbench
	goProgram string
	ipcspace  string
	pairs     int
	scale     float64
	quick     bool
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	b := &bench{}
	flag.IntVar(&b.pairs, "pairs", 7, "pairs of runs, kernel and space in turn")
	flag.Float64Var(&b.scale, "scale", 1, "length of the rows")
	flag.BoolVar(&b.quick, "quick", false, "a look in under a minute: one short pair, no PostgreSQL")
	jsonFile := flag.String("json", "", "write the results to this file")
	svgFile := flag.String("svg", "", "plot the ratios to this file")
	fromFile := flag.String("plot", "", "measure nothing: plot this JSON to -svg")
	withPostgres := flag.Bool("postgres", true, "PostgreSQL's rows")
	withGrowth := flag.Bool("growth", true, "growth, and what the manager takes")
	var pg postgresOptions
	flag.StringVar(&pg.dir, "pg.dir", "", "PostgreSQL: a folder that keeps the server and its data for the next run")
	flag.IntVar(&pg.scale, "pg.scale", 100, "PostgreSQL: scale of pgbench")
	flag.StringVar(&pg.buffers, "pg.buffers", "4GB", "PostgreSQL: shared_buffers")
	flag.DurationVar(&pg.time, "pg.time", 20*time.Second, "PostgreSQL: length of one run")
	flag.IntVar(&pg.pairs, "pg.pairs", 3, "PostgreSQL: pairs of servers")
	flag.Parse()

	if *fromFile != "" {
		check(replot(*fromFile, *svgFile))
		return
	}
	if os.Geteuid() != 0 {
		log.Fatal("needs root, for namespaces of its own")
	}
	if os.Getenv(inside) == "" {
		os.Exit(reexec())
	}
	if b.quick {
		b.pairs, b.scale, *withPostgres = 1, b.scale*0.01, false
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := b.run(ctx, flag.Args(), *withGrowth, *withPostgres, pg)
	if r != nil {
		r.print(os.Stdout)
		if *jsonFile != "" {
			check(writeJSON(*jsonFile, r))
		}
		if *svgFile != "" {
			check(writeSVG(*svgFile, r.Results))
		}
	}
	check(err)
}

// inside says, in the environment, that this process has a mount namespace of
// its own: what it mounts goes with it.
const inside = "IPCSPACE_BENCH_INSIDE"

func reexec() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		log.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

func (b *bench) run(ctx context.Context, only []string, withGrowth, withPostgres bool, pg postgresOptions) (*report, error) {
	begun := time.Now()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	var err error
	if b.dir, err = os.MkdirTemp("", "ipcbench"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(b.dir)
	if b.ipcspace, err = filepath.Abs("bin/ipcspace"); err != nil {
		return nil, err
	}
	b.program = filepath.Join(b.dir, "ipcbench")
	sources, err := filepath.Glob("test/bench/program/*.c")
	if err != nil || len(sources) == 0 {
		return nil, fmt.Errorf("no test/bench/program/*.c: run from the top of the tree")
	}
	if out, err := exec.CommandContext(ctx, "gcc", append([]string{"-O2", "-o", b.program}, sources...)...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile ipcbench: %w\n%s", err, out)
	}
	b.goProgram = filepath.Join(b.dir, "goprogram")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", b.goProgram, "./test/bench/goprogram").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build test/bench/goprogram: %w\n%s", err, out)
	}
	r := &report{Machine: thisMachine()}
	if r.Results, err = b.rows(ctx, only); err != nil {
		return r, err
	}
	if withGrowth && len(only) == 0 {
		if r.Growth, r.Space, err = b.growth(ctx); err != nil {
			return r, err
		}
	}
	if withPostgres && (len(only) == 0 || slices.Contains(only, "postgres")) {
		results, err := b.postgres(ctx, pg)
		r.Results = append(r.Results, results...)
		if err != nil {
			return r, err
		}
	}
	r.Duration = time.Since(begun)
	return r, nil
}

func thisMachine() machine {
	m := machine{CPU: "unknown", CPUs: numCPU(), Date: time.Now().UTC().Truncate(time.Second)}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load, _, _ = strings.Cut(string(text), " ")
	}
	return m
}

func writeJSON(path string, r *report) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

func replot(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return writeSVG(to, r.Results)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
