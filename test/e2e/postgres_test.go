package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// PostgreSQL protects its files by the attach count of a segment: a second server on the same files
// must see the first one's, or it ruins them. With pods that is only so if they share a space.
func TestPostgres(t *testing.T) {
	needChart(t)
	t.Parallel()
	data := filepath.Join(scratch, "postgres")
	must(t, os.MkdirAll(data, 0o777))
	must(t, os.Chmod(data, 0o777))
	t.Cleanup(func() { _ = os.RemoveAll(data) }) // goes with scratch otherwise
	namespace := newNamespace(t)
	server := func(name string) pod {
		c := strings.TrimSuffix(container("postgres", imagePostgres, "sh", "-c",
			"[ -e /data/db/PG_VERSION ] || initdb -D /data/db -A trust -U user --no-sync --no-locale; "+
				"exec postgres -D /data/db -k /tmp -c fsync=off -c shared_memory_type=sysv"), "}") +
			", volumeMounts: [{name: data, mountPath: /data}]" +
			", readinessProbe: {exec: {command: [pg_isready, -h, /tmp, -U, user]}, periodSeconds: 1, timeoutSeconds: 5}}"
		return newPod(t, namespace, name, "orders", "containers: ["+c+"]",
			fmt.Sprintf("volumes: [{name: data, hostPath: {path: %q}}]", data))
	}
	psql := func(p pod, query string) string {
		t.Helper()
		return strings.TrimSpace(p.run(t, "postgres", "psql", "-XAtq", "-h", "/tmp", "-U", "user", "-c", query, "postgres"))
	}
	one := server("one")
	one.awaitReady(t)
	psql(one, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")

	two := server("two")
	must(t, eventually(patience, func() error {
		logs, err := two.kubectl("logs", two.name)
		if err == nil && !strings.Contains(logs, "pre-existing shared memory block") {
			// Between two tries, only the last one's log is left.
			logs, err = two.kubectl("logs", two.name, "--previous")
			if err == nil && !strings.Contains(logs, "pre-existing shared memory block") {
				err = fmt.Errorf("the second server says:\n%s", logs)
			}
		}
		return err
	}))
	if got := psql(one, "SELECT sum(n) FROM kept"); got != "500500" {
		t.Errorf("the first server's table has %q", got)
	}

	// With the first one gone, the second one's next try succeeds.
	began := time.Now()
	one.delete(t)
	two.awaitReady(t)
	t.Logf("the second server took over after %v", time.Since(began).Round(time.Second))
	if got := psql(two, "SELECT sum(n) FROM kept"); got != "500500" {
		t.Errorf("the second server's table has %q", got)
	}
	wants(t, two.run(t, "postgres", "cat", "/data/db/postmaster.pid"), "/data/db")
}
