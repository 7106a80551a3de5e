package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// What anything that changes in the cluster takes at most, on a busy machine too.
	patience = 90 * time.Second
	// The same for the cluster's programs.
	startTimeout = 3 * time.Minute
)

// stop is an error after which waiting is in vain.
type stop struct{ error }

// eventually repeats a check until it has no error; the last error when the time is over.
func eventually(within time.Duration, check func() error) error {
	for deadline := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		err := check()
		if err == nil || errors.As(err, new(stop)) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("still so after %v: %w", within, err)
		}
	}
}

// runCommand returns what a command prints on its standard output; its error has what it printed on the other.
func runCommand(command *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.WaitDelay = 2 * time.Second
	if err := command.Start(); err != nil {
		return "", fmt.Errorf("start %s: %w", command, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL) })()
	if err := command.Wait(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s%s", command, err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wants fails the test unless text contains part.
func wants(t *testing.T, text, part string) {
	t.Helper()
	if !strings.Contains(text, part) {
		t.Errorf("no %q in:\n%s", part, text)
	}
}

func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-8192):])
}

// holds repeats a check for some seconds, in which it must never have an error.
func holds(seconds int, check func() error) error {
	for deadline := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}
