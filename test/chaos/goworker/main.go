// Command goworker is testdata/worker for those roles that a Go program can
// have, on the same objects: goworker LEDGER SPACE LIFE ROLE SEED. It is killed
// and stopped as the C workers are, and writes the same ledger.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client"
)

// What testdata/worker/ledger.h and worker.c have.
const (
	maxLives    = 65536
	messages    = 2048
	sections    = 3
	livesOff    = 4096
	receivedOff = livesOff + maxLives*128
	ledgerSize  = receivedOff + maxLives*messages/8

	keyUndo = client.Key(0x100 + iota - 6)
	keyCount
	keyLock
	keyLoose
	keyQueue
	keySection
	keyPicture

	undoSems    = 4
	undoStart   = 10
	countSems   = 3
	pictureSize = 3 * 65536
	longest     = 7000
)

type life struct {
	pid, role, space, killed, ended, slept uint32
	progress, sentBegun, sentDone          uint64
	receiving                              uint64
	upBegun, upDone, downBegun, downDone   uint64
	sectionBegun                           [sections]uint64
	sectionDone, _                         uint64
}

// section is one critical section, in a segment.
type section struct {
	owner uint64 // life + 1
	count uint64
	_     [6]uint64
}

// worker is one life.
type worker struct {
	mem    []byte
	self   *life
	number uint64
	rnd    *rand.Rand

	ctx       context.Context // of the present call
	interrupt atomic.Pointer[context.CancelFunc]

	undo, count, lock *client.Set
	queue             *client.Queue
	section, picture  *client.Segment
	sections          []section
	last              map[[2]uint32]uint32 // sender and type: next sequence number
}

func main() {
	if len(os.Args) < 6 {
		os.Exit(2)
	}
	w := &worker{last: map[[2]uint32]uint32{}}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM) // before its pid is known
	if err := w.open(); err != nil {
		w.fail("%v", err)
	}
	go func() {
		for range signals {
			if cancel := w.interrupt.Load(); cancel != nil {
				(*cancel)()
			}
		}
	}()
	rounds := []func(){w.undoRound, w.lockRound, w.countRound, w.sendRound, w.receiveRound, w.segmentRound}
	round := rounds[w.self.role]
	for !w.stopping() {
		ctx, cancel := context.WithCancel(context.Background())
		w.ctx = ctx
		w.interrupt.Store(&cancel)
		if atomic.LoadUint32(w.stop()) != 0 {
			cancel()
		}
		round()
		cancel()
	}
	atomic.StoreUint32(&w.self.ended, 1)
}

