package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// goRow begins the names of goprogram's rows.
const goRow = "go_"

// row is a row of program/ or goprogram/, with the ratio that it is to reach at least, and
// the one that is aimed at; 0: reported only.
type row struct {
	name       string
	least, aim float64
}

var rows = []row{
	{"semop_pair", 50, 90}, {"semop_undo_pair", 12, 30}, {"semop_two_pair", 15, 30},
	{"getval", 15, 40}, {"shmget_existing", 15, 40}, {"stat_set", 15, 40}, {"stat_queue", 15, 40},
	{"message_64", 15, 30}, {"message_8k", 5, 8}, {"stream_64", 6, 20},
	{"sem_ping_pong", 4, 15}, {"msg_ping_pong", 4, 15},
	{"sem_ping_pong_busy", 0.95, 1.2}, {"msg_ping_pong_busy", 0.95, 1.2},
	{"sem_contended_8", 2, 5}, {"msg_4_to_4", 2, 5},
	{"attach_pair", 1.1, 1.4}, {"shm_create_remove", 0.4, 1},
	{"sem_create_remove", 0.1, 0.5}, {"msg_create_remove", 0.1, 0.5},
	{"fork_attached", 0.8, 1}, {"start_true", 0.93, 0.98},
	{"random_reads_1g", 1.2, 1.8}, {"first_touch_1g", 1.2, 1.8},
	{"go_semop_pair", 20, 0}, {"go_message_64", 10, 0}, {"go_message_8k", 4, 0},
	{"go_sem_ping_pong", 2, 0}, {"go_msg_ping_pong", 2, 0},
	{"sem_wake", 0, 0}, {"first_call", 0, 0},
}

// result is one row: medians in ns of one round, or of one transaction.
type result struct {
	Row    string  `json:"row"`
	Kernel float64 `json:"kernel_ns"`
	Space  float64 `json:"space_ns"`
	Ratio  float64 `json:"ratio"`
	// Worst and Best are the ratios of single pairs.
	Worst float64 `json:"worst_pair"`
	Best  float64 `json:"best_pair"`
	Least float64 `json:"least,omitempty"`
	Aim   float64 `json:"aim,omitempty"`
}

func newResult(name string, kernel, space []float64, least, aim float64) result {
	ratios := make([]float64, len(kernel))
	for i := range kernel {
		ratios[i] = kernel[i] / space[i]
	}
	r := result{
		Row: name, Kernel: median(kernel), Space: median(space),
		Worst: slices.Min(ratios), Best: slices.Max(ratios), Least: least, Aim: aim,
	}
	r.Ratio = r.Kernel / r.Space
	return r
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return x[len(x)/2]
}

func numCPU() int { return runtime.NumCPU() }

// rows measures the rows of program/, all if only is empty.
func (b *bench) rows(ctx context.Context, only []string) ([]result, error) {
	var results []result
	for _, row := range rows {
		if len(only) > 0 && !slices.Contains(only, row.name) {
			continue
		}
		names, kernel, space, err := b.inTurn(ctx, b.pairs, row.name, 1, b.kernel, b.embedded)
		if err != nil {
			return results, err
		}
		for _, name := range names {
			results = append(results, newResult(name, kernel[name], space[name], row.least, row.aim))
		}
	}
	return results, nil
}

// side makes the command that runs a program on one of the two sides.
type side func(ctx context.Context, argv ...string) *exec.Cmd

// kernel is an IPC namespace of the kernel's own.
func (b *bench) kernel(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWIPC}
	return cmd
}

// embedded is a space for this command alone.
func (b *bench) embedded(ctx context.Context, argv ...string) *exec.Cmd {
	return exec.CommandContext(ctx, b.ipcspace, append([]string{"run", "--size", "8g", "--"}, argv...)...)
}

// inTurn runs a row of program/ on both sides, A B A B, and collects what it
// prints: the names in the order in which they came, and their values.
func (b *bench) inTurn(ctx context.Context, pairs int, name string, size int, sides ...side) (names []string, kernel, space map[string][]float64, err error) {
	all := []map[string][]float64{{}, {}}
	for range pairs {
		for i, side := range sides {
			argv := []string{b.program, "-s", strconv.FormatFloat(b.scale, 'g', -1, 64)}
			if strings.HasPrefix(name, goRow) {
				argv[0] = b.goProgram
				argv = append(argv, []string{"kernel", "space"}[i])
			} else {
				argv = append(argv, "-n", strconv.Itoa(size))
			}
			argv = append(argv, name)
			cmd := side(ctx, argv...)
			cmd.Stderr = os.Stderr
			cmd.Stdin = strings.NewReader("\n")
			out, err := cmd.Output()
			if err != nil {
				return nil, nil, nil, fmt.Errorf("%s: %w", name, err)
			}
			for line := range strings.Lines(string(out)) {
				of, value, err := parseLine(line)
				if err != nil {
					return nil, nil, nil, fmt.Errorf("%s: %w", name, err)
				}
				if !slices.Contains(names, of) {
					names = append(names, of)
				}
				all[i][of] = append(all[i][of], value)
			}
		}
	}
	return names, all[0], all[1], nil
}

// parseLine parses "name ns".
func parseLine(line string) (name string, ns float64, err error) {
	name, text, ok := strings.Cut(strings.TrimSpace(line), " ")
	if ok {
		ns, err = strconv.ParseFloat(text, 64)
	}
	if !ok || err != nil {
		return "", 0, fmt.Errorf("no result in %q", line)
	}
	return name, ns, nil
}
