package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// PostgreSQL is built to take its semaphores from semget(2), and told to take
// all shared memory from shmget(2); test/programs builds and caches it.

type postgresOptions struct {
	dir     string // keeps the server and its data for the next run; "": scratch
	scale   int
	buffers string
	time    time.Duration
	pairs   int
}

// load is one way of using a server; args are pgbench's.
type load struct {
	name       string
	args       []string
	least, aim float64
}

// servers are those that are started one after the other, each with its loads.
var servers = []struct {
	small bool     // without huge pages
	args  []string // of postgres
	loads []load
}{
	{loads: []load{
		{"postgres_select", []string{"-S", "-c", "16", "-j", "2"}, 1.2, 1.5},
		{"postgres_tpcb", []string{"-c", "16", "-j", "2"}, 1.05, 1.3},
		{"postgres_connect", []string{"-S", "-C", "-c", "4", "-j", "2"}, 1.2, 1.4},
	}},
	{small: true, loads: []load{
		{"postgres_select_small", []string{"-S", "-c", "16", "-j", "2"}, 1.1, 1.3},
	}},
	// Each server process also looks at and attaches a segment that another has made.
	{args: []string{"-c", "dynamic_shared_memory_type=sysv"}, loads: []load{
		{"postgres_connect_dsm", []string{"-S", "-C", "-c", "4", "-j", "2"}, 0, 0},
	}},
}

// nobody runs the server, which refuses root.
const nobody = 65534

type cluster struct {
	b        *bench
	bin, lib string
	dir      string
	options  postgresOptions
}

func (b *bench) postgres(ctx context.Context, o postgresOptions) ([]result, error) {
	c := &cluster{b: b, dir: o.dir, options: o}
	if c.dir == "" {
		c.dir = filepath.Join(b.dir, "postgres")
	}
	if err := c.make(ctx); err != nil {
		return nil, fmt.Errorf("PostgreSQL: %w", err)
	}
	kernel, space := map[string][]float64{}, map[string][]float64{}
	for range o.pairs {
		for i := range servers {
			if err := errors.Join(c.measure(ctx, i, b.kernel, kernel), c.measure(ctx, i, b.embedded, space)); err != nil {
				return nil, err
			}
		}
	}
	var results []result
	for _, server := range servers {
		for _, l := range server.loads {
			results = append(results, newResult(l.name, kernel[l.name], space[l.name], l.least, l.aim))
		}
	}
	return results, nil
}

