package chaos_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

var controlDeaths = flag.Int("control.deaths", 5, "deaths of the manager under each call")

// controlCalls are those of testdata/control; brokered: by the manager, in place of the process.
var controlCalls = []struct {
	name     string
	brokered bool
}{
	{"shmget", false}, {"semget", false}, {"msgget", false},
	{"rmid", false}, {"ipc_set", false}, {"shm_lock", false},
	{"stat", false}, {"attach", false}, {"death", false},
	{"ipc_set", true}, {"setall", true}, {"semop", true}, {"message", true}, {"death", true},
}

// TestControl kills the manager under each of the calls that need it, one by one: each call succeeds,
// once, and what it leaves is what a model says.
func TestControl(t *testing.T) {
	var table strings.Builder
	deaths := 0
	for i, call := range controlCalls {
		name, args := call.name, []string(nil)
		if call.brokered {
			name, args = "brokered "+name, []string{"--brokered"}
		}
		t.Run(name, func(t *testing.T) {
			n, rounds := killUnder(t, call.name, args, uint64(i))
			deaths += n
			fmt.Fprintf(&table, "%-20s %6d deaths %8d rounds\n", name, n, rounds)
		})
	}
	t.Logf("%d deaths of the manager:\n%s", deaths, table.String())
}

// killUnder has a program make a call, each time until a few rounds of it have gone well with a new
// manager, and kills that one in the next.
func killUnder(t *testing.T, call string, args []string, seed uint64) (deaths int, rounds uint64) {
	m := newManager(t)
	env := m.space(t, "control", command("libipcspace.so"), args...)
	ledger := controlLedger(t)
	made := (*atomic.Uint64)(unsafe.Pointer(&ledger.mem[0]))
	type result struct {
		text string
		err  error
	}
	over := make(chan result, 1)
	go func() {
		text, err := finish(env, command("control"), ledger.path, call)
		over <- result{text, err}
	}()
	rnd := rand.New(rand.NewPCG(seed, seed))
	for deaths < *controlDeaths && len(over) == 0 {
		before := made.Load()
		for began := time.Now(); made.Load() < before+1+rnd.Uint64N(4) && len(over) == 0; time.Sleep(100 * time.Microsecond) {
			if time.Since(began) > 20*time.Second {
				t.Errorf("no round in %v, after %d deaths and %d rounds", time.Since(began), deaths, made.Load())
				deaths = *controlDeaths
				break
			}
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(3 * time.Millisecond))))
		m.kill()
		deaths++
		m.start(t)
	}
	(*atomic.Uint32)(unsafe.Pointer(&ledger.mem[8])).Store(1)
	if r := <-over; r.err != nil {
		t.Errorf("after %d deaths: %v", deaths, r.err)
	}
	if _, err := m.verifySoon("control"); err != nil {
		t.Error(err)
	}
	return deaths, made.Load()
}

// controlLedger is struct ledger of testdata/control.
func controlLedger(t *testing.T) *ledger {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ledger")
	if err := os.WriteFile(path, make([]byte, os.Getpagesize()), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	mem, err := unix.Mmap(int(file.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	return &ledger{path, mem}
}
