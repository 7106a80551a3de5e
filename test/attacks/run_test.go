package attacks_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

const containerCaps = "-all,+chown,+dac_override,+fsetid,+fowner,+mknod,+net_raw,+setgid,+setuid,+setfcap,+setpcap,+net_bind_service,+sys_chroot,+kill,+audit_write"

// What the manager may take more than before an attack, and how long those who mean well may have
// to wait for one call: a time slice of a busy machine, or a lock's patience some times over.
const (
	mostMemory  = 96 << 20
	mostWait    = 3 * time.Second
	mostThreads = 100
	mostTime    = 4 * time.Minute // of an attack: 10,000 of anything take long where there is little CPU
	mostFiles   = 40              // descriptors left when the attacker is gone
)

// attack is a row of the table. do runs in a process of its own, as the user, with the descriptors
// that it gets itself; its error is a failed expectation.
type attack struct {
	name   string
	expect string
	uid    uint32
	caps   string // of root, beyond what containers have by default
	frugal bool   // the space is full meanwhile: witnesses make no objects
	do     func(h *hostile) (result string, err error)
}

// stage is what a hostile process is told.
type stage struct {
	Dir, Other        string // public folders of its space and of another
	Set, Queue        int64  // 0666, used by a witness too
	Small, Large      int64  // segments, 0666
	Secret, SecretSet int64  // root's, 0600
	SecretQueue       int64
	Manager           int // pid
}

// hostile is the process that attacks.
type hostile struct {
	*member
	stage
}

const stageVariable = "IPCSPACE_TEST_STAGE"

