package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// supervise runs the command in its place until it ends, and returns its exit
// code. The command is started through launch, which prepares what must be the
// command's alone.
func supervise(where *place, path string, opts runOptions) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return exitRun, fmt.Errorf("find this program: %w", err)
	}
	plan := launchPlan{Path: path, OwnMounts: where.mounts, Hide: where.hide, Proc: where.proc, Sysctls: where.sysctls, Listener: -1}
	var refusals *os.File
	if opts.strict {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return exitRun, fmt.Errorf("make a socket pair: %w", err)
		}
		refusals = os.NewFile(uintptr(pair[0]), "refusals")
		defer refusals.Close()
		// Inherited under its own number, which is free here: the command gets
		// the descriptors that run was given under theirs. This process forks
		// once only, so nobody else inherits it.
		if _, err := unix.FcntlInt(uintptr(pair[1]), unix.F_SETFD, 0); err != nil {
			return exitRun, fmt.Errorf("inherit a socket: %w", err)
		}
		defer func() {
			if pair[1] >= 0 {
				unix.Close(pair[1])
			}
		}()
		plan.Listener = pair[1]
		var begun chan struct{}
		code, err := start(self, plan, where, opts, func() {
			unix.Close(pair[1])
			pair[1] = -1
			begun = make(chan struct{})
			go watchRefusals(refusals, begun, os.Stderr)
		})
		if begun != nil {
			<-begun // a short command is over before
		}
		return code, err
	}
	return start(self, plan, where, opts, func() {})
}

func start(self string, plan launchPlan, where *place, opts runOptions, started func()) (int, error) {
	text, err := json.Marshal(plan)
	if err != nil {
		return exitRun, err
	}
	command := exec.Command(self)
	command.Args = append([]string{self, launchVerb, string(text)}, opts.command...)
	command.Env = where.environment(os.Environ())
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	// A command must not go on unnoticed without its manager. The signal is
	// tied to the thread that forks: keep it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGTERM}

	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM,
		unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH, unix.SIGCONT, unix.SIGALRM)
	defer signal.Stop(signals)
	if err := command.Start(); err != nil {
		return exitRun, fmt.Errorf("start %s: %w", self, err)
	}
	started()
	done := make(chan struct{})
	defer close(done)
	go forward(signals, command.Process, done)

	err = command.Wait()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		return exitRun, fmt.Errorf("wait for %s: %w", opts.command[0], err)
	}
	if status, ok := command.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return command.ProcessState.ExitCode(), nil
}

// forward passes signals on to the command. Those of the keyboard reach the
// whole foreground process group, the command in it: they would arrive twice.
func forward(signals <-chan os.Signal, command *os.Process, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case s := <-signals:
			switch s {
			case unix.SIGINT, unix.SIGQUIT, unix.SIGWINCH, unix.SIGCONT:
				if inForeground() {
					continue
				}
			}
			// It fails when the command has just ended: then Wait says so.
			_ = command.Signal(s)
		}
	}
}

// inForeground tells whether this process group has the terminal.
func inForeground() bool {
	tty, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(tty)
	group, err := unix.IoctlGetInt(tty, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
