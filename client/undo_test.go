package client_test

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client"
)

func init() {
	roles["hold"] = hold
	roles["refused"] = func() {
		s, err := client.Open(bg)
		do(err)
		if err := s.SetByID(idOf(1)).Op(bg, client.Add(9, 1).Undo()); !errors.Is(err, unix.EFBIG) {
			do(fmt.Errorf("%w instead of EFBIG", err))
		}
	}
}

// hold takes a semaphore with undo, says so, and waits for its end.
func hold() {
	s, err := client.Open(bg)
	do(err)
	do(s.SetByID(idOf(1)).Op(bg, client.Sub(0, 1).Undo()))
	a, err := s.SegmentByID(idOf(2)).Attach(bg)
	do(err)
	fmt.Println("held")
	if os.Args[3] == "exit" {
		return
	}
	defer a.Close()
	select {}
}

// An adjustment is applied, and an attach gone, when the process is: before its
// parent can know of it, however it ended.
func TestUndoAtTheEnd(t *testing.T) {
	s := open(t)
	set := newSet(t, s, 1)
	g, err := s.Segment(bg, client.Private, 4096, client.Create(0o600))
	check(t, err)
	defer g.Remove(bg)
	for round := range 40 {
		check(t, set.SetValue(0, 1))
		how := []string{"exit", "kill"}[round%2]
		cmd := role("hold", strconv.Itoa(set.ID()), strconv.Itoa(g.ID()), how)
		out, err := cmd.StdoutPipe()
		check(t, err)
		check(t, cmd.Start())
		var word string
		if _, err := fmt.Fscan(out, &word); err != nil || word != "held" {
			t.Fatalf("%q, %v", word, err)
		}
		if how == "kill" {
			if v, _ := set.Value(0); v != 0 {
				t.Fatalf("value %d while it is held", v)
			}
			_ = cmd.Process.Kill()
		}
		_ = cmd.Wait()
		if v, err := set.Value(0); v != 1 || err != nil {
			t.Fatalf("round %d, %s: value %d, %v", round, how, v, err)
		}
		st, err := g.Stat(bg)
		check(t, err)
		if st.Attaches != 0 {
			t.Fatalf("round %d, %s: %d attaches", round, how, st.Attaches)
		}
	}
}

// What has SEM_UNDO leaves a list of adjustments, also when it is refused: the
// process's end sets otime.
func TestUndoOfTheRefused(t *testing.T) {
	set := newSet(t, open(t), 1)
	check(t, role("refused", strconv.Itoa(set.ID())).Run())
	st, err := set.Stat(bg)
	check(t, err)
	if st.Operated.Unix() <= 0 {
		t.Error("the end of the process does not set otime")
	}
}