func (w *worker) open() error {
	var err error
	arg := func(i int) uint64 {
		n, e := strconv.ParseUint(os.Args[i], 10, 64)
		err = errors.Join(err, e)
		return n
	}
	space, number, role, seed := arg(2), arg(3), arg(4), arg(5)
	if err != nil {
		return err
	}
	fd, err := unix.Open(os.Args[1], unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if w.mem, err = unix.Mmap(fd, 0, ledgerSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return err
	}
	_ = unix.Close(fd)
	w.number, w.self, w.rnd = number, w.life(number), rand.New(rand.NewPCG(seed, 1))
	w.self.space, w.self.role = uint32(space), uint32(role)
	atomic.StoreUint32(&w.self.pid, uint32(os.Getpid()))

	ctx := context.Background()
	s, err := client.Open(ctx)
	if err != nil {
		return err
	}
	set := func(key client.Key) *client.Set {
		set, e := s.Set(ctx, key, 0)
		err = errors.Join(err, e)
		return set
	}
	segment := func(key client.Key) *client.Segment {
		g, e := s.Segment(ctx, key, 0)
		err = errors.Join(err, e)
		return g
	}
	w.undo, w.count, w.lock = set(keyUndo), set(keyCount), set(keyLock)
	w.section, w.picture = segment(keySection), segment(keyPicture)
	queue, e := s.Queue(ctx, keyQueue)
	w.queue = queue
	if err = errors.Join(err, e); err != nil {
		return err
	}
	if role == 1 {
		a, err := w.section.Attach(ctx)
		if err != nil {
			return err
		}
		w.sections, err = client.Slice[section](a.Bytes(), 0, sections)
		return err
	}
	return nil
}

func (w *worker) stop() *uint32 { return (*uint32)(unsafe.Pointer(&w.mem[8])) }
func (w *worker) life(n uint64) *life {
	return (*life)(unsafe.Pointer(&w.mem[livesOff+n*uint64(unsafe.Sizeof(life{}))]))
}

func (w *worker) stopping() bool {
	atomic.AddUint64(&w.self.progress, 1)
	return atomic.LoadUint32(w.stop()) != 0
}

// fail ends the life as one that found something wrong.
func (w *worker) fail(format string, args ...any) {
	if w.mem != nil {
		atomic.AddUint32((*uint32)(unsafe.Pointer(&w.mem[12])), 1)
	}
	fmt.Fprintf(os.Stderr, "goworker: life %v, role %v, pid %d: %s\n", os.Args[3], os.Args[4], os.Getpid(), fmt.Sprintf(format, args...))
	os.Exit(3)
}

// must fails on an error that is not the end of the call's context. false: it was.
func (w *worker) must(err error, what string, expected ...error) bool {
	if err == nil {
		return true
	}
	if errors.Is(err, unix.EINTR) {
		return false
	}
	for _, e := range expected {
		if errors.Is(err, e) {
			return false
		}
	}
	w.fail("%s: %v", what, err)
	return false
}

func (w *worker) pause(below int) { time.Sleep(time.Duration(w.rnd.IntN(below)) * time.Microsecond) }

func (w *worker) undoRound() {
	a, b, c := w.rnd.IntN(undoSems), w.rnd.IntN(undoSems), w.rnd.IntN(undoSems)
	n := 1 + w.rnd.IntN(undoStart/2)
	down := []client.Op{client.Sub(a, n).Undo(), client.Sub(b, 1).Undo(), client.Sub(c, 1).Undo()}
	up := []client.Op{client.Add(c, 1).Undo(), client.Add(b, 1).Undo(), client.Add(a, n).Undo()}
	count := 1 + w.rnd.IntN(3)
	if !w.must(w.undo.Op(w.ctx, down[:count]...), "semop down") {
		return
	}
	if w.rnd.IntN(4) == 0 {
		w.pause(300)
	}
	if w.rnd.IntN(64) == 0 {
		os.Exit(0) // its end gives them back
	}
	w.must(w.undo.Op(context.Background(), up[3-count:]...), "semop up")
	v, err := w.undo.Value(a)
	if w.must(err, "GETVAL"); v > undoStart {
		w.fail("GETVAL of %d is %d", a, v)
	}
	if w.rnd.IntN(16) == 0 {
		all, err := w.undo.Values()
		w.must(err, "GETALL")
		for i, v := range all {
			if v > undoStart {
				w.fail("GETALL: %d is %d", i, v)
			}
		}
		_, err = w.undo.WaitingForMore(a)
		w.must(err, "GETNCNT")
	}
}

func (w *worker) countRound() {
	num := w.rnd.IntN(countSems)
	begun, done := &w.self.upBegun, &w.self.upDone
	op, ctx := client.Add(num, 1), w.ctx
	if w.rnd.IntN(2) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		op, begun, done = client.Sub(num, 1), &w.self.downBegun, &w.self.downDone
	}
	atomic.AddUint64(begun, 1)
	if w.must(w.count.Op(ctx, op), "count") {
		atomic.AddUint64(done, 1)
	} else {
		atomic.AddUint64(begun, ^uint64(0))
	}
}

// lockRound has the three forms of a lock that worker.c has.
func (w *worker) lockRound() {
	k := w.rnd.IntN(sections)
	ops := [][]client.Op{
		{client.Zero(0), client.Add(0, 1).Undo()},
		{client.Sub(1, 1).Undo()},
		{client.Sub(2, 1).Undo(), client.Zero(3)},
	}[k]
	if !w.must(w.lock.Op(w.ctx, ops...), "lock") {
		return
	}
	s := &w.sections[k]
	if owner := atomic.SwapUint64(&s.owner, w.number+1); owner != 0 && atomic.LoadUint32(&w.life(owner-1).killed) == 0 {
		w.fail("life %d is in section %d too", owner-1, k)
	}
	atomic.AddUint64(&w.self.sectionBegun[k], 1)
	before := s.count
	if w.rnd.IntN(4) == 0 {
		w.pause(500)
	}
	s.count = before + 1
	atomic.AddUint64(&w.self.sectionDone, 1)
	if owner := atomic.SwapUint64(&s.owner, 0); owner != w.number+1 {
		w.fail("section %d is life %d's now", k, owner-1)
	}
	out := client.Add(k, 1).Undo()
	if k == 0 {
		out = client.Sub(0, 1).Undo()
	}
	w.must(w.lock.Op(context.Background(), out), "unlock")
}

// sumOf is worker.c's.
func sumOf(p []byte) uint32 {
	sum := uint32(len(p))
	for _, b := range p {
		sum = (sum<<5 | sum>>27) ^ uint32(b)
	}
	return sum
}