func hostileMain(name string) {
	n, err := strconv.Atoi(name)
	h := &hostile{}
	if err == nil {
		err = json.Unmarshal([]byte(os.Getenv(stageVariable)), &h.stage)
	}
	do := attacks[n].do
	var result string
	switch {
	case err != nil:
	case os.Getenv(borrowVariable) != "":
		result, err = borrow(h)
	case os.Getenv(resumeVariable) == "tell":
		if h.member, err = join(h.Dir); err == nil {
			result = fmt.Sprintf("%d %x", h.num, h.cookie())
		}
	case os.Getenv(resumeVariable) != "":
		result, err = resumer(h)
	default:
		if h.member, err = join(h.Dir); err == nil {
			result, err = do(h)
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(result)
	os.Exit(0)
}

// report is the witness's struct report.
type report struct {
	rounds, began, longest, failures, frugal uint64
	first                                    [216]byte
}

// witness is a process that means well.
type witness struct {
	name string
	*report
	cmd  *exec.Cmd
	done chan struct{}
}

func newWitness(t *testing.T, name, dir, mode string, args ...string) *witness {
	t.Helper()
	path := filepath.Join(scratch, name)
	check(t, os.WriteFile(path, make([]byte, unsafe.Sizeof(report{})), 0o600))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, int(unsafe.Sizeof(report{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check(t, err)
	w := &witness{name: name, report: (*report)(unsafe.Pointer(&mem[0])), done: make(chan struct{})}
	w.cmd = exec.Command(filepath.Join(scratch, "witness"), append([]string{mode, path}, args...)...)
	w.cmd.Env = witnessEnv(dir)
	w.cmd.Stderr = os.Stderr
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	check(t, w.cmd.Start())
	go func() {
		_ = w.cmd.Wait()
		close(w.done)
	}()
	return w
}

func witnessEnv(dir string) []string {
	return append(os.Environ(), "IPCSPACE_DIR="+dir, "IPCSPACE_DIR_WRITABLE=ok", "IPCSPACE_REQUIRED=1", "LD_PRELOAD="+filepath.Join(scratch, "libipcspace.so"))
}

func (w *witness) end() {
	_ = w.cmd.Process.Kill()
	<-w.done
}

// begin starts the measurement of an attack.
func (w *witness) begin(frugal bool) {
	var v uint64
	if frugal {
		v = 1
	}
	atomic.StoreUint64(&w.frugal, v)
	atomic.StoreUint64(&w.longest, 0)
}

// judge says what is wrong with the witness, and its longest call.
func (w *witness) judge() (longest time.Duration, complaint string) {
	select {
	case <-w.done:
		return 0, fmt.Sprintf("%s died: %v", w.name, w.cmd.ProcessState)
	default:
	}
	rounds := atomic.LoadUint64(&w.rounds)
	for deadline := time.Now().Add(mostWait); atomic.LoadUint64(&w.rounds) == rounds; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return mostWait, w.name + " hangs"
		}
	}
	if n := atomic.SwapUint64(&w.failures, 0); n > 0 {
		first, _, _ := strings.Cut(string(w.first[:]), "\x00")
		return 0, fmt.Sprintf("%s failed %d times, first: %s", w.name, n, first)
	}
	longest = time.Duration(atomic.LoadUint64(&w.longest))
	if longest > mostWait {
		complaint = fmt.Sprintf("%s waited %v", w.name, longest)
	}
	return longest, complaint
}

// managed is the manager under attack.
type managed struct {
	*exec.Cmd
	root string
	done chan struct{}
	log  bytes.Buffer
}

func newManaged(t *testing.T) *managed {
	t.Helper()
	m := startManager(t, filepath.Join(scratch, "ipcspace-manager"), filepath.Join(scratch, "root"), "--ephemeral")
	t.Cleanup(func() {
		_ = m.Process.Signal(unix.SIGTERM)
		select {
		case <-m.done:
		case <-time.After(20 * time.Second):
			t.Error("the manager does not end")
			m.kill()
		}
	})
	return m
}

// startManager starts one and waits until it answers.
func startManager(t *testing.T, binary, root string, args ...string) *managed {
	t.Helper()
	m := &managed{root: root, done: make(chan struct{})}
	m.Cmd = exec.Command(binary, append([]string{"--root", root}, args...)...)
	m.Stdout, m.Stderr = &m.log, &m.log
	m.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	check(t, m.Start())
	go func() {
		_ = m.Wait()
		close(m.done)
	}()
	t.Cleanup(func() {
		m.kill()
		if t.Failed() {
			for line := range strings.Lines(m.log.String()) {
				if !strings.Contains(line, "level=INFO") {
					t.Log(strings.TrimSpace(line))
				}
			}
		}
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if m.ipcspace("space", "list") == nil {
			return m
		}
		if time.Now().After(deadline) {
			t.Fatal("the manager does not come up")
		}
	}
}

func (m *managed) ipcspace(args ...string) error {
	out, err := exec.Command(filepath.Join(scratch, "ipcspace"), append(args, "--root", m.root)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ipcspace %v: %w\n%s", args, err, out)
	}
	return nil
}

// status is a number of /proc/<pid>/status.
func (m *managed) status(key string) (n int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.Process.Pid))
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			_, _ = fmt.Sscan(rest, &n)
		}
	}
	return n
}

// descriptors is how many it has open.
func (m *managed) descriptors() int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.Process.Pid))
	return len(entries)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// shared makes the objects that all use, and root's own.
func (s *stage) make(t *testing.T) *member {
	t.Helper()
	owner, err := join(s.Dir)
	check(t, err)
	for _, o := range []struct {
		id     *int64
		family int64
		mode   int64
		size   int64
	}{
		{&s.Set, sem, 0o666, 2000}, {&s.Queue, msg, 0o666, 0}, {&s.Small, shm, 0o666, 64 << 10}, {&s.Large, shm, 0o666, 4 << 20},
		{&s.Secret, shm, 0o600, 64 << 10}, {&s.SecretSet, sem, 0o600, 10}, {&s.SecretQueue, msg, 0o600, 0},
	} {
		*o.id, err = owner.get(o.family, 0, o.mode, o.size)
		check(t, err)
	}
	return owner
}

