package chaos_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"
)

var (
	instructions     = flag.Int("instructions", 12, "of each operation, at which its process is killed; 0: at each (an hour)")
	instructionsSeed = flag.Uint64("instructions.seed", 0, "0: another each time")
	instructionsOnly = flag.String("instructions.only", "", "one operation of testdata/failpoints")
)

// TestInstructions kills a process at instructions that it runs in the library, the one that
// programs have, in each operation: nothing that is between the steps of TestFailPoints is lost.
func TestInstructions(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the single steps are written for amd64")
	}
	m := newManager(t)
	env := m.space(t, "instructions", command("libipcspace.so"))
	seed := *instructionsSeed
	if seed == 0 {
		seed = uint64(rand.Uint32())
	}
	argv := []string{command("failpoints"), "--led", fmt.Sprint(*instructions), fmt.Sprint(seed)}
	if *instructionsOnly != "" {
		argv = append(argv, *instructionsOnly)
	}
	text, err := finishWithin(3*time.Hour, env, argv...)
	if err != nil {
		t.Error(err)
	}
	cases, operations := 0, 0
	var counts strings.Builder
	for line := range strings.Lines(text) {
		switch line = strings.TrimSpace(line); {
		case strings.HasSuffix(line, " instructions"):
			operations++
			fmt.Fprintln(&counts, line)
		case strings.HasPrefix(line, "FAILED"):
			t.Log(line)
		case strings.Contains(line, " ms  "):
			cases++
			if !strings.HasSuffix(line, " ms  ok") {
				t.Error(line)
			}
		}
	}
	t.Logf("seed %d: %d deaths in %d operations\n%s", seed, cases, operations, counts.String())
	if *instructionsOnly == "" && (operations < 25 || *instructions > 0 && cases < operations**instructions/2) {
		t.Errorf("only %d deaths in %d operations", cases, operations)
	}
	checked, err := m.verifySoon("instructions")
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d objects verified", checked)
}
