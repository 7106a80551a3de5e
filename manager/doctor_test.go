package manager

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// A healthy space has no finding but that of a manager without rights; a list
// that leads nowhere, a bound that is broken and a full space are found.
func TestExamine(t *testing.T) {
	inBothWays(t, func(t *testing.T, cfg Config) {
		m, info := newManager(t, cfg, SpaceConfig{Size: 1 << 20, Sessions: 8})
		p := mustPeer(t, info.Dir)
		set, err := p.get(Sem, 0, 0o600, 3)
		check(t, err)
		examine := func(what string) string {
			t.Helper()
			found, err := m.Examine("a")
			check(t, err)
			var text strings.Builder
			for _, f := range found {
				if f.Text == "not sealed: members trust each other" && cfg.Unprivileged {
					continue
				}
				if f.What == "" || f.Remedy == "" {
					t.Errorf("%s: half a finding: %+v", what, f)
				}
				text.WriteString(f.What + ": " + f.Text + "\n")
			}
			return text.String()
		}
		if text := examine("healthy"); text != "" {
			t.Errorf("findings in a healthy space:\n%s", text)
		}
		a, err := p.call(abi.MsgOpen, nil, int64(Sem), set)
		check(t, err)
		defer a.close()
		mem, err := mapFile(a.fds[0], abi.PageSize, unix.PROT_READ|unix.PROT_WRITE)
		check(t, err)
		defer unix.Munmap(mem)
		mem[abi.WordsOff+1] = 0xff // a value that no semaphore can have
		if text := examine("spoilt"); !strings.Contains(text, "semaphore 0 has value") {
			t.Errorf("a wrong value is not found:\n%s", text)
		}
		mem[abi.WordsOff+1] = 0
		_, err = p.get(Shm, 0, 0o600, 1<<20-64<<10)
		check(t, err)
		if text := examine("full"); !strings.Contains(text, "MiB are promised") {
			t.Errorf("a full space is not found:\n%s", text)
		}
	})
	_, err := (&Manager{spaces: map[string]*space{}}).Examine("none")
	wantErr(t, "no such space", err, ErrNoSpace)
}
