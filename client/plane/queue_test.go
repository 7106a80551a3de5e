package plane

import (
	"bytes"
	"context"
	"math"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

type received struct {
	text string
	typ  int64
	err  error
}

func (q *Queue) get(t testing.TB, room int, typ int64, flags int) received {
	t.Helper()
	buf := make([]byte, room)
	n, mtype, err := q.Receive(bg, buf, typ, flags|unix.IPC_NOWAIT)
	return received{string(buf[:n]), mtype, err}
}

func (q *Queue) verify(t testing.TB, messages, bytes uint64) {
	t.Helper()
	ok(t, q.Verify())
	if st := q.Stat(); st.Messages != messages || st.Bytes != bytes {
		t.Fatalf("qnum %d cbytes %d, want %d, %d", st.Messages, st.Bytes, messages, bytes)
	}
}

func (q *Queue) waiting() int {
	n := 0
	for i := range q.cells() {
		if q.state(q.cellsOff + i*abi.CellSize).sleeping() {
			n++
		}
	}
	return n
}

func (q *Queue) receiving(t testing.TB, ctx context.Context, room int, typ int64, flags int) chan received {
	t.Helper()
	before := q.waiting()
	done := make(chan received, 1)
	go func() {
		buf := make([]byte, room)
		n, mtype, err := q.Receive(ctx, buf, typ, flags)
		done <- received{string(buf[:n]), mtype, err}
	}()
	eventually(t, "a receiver", func() bool { return q.waiting() > before })
	time.Sleep(2 * time.Millisecond)
	return done
}

func (q *Queue) sending(t testing.TB, ctx context.Context, typ int64, text string) chan error {
	t.Helper()
	return q.sender(t, func() error { return q.Send(ctx, typ, []byte(text), 0) })
}

// refused is a sender that has lost its right.
func (q *Queue) refused(t testing.TB) chan error {
	t.Helper()
	return q.sender(t, func() error { return q.Refuse(bg, 0, yes) })
}

func (q *Queue) sender(t testing.TB, send func() error) chan error {
	t.Helper()
	before := q.waiting()
	done := make(chan error, 1)
	go func() { done <- send() }()
	eventually(t, "a sender", func() bool { return q.waiting() > before })
	time.Sleep(2 * time.Millisecond)
	return done
}

// A message that the C library made has the link of its cell's earlier life
// until it is queued. Admitted by this side, it must end the list all the same.
func TestAdmitOfAStaleLink(t *testing.T) {
	f := newFile(t, 0, 32, 0)
	a, b := f.queue(7), f.queue(8)
	f.qbytes.Store(4)
	ok(t, a.Send(bg, 1, []byte("full"), 0))
	sent := a.sending(t, bg, 1, "next")
	for i := range a.cells() {
		if off := a.cellsOff + i*abi.CellSize; a.state(off).kind() == abi.KindMessage && a.state(off).phase() == abi.CellOwned {
			a.setNext(off, 32) // a free cell
		}
	}
	for _, text := range []string{"full", "next"} {
		if got := b.get(t, 9, 0, 0); got.text != text || got.err != nil {
			t.Errorf("got %v instead of %s", got, text)
		}
		ok(t, b.Verify())
	}
	ok(t, <-sent)
	b.verify(t, 0, 0)
}

func TestSendReceive(t *testing.T) {
	f := newFile(t, 0, 16, 0)
	a, b := f.queue(7), f.queue(8)
	want(t, a.Send(bg, 0, nil, 0), unix.EINVAL)
	for i, text := range []string{"one", "two", "three"} {
		ok(t, a.Send(bg, int64(3-i), []byte(text), 0))
	}
	a.verify(t, 3, 11)
	for _, c := range []struct {
		rule       string
		room       int
		typ        int64
		flags      int
		text       string
		mtype      int64
		err        error
		ms, msSize uint64
	}{
		{"row 193: too long stays", 2, 2, 0, "", 0, unix.E2BIG, 3, 11},
		{"row 189: of that type", 9, 2, 0, "two", 2, nil, 2, 8},
		{"row 191: of another type", 9, 3, msgExcept, "three", 1, nil, 1, 3},
		{"row 189: lowest type <= |type|", 9, -2, 0, "", 0, unix.ENOMSG, 1, 3},
		{"row 190: LONG_MIN", 9, math.MinInt64, 0, "one", 3, nil, 0, 0},
		{"row 192: none", 9, 0, 0, "", 0, unix.ENOMSG, 0, 0},
	} {
		got := b.get(t, c.room, c.typ, c.flags)
		if got != (received{c.text, c.mtype, c.err}) {
			t.Errorf("%s: got %v", c.rule, got)
		}
		b.verify(t, c.ms, c.msSize)
	}
	ok(t, a.Send(bg, 5, []byte("longer"), 0))
	if got := b.get(t, 4, 0, msgNoError); got.text != "long" || got.typ != 5 {
		t.Errorf("row 194: got %v", got)
	}
	if st := a.Stat(); st.Sender != 7 || st.Receiver != 8 || st.SendTime == 0 || st.RecvedTime == 0 {
		t.Errorf("rows 184, 201: %+v", st)
	}
	if n := a.inUse(); n != 0 {
		t.Errorf("%d cells are left", n)
	}
}

func TestLowestTypeFirst(t *testing.T) {
	q := newFile(t, 0, 32, 0).queue(7)
	for _, typ := range []int64{5, 3, 4, 3, 9} {
		ok(t, q.Send(bg, typ, []byte{byte('0' + typ)}, 0))
	}
	for _, want := range []int64{3, 3, 4, 5} {
		if got := q.get(t, 9, -5, 0); got.typ != want {
			t.Fatalf("row 189: got %v, want type %d", got, want)
		}
	}
	if got := q.get(t, 9, -5, 0); got.err != unix.ENOMSG {
		t.Fatalf("got %v", got)
	}
}

func TestLongMessages(t *testing.T) {
	f := newFile(t, 0, 4, 0)
	f.qbytes.Store(1 << 24)
	a := f.queue(7)
	var total uint64
	var texts [][]byte
	for _, n := range []int{0, 1, 208, 209, 2048, 2049, 8192, 106496, 106497, 500_000} {
		text := make([]byte, n)
		for i := range text {
			text[i] = byte(i*7 + n)
		}
		ok(t, a.Send(bg, 1, text, 0))
		total += uint64(n)
		texts = append(texts, text)
	}
	a.verify(t, uint64(len(texts)), total)
	g := newFile(t, 0, 1, 0)
	fresh := g.queue(abi.ManagerSession)
	ok(t, f.queue(abi.ManagerSession).Poison())
	ok(t, a.CopyTo(fresh))
	fresh.verify(t, uint64(len(texts)), total)
	ok(t, fresh.ReapSession(7)) // the sender dies, its messages stay
	b := g.queue(8)
	for _, text := range texts {
		got := b.get(t, len(text), 0, 0)
		if got.err != nil || !bytes.Equal([]byte(got.text), text) {
			t.Fatalf("%d bytes came out as %d, %v", len(text), len(got.text), got.err)
		}
	}
	fresh.verify(t, 0, 0)
	if n := fresh.inUse(); n != 0 {
		t.Errorf("%d cells are left", n)
	}
	for i := range fresh.learn() {
		if w := fresh.data.load(abi.ChunkWordOff(i)); w != 0 {
			t.Fatalf("chunk %d is left to %d", i, w)
		}
	}
}

func TestHandOver(t *testing.T) {
	f := newFile(t, 0, 16, 0)
	a, b, c := f.queue(7), f.queue(8), f.queue(9)
	small := b.receiving(t, bg, 2, 0, 0)
	other := b.receiving(t, bg, 9, 4, 0)
	fit := c.receiving(t, bg, 9, -3, 0)
	ok(t, a.Send(bg, 2, []byte("hello"), 0))
	if got := <-small; got.err != unix.E2BIG {
		t.Errorf("row 186: got %v", got)
	}
	if got := <-fit; got.text != "hello" || got.typ != 2 {
		t.Errorf("row 185: got %v", got)
	}
	if st := a.Stat(); st.Receiver != 9 || st.Sender != 7 || st.Messages != 0 {
		t.Errorf("%+v", st)
	}
	ok(t, a.Send(bg, 4, nil, 0))
	if got := <-other; got.err != nil || got.typ != 4 {
		t.Errorf("row 185: got %v", got)
	}
	a.verify(t, 0, 0)
	if n := a.inUse(); n != 0 {
		t.Errorf("%d cells are left", n)
	}
}

func TestFullQueue(t *testing.T) {
	f := newFile(t, 0, 16, 0)
	f.qbytes.Store(10)
	a, b := f.queue(7), f.queue(8)
	ok(t, a.Send(bg, 1, []byte("12345678"), 0))
	want(t, a.Send(bg, 1, []byte("abc"), unix.IPC_NOWAIT), unix.EAGAIN)
	// The kernel looks for room before it looks for receivers.
	r := b.receiving(t, bg, 9, 2, 0)
	big := a.sending(t, bg, 2, "123456789")
	small := b.sending(t, bg, 3, "abc")
	if got := b.get(t, 9, 1, 0); got.err != nil {
		t.Fatal(got)
	}
	ok(t, <-big) // went straight to the receiver, so that small fits too
	if got := <-r; got.text != "123456789" {
		t.Errorf("got %v", got)
	}
	ok(t, <-small)
	a.verify(t, 1, 3)
	// Row 182: a smaller message may go first. Row 211: IPC_SET.
	s1 := a.sending(t, bg, 5, "12345678")
	s2 := a.sending(t, bg, 6, "12345678")
	f.qbytes.Store(19)
	ok(t, a.Rescan())
	ok(t, <-s1)
	ok(t, <-s2)
	a.verify(t, 3, 19)
	f.qbytes.Store(0)
	// Row 183: one that lost its right while it slept learns so when there is room.
	r1, s3 := a.refused(t), a.sending(t, bg, 5, "")
	f.qbytes.Store(12)
	if got := b.get(t, 9, 5, 0); got.err != nil {
		t.Fatal(got)
	}
	want(t, <-r1, unix.EACCES)
	ok(t, <-s3)
	want(t, a.Refuse(bg, 0, yes), unix.EACCES)
	f.qbytes.Store(0)
	r2 := a.refused(t)
	ok(t, a.Rescan())
	want(t, <-r2, ErrStale)
	// An IPC_SET between the refusal and the wait recalls nobody: it is too early.
	want(t, a.Refuse(bg, 0, no), ErrStale)
	f.qbytes.Store(12)
	want(t, a.Refuse(bg, 0, no), ErrStale)
}

func yes() bool { return true }
func no() bool  { return false }

func TestQueueInterrupted(t *testing.T) {
	f := newFile(t, 0, 16, 0)
	f.qbytes.Store(1)
	a := f.queue(7)
	ctx, cancel := context.WithCancel(bg)
	r := a.receiving(t, ctx, 9, 0, 0)
	s := a.sending(t, ctx, 1, "abc")
	cancel()
	if got := <-r; got.err != unix.EINTR {
		t.Errorf("got %v", got)
	}
	want(t, <-s, unix.EINTR)
	a.verify(t, 0, 0)
	if n := a.inUse(); n != 0 {
		t.Errorf("%d cells are left", n)
	}
	r = a.receiving(t, bg, 9, 0, 0)
	f.valid.Store(false)
	f.queue(abi.ManagerSession).Remove()
	if got := <-r; got.err != unix.EIDRM {
		t.Errorf("got %v", got)
	}
}

func TestCopy(t *testing.T) {
	q := newFile(t, 0, 16, 0).queue(7)
	ok(t, q.Send(bg, 3, []byte("abc"), 0))
	ok(t, q.Send(bg, 4, []byte("defg"), 0))
	for _, c := range []struct {
		index       int64
		room, flags int
		n           int
		typ         int64
		err         error
	}{
		{0, 9, 0, 0, 0, unix.EINVAL},
		{0, 9, unix.IPC_NOWAIT | msgExcept, 0, 0, unix.EINVAL},
		{0, 9, unix.IPC_NOWAIT, 3, 3, nil},
		{1, 9, unix.IPC_NOWAIT, 4, 4, nil},
		{2, 9, unix.IPC_NOWAIT, 0, 0, unix.ENOMSG},
		{-1, 9, unix.IPC_NOWAIT, 0, 0, unix.ENOMSG},
		{1, 3, unix.IPC_NOWAIT, 0, 0, unix.E2BIG},
		{1, 3, unix.IPC_NOWAIT | msgNoError, 0, 0, unix.EINVAL},
	} {
		n, typ, err := q.Copy(make([]byte, c.room), c.index, c.flags)
		if n != c.n || typ != c.typ || err != c.err {
			t.Errorf("%+v: got %d, %d, %v", c, n, typ, err)
		}
	}
	q.verify(t, 2, 7)
}

// A queue whose cells are all messages, in a file that may not grow.
func TestNoCellsLeft(t *testing.T) {
	f := newFile(t, 0, 32, 0)
	f.maxCells = 32
	q := f.queue(7)
	n := 0
	for ; q.Send(bg, 1, nil, 0) == nil; n++ {
	}
	if n != 32-logReserve {
		t.Errorf("%d messages fit", n)
	}
	for range n {
		if got := q.get(t, 0, 0, 0); got.err != nil {
			t.Fatal(got)
		}
	}
	q.verify(t, 0, 0)
}
