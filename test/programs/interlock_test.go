package programs_test

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ipcspace/ipcspace/test/suite"
)

// PostgreSQL protects its data by the segment's attach count: a server must not start while a
// backend of an earlier one lives, even if the postmaster was killed (rows 65, 76 to 78, 236, 237).
func TestPostgresInterlock(t *testing.T) {
	t.Parallel()
	c := newCluster(t, debianPostgres(t), newSpace(t), directory(t, nobody))
	must(t, c.start())
	c.psql(t, "CREATE TABLE kept AS SELECT 42 AS answer")

	// A backend that computes never looks whether its postmaster lives.
	query := c.client("psql", "-Xq", "-c", "DO $$ BEGIN LOOP END LOOP; END $$", "postgres")
	must(t, query.Start())
	t.Cleanup(func() {
		_ = query.Process.Kill()
		_ = query.Wait() // fails: its connection breaks
	})
	backend := 0
	must(t, suite.Eventually(20*time.Second, func() (err error) {
		_, err = fmt.Sscan(c.psql(t, "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'DO %'"), &backend)
		return err
	}))
	postmaster := c.postmaster(t)
	if !slices.Contains(suite.ChildrenOf(postmaster), backend) {
		t.Fatalf("backend %d is no child of the postmaster %d", backend, postmaster)
	}
	others := slices.DeleteFunc(suite.ChildrenOf(postmaster), func(pid int) bool { return pid == backend })
	must(t, syscall.Kill(postmaster, syscall.SIGKILL))
	t.Cleanup(func() { _ = syscall.Kill(backend, syscall.SIGKILL) }) // gone already if all went well
	<-c.wait
	c.wait = nil
	must(t, gone(append(others, postmaster)...))
	if !suite.Running(backend) {
		t.Fatal("the backend ended with its postmaster: nothing to test")
	}

	refuses(t, c, "a backend runs")
	must(t, syscall.Kill(backend, syscall.SIGSTOP))
	refuses(t, c, "a backend is stopped")

	// SIGKILL ends a stopped process too. What it held must be free at once, so one try is enough.
	must(t, syscall.Kill(backend, syscall.SIGKILL))
	must(t, gone(backend))
	if err := c.start(); err != nil {
		t.Fatalf("start after the last backend is gone: %v", err)
	}
	if answer := c.psql(t, "SELECT answer FROM kept"); answer != "42" {
		t.Errorf("after crash recovery the table says %q, want 42", answer)
	}
	c.stop(t)
	if rows := c.space.ipcs(t, "-m"); len(rows) != 0 {
		t.Errorf("segments after shutdown: %v", rows)
	}
	requireKernelUnused(t)
}

func refuses(t *testing.T, c *cluster, when string) {
	t.Helper()
	err := c.start()
	if err == nil {
		c.stop(t)
		t.Fatalf("a second server started while %s", when)
	}
	if !strings.Contains(err.Error(), "pre-existing shared memory block") {
		t.Fatalf("a second server failed while %s, but for another reason: %v", when, err)
	}
}

// gone waits until processes have ended.
func gone(pids ...int) error {
	return suite.Eventually(30*time.Second, func() error {
		for _, pid := range pids {
			if suite.Running(pid) {
				return fmt.Errorf("process %d lives (%s)", pid, suite.CommandLine(pid))
			}
		}
		return nil
	})
}
