package main

import (
	"slices"
	"testing"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]uint64{
		"": 0, "0": 0, "4096": 4096, "64k": 64 << 10, "512m": 512 << 20, "2G": 2 << 30, "2GiB": 2 << 30,
		"1t": 1 << 40, "18446744073709551615": 1<<64 - 1,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"x", "5x", "-1", "1.5g", "g", "16777216t", "1mk"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", text, got)
		}
	}
}

func TestHumanSize(t *testing.T) {
	for bytes, want := range map[uint64]string{0: "0B", 512: "512B", 1536: "1.5K", 2 << 30: "2G"} {
		if got := humanSize(bytes); got != want {
			t.Errorf("humanSize(%d) = %q, want %q", bytes, got, want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	p := &place{dir: "/d", library: "/d/lib/libipcspace.so", root: "/r", space: "s"}
	got := p.environment([]string{
		"A=1", "LD_PRELOAD=/x.so /outer/libipcspace.so:/y.so", "IPCSPACE_DIR=/old", "IPCSPACE_DIR_WRITABLE=ok",
		"IPCSPACE_HOME=4026531839",
	})
	slices.Sort(got)
	want := []string{
		"A=1", "IPCSPACE_DIR=/d", "IPCSPACE_REQUIRED=1", "IPCSPACE_ROOT=/r", "IPCSPACE_SPACE=s",
		"LD_PRELOAD=/d/lib/libipcspace.so:/x.so:/y.so",
	}
	if !slices.Equal(got, want) {
		t.Errorf("environment\n got %q\nwant %q", got, want)
	}
}

func TestVerbIndex(t *testing.T) {
	for want, args := range map[int][]string{
		1: {"ipcspace", "run", "--", "run"},
		2: {"ipcspace", "--root=run", "run", "x"},
		3: {"ipcspace", "--root", "run", "run", "x"},
	} {
		if got := verbIndex(args); got != want {
			t.Errorf("verbIndex(%q) = %d, want %d", args, got, want)
		}
	}
}

// FuzzParseSize: no text makes it panic, and what it takes it can show.
func FuzzParseSize(f *testing.F) {
	f.Add("2GiB")
	f.Fuzz(func(t *testing.T, text string) {
		if bytes, err := parseSize(text); err == nil && humanSize(bytes) == "" {
			t.Errorf("humanSize(%d) is empty", bytes)
		}
	})
}
