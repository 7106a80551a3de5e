package main

import (
	"context"
	"errors"
	"os"
	"runtime/debug"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client"
)

const (
	shm = iota
	sem
	msg
	families

	keyPrefix = 0x49440000
)

var calls = map[string]func(a *actor){
	"semop": (*actor).semop, "msgsnd": (*actor).msgsnd, "msgrcv": (*actor).msgrcv,
	"shmat": (*actor).shmat, "shmdt": (*actor).shmdt, "touch": (*actor).touch, "limits": (*actor).limits,
	"getval":  func(a *actor) { a.number(a.set().Value(a.arg(1))) },
	"getncnt": func(a *actor) { a.number(a.set().WaitingForMore(a.arg(1))) },
	"getzcnt": func(a *actor) { a.number(a.set().WaitingForZero(a.arg(1))) },
	"getpid":  (*actor).getpid, "getall": (*actor).getall, "setall": (*actor).setall,
	"setval": func(a *actor) { a.result(a.set().SetValue(a.arg(1), a.arg(2))) },
	"shmget": func(a *actor) { a.get(shm) }, "semget": func(a *actor) { a.get(sem) }, "msgget": func(a *actor) { a.get(msg) },
	"shmstat": (*actor).shmstat, "semstat": (*actor).semstat, "msgstat": (*actor).msgstat,
	"shmset":   func(a *actor) { a.result(a.segment().SetPermissions(bg, a.permissions())) },
	"semset":   func(a *actor) { a.result(a.set().SetPermissions(bg, a.permissions())) },
	"msgset":   func(a *actor) { a.result(a.queue().SetPermissions(bg, a.permissions(), uint64(a.arg(4)))) },
	"semwiden": (*actor).semwiden, "msgwiden": (*actor).msgwiden,
	"shmrmid": func(a *actor) { a.result(a.segment().Remove(bg)) },
	"semrmid": func(a *actor) { a.result(a.set().Remove(bg)) },
	"msgrmid": func(a *actor) { a.result(a.queue().Remove(bg)) },
}

var bg = context.Background()

// ---- what a call saw ----

// result says how a call ended, by errno: what is none of the kernel's stands
// out as a difference.
func (a *actor) result(err error) bool {
	var errno unix.Errno
	switch {
	case err == nil:
		a.say(" 0")
	case errors.Is(err, context.DeadlineExceeded):
		a.say(" EAGAIN") // semtimedop's
	case errors.Is(err, context.Canceled), errors.As(err, &errno) && errno != unix.ECONNREFUSED:
		errors.As(err, &errno)
		a.say(" %s", unix.ErrnoName(errno))
	default:
		a.say(" %v", err)
	}
	return err == nil
}

func (a *actor) number(n int, err error) {
	if err != nil {
		a.result(err)
		return
	}
	a.say(" %d", n)
}

func (a *actor) sayPid(field string, pid int) {
	i := int(a.pids.Load()) - 1
	for i >= 0 && int(a.pid[i].Load()) != pid {
		i--
	}
	switch {
	case pid == 0:
		a.say(" %s=none", field)
	case i >= 0:
		a.say(" %s=p%d", field, i)
	default:
		a.say(" %s=stranger", field)
	}
}

func (a *actor) sayTime(field string, t time.Time) {
	switch now := time.Now().Unix(); {
	case t.IsZero():
		a.say(" %s=0", field)
	case t.Unix() >= a.begun.Load()-1 && t.Unix() <= now+1:
		a.say(" %s=now", field)
	default:
		a.say(" %s=wrong", field)
	}
}

func (a *actor) sayStatus(st *client.Status) {
	a.say(" key=%x mode=%o uid=%d gid=%d cuid=%d cgid=%d", uint32(st.Key), st.Mode, st.UID, st.GID, st.CUID, st.CGID)
}

// ---- objects ----

func (a *actor) idOf(family int) int { return int(a.id[family][a.arg(0)].Load()) }

// object is the one of this process for what stands in the slot.
func object[T any](a *actor, family int, make func(id int) *T) *T {
	o, ok := a.objects[family].Load(a.idOf(family))
	if !ok {
		o, _ = a.objects[family].LoadOrStore(a.idOf(family), make(a.idOf(family)))
	}
	return o.(*T)
}

// semwiden is an IPC_SET that takes nothing away.
func (a *actor) semwiden() {
	st, err := a.set().Stat(bg)
	if err == nil {
		st.Mode |= uint32(a.arg(1))
		err = a.set().SetPermissions(bg, st.Permissions)
	}
	a.result(err)
}

