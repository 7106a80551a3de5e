package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ipcspace/ipcspace/shim"
)

// prepareExec gives the library to a process that is executed in a container with a space: Docker
// makes its environment anew, from a configuration that knows nothing of ours.
func prepareExec(ctx context.Context, root, real string, c call) error {
	text, err := exec.CommandContext(ctx, real, slices.Concat(c.globals, []string{"state", c.id})...).Output()
	if err != nil {
		return nil // the real runtime says it better
	}
	var state specs.State
	if err := json.Unmarshal(text, &state); err != nil {
		return fmt.Errorf("state of container %s: %w", c.id, err)
	}
	b, err := shim.ReadBundle(state.Bundle)
	if err != nil {
		return err
	}
	if r, err := b.Request(root); err != nil || r == nil {
		return err
	}
	if text, err = os.ReadFile(c.process); err != nil {
		return err
	}
	var process object
	if err := json.Unmarshal(text, &process); err != nil {
		return fmt.Errorf("%s: %w", c.process, err)
	}
	if err := edit(process, "env", func(env *[]string) { *env = environment(*env) }); err != nil {
		return err
	}
	if text, err = json.Marshal(process); err != nil {
		return err
	}
	return replace(c.process, text)
}
