package runtime

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ipcspace/ipcspace/shim"
)

// edits are what a container gets.
type edits struct {
	request     *shim.Request
	source      string // the space's folder, to be mounted; not used if it is already
	closeKernel bool
}

// object is a JSON object of which only some members are known: the others stay as they are.
type object map[string]json.RawMessage

// edit changes one member of an object.
func edit[T any](o object, name string, change func(*T)) error {
	var value T
	if text, ok := o[name]; ok {
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		if err := d.Decode(&value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	change(&value)
	text, err := json.Marshal(value)
	o[name] = text
	return err
}

// rewrite is config.json with the edits in it.
func rewrite(text []byte, e edits) ([]byte, error) {
	var config object
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	var failed error
	err := edit(config, "process", func(process *object) {
		failed = edit(orEmpty(process), "env", func(env *[]string) { *env = environment(*env) })
	})
	if err == nil && failed == nil {
		err = edit(config, "mounts", func(mounts *[]json.RawMessage) { failed = addMounts(mounts, e) })
	}
	if err == nil && failed == nil {
		err = edit(config, "linux", func(linux *object) { failed = editLinux(orEmpty(linux), e) })
	}
	if err != nil || failed != nil {
		return nil, fmt.Errorf("config.json: %w", firstOf(err, failed))
	}
	return json.Marshal(config)
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func orEmpty(o *object) object {
	if *o == nil {
		*o = object{}
	}
	return *o
}

// environment puts the library in front of LD_PRELOAD. What an image says of our own variables does
// not count: it could lead the library elsewhere.
func environment(env []string) []string {
	var out []string
	preload := ""
	for _, pair := range env {
		name, value, _ := strings.Cut(pair, "=")
		switch name {
		case "LD_PRELOAD":
			preload = value // of two the last counts, as in runc
		case "IPCSPACE_DIR", "IPCSPACE_DIR_WRITABLE", "IPCSPACE_REQUIRED":
		default:
			out = append(out, pair)
		}
	}
	return append(out, "LD_PRELOAD="+shim.JoinPreload(preload), "IPCSPACE_REQUIRED=1")
}

// addMounts adds the space's folder. noexec would keep the library from being loaded.
func addMounts(mounts *[]json.RawMessage, e edits) error {
	add := func(m specs.Mount) error {
		text, err := json.Marshal(m)
		*mounts = append(*mounts, text)
		return err
	}
	options := []string{"bind", "ro", "nosuid", "nodev"}
	if !e.request.Mounted {
		if err := add(specs.Mount{Destination: shim.Target, Type: "bind", Source: e.source, Options: options}); err != nil {
			return err
		}
	} else if err := harden(*mounts); err != nil {
		return err
	}
	if !e.request.BindFile {
		return nil
	}
	if e.source == "" {
		return fmt.Errorf("%w: %s=bind needs a space by name", shim.ErrRefused, shim.AnnotationPreload)
	}
	return add(specs.Mount{
		Destination: shim.PreloadTarget, Type: "bind", Source: filepath.Join(e.source, shim.PreloadFile), Options: options,
	})
}

// harden gives the mount that is there already the options that ours would have.
func harden(mounts []json.RawMessage) error {
	for i, text := range mounts {
		var m object
		var destination string
		if err := json.Unmarshal(text, &m); err != nil {
			return fmt.Errorf("config.json: mounts: %w", err)
		}
		_ = json.Unmarshal(m["destination"], &destination) // a string, or another's problem
		if filepath.Clean("/"+destination) != shim.Target {
			continue
		}
		err := edit(m, "options", func(options *[]string) {
			*options = slices.DeleteFunc(*options, func(o string) bool { return o == "noexec" || o == "suid" || o == "dev" })
			for _, o := range []string{"nosuid", "nodev"} {
				if !slices.Contains(*options, o) {
					*options = append(*options, o)
				}
			}
		})
		if err != nil {
			return err
		}
		if mounts[i], err = json.Marshal(m); err != nil {
			return err
		}
	}
	return nil
}

// editLinux closes the kernel's own System V IPC, and hides its tables: ipcs, ipcrm and lsipc read
// those first, and make the calls without them.
func editLinux(linux object, e edits) error {
	if e.closeKernel {
		err := edit(linux, "sysctl", func(sysctl *map[string]string) {
			if *sysctl == nil {
				*sysctl = map[string]string{}
			}
			maps.Copy(*sysctl, shim.Sysctls)
		})
		if err != nil {
			return err
		}
	}
	return edit(linux, "maskedPaths", func(paths *[]string) {
		if !slices.Contains(*paths, "/proc/sysvipc") {
			*paths = append(*paths, "/proc/sysvipc")
		}
	})
}
