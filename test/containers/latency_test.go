package containers_test

import (
	"debug/elf"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// mostSlower is how much longer a container may take to start with a space, by the wrapper, than
// without: as a ratio.
const mostSlower = 1.10

var latency = flag.Bool("latency", false, "measure how long containers take to start: on a machine that does nothing else")

// A container with a space, by the wrapper, starts as fast as one with the same mount without it. What else a machine does only
// adds to a time, so the shortest of many is the container's own; more are taken if they were few.
func TestStartLatency(t *testing.T) {
	if !*latency {
		t.Skip("a measurement, not part of the tests: make start-latency")
	}
	needDocker(t)
	if n := others(time.Minute); n >= 1 {
		t.Skipf("a ratio of times needs a machine that does nothing else: %.1f other processes want to run here", n)
	}
	s := newSpace(t)
	with := append(s.mountFlags(), "--runtime=ipcspace")
	var plain, wrapped []time.Duration
	took := func(cmd *exec.Cmd) time.Duration {
		began := time.Now()
		mustRun(t, cmd)
		return time.Since(began)
	}
	ratio := 0.0
	for range 5 {
		for i := range 8 {
			if i%2 == 0 {
				plain = append(plain, took(dockerRun(s.mountFlags(), imageStatic, "true")))
				wrapped = append(wrapped, took(dockerRun(with, imageStatic, "true")))
			} else {
				wrapped = append(wrapped, took(dockerRun(with, imageStatic, "true")))
				plain = append(plain, took(dockerRun(s.mountFlags(), imageStatic, "true")))
			}
		}
		ratio = float64(slices.Min(wrapped)) / float64(slices.Min(plain))
		t.Logf("%d starts each: %v without the wrapper, %v with it: ratio %.3f", len(plain), slices.Min(plain), slices.Min(wrapped), ratio)
		if ratio <= mostSlower {
			return
		}
	}
	t.Errorf("with the wrapper a container takes %.2f times as long to start as without; at most %.2f", ratio, mostSlower)
}

// others is how many processes besides this one want to run, on average over a second: less than one,
// or what it still is when the patience is over.
func others(patience time.Duration) float64 {
	for deadline := time.Now().Add(patience); ; {
		total, samples := 0, 100
		for range samples {
			time.Sleep(10 * time.Millisecond)
			total += running()
		}
		n := float64(total)/float64(samples) - 1
		if n < 1 || time.Now().After(deadline) {
			return n
		}
	}
}

// running is procs_running of proc_stat(5).
func running() int {
	text, _ := os.ReadFile("/proc/stat")
	_, rest, _ := strings.Cut(string(text), "procs_running ")
	n, _, _ := strings.Cut(rest, "\n")
	count, _ := strconv.Atoi(n)
	return count
}

// The wrapper and the hook are static: no library of the host's is looked up. They start in a few
// milliseconds, several times in a container's life.
func TestShimStarts(t *testing.T) {
	path := filepath.Join(bin, "ipcspace-shim")
	file, err := elf.Open(path)
	must(t, err)
	defer file.Close()
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_INTERP || segment.Type == elf.PT_DYNAMIC {
			t.Errorf("ipcspace-shim is not static: it has a segment %v", segment.Type)
		}
	}
	var times []time.Duration
	for range 50 {
		began := time.Now()
		mustRun(t, exec.Command(path, "version"))
		times = append(times, time.Since(began))
	}
	if shortest := slices.Min(times); shortest > 20*time.Millisecond {
		t.Errorf("ipcspace-shim takes %v to start and end", shortest)
	}
}
