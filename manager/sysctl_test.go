package manager

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// sh runs a command in another process: who serves FUSE must not wait for it.
func sh(t *testing.T, script string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c", script, "sh"}, args...)...).CombinedOutput()
	return string(out), err
}

// Rows 99, 216 to 223 of a space that outlives its manager: what was written
// to the files stays, and the next manager serves them again.
func TestProc(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse: ", err)
	}
	root := tempRoot(t)
	first, err := New(Config{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	info, err := first.CreateSpace(t.Context(), SpaceConfig{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(root, "proc", "a"); info.Proc != want {
		t.Fatalf("files at %q, want %q", info.Proc, want)
	}
	p := mustPeer(t, info.Dir)
	id, err := p.get(Msg, 42, unix.IPC_CREAT|0o640, 0)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := sh(t, `cat "$1/sysvipc/msg"`, info.Proc); err != nil || strings.Count(out, "\n") != 2 || !strings.Contains(out, "        42          0   640 ") {
		t.Errorf("sysvipc/msg: %v\n%s", err, out)
	}
	if out, err := sh(t, `printf 5000 >"$1/kernel/shmmni"; printf 98309 >"$1/kernel/sem_next_id"; printf 1 >"$1/kernel/shm_rmid_forced"`, info.Proc); err != nil || out != "" {
		t.Errorf("write: %v %s", err, out)
	}
	if out, err := sh(t, `echo 40000 >"$1/kernel/msgmni"`, info.Proc); err == nil {
		t.Errorf("msgmni 40000 was taken: %s", out)
	}
	if out, err := sh(t, `exec setpriv --reuid 12345 --regid 12345 --clear-groups sh -c 'echo 1 >"$0"' "$1/kernel/msgmni"`, info.Proc); err == nil {
		t.Errorf("a stranger set msgmni: %s", out)
	}
	before := *first.spaces["a"].table.header
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := sh(t, `cat "$1/sysvipc/msg"`, info.Proc); err == nil {
		t.Error("the files are still there without a manager")
	}

	second, err := New(Config{Root: root, Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := second.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(info.Proc); err == nil {
			t.Error("the folder of the files is left")
		}
	}()
	if h := second.spaces["a"].table.header; h.ShmMni != 5000 || h.Flags&abi.TableFlagRmidForced == 0 || h.MsgMni != before.MsgMni {
		t.Errorf("limits after a restart: %+v", h)
	}
	if out, err := sh(t, `cat "$1/sysvipc/msg" "$1/kernel/sem_next_id"`, info.Proc); err != nil || !strings.Contains(out, "\n98309\n") || strings.Count(out, "\n") != 3 {
		t.Errorf("after a restart: %v\n%s", err, out)
	}
	if got, err := mustPeer(t, info.Dir).get(Sem, 0, 0o600, 1); err != nil || got != 98309 {
		t.Errorf("next set has the id %d, %v; want 98309", got, err)
	}
	if err := second.RemoveObject(t.Context(), "a", Msg, int(id)); err != nil {
		t.Error(err)
	}
}

func TestSysctlParse(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []uint64
		used       int
		refused    bool
	}{
		{"shmmax", "0x1f\n", []uint64{31}, 5, false},
		{"shmmax", "017 9", []uint64{15}, 4, false},
		{"shmmax", "1_0", nil, 0, true},
		{"shmmax", "0b1", nil, 0, true},
		{"shmmax", "+1", nil, 0, true},
		{"shmmax", "0000000000000000000001", nil, 0, true},
		{"sem", "1 2 x", []uint64{1, 2}, 4, true},
		{"sem", "1 2 3 4 5", []uint64{1, 2, 3, 4}, 8, false},
		{"msgmax", "2147483648", nil, 0, true},
	} {
		got := make([]uint64, 4)
		var fields []*uint64
		for i := range len(sysctls[c.name].fields(&Limits{})) {
			fields = append(fields, &got[i])
		}
		set, used, err := sysctls[c.name].parse([]byte(c.text), fields)
		if set != len(c.want) || (err != nil) != c.refused || used != c.used && set > 0 {
			t.Errorf("%s %q: %d values, %d bytes, %v; want %d, %d", c.name, c.text, set, used, err, len(c.want), c.used)
			continue
		}
		for i, v := range c.want {
			if got[i] != v {
				t.Errorf("%s %q: value %d is %d, want %d", c.name, c.text, i, got[i], v)
			}
		}
	}
}