// TestAttacks carries out the table, each attack against a fresh pair of spaces.
func TestAttacks(t *testing.T) {
	m := newManaged(t)
	fmt.Printf("%-50s  %-52s  %s\n", "attack", "expectation", "result | longest wait: same objects, same space, other space | manager")
	for n, a := range attacks {
		t.Run(strings.ReplaceAll(a.name, " ", "_"), func(t *testing.T) { carryOut(t, m, n, &a) })
	}
}

func carryOut(t *testing.T, m *managed, n int, a *attack) {
	here, there := fmt.Sprintf("here-%d", n), fmt.Sprintf("there-%d", n)
	s := stage{Dir: filepath.Join(m.root, "spaces", here), Other: filepath.Join(m.root, "spaces", there), Manager: m.Process.Pid}
	check(t, m.ipcspace("space", "create", here, "--size", "256m"))
	check(t, m.ipcspace("space", "create", there, "--size", "64m"))
	defer func() {
		for _, name := range []string{here, there} {
			if err := m.ipcspace("space", "remove", name, "--force"); err != nil {
				t.Error(err)
			}
		}
	}()
	owner := s.make(t)
	defer owner.leave()
	witnesses := []*witness{
		newWitness(t, here+"-shared", s.Dir, "shared", fmt.Sprint(s.Set), fmt.Sprint(s.Queue)),
		newWitness(t, here, s.Dir, "private"), newWitness(t, there, s.Other, "private"),
	}
	defer func() {
		for _, w := range witnesses {
			w.end()
		}
	}()
	time.Sleep(200 * time.Millisecond)
	memory, files := m.status("VmRSS"), m.descriptors()
	for _, w := range witnesses {
		w.begin(a.frugal && w.name != there)
	}

	told, err := json.Marshal(s)
	check(t, err)
	// Root is a container's: the capabilities that Docker gives.
	cmd := exec.Command("setpriv", "--bounding-set", containerCaps+a.caps, self())
	if a.uid != 0 {
		cmd = exec.Command(self())
	}
	cmd.Env = append(os.Environ(), attackVariable+"="+fmt.Sprint(n), stageVariable+"="+string(told))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: a.uid, Gid: a.uid}, Pdeathsig: unix.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	check(t, cmd.Start())
	timer := time.AfterFunc(mostTime, func() { _ = cmd.Process.Kill() })
	err = cmd.Wait()
	timer.Stop()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	result := lines[0]
	if err != nil {
		t.Errorf("%s: %v\n%s", a.name, err, out.String())
		result = "FAILED: " + result
	}
	waits := make([]string, len(witnesses))
	for i, w := range witnesses {
		longest, complaint := w.judge()
		waits[i] = longest.Round(100 * time.Microsecond).String()
		if complaint != "" {
			t.Error(complaint)
			waits[i] = complaint
		}
	}
	select {
	case <-m.done:
		t.Fatal("the manager died")
	default:
	}
	more := (m.status("VmRSS") - memory) << 10
	if threads := m.status("Threads"); more > mostMemory || threads > mostThreads {
		t.Errorf("the manager took %d bytes more, and has %d threads", more, threads)
	}
	// It closes what the attacker left open: a socket that nobody came to after five seconds.
	for deadline := time.Now().Add(15 * time.Second); m.descriptors() > files+mostFiles && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	files = m.descriptors() - files
	if files > mostFiles {
		t.Errorf("the manager keeps %d descriptors", files)
	}
	fmt.Printf("%-50s  %-52s  %s | %s | %+d MiB, %d threads, %+d descriptors\n", a.name, a.expect, result, strings.Join(waits, ", "), more>>20, m.status("Threads"), files)
	// Nothing is left that could not be used again.
	fresh, err := join(s.Dir)
	if err != nil {
		t.Error("afterwards: ", err)
		return
	}
	defer fresh.leave()
	if _, err := fresh.call(abi.MsgCtl, nil, shm, s.Secret, unix.IPC_STAT); err != nil {
		t.Error("IPC_STAT afterwards: ", err)
	}
}
