// Package fuzz_test replays the corpus of make fuzz-library, and with it every input that was found
// to do harm once, with gcc's sanitizers.
package fuzz_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// longest is how long an input may take: none of its calls waits for others.
const longest = time.Minute

func TestReplay(t *testing.T) {
	program := filepath.Join(t.TempDir(), "replay")
	if out, err := exec.Command("./build.sh", program).CombinedOutput(); err != nil {
		t.Fatalf("build.sh: %v\n%s", err, out)
	}
	inputs, err := filepath.Glob("corpus/*")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no corpus: %v", err)
	}
	for _, input := range inputs {
		cmd := exec.Command(program, input)
		cmd.Env = append(os.Environ(), "ASAN_OPTIONS=detect_leaks=0")
		timer := time.AfterFunc(longest, func() { _ = cmd.Process.Kill() })
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", input, err, out)
		}
		timer.Stop()
	}
}
