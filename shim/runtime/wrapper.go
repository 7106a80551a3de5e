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
	"slices"
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
	c := parse(args)
	switch {
	case c.command == "create" || c.command == "run":
		err = prepare(ctx, shim.Root(), c.bundle)
	case c.command == "exec" && c.process != "":
		err = prepareExec(ctx, shim.Root(), path, c)
	}
	if err != nil {
		c.report(err)
		return err
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
	globals []string // what stands before the command
	command string
	bundle  string // of create and run
	process string // of exec: the file with the process; "" if it is the container's own with other arguments
	id      string // the container
	log     string
	jsonLog bool
}

// valued are the flags that take a value as the next argument, before the command and after it
// (runc(8), crun(1)).
var valued = [2][]string{
	{"log", "log-format", "log-level", "root", "criu", "rootless", "cgroup-manager"},
	{"bundle", "b", "config", "f", "console-socket", "pid-file", "preserve-fds", "process", "p", "cwd", "env", "e", "user", "u",
		"additional-gids", "g", "process-label", "apparmor", "cap", "c", "cgroup", "exec-cpu-affinity"},
}

func parse(args []string) call {
	c := call{bundle: "."}
	for i := 0; i < len(args); i++ {
		name, isFlag := strings.CutPrefix(args[i], "-")
		switch {
		case c.command == "" && !isFlag:
			c.globals, c.command = args[:i], args[i]
			continue
		case !isFlag:
			c.id = args[i] // what follows is a command line for the container
			return c
		}
		name, value, joined := strings.Cut(strings.TrimPrefix(name, "-"), "=")
		flags := valued[0]
		if c.command != "" {
			flags = valued[1]
		}
		if slices.Contains(flags, name) && !joined && i+1 < len(args) {
			i++
			value = args[i]
		}
		switch {
		case c.command == "" && name == "log":
			c.log = value
		case c.command == "" && name == "log-format":
			c.jsonLog = value == "json"
		case c.command != "" && (name == "bundle" || name == "b"):
			c.bundle = value
		case c.command != "" && (name == "process" || name == "p"):
			c.process = value
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
