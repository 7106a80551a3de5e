package manager

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

func itoa(n int) string { return strconv.Itoa(n) }

// roles are what a copy of the test binary can do as another process.
var roles = map[string]func(){
	"puppet": puppetMain,
	"forger": func() { forgerMain(999, 0) }, "forger of pids": func() { forgerMain(999, unix.CLONE_NEWPID) },
	"forger of root": func() { forgerMain(0, unix.CLONE_NEWPID) },
}

// puppet is another process with a session, moved by strings.
type puppet struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// order is what a puppet shall do.
type order struct {
	Do   string // "call", "attach", "exec"
	Kind uint32
	Body []byte
	Args []int64
}

// outcome is what came of it.
type outcome struct {
	Errno   int
	Val     [6]int64
	Body    []byte
	Files   int
	Session uint32
	Cookie  []byte
}

// newPuppet starts one, as the user if cred is given.
func newPuppet(t *testing.T, dir string, cred *syscall.Credential) *puppet {
	t.Helper()
	return newPuppetIn(t, dir, "puppet", syscall.SysProcAttr{Credential: cred})
}

// newPuppetIn starts one as attr says, by a role that becomes one.
func newPuppetIn(t *testing.T, dir, role string, attr syscall.SysProcAttr) *puppet {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{roleVariable + "=" + role, spaceVariable + "=" + dir}
	cmd.Stderr = os.Stderr
	attr.Pdeathsig = unix.SIGKILL
	cmd.SysProcAttr = &attr
	in, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	p := &puppet{t: t, cmd: cmd, in: in, out: bufio.NewScanner(out)}
	t.Cleanup(p.kill)
	return p
}

// kill ends the process and waits for its end.
func (p *puppet) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

func (p *puppet) do(o order) outcome {
	p.t.Helper()
	p.start(o)
	return p.finish()
}

func (p *puppet) start(o order) {
	p.t.Helper()
	b, err := json.Marshal(o)
	check(p.t, err)
	_, err = p.in.Write(append(b, '\n'))
	check(p.t, err)
}

func (p *puppet) finish() outcome {
	p.t.Helper()
	if !p.out.Scan() {
		p.t.Fatal("puppet is gone: ", p.out.Err())
	}
	var out outcome
	check(p.t, json.Unmarshal(p.out.Bytes(), &out))
	return out
}

func (p *puppet) call(kind uint32, args ...int64) outcome {
	p.t.Helper()
	return p.do(order{Do: "call", Kind: kind, Args: args})
}

// want calls and expects an errno.
func (p *puppet) want(what string, errno unix.Errno, kind uint32, args ...int64) outcome {
	p.t.Helper()
	out := p.call(kind, args...)
	if unix.Errno(out.Errno) != errno {
		p.t.Errorf("%s: %v, want %v", what, unix.Errno(out.Errno), errno)
	}
	return out
}

func puppetMain() {
	p, err := newPeer(os.Getenv(spaceVariable))
	if err != nil {
		fmt.Fprintln(os.Stderr, "puppet:", err)
		os.Exit(2)
	}
	if os.Getenv("AGAIN") != "" {
		fmt.Println("{}") // exec is over: orders read ahead before it are lost
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var o order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			os.Exit(2)
		}
		out := outcome{Session: p.session, Cookie: p.cookie()}
		var a *answer
		switch o.Do {
		case "attach":
			_, err = p.attach(o.Args[0], abi.AccessRead|abi.AccessWrite)
		case "exec":
			_ = syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), "AGAIN=1"))
			os.Exit(2)
		default:
			a, err = p.call(o.Kind, o.Body, o.Args...)
		}
		var errno unix.Errno
		if errors.As(err, &errno) {
			out.Errno = int(errno)
		} else if err != nil {
			fmt.Fprintln(os.Stderr, "puppet:", err)
			os.Exit(2)
		}
		if a != nil {
			out.Val, out.Body, out.Files = a.Val, a.body, len(a.fds)
			a.close()
		}
		b, _ := json.Marshal(out)
		fmt.Println(string(b))
	}
}
