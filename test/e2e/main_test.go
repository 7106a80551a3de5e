// Package e2e_test installs ipcspace with its chart into a real Kubernetes of one node, and runs pods.
//
// It owns what only a cluster shows: admission, volumes, claims, the chart's life. Containers without
// one are test/containers' business.
//
// The node is this machine in private mount, network, pid and IPC namespaces (testdata/node.sh), in
// which /var and /run are its own. The process that made them stays outside: it removes the cgroups
// and files when the last process inside is gone, and if it is killed, all inside are too; then the
// next run removes the rest.
package e2e_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/test/suite"
)

var (
	whole = flag.Bool("e2e.whole", false, "run the tests that take minutes too")
	older = flag.String("e2e.containerd", "", "`folder` with another containerd, ctr and containerd-shim-runc-v2 for the nodes")
	// Of the nodes, which share no /var with the machine.
	kubeletDir = flag.String("e2e.kubelet-dir", "/var/lib/kubelet", "the kubelets' `--root-dir`, and the chart's kubeletDir")

	keep = flag.Duration("e2e.keep", 0, "how long a cluster whose tests failed stays, to look at it")
)

// Both name the suite's folder, which is in memory of the whole run: outside and inside.
const scratchVariable = "IPCSPACE_E2E_SCRATCH"

// scratch is the suite's folder; programs is where the cluster's are.
var scratch, programs string

func TestMain(m *testing.M) {
	flag.Parse()
	if suite.Inside() {
		os.Exit(inside(m))
	}
	os.Exit(outside())
}

// outside starts the suite in its namespaces, and cleans up behind it.
func outside() int {
	if os.Geteuid() != 0 {
		fmt.Println("skipped: a node needs root")
		return 0
	}
	if _, err := exec.LookPath(helmPath()); err != nil {
		fmt.Println("skipped: no helm; make chart builds it")
		return 0
	}
	command := exec.Command("tools/build.sh", "--built")
	command.Stderr = os.Stderr
	output, err := command.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 3 {
		fmt.Println("skipped: the cluster's programs are not built; make cluster builds them (minutes, once)")
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the cluster's programs:", err)
		return 1
	}
	sweep()
	dir, err := os.MkdirTemp("", scratchPrefix+strconv.Itoa(os.Getpid())+"-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer remove(dir)
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "the test binary's own path:", err)
		return 1
	}
	// The node dies with the thread that started it.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// A new session: a terminal's interrupt comes to this process alone, which then ends all inside.
	node := exec.CommandContext(ctx, "unshare", append([]string{"--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child=KILL",
		"--mount-proc", "--propagation", "private", "--", "sh", "testdata/node.sh", self}, os.Args[1:]...)...)
	node.Env = append(os.Environ(), suite.InsideVariable+"=1", scratchVariable+"="+dir, "PROGRAMS="+strings.TrimSpace(string(output)))
	node.Stdin, node.Stdout, node.Stderr = nil, os.Stdout, os.Stderr
	node.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := node.Run(); err != nil {
		if node.ProcessState == nil || ctx.Err() != nil {
			fmt.Fprintln(os.Stderr, "the node's namespaces:", err)
		}
		return 1
	}
	return 0
}

const scratchPrefix = "ipcspace-e2e-"

// sweep removes what runs left that were killed: their folders carry their pids.
func sweep() {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), scratchPrefix+"*"))
	for _, dir := range left {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), scratchPrefix), "-")
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
			remove(dir)
		}
	}
}

// remove removes a run's cgroups and its folder. Its processes are dead, or about to be.
func remove(dir string) {
	deadline := time.Now().Add(20 * time.Second)
	for _, root := range cgroupRoots(filepath.Base(dir)) {
		for {
			err := removeTree(root)
			if err == nil || errors.Is(err, os.ErrNotExist) {
				break
			}
			if time.Now().After(deadline) {
				fmt.Fprintln(os.Stderr, "left behind:", err)
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, "left behind:", err)
	}
}

// removeTree removes a cgroup and those below: files in it cannot be removed, nor must they.
func removeTree(cgroup string) error {
	entries, err := os.ReadDir(cgroup)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(cgroup, entry.Name())); err != nil {
				return err
			}
		}
	}
	return unix.Rmdir(cgroup)
}

// cgroupRoots is where the pods' cgroups are: one in each hierarchy.
func cgroupRoots(name string) []string {
	hierarchies, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if len(hierarchies) == 0 {
		hierarchies = []string{"/sys/fs/cgroup/cgroup.procs"}
	}
	var roots []string
	for _, file := range hierarchies {
		roots = append(roots, filepath.Join(filepath.Dir(file), name))
	}
	return roots
}

// inside runs the tests on a cluster that it starts.
func inside(m *testing.M) int {
	suite.ClearEnvironment()
	scratch, programs = os.Getenv(scratchVariable), os.Getenv("PROGRAMS")
	for _, step := range []func() error{takeContainerd, firstNode().makeCgroups, cluster.start, importImages} {
		if err := step(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			linger()
			return 1
		}
	}
	code := m.Run()
	if code != 0 {
		linger()
	}
	return code
}

// takeContainerd has the containerd of -e2e.containerd stand before that of the cluster's programs.
func takeContainerd() error {
	if *older == "" {
		return nil
	}
	both := filepath.Join(scratch, "programs")
	if err := os.Mkdir(both, 0o755); err != nil {
		return err
	}
	for _, dir := range []string{*older, programs} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			err := os.Symlink(filepath.Join(dir, entry.Name()), filepath.Join(both, entry.Name()))
			if err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
		}
	}
	programs = both
	return nil
}

// needWhole skips what takes minutes, or disturbs all of the node, unless all is asked for.
func needWhole(t *testing.T) {
	t.Helper()
	if !*whole {
		t.Skip("with all the others only: make e2e")
	}
}

func linger() {
	if *keep > 0 {
		fmt.Fprintf(os.Stderr, "kept for %v; to enter the node: nsenter -a -t PID, of any process in %s/pid\n", *keep, scratch)
		time.Sleep(*keep)
	}
}
