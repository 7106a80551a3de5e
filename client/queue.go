package client

import (
	"context"
	"math"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// MessageFlag changes how a message is sent or received.
type MessageFlag int

// Flags of Send and Receive, as in the system's headers.
const (
	NoWait   MessageFlag = 0o4000  // IPC_NOWAIT: ErrWouldBlock or ErrNoMessage instead of waiting
	Truncate MessageFlag = 0o10000 // MSG_NOERROR: what does not fit the buffer is lost
	Except   MessageFlag = 0o20000 // MSG_EXCEPT: the first message that is not of the type
	Copy     MessageFlag = 0o40000 // MSG_COPY, with NoWait: the message at index typ stays in the queue
)

// Queue is a message queue. Safe for use by many goroutines.
type Queue struct{ object }

// Queue finds or makes a queue (msgget).
func (s *Space) Queue(ctx context.Context, key Key, options ...GetOption) (*Queue, error) {
	id, err := s.s.get(ctx, abi.Msg, key, 0, options)
	if err != nil {
		return nil, err
	}
	return s.QueueByID(int(id)), nil
}

// QueueByID is the queue of an id, which the first call on it looks for.
func (s *Space) QueueByID(id int) *Queue {
	return &Queue{object{s: s.s, family: abi.Msg, id: uint32(id)}}
}

func flagsOf(flags []MessageFlag) (all int) {
	for _, f := range flags {
		all |= int(f)
	}
	return all
}

// Send sends a message of a type above 0 (msgsnd), and waits while the queue
// is full. The text may be empty. When ctx ends, nothing is sent.
//
// ErrWouldBlock (NoWait), ErrRemoved, ErrPermission; ErrInvalid: the type, or
// a text longer than Limits.MsgMax.
func (q *Queue) Send(ctx context.Context, typ int64, text []byte, flags ...MessageFlag) error {
	q.begin()
	err := q.send(ctx, typ, text, flagsOf(flags))
	q.end()
	if err != nil {
		return q.failed(ctx, "msgsnd", err)
	}
	return nil
}

func (q *Queue) send(ctx context.Context, typ int64, text []byte, flags int) error {
	if uint64(len(text)) > q.s.table.header.MsgMax || typ < 1 {
		return unix.EINVAL
	}
	for restarts := 0; ; restarts++ {
		h, err := q.ready(ctx, 0, restarts)
		if err != nil {
			return err
		}
		// A call that slept learns that it may not send when there is room.
		slept := restarts > 0 && flags&int(NoWait) == 0
		refused := h.rights&abi.AccessWrite == 0
		if refused && !slept {
			return unix.EACCES
		}
		if refused || h.queue == nil {
			var again int64
			if slept {
				again = 1
			}
			_, err = q.s.broker(ctx, abi.MsgSend, text, int64(q.id), typ, int64(flags), again)
		} else {
			err = h.queue.Send(ctx, typ, text, flags)
		}
		runtime.KeepAlive(h)
		if !q.moved(err, restarts) {
			return err
		}
	}
}

// Receive receives a message into buf (msgrcv): its length and type. With typ
// 0 the first of the queue, above 0 the first of that type, below 0 the first
// of the lowest type up to -typ. It waits until there is one; when ctx ends,
// none was taken.
//
// ErrTooBig: the message is longer than buf, and stays. ErrNoMessage (NoWait),
// ErrRemoved, ErrPermission.
func (q *Queue) Receive(ctx context.Context, typ int64, buf []byte, flags ...MessageFlag) (n int, got int64, err error) {
	q.begin()
	n, got, err = q.receive(ctx, typ, buf, flagsOf(flags))
	q.end()
	if err != nil {
		return 0, 0, q.failed(ctx, "msgrcv", err)
	}
	return n, got, nil
}

func (q *Queue) receive(ctx context.Context, typ int64, buf []byte, flags int) (n int, got int64, err error) {
	if flags&int(Copy) != 0 && flags&int(NoWait|Except) != int(NoWait) {
		return 0, 0, unix.EINVAL // before anything is known of the queue
	}
	for restarts := 0; ; restarts++ {
		h, err := q.ready(ctx, abi.AccessRead, restarts)
		if err != nil {
			return 0, 0, err
		}
		switch {
		case h.queue == nil:
			n, got, err = q.brokered(ctx, typ, buf, flags)
		case flags&int(Copy) != 0:
			n, got, err = h.queue.Copy(buf, typ, flags)
		default:
			n, got, err = h.queue.Receive(ctx, buf, typ, flags)
		}
		runtime.KeepAlive(h)
		if !q.moved(err, restarts) {
			return n, got, err
		}
	}
}

func (q *Queue) brokered(ctx context.Context, typ int64, buf []byte, flags int) (int, int64, error) {
	r, err := q.s.broker(ctx, abi.MsgReceive, nil, int64(q.id), int64(min(len(buf), math.MaxInt32)), typ, int64(flags))
	if err != nil {
		return 0, 0, err
	}
	return copy(buf, r.body), r.Val[1], nil
}

// SetPermissions changes owner and mode, and how many bytes the queue holds
// (IPC_SET). More than Limits.MsgMnb takes CAP_SYS_RESOURCE.
func (q *Queue) SetPermissions(ctx context.Context, p Permissions, bytes uint64) error {
	return q.setPermissions(ctx, p, le64(bytes))
}

// QueueStat is what is known of a queue (msqid_ds).
type QueueStat struct {
	Status
	Bytes, Messages uint64 // that it holds
	MaxBytes        uint64 // that it may hold
	Sender          int    // pid of the last, 0: none, or not visible here
	Receiver        int
	Sent, Received  time.Time // the last
}

// Stat reads IPC_STAT; without a message if this process has used the queue.
func (q *Queue) Stat(ctx context.Context) (QueueStat, error) {
	if h := q.good(); h != nil && h.queue != nil {
		if rec, _, ok := q.s.table.record(abi.Msg, q.id); ok {
			return q.statDirect(ctx, h, &rec)
		}
	}
	st, err := q.stat(ctx)
	if err != nil {
		return QueueStat{}, err
	}
	return QueueStat{
		Status: status(&st), Bytes: st.Count[0], Messages: st.Count[1], MaxBytes: st.Size,
		Sender: int(st.PID[0]), Receiver: int(st.PID[1]), Sent: seconds(st.Time[0]), Received: seconds(st.Time[1]),
	}, nil
}

func (q *Queue) statDirect(ctx context.Context, h *handle, rec *abi.Record) (QueueStat, error) {
	st, now := statOf(rec), h.queue.Stat()
	q.end()
	runtime.KeepAlive(h)
	sender, err := q.s.pidOf(ctx, now.Sender, 0)
	if err != nil {
		return QueueStat{}, q.failed(ctx, "msgctl", err)
	}
	receiver, err := q.s.pidOf(ctx, now.Receiver, now.Thread)
	if err != nil {
		return QueueStat{}, q.failed(ctx, "msgctl", err)
	}
	return QueueStat{
		Status: status(&st), Bytes: now.Bytes, Messages: now.Messages, MaxBytes: rec.Size,
		Sender: sender, Receiver: receiver, Sent: seconds(now.SendTime), Received: seconds(now.RecvedTime),
	}, nil
}