func (w *worker) sendRound() {
	sequence := w.self.sentBegun
	if sequence == messages {
		atomic.StoreUint32(&w.self.ended, 1)
		os.Exit(0)
	}
	size := w.rnd.IntN(200)
	if w.rnd.IntN(4) == 0 {
		size = w.rnd.IntN(longest)
	}
	m := make([]byte, 16+size)
	for i := range size {
		m[16+i] = byte(sequence + uint64(i)*7)
	}
	le := binary.LittleEndian
	le.PutUint32(m, uint32(w.number))
	le.PutUint32(m[4:], uint32(sequence))
	le.PutUint32(m[8:], uint32(size))
	le.PutUint32(m[12:], sumOf(m[16:]))
	var flags []client.MessageFlag
	if w.rnd.IntN(8) == 0 {
		flags = append(flags, client.NoWait)
	}
	atomic.AddUint64(&w.self.sentBegun, 1)
	if w.must(w.queue.Send(w.ctx, int64(1+w.rnd.IntN(4)), m, flags...), "msgsnd", client.ErrWouldBlock) {
		atomic.AddUint64(&w.self.sentDone, 1)
	} else {
		atomic.AddUint64(&w.self.sentBegun, ^uint64(0))
	}
}

func (w *worker) receiveRound() {
	typ := []int64{0, 0, 0, 1, 2, 3, 4, -2, -3, -4}[w.rnd.IntN(10)]
	buf := make([]byte, 16+longest)
	if w.rnd.IntN(8) == 0 {
		buf = buf[:100]
	}
	var flags []client.MessageFlag
	if typ != 0 || len(buf) == 100 {
		flags = append(flags, client.NoWait) // it might wait for a long time
	}
	atomic.StoreUint64(&w.self.receiving, 1)
	n, got, err := w.queue.Receive(w.ctx, typ, buf, flags...)
	if w.must(err, "msgrcv", client.ErrNoMessage, client.ErrTooBig) {
		w.received(buf[:n], got, typ)
	}
	atomic.StoreUint64(&w.self.receiving, 0)
}

// received notes a message.
func (w *worker) received(m []byte, got, typ int64) {
	if len(m) < 16 {
		w.fail("message of %d bytes", len(m))
	}
	le := binary.LittleEndian
	sender, sequence, size, sum := le.Uint32(m), le.Uint32(m[4:]), le.Uint32(m[8:]), le.Uint32(m[12:])
	if uint64(sender) >= atomic.LoadUint64((*uint64)(unsafe.Pointer(&w.mem[0]))) || int(size) != len(m)-16 || sequence >= messages {
		w.fail("message of %d bytes, sender %d, sequence %d, size %d", len(m), sender, sequence, size)
	}
	if got < 1 || got > 4 || typ > 0 && got != typ || typ < 0 && got > -typ {
		w.fail("message of type %d for %d", got, typ)
	}
	if sumOf(m[16:]) != sum {
		w.fail("message %d of life %d is damaged", sequence, sender)
	}
	if atomic.LoadUint64(&w.life(uint64(sender)).sentBegun) <= uint64(sequence) {
		w.fail("message %d of life %d was not sent", sequence, sender)
	}
	key := [2]uint32{sender, uint32(got)}
	if w.last[key] > sequence {
		w.fail("message %d of life %d after a later one", sequence, sender)
	}
	w.last[key] = sequence + 1
	// The byte of eight messages, changed by way of the word that it is in.
	at := receivedOff + int(sender)*messages/8 + int(sequence/8)
	word, bit := (*uint32)(unsafe.Pointer(&w.mem[at&^3])), uint32(1)<<(uint(at&3)*8+uint(sequence%8))
	if atomic.OrUint32(word, bit)&bit != 0 {
		w.fail("message %d of life %d came twice", sequence, sender)
	}
}

func (w *worker) segmentRound() {
	var options []client.AttachOption
	if w.rnd.IntN(2) == 0 {
		options = append(options, client.ReadOnly())
	}
	a, err := w.picture.Attach(context.Background(), options...)
	w.must(err, "shmat")
	for i := 0; i < pictureSize; i += 61 {
		if b := a.Bytes()[i]; b != byte(i*31>>4) {
			w.fail("byte %d of the picture is %d", i, b)
		}
	}
	w.must(a.Close(), "shmdt")
	st, err := w.picture.Stat(context.Background())
	if w.must(err, "IPC_STAT"); st.Size != pictureSize {
		w.fail("IPC_STAT: size %d", st.Size)
	}
}
