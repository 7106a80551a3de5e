package differential

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// programTime is more than any program takes; the stage gives up on a step before.
const programTime = 2 * time.Minute

// stage is a running stage: programs in, transcripts out.
type stage struct {
	start func() *exec.Cmd
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
}

func compile(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(publicDir(t), "stage")
	sources, _ := filepath.Glob("stage/*.c")
	args := []string{"-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", binary}
	out, err := exec.Command("gcc", append(args, sources...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return binary
}

// compileGo builds the actor in Go.
func compileGo(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(publicDir(t), "goactor")
	build := exec.Command("go", "build", "-o", binary, "./goactor")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

// publicDir is a temporary directory where actors that have become other users find programs.
func publicDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func onKernel(t *testing.T, binary string) *stage {
	return newStage(t, func() *exec.Cmd {
		cmd := exec.Command(binary)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWIPC}
		return cmd
	})
}

// inSpace has the program of Go actors, too, if there is one.
func inSpace(t *testing.T, binary, goActor string) *stage {
	return newStage(t, func() *exec.Cmd {
		cmd := exec.Command(commandPath(), "run", "--", binary)
		if goActor != "" {
			cmd.Env = append(os.Environ(), "C_ACTOR="+binary, "GO_ACTOR="+goActor)
		}
		return cmd
	})
}

func commandPath() string {
	if path := os.Getenv("IPCSPACE_BIN"); path != "" {
		return path
	}
	return filepath.Join("..", "..", "..", "bin", "ipcspace")
}

func newStage(t *testing.T, start func() *exec.Cmd) *stage {
	s := &stage{start: start}
	t.Cleanup(s.close)
	return s
}

func (s *stage) open() error {
	s.cmd = s.start()
	s.cmd.Stderr = os.Stderr
	in, err := s.cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	s.in, s.out = in, bufio.NewReader(out)
	return s.cmd.Start()
}

func (s *stage) close() {
	if s.cmd == nil {
		return
	}
	s.in.Close()
	stuck := time.AfterFunc(10*time.Second, func() { _ = s.cmd.Process.Kill() })
	_ = s.cmd.Wait() // a killed stage has nothing more to say
	stuck.Stop()
	s.cmd = nil
}

// play runs p and returns its transcript. A stage that ends before is started anew for the next.
func (s *stage) play(p program, settle time.Duration) (string, error) {
	if s.cmd == nil {
		if err := s.open(); err != nil {
			return "", err
		}
	}
	text := fmt.Sprintf("settle %d\n%send\n", settle.Milliseconds(), p)
	if _, err := io.WriteString(s.in, text); err != nil {
		s.close()
		return "", fmt.Errorf("stage: %w", err)
	}
	stuck := time.AfterFunc(programTime, func() { _ = s.cmd.Process.Kill() })
	defer stuck.Stop()
	var transcript strings.Builder
	for {
		line, err := s.out.ReadString('\n')
		if err != nil {
			s.close()
			return transcript.String(), errors.Join(errors.New("the stage ended"), err)
		}
		if line == "end\n" {
			return transcript.String(), nil
		}
		transcript.WriteString(line)
	}
}