func (a *actor) msgwiden() {
	st, err := a.queue().Stat(bg)
	if err == nil {
		st.Mode |= uint32(a.arg(1))
		err = a.queue().SetPermissions(bg, st.Permissions, st.MaxBytes)
	}
	a.result(err)
}

func (a *actor) set() *client.Set         { return object(a, sem, a.space.SetByID) }
func (a *actor) queue() *client.Queue     { return object(a, msg, a.space.QueueByID) }
func (a *actor) segment() *client.Segment { return object(a, shm, a.space.SegmentByID) }

// get SLOT KEY SIZE FLAGS
func (a *actor) get(family int) {
	key, size, flags := client.Private, a.arg(2), a.arg(3)
	if a.arg(1) != 0 {
		key = client.Key(keyPrefix + a.arg(1))
	}
	option := client.Want(uint32(flags))
	switch {
	case flags&unix.IPC_CREAT != 0 && flags&unix.IPC_EXCL != 0:
		option = client.CreateNew(uint32(flags))
	case flags&unix.IPC_CREAT != 0:
		option = client.Create(uint32(flags))
	}
	var o interface{ ID() int }
	var err error
	switch family {
	case shm:
		o, err = a.space.Segment(bg, key, size, option)
	case sem:
		o, err = a.space.Set(bg, key, size, option)
	case msg:
		o, err = a.space.Queue(bg, key, option)
	}
	if err != nil {
		a.result(err)
		return
	}
	a.note(family, o.ID(), size)
}

// note remembers an object that was found or made.
func (a *actor) note(family, id, size int) {
	n := int(a.ids.Load())
	known := false
	for _, m := range a.made[:n] {
		known = known || int(m.family) == family && int(m.id) == id
	}
	switch {
	case known:
		a.sayID(family, id)
	case n < maxIDs:
		a.made[n].family, a.made[n].id, a.made[n].size = int32(family), int32(id), int32(size)
		a.ids.Store(int32(n + 1))
		a.say(" new")
	}
	a.id[family][a.arg(0)].Store(int32(id))
}

func (a *actor) sayID(family, id int) {
	for i := range slots {
		if int(a.id[family][i].Load()) == id {
			a.say(" slot%d", i)
			return
		}
	}
	a.say(" another")
}

func (a *actor) permissions() client.Permissions {
	return client.Permissions{UID: uint32(a.arg(1)), GID: uint32(a.arg(2)), Mode: uint32(a.arg(3))}
}

func (a *actor) shmstat() {
	st, err := a.segment().Stat(bg)
	if err != nil {
		a.result(err)
		return
	}
	a.sayStatus(&st.Status)
	a.say(" segsz=%d nattch=%d", st.Size, st.Attaches)
	a.sayTime("atime", st.Attached)
	a.sayTime("dtime", st.Detached)
	a.sayTime("ctime", st.Changed)
	a.sayPid("cpid", st.Creator)
	a.sayPid("lpid", st.Last)
}

func (a *actor) semstat() {
	st, err := a.set().Stat(bg)
	if err != nil {
		a.result(err)
		return
	}
	a.sayStatus(&st.Status)
	a.say(" nsems=%d", st.Semaphores)
	a.sayTime("otime", st.Operated)
	a.sayTime("ctime", st.Changed)
}

func (a *actor) msgstat() {
	st, err := a.queue().Stat(bg)
	if err != nil {
		a.result(err)
		return
	}
	a.sayStatus(&st.Status)
	a.say(" cbytes=%d qnum=%d qbytes=%d", st.Bytes, st.Messages, st.MaxBytes)
	a.sayTime("stime", st.Sent)
	a.sayTime("rtime", st.Received)
	a.sayTime("ctime", st.Changed)
	a.sayPid("lspid", st.Sender)
	a.sayPid("lrpid", st.Receiver)
}

// limits FAMILY USAGE
func (a *actor) limits() {
	l, u := a.space.Limits(), a.space.Usage()
	switch a.arg(0)*2 + a.arg(1) {
	case 2 * shm:
		a.say(" %d %d %d", l.ShmMax, l.ShmMni, l.ShmAll)
	case 2*shm + 1:
		a.say(" %d %d", u.Segments, u.ShmPages)
	case 2 * sem:
		a.say(" %d %d %d %d", l.SemMni, l.SemMns, l.SemMsl, l.SemOpm)
	case 2*sem + 1:
		a.say(" %d %d", u.Sets, u.Semaphores)
	case 2 * msg:
		a.say(" %d %d %d", l.MsgMax, l.MsgMnb, l.MsgMni)
	case 2*msg + 1:
		a.say(" %d", u.Queues)
	}
}

// ---- semaphores ----

