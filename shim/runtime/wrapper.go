// Package runtime is the wrapper around an OCI runtime such as runc: it writes into config.json what
// a container that asks for a space gets, and becomes the real runtime. A container that asks for
// nothing keeps its config.json to the byte.
package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ipcspace/ipcspace/shim"
)

// realVariable names the real runtime in the environment of who starts this one.
const realVariable = "IPCSPACE_RUNTIME"

// searchPath is where the real runtime is looked for by name.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Run does the work of "NAME ARGS…" and executes the real runtime with the same arguments. It
// returns only if that is not to be. real is its name or path.
func Run(ctx context.Context, real string, args []string) error {
	path, err := find(real)
	if err != nil {
		return err
	}
	call := parse(args)
	if call.bundle != "" {
		if err := prepare(ctx, shim.Root(), call.bundle); err != nil {
			call.report(err)
			return err
		}
	}
	// package syscall: its Exec puts back the descriptor limit that Go raised.
	err = syscall.Exec(path, append([]string{filepath.Base(path)}, args...), os.Environ())
	return fmt.Errorf("execute %s: %w", path, err)
}

func find(name string) (string, error) {
	if override := os.Getenv(realVariable); override != "" {
		name = override
	}
	if strings.Contains(name, "/") {
		return name, nil
	}
	for dir := range strings.SplitSeq(searchPath, ":") {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no runtime %q in %s: install it, or name it in %s", name, searchPath, realVariable)
}

// call is what matters of a runtime's command line.
type call struct {
	bundle  string // of create and run; "" for all other commands
	log     string
	jsonLog bool
}

// valued are the flags before the command that take a value as the next argument (runc(8), crun(1)).
var valued = map[string]bool{"log": true, "log-format": true, "log-level": true, "root": true, "criu": true, "rootless": true, "cgroup-manager": true}

func parse(args []string) call {
	var c call
	command := ""
	for i := 0; i < len(args); i++ {
		name, value, joined := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		isFlag := strings.HasPrefix(args[i], "-")
		switch {
		case command == "" && !isFlag:
			command = args[i]
			if command != "create" && command != "run" {
				return c
			}
			c.bundle = "."
			continue
		case !isFlag:
			continue
		}
		takes := command == "" && valued[name] || command != "" && (name == "bundle" || name == "b")
		if takes && !joined && i+1 < len(args) {
			i++
			value = args[i]
		}
		switch {
		case command != "" && (name == "bundle" || name == "b"):
			c.bundle = value
		case name == "log":
			c.log = value
		case name == "log-format":
			c.jsonLog = value == "json"
		}
	}
	return c
}

// report writes an error where containerd and Docker look for a runtime's, and show it.
func (c call) report(err error) {
	if c.log == "" || !c.jsonLog {
		return
	}
	f, openErr := os.OpenFile(c.log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if openErr != nil {
		return // it goes to the standard error, too
	}
	defer f.Close()
	_ = json.NewEncoder(f).Encode(map[string]string{
		"level": "error", "msg": "ipcspace: " + err.Error(), "time": time.Now().UTC().Format(time.RFC3339),
	})
}

// prepare rewrites the bundle of a container that asks for a space.
func prepare(ctx context.Context, root, dir string) error {
	b, err := shim.ReadBundle(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the real runtime says it better
	}
	if err != nil {
		return err
	}
	r, err := b.Request(root)
	if err != nil || r == nil {
		return err
	}
	source := ""
	if r.Space != "" {
		if source, err = r.Ensure(ctx, root); err != nil {
			return err
		}
	}
	closed, err := b.KernelIPC(r)
	if err != nil {
		return err
	}
	text, err := rewrite(b.Text, edits{request: r, source: source, closeKernel: closed})
	if err != nil {
		return err
	}
	return replace(filepath.Join(dir, "config.json"), text)
}

// replace puts a file in the place of another, whole or not at all, with its mode.
func replace(path string, text []byte) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	fresh := path + ".ipcspace"
	if err := os.WriteFile(fresh, text, info.Mode().Perm()); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}
