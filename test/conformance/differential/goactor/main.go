// Command goactor is stage/actor.c in Go, by package client: a process that
// does one operation at a time and answers with all that it saw. It speaks the
// same words over the same board, so Go and C processes play in one program.
//
//	goactor PLACE BOARD GREETING
//
// A thread is a goroutine here. It has a thread of its own all the same: the
// stage looks at that to find out who sleeps.
package main

import (
	"context"
	"errors"
	"log"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client"
)

// What stage/board.h has.
const (
	places   = 6
	slots    = 3
	attaches = 6
	text     = 2048
	maxPids  = 256
	maxIDs   = 1024
)

type board struct {
	socket      [places][2]int32
	id          [families][slots]atomic.Int32
	pids        atomic.Int32
	pid         [maxPids]atomic.Int32
	thread      [places]atomic.Int32
	process     [places]atomic.Int32
	ids         atomic.Int32
	made        [maxIDs]struct{ family, id, size int32 }
	common      atomic.Int32
	inGo        atomic.Int32
	starting    [places]atomic.Int32
	interrupted [places]atomic.Int32
	begun       atomic.Int64
}

// program is what the actors of this process share.
type program struct {
	*board
	fd     int // of the board
	actors atomic.Int32
	cancel [places]atomic.Pointer[func()] // of the call under way

	space   *client.Space
	attach  [attaches]*client.Attached
	objects [families]sync.Map // by id
}

// The main thread would not end with its goroutine.
func init() { runtime.LockOSThread() }

func main() {
	log.SetFlags(0)
	if len(os.Args) != 4 {
		log.Fatal("usage: goactor PLACE BOARD GREETING")
	}
	place, err := strconv.Atoi(os.Args[1])
	fd, err2 := strconv.Atoi(os.Args[2])
	if err := errors.Join(err, err2); err != nil {
		log.Fatal(err)
	}
	mem, err := unix.Mmap(fd, 0, int(unsafe.Sizeof(board{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		log.Fatalf("goactor: the board: %v", err)
	}
	p := &program{board: (*board)(unsafe.Pointer(&mem[0])), fd: fd}
	signal.Ignore(unix.SIGUSR2)
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, unix.SIGUSR1)
	go p.interrupts(signals)
	p.register()
	if p.space, err = client.Open(context.Background()); err != nil {
		log.Fatalf("goactor: %v", err)
	}
	p.begin(place, os.Args[3])
	select {} // the last actor ends the process
}

// register gives the process its name, which is how many were before it. An
// exec keeps the pid.
func (p *program) register() {
	n := int(p.pids.Add(1)) - 1
	for i := range n {
		if int(p.pid[i].Load()) == os.Getpid() {
			p.pids.Add(-1)
			return
		}
	}
	p.pid[n].Store(int32(os.Getpid()))
}

// interrupts ends the calls of those whom a signal is for: where a signal ends
// a C program's call, the end of its context ends a Go program's.
func (p *program) interrupts(signals <-chan os.Signal) {
	for range signals {
		for i := range p.interrupted {
			if int(p.process[i].Load()) != os.Getpid() || p.interrupted[i].Load() == 0 {
				continue
			}
			if cancel := p.cancel[i].Load(); cancel != nil {
				(*cancel)()
			}
			p.interrupted[i].Store(0)
		}
	}
}

// begin starts the actor of a place, and waits until it is there.
func (p *program) begin(place int, greeting string) {
	p.actors.Add(1)
	there := make(chan struct{})
	go func() {
		runtime.LockOSThread() // for good
		(&actor{program: p, place: place}).act(greeting, there)
	}()
	<-there
}

// actor is one thread.
type actor struct {
	*program
	place  int
	args   []int
	answer strings.Builder
}

func (a *actor) act(greeting string, there chan<- struct{}) {
	socket := int(a.socket[a.place][1])
	if greeting != "" {
		a.send(socket, greeting)
	}
	a.process[a.place].Store(int32(os.Getpid()))
	a.thread[a.place].Store(int32(unix.Gettid()))
	a.starting[a.place].Store(0)
	close(there)
	line := make([]byte, text)
	for {
		n, _, err := unix.Recvfrom(socket, line, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			os.Exit(0)
		}
		words := strings.Fields(string(line[:n]))
		a.args = a.args[:0]
		for _, w := range words[1:] {
			v, err := strconv.ParseInt(w, 0, 64)
			if err != nil {
				log.Fatalf("goactor: %v", err)
			}
			a.args = append(a.args, int(v))
		}
		a.answer.Reset()
		if perform := operations[words[0]]; perform != nil {
			perform(a)
		} else {
			a.say(" unknown %s", words[0])
		}
		a.send(socket, a.answer.String())
	}
}

func (a *actor) send(socket int, answer string) {
	if answer == "" {
		answer = "\x00"
	}
	if err := unix.Sendto(socket, []byte(answer), unix.MSG_NOSIGNAL, nil); err != nil {
		log.Fatalf("goactor: answer: %v", err)
	}
}
