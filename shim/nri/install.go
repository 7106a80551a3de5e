package nri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// installHook puts this program where the runtime executes it as a hook, and sees that it can be
// executed there. It goes with the plugin; what a killed one leaves, the next one replaces.
func installHook(ctx context.Context, path string) (remove func(), err error) {
	if path == "" {
		return nil, errors.New("--install-hook needs a path: give --hook")
	}
	if err := copySelf(path); err != nil {
		return nil, err
	}
	remove = func() { _ = os.Remove(path) } // nobody is left to be told
	output, err := exec.CommandContext(ctx, path, "version").CombinedOutput()
	if err != nil {
		remove()
		return nil, fmt.Errorf("execute %s: %w: %s", path, err, strings.TrimSpace(string(output)))
	}
	return remove, nil
}

// copySelf replaces path, whole or not at all: the runtime may be executing it.
func copySelf(path string) error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer self.Close()
	fresh, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(fresh.Name()) }() // not there if all went well
	_, err = io.Copy(fresh, self)
	if err := errors.Join(err, fresh.Chmod(0o755), fresh.Close()); err != nil {
		return err
	}
	return os.Rename(fresh.Name(), path)
}
