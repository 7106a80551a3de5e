package programs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ipcspace/ipcspace/test/suite"
)

// postgres is an installation of PostgreSQL.
type postgres struct {
	bin string
	// lib is where its own libraries are, when the linker does not look there by itself.
	lib string
}

// debianPostgres is the newest of Debian's packages on this machine.
func debianPostgres(t *testing.T) postgres {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	must(t, err)
	if len(found) == 0 {
		t.Fatal("no /usr/lib/postgresql/*/bin/postgres (apt-get install postgresql-15)")
	}
	return postgres{bin: filepath.Dir(found[len(found)-1])}
}

// semaphorePostgres is PostgreSQL built to take its semaphores from semget(2), which Debian's does
// not. The first call on a machine builds it, for some minutes.
func semaphorePostgres(t *testing.T) postgres {
	t.Helper()
	cache, err := os.UserCacheDir()
	must(t, err)
	// The script removes what it began when it gets SIGTERM; that needs time before the test's end.
	ctx := context.Background()
	if deadline, ok := t.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-2*time.Minute))
		defer cancel()
	}
	build := exec.CommandContext(ctx, "./build-postgresql.sh", filepath.Join(cache, "ipcspace"))
	build.Cancel = func() error { return syscall.Kill(-build.Process.Pid, syscall.SIGTERM) }
	build.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	build.WaitDelay = 30 * time.Second
	build.Stderr = os.Stderr
	output, err := build.Output()
	const sourceUnavailable = 75
	if build.ProcessState != nil && build.ProcessState.ExitCode() == sourceUnavailable {
		t.Skipf("%s: the source cannot be had, see its message above", build)
	}
	if ctx.Err() != nil {
		t.Fatalf("%s did not finish in the test's time: run it by hand first, or go test -timeout 30m", build)
	}
	if err != nil {
		t.Fatalf("%s: %v", build, err)
	}
	// The cache may lie in a private home, where the server's user cannot read it.
	copied := filepath.Join(directory(t, 0), "postgresql")
	must(t, os.CopyFS(copied, os.DirFS(strings.TrimSpace(string(output)))))
	return postgres{bin: filepath.Join(copied, "bin"), lib: filepath.Join(copied, "lib")}
}

// cluster is a PostgreSQL server with its data, run by nobody.
type cluster struct {
	postgres
	space *space
	dir   string // parent of data/, and the place of the socket and the log
	// wait is nil while nothing runs, else it yields the end of what start started.
	wait chan error
}

// settings put all that PostgreSQL can take from System V there, and keep the tests quick.
const settings = `
shared_memory_type = sysv
dynamic_shared_memory_type = sysv
shared_buffers = 32MB
max_connections = 40
listen_addresses = ''
unix_socket_directories = '%s'
fsync = off
max_wal_size = 64MB
autovacuum = off
max_parallel_workers_per_gather = 2
min_parallel_table_scan_size = 0
parallel_setup_cost = 0
parallel_tuple_cost = 0
`