// make builds the server and its data, unless they are there.
func (c *cluster) make(ctx context.Context) error {
	built := filepath.Join(c.dir, "postgresql")
	c.bin, c.lib = filepath.Join(built, "bin"), filepath.Join(built, "lib")
	made := filepath.Join(c.dir, fmt.Sprintf("made-%d-%s", c.options.scale, c.options.buffers))
	if _, err := os.Stat(made); err == nil {
		return nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "test/programs/build-postgresql.sh", filepath.Join(cache, "ipcspace"))
	build.Stderr = os.Stderr
	out, err := build.Output()
	if err != nil {
		return fmt.Errorf("%s: %w", build, err)
	}
	// The cache may lie in a private home, where the server's user cannot read it.
	if err := errors.Join(os.Chmod(c.b.dir, 0o755), os.MkdirAll(c.dir, 0o700), os.Chown(c.dir, nobody, nobody)); err != nil {
		return err
	}
	if err := os.CopyFS(built, os.DirFS(strings.TrimSpace(string(out)))); err != nil {
		return err
	}
	if err := c.do(ctx, c.b.kernel, "initdb", "-D", c.data(), "-U", "postgres", "-A", "trust", "--no-locale", "--no-sync"); err != nil {
		return err
	}
	conf := fmt.Sprintf(`
shared_memory_type = sysv
shared_buffers = %s
huge_pages = off
max_connections = 64
listen_addresses = ''
unix_socket_directories = '%s'
fsync = off
synchronous_commit = off
max_wal_size = 8GB
autovacuum = off
`, c.options.buffers, c.dir)
	f, err := os.OpenFile(filepath.Join(c.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(conf)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	err = c.serve(ctx, false, nil, c.b.kernel, func() error {
		_, err := c.pgbench(ctx, "-i", "-q", "-s", strconv.Itoa(c.options.scale))
		return err
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.warmUp(), []byte(readAll), 0o644); err != nil {
		return err
	}
	return os.WriteFile(made, nil, 0o600)
}

// readAll brings all of the data into the buffers. By the index: a scan of the
// table would go through few buffers, again and again.
const readAll = `set enable_seqscan = off;
set enable_bitmapscan = off;
set max_parallel_workers_per_gather = 0;
select sum(abalance) from pgbench_accounts where aid > 0;
`

func (c *cluster) warmUp() string { return filepath.Join(c.dir, "warm-up.sql") }

func (c *cluster) data() string { return filepath.Join(c.dir, "data") }

// command is one of PostgreSQL's programs, run by nobody.
func (c *cluster) command(ctx context.Context, s side, wrapper []string, program string, args ...string) *exec.Cmd {
	argv := append(append([]string{"setpriv", "--reuid", strconv.Itoa(nobody), "--regid", strconv.Itoa(nobody), "--clear-groups"}, wrapper...),
		filepath.Join(c.bin, program))
	cmd := s(ctx, append(argv, args...)...)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+c.lib, "LC_ALL=C")
	return cmd
}

func (c *cluster) do(ctx context.Context, s side, program string, args ...string) error {
	cmd := c.command(ctx, s, nil, program, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}

func (c *cluster) pgbench(ctx context.Context, args ...string) (string, error) {
	cmd := c.command(ctx, func(ctx context.Context, argv ...string) *exec.Cmd {
		return exec.CommandContext(ctx, argv[0], argv[1:]...)
	}, nil, "pgbench", append([]string{"-h", c.dir, "-U", "postgres", "-n"}, append(args, "postgres")...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return string(out), nil
}

// serve runs f while the server runs.
func (c *cluster) serve(ctx context.Context, small bool, args []string, s side, f func() error) error {
	var wrapper []string
	if small {
		wrapper = []string{c.b.program, "-small"}
	}
	server := c.command(ctx, s, wrapper, "postgres", append([]string{"-D", c.data()}, args...)...)
	logName := filepath.Join(c.dir, "log")
	logFile, err := os.Create(logName)
	if err != nil {
		return err
	}
	defer logFile.Close()
	server.Stdout, server.Stderr = logFile, logFile
	if err := server.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	for deadline := time.Now().Add(time.Minute); !c.ready(ctx); {
		select {
		case err := <-ended:
			text, _ := os.ReadFile(logName)
			return fmt.Errorf("%s: %w\n%s", server, err, text)
		case <-time.After(100 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			_ = server.Process.Kill()
			return fmt.Errorf("%s is not ready after a minute", server)
		}
	}
	err = f()
	// A fast shutdown, of the server itself: what started it ends with it.
	pid, err2 := c.postmaster()
	if err2 == nil {
		err2 = syscall.Kill(pid, syscall.SIGINT)
	}
	select {
	case end := <-ended:
		return errors.Join(err, err2, end)
	case <-time.After(2 * time.Minute):
		_ = server.Process.Kill()
		return errors.Join(err, err2, errors.New("the server does not shut down"))
	}
}

func (c *cluster) ready(ctx context.Context) bool {
	if _, err := c.postmaster(); err != nil {
		return false
	}
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "pg_isready"), "-q", "-h", c.dir)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+c.lib)
	return cmd.Run() == nil
}

func (c *cluster) postmaster() (int, error) {
	text, err := os.ReadFile(filepath.Join(c.data(), "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	return strconv.Atoi(first)
}

var tps = regexp.MustCompile(`tps = ([0-9.]+)`)

// measure adds the ns of a transaction of each load of a server, on one side.
func (c *cluster) measure(ctx context.Context, i int, s side, times map[string][]float64) error {
	server := servers[i]
	return c.serve(ctx, server.small, server.args, s, func() error {
		seconds := func(d time.Duration) string { return strconv.Itoa(max(int(d/time.Second), 1)) }
		if _, err := c.pgbench(ctx, "-f", c.warmUp(), "-t", "1"); err != nil {
			return err
		}
		for _, l := range server.loads {
			out, err := c.pgbench(ctx, append(l.args, "-T", seconds(c.options.time))...)
			if err != nil {
				return err
			}
			m := tps.FindStringSubmatch(out)
			if m == nil {
				return fmt.Errorf("pgbench says no tps:\n%s", out)
			}
			rate, err := strconv.ParseFloat(m[1], 64)
			if err != nil || rate == 0 {
				return fmt.Errorf("pgbench says %q", m[0])
			}
			log.Printf("%s: %.0f/s", l.name, rate)
			times[l.name] = append(times[l.name], 1e9/rate)
		}
		return nil
	})
}
