package manager

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	rootVariable  = "IPCSPACE_TEST_ROOT"
	plainVariable = "IPCSPACE_TEST_PLAIN"
	killVariable  = "IPCSPACE_TEST_KILL"
)

func init() { roles["manager"] = managerMain }

// managerMain is a manager that can be killed: at a step, if told so.
func managerMain() {
	fatal := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "manager:", err)
			os.Exit(2)
		}
	}
	kill := os.Getenv(killVariable)
	failpoint = func(step string) {
		if step == kill {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
	m, err := New(Config{
		Root: os.Getenv(rootVariable), Unprivileged: os.Getenv(plainVariable) != "",
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	fatal(err)
	if len(m.Spaces()) == 0 {
		_, err = m.CreateSpace(context.Background(), SpaceConfig{Name: "a"})
		fatal(err)
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if in.Text() == "remove" {
			fatal(m.RemoveSpace(context.Background(), "a", true))
		}
	}
	fatal(m.Close())
}

// daemon is a manager as another process.
type daemon struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.Writer
	root  string
	plain bool
	// descriptors are all that it may have. 0: as many as the tests.
	descriptors int
}

func (d *daemon) dir() string { return filepath.Join(d.root, "spaces", "a") }

// start runs it until it is ready, or dead if it shall be killed.
func (d *daemon) start(kill string) (ready bool) {
	d.t.Helper()
	self, err := os.Executable()
	check(d.t, err)
	d.cmd = exec.Command(self)
	if d.descriptors != 0 {
		d.cmd = exec.Command("sh", "-c", fmt.Sprintf("ulimit -n %d; exec %s", d.descriptors, self))
	}
	d.cmd.Env = []string{roleVariable + "=manager", rootVariable + "=" + d.root, killVariable + "=" + kill}
	if d.plain {
		d.cmd.Env = append(d.cmd.Env, plainVariable+"=1")
	}
	d.cmd.Stderr = os.Stderr
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	in, err := d.cmd.StdinPipe()
	check(d.t, err)
	d.in = in
	out, err := d.cmd.StdoutPipe()
	check(d.t, err)
	check(d.t, d.cmd.Start())
	if bufio.NewScanner(out).Scan() {
		return true
	}
	d.wait()
	return false
}

// wait waits for the end of a manager that was killed.
func (d *daemon) wait() {
	d.t.Helper()
	done := time.AfterFunc(20*time.Second, func() { _ = d.cmd.Process.Kill(); d.t.Error("manager was not killed at its step") })
	_ = d.cmd.Wait()
	done.Stop()
}

func (d *daemon) kill() {
	if d.cmd.ProcessState == nil {
		_ = d.cmd.Process.Kill()
		_ = d.cmd.Wait()
	}
}

func newDaemon(t *testing.T, plain bool) *daemon {
	t.Helper()
	d := &daemon{t: t, root: tempRoot(t), plain: plain}
	t.Cleanup(func() {
		d.kill()
		m, err := New(Config{Root: d.root, Unprivileged: plain, Ephemeral: true})
		if err != nil {
			t.Error(err)
			return
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func eachDaemon(t *testing.T, f func(t *testing.T, d *daemon)) {
	t.Helper()
	inBothWays(t, func(t *testing.T, cfg Config) { f(t, newDaemon(t, cfg.Unprivileged)) })
}

// resume connects a session again after its manager died.
func (p *peer) resume(t *testing.T) {
	t.Helper()
	_ = unix.Close(p.fd)
	fd, err := register(p.dir)
	check(t, err)
	q := &peer{dir: p.dir, fd: fd, seq: 1 << 20}
	check(t, q.hello(p.session, 0, p.cookie()))
	if q.session != p.session {
		t.Errorf("session %d resumed as %d", p.session, q.session)
	}
	p.fd = q.fd
	q.fd = -1
	q.close()
}

// again sends a request, of which the manager may die, and once more to the
// next manager.
func (d *daemon) again(p *peer, kind uint32, body []byte, args ...int64) (*answer, error) {
	d.t.Helper()
	seq, err := p.send(kind, body, args...)
	check(d.t, err)
	if a, err := p.receive(); a != nil {
		d.t.Errorf("the manager lives: %v", err)
		return a, err
	}
	d.wait()
	d.start("")
	p.resume(d.t)
	check(d.t, p.sendSeq(seq, kind, body, args...))
	return p.receive()
}
