// Command bench runs one unmodified program on the kernel and in a space in
// turn, and prints the ratio of the times (kernel / space) row by row, as a
// table, and as JSON with -json FILE. Rows that begin with go_ are of a Go
// program, by the kernel's calls and by package client.
//
//	go run ./test/bench [-pairs N] [-scale X] [-json FILE] [ROW...]
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
)

// goRow begins the names of goprogram's rows.
const goRow = "go_"

// rows are those of program/ipcbench.c and of goprogram, each with the ratio
// that it is to reach.
var rows = []struct {
	name  string
	least float64
}{
	{"semop_pair", 50}, {"semop_undo_pair", 12}, {"semop_two_pair", 15},
	{"getval", 15}, {"shmget_existing", 15}, {"stat_set", 15}, {"stat_queue", 15},
	{"message_64", 15}, {"message_8k", 5}, {"stream_64", 6},
	{"sem_ping_pong", 4}, {"msg_ping_pong", 4},
	{"sem_ping_pong_busy", 0.95}, {"msg_ping_pong_busy", 0.95},
	{"sem_contended_8", 2}, {"msg_4_to_4", 2},
	{"attach_pair", 1.1}, {"shm_create_remove", 0.4}, {"sem_create_remove", 0.1}, {"msg_create_remove", 0.1},
	{"fork_attached", 0.8}, {"random_reads_1g", 1.2}, {"first_touch_1g", 1.2},
	{"go_semop_pair", 20}, {"go_message_64", 10}, {"go_message_8k", 4}, {"go_sem_ping_pong", 2}, {"go_msg_ping_pong", 2},
}

// result is one row: medians in ns of one round.
type result struct {
	Row    string  `json:"row"`
	Kernel float64 `json:"kernel_ns"`
	Space  float64 `json:"space_ns"`
	Ratio  float64 `json:"ratio"`
	Least  float64 `json:"least"`
}

func main() {
	log.SetFlags(0)
	pairs := flag.Int("pairs", 7, "pairs of runs, kernel and space in turn")
	scale := flag.Float64("scale", 1, "length of the rows")
	out := flag.String("json", "", "also write the results to this file")
	flag.Parse()
	if os.Geteuid() != 0 {
		log.Fatal("bench: needs root, for an IPC namespace of the kernel's own")
	}
	results, err := run(flag.Args(), *pairs, *scale)
	if err != nil {
		log.Fatalf("bench: %v", err)
	}
	print(results)
	if *out != "" {
		b, err := json.MarshalIndent(results, "", "\t")
		if err == nil {
			err = os.WriteFile(*out, append(b, '\n'), 0o644)
		}
		if err != nil {
			log.Fatalf("bench: write results: %v", err)
		}
	}
}

func run(only []string, pairs int, scale float64) ([]result, error) {
	dir, err := os.MkdirTemp("", "ipcbench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "ipcbench")
	if b, err := exec.Command("gcc", "-O2", "-o", program, "test/bench/program/ipcbench.c").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile test/bench/program/ipcbench.c (run from the top of the tree): %w\n%s", err, b)
	}
	goProgram := filepath.Join(dir, "goprogram")
	if b, err := exec.Command("go", "build", "-o", goProgram, "./test/bench/goprogram").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build test/bench/goprogram: %w\n%s", err, b)
	}
	args := []string{"-s", strconv.FormatFloat(scale, 'f', -1, 64)}

	var results []result
	for _, row := range rows {
		if len(only) > 0 && !slices.Contains(only, row.name) {
			continue
		}
		var kernel, space []float64
		for range pairs {
			onKernel, inSpace := slices.Concat([]string{program}, args), slices.Concat([]string{"run", "--", program}, args)
			if strings.HasPrefix(row.name, goRow) {
				onKernel = slices.Concat([]string{goProgram}, args, []string{"kernel"})
				inSpace = slices.Concat([]string{"run", "--", goProgram}, args, []string{"space"})
			}
			k := exec.Command(onKernel[0], append(onKernel[1:], row.name)...)
			k.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWIPC}
			s := exec.Command("bin/ipcspace", append(inSpace, row.name)...)
			for _, side := range []struct {
				cmd   *exec.Cmd
				times *[]float64
			}{{k, &kernel}, {s, &space}} {
				ns, err := measure(side.cmd, row.name)
				if err != nil {
					return nil, err
				}
				*side.times = append(*side.times, ns)
			}
		}
		r := result{Row: row.name, Kernel: median(kernel), Space: median(space), Least: row.least}
		r.Ratio = r.Kernel / r.Space
		results = append(results, r)
	}
	return results, nil
}

func measure(cmd *exec.Cmd, row string) (float64, error) {
	cmd.Stderr = os.Stderr
	b, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%s: %w", row, err)
	}
	_, ns, ok := strings.Cut(strings.TrimSpace(string(b)), " ")
	if !ok {
		return 0, fmt.Errorf("%s: no result in %q", row, b)
	}
	return strconv.ParseFloat(ns, 64)
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}

func print(results []result) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "row\tkernel ns\tspace ns\tratio\tto reach\t")
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.2f\t%.2f\t\n", r.Row, r.Kernel, r.Space, r.Ratio, r.Least)
	}
	_ = w.Flush()
}
