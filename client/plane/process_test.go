package plane

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// fixed is the Host of a process of its own: a file that does not grow.
type fixed struct{ session uint32 }

const (
	processCells  = 600
	processChunks = 64
	processSems   = 3
	processEnv    = "PLANE_TEST_SESSION"
)

func (h fixed) Session() uint32             { return h.session }
func (h fixed) Capacity() (int, int)        { return processCells, processChunks }
func (h fixed) Grow(int, int) error         { return unix.ENOMEM }
func (h fixed) Valid() bool                 { return true }
func (h fixed) Died(uint32) bool            { return false }
func (h fixed) Reap(uint32) error           { return nil }
func (h fixed) QueueBytes() uint64          { return 4000 }
func (h fixed) Brokered() (uint32, bool)    { return 0, false }
func (h fixed) Thread() uint32              { return 0 }
func (h fixed) RingDoorbell(session uint32) {}
func (h fixed) Bell() *Bell                 { return nil }

func TestMain(m *testing.M) {
	if session := os.Getenv(processEnv); session != "" {
		n, _ := strconv.Atoi(session)
		live(uint32(n))
	}
	goleak.VerifyTestMain(m)
}

// live is a process that uses a set (descriptor 3) and a queue (4, 5) until it
// is killed.
func live(session uint32) {
	mapped := func(fd, size int) []byte {
		mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			panic(err)
		}
		return mem
	}
	s, err := NewSet(mapped(3, abi.CellsOff(processSems)+processCells*abi.CellSize), processSems, fixed{session})
	if err != nil {
		panic(err)
	}
	q, err := NewQueue(mapped(4, abi.CellsOff(0)+processCells*abi.CellSize),
		mapped(5, abi.DataSize(processChunks)), fixed{session})
	if err != nil {
		panic(err)
	}
	for i := range 2 {
		go func() {
			for {
				a, b, n := rand.IntN(processSems), rand.IntN(processSems), 1+rand.IntN(5)
				check(s.Op(bg, []abi.SemOp{op(a, -n, semUndo), op(b, -1, semUndo)}, -1))
				check(s.Op(bg, []abi.SemOp{op(b, 1, semUndo), op(a, n, semUndo)}, -1))
			}
		}()
		go func() {
			buf := make([]byte, 4000)
			for {
				if (int(session)+i)%2 == 0 {
					check(q.Send(bg, 1+rand.Int64N(3), make([]byte, rand.IntN(1000)), 0))
				} else {
					_, _, err := q.Receive(bg, buf, -rand.Int64N(4), 0)
					check(err)
				}
			}
		}()
	}
	select {}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// Processes die by SIGKILL, at any instruction. Their undo brings back all
// that they took, the others go on, and no cell or chunk is left behind.
func TestKillProcesses(t *testing.T) {
	const start = 10
	sets, queues := newFile(t, processSems, processCells, 0), newFile(t, 0, processCells, processChunks)
	sets.maxCells, queues.maxCells = processCells, processCells
	queues.qbytes.Store(4000)
	s, q := sets.set(processSems, abi.ManagerSession), queues.queue(abi.ManagerSession)
	ok(t, s.SetAll([]uint16{start, start, start}))
	session := 100
	spawn := func() (*exec.Cmd, uint32) {
		session++
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), processEnv+"="+strconv.Itoa(session))
		c.ExtraFiles = []*os.File{sets.control, queues.control, queues.data}
		c.Stderr = os.Stderr
		ok(t, c.Start())
		return c, uint32(session)
	}
	type process struct {
		c       *exec.Cmd
		session uint32
	}
	var alive []process
	kill := func(p process) {
		_ = p.c.Process.Kill()
		err := p.c.Wait()
		if status, is := p.c.ProcessState.Sys().(interface{ Signaled() bool }); !is || !status.Signaled() {
			t.Fatalf("session %d ended by itself: %v", p.session, err)
		}
		ok(t, s.ReapSession(p.session))
		ok(t, q.ReapSession(p.session))
	}
	for range 4 {
		c, n := spawn()
		alive = append(alive, process{c, n})
	}
	for range rounds(150) {
		time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
		i := rand.IntN(len(alive))
		kill(alive[i])
		c, n := spawn()
		alive[i] = process{c, n}
	}
	// On a busy machine none of the short lives may have got so far.
	for end := time.Now().Add(time.Minute); time.Now().Before(end) && (s.OTime() == 0 || q.Stat().SendTime == 0); {
		time.Sleep(10 * time.Millisecond)
	}
	otime := s.OTime()
	for _, p := range alive {
		kill(p)
	}
	s.check(t, start, start, start)
	ok(t, q.Verify())
	if otime == 0 || q.Stat().SendTime == 0 {
		t.Error("nothing was done")
	}
	if n := s.inUse(); n != 0 {
		t.Errorf("%d cells of the set are left\n%s", n, s.describe())
	}
	for got := q.get(t, 4000, 0, 0); got.err == nil; {
		got = q.get(t, 4000, 0, 0)
	}
	if n := q.inUse(); n != 0 {
		t.Errorf("%d cells of the queue are left\n%s", n, q.describe())
	}
	q.verify(t, 0, 0)
}