// context is that of a call that may wait; done after it.
func (a *actor) context(timeout time.Duration) (ctx context.Context, done func()) {
	ctx, cancel := context.WithCancel(bg)
	end := func() { cancel() }
	a.cancel[a.place].Store(&end)
	stop := cancel
	if timeout >= 0 {
		ctx, stop = context.WithTimeout(ctx, timeout)
	}
	return ctx, func() {
		a.cancel[a.place].Store(nil)
		stop()
		cancel()
	}
}

// semop SLOT TIMEOUT(ms; -1: none) {NUM OP FLAGS}...
func (a *actor) semop() {
	var ops []client.Op
	for i := 2; i+2 < len(a.args) && len(ops) < 4; i += 3 {
		ops = append(ops, client.Op{Num: uint16(a.arg(i)), Op: int16(a.arg(i + 1)), Flag: uint16(a.arg(i + 2))})
	}
	ctx, done := a.context(time.Duration(a.arg(1)) * time.Millisecond)
	defer done()
	a.result(a.set().Op(ctx, ops...))
}

func (a *actor) getpid() {
	pid, err := a.set().PID(a.arg(1))
	if err != nil {
		a.result(err)
		return
	}
	a.sayPid("pid", pid)
}

// getall says six values, as many as there are and zeros.
func (a *actor) getall() {
	values, err := a.set().Values()
	if !a.result(err) {
		return
	}
	for _, v := range append(values, make([]uint16, 6)...)[:6] {
		a.say(" %d", v)
	}
}

// setall SLOT VALUE...: zeros follow.
func (a *actor) setall() {
	n := len(a.args) - 1
	for _, m := range a.made[:a.ids.Load()] {
		if m.family == sem && int(m.id) == a.idOf(sem) {
			n = int(m.size)
		}
	}
	values := make([]uint16, max(n, len(a.args)-1))
	for i, v := range a.args[1:] {
		values[i] = uint16(v)
	}
	a.result(a.set().SetValues(values[:n]))
}

// ---- messages ----

const longest = 9000

// msgsnd SLOT TYPE SIZE FLAGS SEED
func (a *actor) msgsnd() {
	text := make([]byte, a.arg(2))
	for i := range text {
		text[i] = byte(a.arg(4)*31 + i*7 + i/251)
	}
	ctx, done := a.context(-1)
	defer done()
	a.result(a.queue().Send(ctx, int64(a.arg(1)), text, client.MessageFlag(a.arg(3))))
}

// msgrcv SLOT TYPE SIZE FLAGS
func (a *actor) msgrcv() {
	buf := make([]byte, longest)
	for i := range buf {
		buf[i] = 0xee
	}
	ctx, done := a.context(-1)
	defer done()
	n, typ, err := a.queue().Receive(ctx, int64(a.arg(1)), buf[:a.arg(2)], client.MessageFlag(a.arg(3)))
	if err != nil {
		a.result(err)
		return
	}
	sum := uint32(0)
	for _, b := range buf { // what lies behind the text, too
		sum = sum*31 + uint32(b)
	}
	a.say(" %d type=%d sum=%08x", n, typ, sum)
}

// ---- segments ----

func rounded(n int) int { page := os.Getpagesize(); return (n + page - 1) / page * page }

// shmat SLOT ATTACH FLAGS
func (a *actor) shmat() {
	k := a.arg(1)
	if a.attach[k] != nil {
		a.say(" taken")
		return
	}
	var options []client.AttachOption
	if a.arg(2)&unix.SHM_RDONLY != 0 {
		options = append(options, client.ReadOnly())
	}
	m, err := a.segment().Attach(bg, options...)
	if err != nil {
		a.result(err)
		return
	}
	a.attach[k] = m
	a.say(" attached %d", rounded(len(m.Bytes())))
}

// shmdt ATTACH
func (a *actor) shmdt() {
	k := a.arg(0)
	if a.attach[k] == nil {
		a.say(" EINVAL") // shmdt(NULL), which there is no way to say
		return
	}
	a.result(a.attach[k].Close())
	a.attach[k] = nil
}

// touch ATTACH OFFSET VALUE(-1: only read)
func (a *actor) touch() {
	m, at := a.attach[a.arg(0)], a.arg(1)
	if m == nil || at >= rounded(len(m.Bytes())) {
		a.say(" no")
		return
	}
	debug.SetPanicOnFault(true)
	defer func() {
		if recover() != nil {
			a.say(" SEGV")
		}
	}()
	// The rest of the last page is there, too.
	b := (*int8)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(m.Bytes())), at))
	if v := a.arg(2); v >= 0 {
		*b = int8(v)
	}
	a.say(" %d", *b)
}
