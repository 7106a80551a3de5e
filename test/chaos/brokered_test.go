package chaos_test

import (
	"fmt"
	"math/rand/v2"
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
