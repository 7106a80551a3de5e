// Command goprogram times System V IPC as a Go program has it: by the kernel's
// calls (golang.org/x/sys/unix), or by package client in a space. Each row is
// printed as "name ns", the time of one round.
//
//	goprogram [-s SCALE] kernel|space [ROW...]
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// set and queue are what the rows use, by either way.
type set interface {
	op(num, n int)
	id() int
	remove()
}

type queue interface {
	send(typ int64, text []byte)
	receive(typ int64, buf []byte) int
	id() int
	remove()
}

// way is how a program comes to sets and queues.
type way interface {
	newSet(n int) set
	newQueue() queue
	set(id int) set
	queue(id int) queue
}

var ways = map[string]func() way{
	"kernel": func() way { return kernel{} },
	"space":  newSpace,
}

var (
	ctx   = context.Background()
	scale = flag.Float64("s", 1, "length of the rows")
)

func main() {
	log.SetFlags(0)
	flag.Parse()
	make := ways[flag.Arg(0)]
	if make == nil {
		log.Fatal("usage: goprogram [-s SCALE] kernel|space [ROW...]")
	}
	w := make()
	if flag.Arg(1) == "peer" { // of a ping-pong: rounds, id, kind
		peer(w, flag.Arg(2), number(3), number(4))
		return
	}
	for _, row := range rows {
		if flag.NArg() < 2 || slices.Contains(flag.Args()[1:], row.name) {
			fmt.Printf("%s %.1f\n", row.name, row.run(w))
		}
	}
}

func number(i int) int {
	n, err := strconv.Atoi(flag.Arg(i))
	must(err)
	return n
}

func must(err error) {
	if err != nil {
		log.Fatalf("goprogram: %v", err)
	}
}

var rows = []struct {
	name string
	run  func(w way) float64
}{
	{"go_semop_pair", func(w way) float64 {
		s := w.newSet(1)
		defer s.remove()
		return timed(processor, 400_000, func() {
			s.op(0, 1)
			s.op(0, -1)
		})
	}},
	{"go_message_64", func(w way) float64 { return message(w, 64, 200_000) }},
	{"go_message_8k", func(w way) float64 { return message(w, 8192, 100_000) }},
	{"go_sem_ping_pong", func(w way) float64 {
		s := w.newSet(2)
		defer s.remove()
		return pingPong("set", s.id(), 40_000, func() {
			s.op(0, 1)
			s.op(1, -1)
		})
	}},
	{"go_msg_ping_pong", func(w way) float64 {
		q := w.newQueue()
		defer q.remove()
		buf := make([]byte, 64)
		return pingPong("queue", q.id(), 40_000, func() {
			q.send(1, buf)
			q.receive(2, buf)
		})
	}},
}

func rounds(n int) int { return max(int(float64(n)**scale), 10) }

// wall and processor are clocks in ns: all time, and what the process had of
// the processors. The latter is for rows that never wait, so that what else
// the machine does counts less.
func wall() int64 { return time.Now().UnixNano() }
func processor() int64 {
	var u unix.Rusage
	must(unix.Getrusage(unix.RUSAGE_SELF, &u))
	return u.Utime.Nano() + u.Stime.Nano()
}

// timed is the ns of one round.
func timed(clock func() int64, n int, round func()) float64 {
	n = rounds(n)
	for range n / 10 {
		round()
	}
	runtime.GC()
	begun := clock()
	for range n {
		round()
	}
	return float64(clock()-begun) / float64(n)
}

func message(w way, size, n int) float64 {
	q := w.newQueue()
	defer q.remove()
	buf := make([]byte, size)
	return timed(processor, n, func() {
		q.send(1, buf)
		q.receive(0, buf)
	})
}

// pingPong has another process answer each round.
func pingPong(kind string, id, n int, round func()) float64 {
	total := rounds(n) + rounds(n)/10
	cmd := exec.Command("/proc/self/exe", flag.Arg(0), "peer", kind, strconv.Itoa(id), strconv.Itoa(total))
	cmd.Stderr = os.Stderr
	must(cmd.Start())
	ns := timed(wall, n, round)
	must(cmd.Wait())
	return ns
}

func peer(w way, kind string, id, n int) {
	if kind == "set" {
		s := w.set(id)
		for range n {
			s.op(0, -1)
			s.op(1, 1)
		}
		return
	}
	q, buf := w.queue(id), make([]byte, 64)
	for range n {
		q.receive(1, buf)
		q.send(2, buf)
	}
}
