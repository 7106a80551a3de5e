package e2e_test

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ipcspace/ipcspace/test/suite"
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

// runCommand runs to the end and returns the standard output.
func runCommand(command *exec.Cmd) (string, error) { return suite.Run(startTimeout, command) }

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

// holds repeats a check for some seconds, in which it must never have an error.
func holds(seconds int, check func() error) error {
	for deadline := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}
