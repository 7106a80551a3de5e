package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// growth is what a call costs with that many contenders, objects or sessions.
type growth struct {
	Of     string  `json:"of"` // contenders, objects, sessions
	Size   int     `json:"size"`
	Call   string  `json:"call"`
	Kernel float64 `json:"kernel_ns"`
	Space  float64 `json:"space_ns"`
}

// footprint is what spaces and their manager take.
type footprint struct {
	// Bytes of tmpfs.
	EmptySpace int64 `json:"bytes_empty_space"`
	Session    int64 `json:"bytes_session"`
	Set        int64 `json:"bytes_set"`
	Queue      int64 `json:"bytes_queue"`
	// Manager at rest, by the number of sessions.
	Manager []managerUse `json:"manager"`
}

type managerUse struct {
	Sessions int     `json:"sessions"`
	RSS      int64   `json:"rss_bytes"`
	Register float64 `json:"register_cpu_ns"` // CPU time of the manager for each registration
	Rate     float64 `json:"register_per_s"`
	Idle     float64 `json:"idle_cpu"` // share of one CPU, once all have registered
}

// growth measures on the kernel and in a space of a manager of its own.
func (b *bench) growth(ctx context.Context) ([]growth, *footprint, error) {
	d, err := b.startManager(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer d.stop()
	var grown []growth
	pairs := min(b.pairs, 3)
	add := func(of string, size int, row string) error {
		names, kernel, space, err := b.inTurn(ctx, pairs, row, size, b.kernel, d.join)
		for _, name := range names {
			call := strings.TrimPrefix(strings.TrimPrefix(name, row), "_")
			if call != "ready" {
				grown = append(grown, growth{of, size, call, median(kernel[name]), median(space[name])})
			}
		}
		return err
	}
	objects, sessions := []int{16, 1000, 30000}, []int{1, 100, 2000}
	if b.quick {
		objects, sessions = []int{16, 1000}, []int{1, 100}
	}
	for _, n := range []int{1, 2, 8, 32} {
		if err := add("contenders", n, "grow_contenders"); err != nil {
			return grown, nil, err
		}
	}
	for _, n := range objects {
		if err := add("objects", n, "grow_objects"); err != nil {
			return grown, nil, err
		}
	}
	for _, n := range sessions {
		if err := add("sessions", n, "grow_sessions"); err != nil {
			return grown, nil, err
		}
	}
	f, err := b.footprint(ctx, d, sessions)
	return grown, f, err
}

func (b *bench) footprint(ctx context.Context, d *daemon, sessions []int) (*footprint, error) {
	f := &footprint{EmptySpace: d.used()}
	per := func(n int, row string, look func(begun time.Time, cpu time.Duration)) (int64, error) {
		before, cpu, begun := d.used(), d.cpu(), time.Now()
		err := d.hold(ctx, b.program, row, n, func() {
			f := d.used()
			before = f - before
			if look != nil {
				look(begun, d.cpu()-cpu)
			}
		})
		return before / int64(n), err
	}
	var err error
	if f.Set, err = per(1000, "hold_sets", nil); err != nil {
		return f, err
	}
	if f.Queue, err = per(1000, "hold_queues", nil); err != nil {
		return f, err
	}
	for _, n := range sessions {
		use := managerUse{Sessions: n}
		f.Session, err = per(n, "grow_sessions", func(begun time.Time, cpu time.Duration) {
			use.Register = float64(cpu) / float64(n)
			rest := d.cpu()
			time.Sleep(time.Second)
			use.Idle = float64(d.cpu()-rest) / float64(time.Second)
			use.RSS = d.rss()
		})
		if err != nil {
			return f, err
		}
		use.Rate = 1e9 / d.registered
		f.Manager = append(f.Manager, use)
	}
	return f, nil
}

// daemon is a running manager with one space.
type daemon struct {
	b          *bench
	root       string
	cmd        *exec.Cmd
	registered float64 // ns for each registration, of the last hold
}

const benchSpace = "bench"

func (b *bench) startManager(ctx context.Context) (*daemon, error) {
	d := &daemon{b: b, root: filepath.Join(b.dir, "root")}
	d.cmd = exec.CommandContext(ctx, filepath.Join(filepath.Dir(b.ipcspace), "ipcspace-manager"),
		"-root", d.root, "-ephemeral", "-log-level", "error")
	d.cmd.Stderr = os.Stderr
	d.cmd.Cancel = func() error { return d.cmd.Process.Signal(syscall.SIGTERM) }
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	var out []byte
	var err error
	for range 100 {
		out, err = exec.CommandContext(ctx, b.ipcspace, "--root", d.root, "space", "create", benchSpace, "--size", "4g").CombinedOutput()
		if err == nil {
			return d, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	d.stop()
	return nil, fmt.Errorf("make a space: %w\n%s", err, out)
}

func (d *daemon) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	_ = d.cmd.Wait()
}

func (d *daemon) join(ctx context.Context, argv ...string) *exec.Cmd {
	return exec.CommandContext(ctx, d.b.ipcspace, append([]string{"run", "--root", d.root, "--space", benchSpace, "--"}, argv...)...)
}

// hold runs a row of program/ up to its "ready" line, looks, and lets it end.
func (d *daemon) hold(ctx context.Context, program, row string, n int, look func()) error {
	cmd := d.join(ctx, program, "-s", "0", "-n", strconv.Itoa(n), row)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		return err
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		name, ns, err := parseLine(lines.Text())
		if err != nil {
			return fmt.Errorf("%s: %w", row, err)
		}
		if strings.HasSuffix(name, "_register") {
			d.registered = ns
		}
		if strings.HasSuffix(name, "_ready") {
			look()
			break
		}
	}
	_, err := io.WriteString(in, "\n")
	return errors.Join(err, cmd.Wait())
}

// used is the memory of the space's folders, in bytes.
func (d *daemon) used() int64 {
	var sum int64
	for _, name := range []string{benchSpace, benchSpace + ".public"} {
		var fs unix.Statfs_t
		if unix.Statfs(filepath.Join(d.root, "private", name), &fs) == nil && fs.Type == unix.TMPFS_MAGIC {
			sum += int64(fs.Blocks-fs.Bfree) * fs.Bsize
		}
	}
	return sum
}

// cpu is the CPU time that the manager has taken.
func (d *daemon) cpu() time.Duration {
	const ticks = 100 // USER_HZ
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.cmd.Process.Pid))
	_, rest, ok := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if err != nil || !ok || len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * time.Second / ticks
}

// rss is the manager's resident memory, in bytes.
func (d *daemon) rss() int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", d.cmd.Process.Pid))
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return math.MinInt64
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
