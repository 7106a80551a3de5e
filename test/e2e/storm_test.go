package e2e_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ipcspace/ipcspace/test/suite"
)

// storm is pods that take a mutex with SEM_UNDO in turn, and count what they do under it: whatever is
// lost or given twice ends one of them or stops both.
type storm struct {
	t    *testing.T
	pods []pod
}

// newStorm has two pods of a space at it, of two C libraries.
func newStorm(t *testing.T, namespace, space string) *storm {
	t.Helper()
	s := &storm{t: t}
	for i, image := range []string{imageGlibc, imageMusl} {
		name := fmt.Sprintf("storm-%d", i+1)
		s.pods = append(s.pods, newPod(t, namespace, name, space, "restartPolicy: Never",
			"containers: ["+container(shortName(image), image, "ipc", "storm", "7", name)+"]"))
	}
	s.goesOn("at first")
	return s
}

// goesOn waits until each pod has done more than it had. It looks at the node's files only.
func (s *storm) goesOn(when string) {
	s.t.Helper()
	for _, p := range s.pods {
		before, _ := s.count(p) // 0 if it has not begun
		err := eventually(patience, func() error {
			now, err := s.count(p)
			if err == nil && now <= before {
				err = fmt.Errorf("its count stands at %d", before)
			}
			return err
		})
		if err != nil {
			s.t.Fatalf("%s, %s: %v\n%s", p.name, when, err, state(p.namespace))
		}
	}
}

// count is what a pod says it has done.
func (s *storm) count(p pod) (int, error) {
	logs, err := filepath.Glob(fmt.Sprintf("/var/log/pods/%s_%s_*/*/*.log", p.namespace, p.name))
	if err != nil || len(logs) != 1 {
		return 0, fmt.Errorf("logs of %s: %v", p.name, logs)
	}
	text := strings.TrimSpace(suite.Tail(logs[0]))
	// Time, stream, F and what the program printed: name and count.
	fields := strings.Fields(text[strings.LastIndexByte(text, '\n')+1:])
	if len(fields) == 0 {
		return 0, errors.New("it has not begun")
	}
	if len(fields) != 5 || fields[3] != p.name {
		return 0, stop{fmt.Errorf("it ended: %s", strings.Join(fields, " "))}
	}
	return strconv.Atoi(fields[4])
}

// during does something, and waits until the pods have gone on.
func (s *storm) during(what string, do func() error) {
	s.t.Helper()
	began := time.Now()
	if err := do(); err != nil {
		s.t.Fatalf("%s: %v\n%s", what, err, chartLogs())
	}
	took := time.Since(began)
	s.goesOn("after " + what)
	s.t.Logf("%s: took %v, the storm went on %v later", what, took.Round(100*time.Millisecond), (time.Since(began) - took).Round(100*time.Millisecond))
}
