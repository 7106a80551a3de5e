package conformance_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

var compileFlags = []string{"-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"}

var building sync.Mutex

// build compiles a family of rows and returns the program's path.
func build(t *testing.T, compiler, family string) string {
	t.Helper()
	return compile(t, compiler, filepath.Join("rows", family+".c"))
}

// compile compiles a program, which may include the headers of its folder, and returns its path. Programs
// are kept in the user's cache, named by what they were made of: compiling all takes longer than running
// most.
func compile(t *testing.T, compiler, source string) string {
	t.Helper()
	building.Lock()
	defer building.Unlock()
	folder, name := filepath.Split(source)
	name = strings.TrimSuffix(name, ".c")
	headers, err := filepath.Glob(filepath.Join(folder, "*.h"))
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.New()
	for _, name := range append(headers, source) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		digest.Write(text)
	}
	args := append([]string{compiler}, compileFlags...)
	for _, arg := range args {
		digest.Write([]byte(arg))
	}
	program := filepath.Join(cache(t), compiler+"-"+filepath.Base(folder)+"-"+name+"-"+hex.EncodeToString(digest.Sum(nil)[:8]))
	if _, err := os.Stat(program); err == nil {
		return program
	}
	// Renamed into its place when it is whole: other test runs use the same cache.
	unfinished := filepath.Join(t.TempDir(), name)
	out, err := exec.Command(compiler, append(args[1:], "-o", unfinished, source, "-ldl")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", compiler, source, err, out)
	}
	text, err := os.ReadFile(unfinished)
	if err != nil {
		t.Fatal(err)
	}
	part, err := os.CreateTemp(filepath.Dir(program), name+"-part-*")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := part.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := part.Chmod(0o755); err != nil {
		t.Fatal(err)
	}
	if err := part.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(part.Name(), program); err != nil {
		t.Fatal(err)
	}
	return program
}

func cache(t *testing.T) string {
	t.Helper()
	dir, err := os.UserCacheDir()
	if err != nil {
		return t.TempDir()
	}
	dir = filepath.Join(dir, "ipcspace", "conformance")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return t.TempDir()
	}
	return dir
}
