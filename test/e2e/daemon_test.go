package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/ipcspace/ipcspace/test/suite"
)

// daemon is one of the cluster's programs.
type daemon struct {
	name      string
	arguments func() []string
	ready     func() error // nil: nobody waits for it

	mu      sync.Mutex
	process *exec.Cmd
	ended   chan struct{}
}

func (d *daemon) log() string { return filepath.Join(scratch, "log", d.name+".log") }

// start starts it unless it runs, and does not wait until it is ready.
func (d *daemon) start() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.process != nil {
		return nil
	}
	for _, dir := range []string{"log", "pid"} {
		if err := os.MkdirAll(filepath.Join(scratch, dir), 0o755); err != nil {
			return err
		}
	}
	log, err := os.OpenFile(d.log(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	process := exec.Command(filepath.Join(programs, d.name), d.arguments()...)
	process.Env = append(os.Environ(), "PATH="+programs+":"+os.Getenv("PATH"))
	process.Stdout, process.Stderr = log, log
	process.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := process.Start(); err != nil {
		return fmt.Errorf("%s: %w", d.name, err)
	}
	d.process, d.ended = process, make(chan struct{})
	go func(ended chan struct{}) {
		_ = process.Wait() // it is killed, mostly
		close(ended)
	}(d.ended)
	return os.WriteFile(filepath.Join(scratch, "pid", d.name), fmt.Append(nil, process.Process.Pid), 0o644)
}

// await waits until it is ready.
func (d *daemon) await(within time.Duration) error {
	err := eventually(within, func() error {
		d.mu.Lock()
		process := d.process
		d.mu.Unlock()
		if process == nil || !suite.Running(process.Process.Pid) {
			return stop{fmt.Errorf("%s ended", d.name)}
		}
		return d.ready()
	})
	if err != nil {
		return fmt.Errorf("start %s: %w\nits log:\n%s", d.name, err, suite.Tail(d.log()))
	}
	return nil
}

// kill ends it at once, and waits. Nothing if it does not run.
func (d *daemon) kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.process == nil {
		return
	}
	_ = d.process.Process.Kill() // gone already: fine
	<-d.ended
	d.process = nil
}

// restart kills it and starts it again, until it is ready.
func (d *daemon) restart() error {
	d.kill()
	if err := d.start(); err != nil {
		return err
	}
	return d.await(startTimeout)
}
