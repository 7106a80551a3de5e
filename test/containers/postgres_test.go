package containers_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/ipcspace/ipcspace/test/suite"
)

// installedPostgres is the folder of Debian's newest server on this machine.
func installedPostgres(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	must(t, err)
	if len(found) == 0 {
		missing(t, "PostgreSQL is missing: apt-get install postgresql-15, or make deps")
	}
	return filepath.Dir(found[len(found)-1])
}

// PostgreSQL protects its data by the attach count of a segment, for a lock file with a pid says
// nothing to a container that has pids of its own. So a second server, in another container with the
// same data and the same space, must not start while a backend of the first lives, with or without
// its postmaster; and one with another space would.
func TestPostgresInterlock(t *testing.T) {
	needDocker(t)
	programs := installedPostgres(t)
	s, other := newSpace(t), newSpace(t)
	data := directory(t)
	must(t, os.Chown(data, 1000, 1000))
	start := func(s *space, script string) *container {
		flags := append(s.mountFlags(), "--user", "1000:1000", "-v", "/usr:/usr:ro", "-v", data+":/data", "-e", "PATH=/bin:/usr/bin:"+programs)
		return dockerStart(t, flags, imageGlibc, "sh", "-euc", script)
	}
	const ready = "database system is ready to accept connections"
	const serve = `exec postgres -D /data/db`
	refuses := func(when string) {
		t.Helper()
		second := start(s, serve)
		if code := second.wait(t); code == "0" {
			t.Errorf("a second server started and ended while %s", when)
		}
		wants(t, second.logs(t), "pre-existing shared memory block")
	}

	// The shell is the container's first process: it outlives the postmaster.
	first := start(s, `
		initdb -D /data/db -U postgres -A trust --no-locale -E UTF8 --no-sync
		printf "listen_addresses = ''\nunix_socket_directories = '/data'\n" >>/data/db/postgresql.conf
		postgres -D /data/db &
		echo $! >/data/postmaster
		wait || true
		exec ipc sleep`)
	first.awaits(t, ready)
	psql := func(c *container, flag, query string) string {
		t.Helper()
		return mustRun(t, c.command("exec", flag, c.name, "psql", "-XAtq", "-h", "/data", "-U", "postgres", "-c", query, "postgres"))
	}
	psql(first, "-t=false", "CREATE TABLE kept AS SELECT 42 AS answer")
	refuses("the first serves")

	// A backend that computes never looks whether its postmaster lives.
	psql(first, "-d", "DO $$ BEGIN LOOP END LOOP; END $$")
	must(t, suite.Eventually(commandTimeout, func() error {
		if n := psql(first, "-t=false", "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'DO %'"); n != "1\n" {
			return fmt.Errorf("%q such backends run", n)
		}
		return nil
	}))
	mustRun(t, first.command("exec", first.name, "sh", "-c", "kill -9 $(cat /data/postmaster)"))
	refuses("a backend of the first computes")

	mustRun(t, first.command("kill", first.name))
	third := start(s, serve)
	third.awaits(t, ready)
	wants(t, psql(third, "-t=false", "SELECT answer FROM kept"), "42")

	// Without the common space nothing would have held it back.
	start(other, serve).awaits(t, ready)
}