// newCluster makes a data directory, dir/data, with initdb running in the space.
func newCluster(t *testing.T, p postgres, s *space, dir string) *cluster {
	t.Helper()
	c := &cluster{postgres: p, space: s, dir: dir}
	t.Cleanup(func() { c.kill(t) })
	mustRun(t, c.server("initdb", "-D", c.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"))
	conf, err := os.OpenFile(filepath.Join(c.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = fmt.Fprintf(conf, settings, dir)
	must(t, errors.Join(err, conf.Close()))
	return c
}

func (c *cluster) data() string { return filepath.Join(c.dir, "data") }
func (c *cluster) log() string  { return filepath.Join(c.dir, "log") }

// server prepares one of PostgreSQL's programs in the space.
func (c *cluster) server(program string, args ...string) *exec.Cmd {
	return c.withLibraries(c.space.commandAs(nobody, append([]string{filepath.Join(c.bin, program)}, args...)...))
}

// client prepares one outside of it: clients know only the socket.
func (c *cluster) client(program string, args ...string) *exec.Cmd {
	argv := append(becoming(nobody), filepath.Join(c.bin, program), "-h", c.dir, "-U", "postgres")
	cmd := exec.Command(argv[0], append(argv[1:], args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME=/nonexistent")
	return c.withLibraries(cmd)
}

func (c *cluster) withLibraries(cmd *exec.Cmd) *exec.Cmd {
	if c.lib != "" {
		cmd.Env = append(cmd.Env, "LD_LIBRARY_PATH="+c.lib)
	}
	return cmd
}

// start starts the server and waits until it takes connections. Its refusal is an error with its log.
func (c *cluster) start() error {
	log, err := os.OpenFile(c.log(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	server := c.server("postgres", "-D", c.data())
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		return fmt.Errorf("start %s: %w", server, err)
	}
	c.wait = make(chan error, 1)
	go func() { c.wait <- server.Wait() }()
	for deadline := time.Now().Add(commandTimeout); ; {
		select {
		case err := <-c.wait:
			c.wait = nil
			return fmt.Errorf("%s: %w\n%s", server, err, suite.Tail(c.log()))
		case <-time.After(50 * time.Millisecond):
		}
		// The file of a server that was killed still says "ready".
		pid, err := strconv.Atoi(c.lockFile(pidLine))
		if err == nil && suite.Running(pid) && c.lockFile(statusLine) == "ready" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready after %v\n%s", server, commandTimeout, suite.Tail(c.log()))
		}
	}
}

// Lines of postmaster.pid, from 1 (PostgreSQL's miscadmin.h).
const (
	pidLine    = 1
	shmKeyLine = 7 // "key id" of the main segment, key as an unsigned number
	statusLine = 8
)

func (c *cluster) lockFile(line int) string {
	text, err := os.ReadFile(filepath.Join(c.data(), "postmaster.pid"))
	lines := strings.Split(string(text), "\n")
	if err != nil || len(lines) < line {
		return ""
	}
	return strings.TrimSpace(lines[line-1])
}

func (c *cluster) postmaster(t *testing.T) int {
	t.Helper()
	pid, err := strconv.Atoi(c.lockFile(pidLine))
	if err != nil {
		t.Fatalf("%s/postmaster.pid has no pid: %v", c.data(), err)
	}
	return pid
}

// segment is the key and id of the server's main segment, as the server itself noted them.
func (c *cluster) segment(t *testing.T) (key uint32, id string) {
	t.Helper()
	fields := strings.Fields(c.lockFile(shmKeyLine))
	if len(fields) != 2 {
		t.Fatalf("%s/postmaster.pid has no key and id, but %q", c.data(), fields)
	}
	wide, err := strconv.ParseUint(fields[0], 10, 64)
	must(t, err)
	return uint32(wide), fields[1]
}

func (c *cluster) psql(t *testing.T, sql string) string {
	t.Helper()
	return strings.TrimSpace(mustRun(t, c.client("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, "postgres")))
}

// stop asks for a fast shutdown, which removes all of the server's IPC objects.
func (c *cluster) stop(t *testing.T) {
	t.Helper()
	must(t, syscall.Kill(c.postmaster(t), syscall.SIGINT))
	select {
	case err := <-c.wait:
		c.wait = nil
		if err != nil {
			t.Fatalf("fast shutdown: %v\n%s", err, suite.Tail(c.log()))
		}
	case <-time.After(commandTimeout):
		t.Fatalf("no fast shutdown in %v\n%s", commandTimeout, suite.Tail(c.log()))
	}
}

// kill ends what a failed test left running. Backends end by themselves after their postmaster.
func (c *cluster) kill(t *testing.T) {
	if t.Failed() {
		t.Logf("log of %s:\n%s", c.dir, suite.Tail(c.log()))
	}
	if c.wait == nil {
		return
	}
	if pid, err := strconv.Atoi(c.lockFile(pidLine)); err == nil {
		for _, backend := range suite.ChildrenOf(pid) {
			_ = syscall.Kill(backend, syscall.SIGKILL) // may have ended
		}
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	select {
	case <-c.wait:
	case <-time.After(10 * time.Second):
		t.Errorf("the server of %s did not end within 10 s of SIGKILL", c.dir)
	}
	c.wait = nil
}

func TestPostgresSharedMemoryInTwoSpaces(t *testing.T) {
	t.Parallel()
	sideBySide(t, debianPostgres(t))
}

func TestPostgresSemaphoresInTwoSpaces(t *testing.T) {
	t.Parallel()
	sideBySide(t, semaphorePostgres(t), "-s")
}

// sideBySide runs two servers with the same keys, each in its own space, at the same time.
// families names what they must use besides segments, as flags of ipcs.
func sideBySide(t *testing.T, p postgres, families ...string) {
	families = append(families, "-m")
	clusters := make([]*cluster, 2)
	inodes := make([]uint64, 2)
	for i := range clusters {
		// PostgreSQL's keys are the data directory's inode number and up. A new tmpfs numbers its
		// files from the start, so the first directory of each has the same number.
		dir := directory(t, 0)
		must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=512m,mode=0755,uid=65534,gid=65534"))
		t.Cleanup(func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
		data := filepath.Join(dir, "data")
		must(t, os.Mkdir(data, 0o700))
		must(t, os.Chown(data, nobody, nobody))
		stat, err := os.Stat(data)
		must(t, err)
		inodes[i] = stat.Sys().(*syscall.Stat_t).Ino
		clusters[i] = newCluster(t, p, newSpace(t), dir)
		must(t, clusters[i].start())
	}
	if inodes[0] != inodes[1] {
		t.Fatalf("two new tmpfs gave their first directories different inode numbers: %v", inodes)
	}

	for _, c := range clusters {
		key, id := c.segment(t)
		if key != uint32(inodes[0]) {
			t.Errorf("the server in %s took key %#x, want its directory's inode number %#x", c.dir, key, inodes[0])
		}
		row := slices.IndexFunc(c.space.ipcs(t, "-m"), func(row []string) bool {
			return row[0] == fmt.Sprintf("%#08x", key) && row[1] == id
		})
		if row < 0 {
			t.Errorf("ipcs in the space of %s does not show key %#08x with id %s: %v", c.dir, key, id, c.space.ipcs(t, "-m"))
		}
	}
	for _, family := range families {
		keys := [2][]string{keysOf(clusters[0], t, family), keysOf(clusters[1], t, family)}
		if len(keys[0]) == 0 {
			t.Errorf("ipcs %s shows nothing while the server runs", family)
		}
		// Dynamic segments have random keys.
		if family != "-m" && !slices.Equal(keys[0], keys[1]) {
			t.Errorf("ipcs %s: keys differ between the spaces: %v, %v", family, keys[0], keys[1])
		}
	}

	work := make(chan error, len(clusters))
	for i, c := range clusters {
		go func() { work <- c.exercise(fmt.Sprint("server ", i)) }()
	}
	for range clusters {
		if err := <-work; err != nil {
			t.Error(err)
		}
	}
	requireKernelUnused(t)
	for i, c := range clusters {
		if name := c.psql(t, "SELECT name FROM marker"); name != fmt.Sprint("server ", i) {
			t.Errorf("the server in %s answers as %q", c.dir, name)
		}
	}

	// A shutdown removes what is its own, in its own space.
	clusters[0].stop(t)
	for _, family := range families {
		if rows := clusters[0].space.ipcs(t, family); len(rows) != 0 {
			t.Errorf("ipcs %s after shutdown: %v", family, rows)
		}
	}
	if len(keysOf(clusters[1], t, "-m")) == 0 {
		t.Error("the second server's segments went with the first server")
	}
	if sum := clusters[1].psql(t, "SELECT count(*) FROM pgbench_accounts"); sum != "100000" {
		t.Errorf("the second server counts %s accounts after the first one's shutdown, want 100000", sum)
	}
	clusters[1].stop(t)
	for _, family := range families {
		if rows := clusters[1].space.ipcs(t, family); len(rows) != 0 {
			t.Errorf("ipcs %s after shutdown: %v", family, rows)
		}
	}
	requireKernelUnused(t)
}

// exercise is pgbench from several connections, and a parallel query for dynamic segments.
func (c *cluster) exercise(name string) error {
	for _, step := range []*exec.Cmd{
		c.client("psql", "-Xq", "-c", "CREATE TABLE marker AS SELECT '"+name+"'::text AS name", "postgres"),
		c.client("pgbench", "-i", "-q", "-s", "1", "postgres"),
		c.client("pgbench", "-n", "-c", "8", "-j", "2", "-T", "4", "postgres"),
		// A connection per transaction: attach, semaphores and detach of a new process each time.
		c.client("pgbench", "-n", "-S", "-C", "-c", "4", "-T", "2", "postgres"),
	} {
		if _, err := runCommand(step); err != nil {
			return err
		}
	}
	plan, err := runCommand(c.client("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "postgres", "-c",
		"EXPLAIN (ANALYZE, COSTS OFF) SELECT sum(abalance) FROM pgbench_accounts"))
	if err == nil && !strings.Contains(plan, "Workers Launched: 2") {
		err = fmt.Errorf("%s: no parallel query, so no dynamic segment:\n%s", c.dir, plan)
	}
	if err != nil {
		return err
	}
	// What TPC-B keeps: all balances and the history agree, whatever the order of transactions.
	balance, err := runCommand(c.client("psql", "-XAtq", "postgres", "-c",
		"SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"))
	if err == nil && strings.TrimSpace(balance) != "t" {
		err = fmt.Errorf("%s: the balances and the history of pgbench disagree", c.dir)
	}
	return err
}

func keysOf(c *cluster, t *testing.T, family string) []string {
	t.Helper()
	var keys []string
	for _, row := range c.space.ipcs(t, family) {
		keys = append(keys, row[0])
	}
	slices.Sort(keys)
	return keys
}
