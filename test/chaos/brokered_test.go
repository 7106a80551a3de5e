package chaos_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"
)

// TestBrokered kills the manager again and again under calls that it does in place of others, asleep
// in them and not: each happens once.
func TestBrokered(t *testing.T) {
	const calls = 1000
	m := newManager(t)
	env := m.space(t, "brokered", command("libipcspace.so"), "--brokered")
	type result struct {
		text string
		err  error
	}
	over := make(chan result)
	go func() {
		text, err := finish(env, command("brokered"), fmt.Sprint(calls))
		over <- result{text, err}
	}()
	deaths := 0
	rnd := rand.New(rand.NewPCG(1, 1))
	for {
		select {
		case r := <-over:
			if r.err != nil {
				t.Error(r.err)
			}
			if deaths < 10 {
				t.Errorf("only %d deaths", deaths)
			}
			t.Logf("%d deaths of the manager: %s", deaths, r.text)
			return
		// On a busy machine a manager needs a while until it serves anybody.
		case <-time.After(50*time.Millisecond + time.Duration(rnd.Int64N(int64(150*time.Millisecond)))):
			m.kill()
			deaths++
			m.start(t)
		}
	}
}

// TestBrokeredAnswers kills the manager when a brokered call is answered and what it has come to is
// still written down: the client never asks for that, and the next managers forget it.
func TestBrokeredAnswers(t *testing.T) {
	const deaths = 40
	m := newManagerOf(t, "ipcspace-manager-fail")
	env := m.space(t, "answers", command("libipcspace.so"), "--brokered")
	out, err := os.CreateTemp(scratch, "out-")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	m.kill()
	m.start(t)
	p, err := start(env, out, command("brokered"), "--alone")
	if err != nil {
		t.Fatal(err)
	}
	for i := range deaths {
		m.kill()
		m.startWith(t, []string{fmt.Sprintf("IPCSPACE_MANAGER_DIES_AT=broker: answered@%d", 1+i%5)})
		select {
		case <-m.process.done:
		case <-p.done:
			text, _ := os.ReadFile(out.Name())
			t.Fatalf("its client ended with status %#x: %s", p.status, text)
		case <-time.After(20 * time.Second):
			t.Fatal("the manager does not come to its step")
		}
	}
	m.start(t)
	if _, err := m.verifySoon("answers"); err != nil {
		t.Error(err)
	}
	_ = syscall.Kill(p.pid, syscall.SIGKILL)
	<-p.done
}
