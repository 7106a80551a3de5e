package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/client/plane"
)

// Segment is a shared memory segment. Safe for use by many goroutines.
type Segment struct{ object }

// Segment finds or makes a segment of so many bytes (shmget); with 0 any size
// will do for one that is there.
func (s *Space) Segment(ctx context.Context, key Key, size int, options ...GetOption) (*Segment, error) {
	id, err := s.s.get(ctx, abi.Shm, key, int64(size), options)
	if err != nil {
		return nil, err
	}
	return s.SegmentByID(int(id)), nil
}

// SegmentByID is the segment of an id, which the first call on it looks for.
func (s *Space) SegmentByID(id int) *Segment {
	return &Segment{object{s: s.s, family: abi.Shm, id: uint32(id)}}
}

// AttachOption changes how a segment is attached.
type AttachOption func(*attaching)

type attaching struct {
	access uint32
	prot   int
}

// ReadOnly attaches for reading alone (SHM_RDONLY), which is all that the
// segment's mode must allow then. A write into the memory is a fault that
// ends the program.
func ReadOnly() AttachOption {
	return func(a *attaching) { a.access, a.prot = abi.AccessRead, unix.PROT_READ }
}

// Attached is a segment in this process's memory. Close detaches it.
type Attached struct {
	s      *session
	id     uint32
	serial uint64
	memory []byte // what was asked for of the pages that are mapped
	mapped []byte
	closed atomic.Bool
}

// Attach maps the segment (shmat), at an address of the system's choice: mmap
// and a store; a message the first time.
//
// ErrPermission; ErrRemoved, unix.ENOMEM: no address room, or more than 126
// segments at once.
func (g *Segment) Attach(ctx context.Context, options ...AttachOption) (*Attached, error) {
	how := attaching{abi.AccessRead | abi.AccessWrite, unix.PROT_READ | unix.PROT_WRITE}
	for _, option := range options {
		option(&how)
	}
	for restarts := 0; ; restarts++ {
		h, err := g.current(ctx, how.access)
		if restarts > 0 && errors.Is(err, unix.EINVAL) {
			err = unix.EIDRM
		}
		if err != nil {
			return nil, g.failed(ctx, "shmat", err)
		}
		a, err := h.attach(ctx, how.prot)
		runtime.KeepAlive(h)
		if !g.moved(err, restarts) {
			return a, g.failed(ctx, "shmat", err)
		}
	}
}

func (h *handle) attach(ctx context.Context, prot int) (*Attached, error) {
	s, size, page := h.s, int(h.opened.Size), os.Getpagesize()
	s.usesMu.Lock()
	defer s.usesMu.Unlock()
	use, err := s.use(ctx, h.opened.Serial)
	if err != nil {
		return nil, err
	}
	// Counted before it is mapped, and looked at after it is counted: who
	// decides whether a removed segment has attaches first marks its slot and
	// then counts, so one of the two sees the other.
	atomic.AddUint32(&use.Count, 1)
	rec, _, ok := s.table.record(abi.Shm, h.id)
	var mem []byte
	if err = unix.EIDRM; ok && rec.Serial == h.opened.Serial {
		mem, err = unix.Mmap(h.fd, 0, (size+page-1)/page*page, prot, unix.MAP_SHARED)
	}
	if err != nil {
		atomic.AddUint32(&use.Count, ^uint32(0))
		return nil, err
	}
	atomic.StoreInt64(&use.ATime, plane.Stamp())
	return &Attached{s: s, id: h.id, serial: h.opened.Serial, memory: mem[:size:size], mapped: mem}, nil
}

// use is this process's count for a segment. With usesMu.
func (s *session) use(ctx context.Context, serial uint64) (*abi.Use, error) {
	uses := &s.sessionPage().Uses
	for range 2 {
		unused := -1
		for i := range uses {
			if uses[i].Serial == serial {
				return &uses[i], nil
			}
			if uses[i].Serial == 0 && unused < 0 {
				unused = i
			}
		}
		if unused >= 0 {
			u := &uses[unused]
			atomic.StoreUint32(&u.Count, 0)
			atomic.StoreInt64(&u.ATime, 0)
			atomic.StoreInt64(&u.DTime, 0)
			atomic.StoreUint64(&u.Serial, serial)
			return u, nil
		}
		// The manager takes over the times of those used no more.
		if _, err := s.tell(ctx, abi.MsgFold); err != nil {
			return nil, err
		}
	}
	return nil, unix.ENOMEM
}

// detached counts an attach less.
func (s *session) detached(serial uint64) {
	s.usesMu.Lock()
	defer s.usesMu.Unlock()
	uses := &s.sessionPage().Uses
	for i := range uses {
		if uses[i].Serial == serial && uses[i].Count > 0 {
			atomic.StoreInt64(&uses[i].DTime, plane.Stamp())
			atomic.AddUint32(&uses[i].Count, ^uint32(0))
			return
		}
	}
}

// Bytes is the segment's memory, of the size that was asked for when it was
// made. Other processes change it at any time: words that are shared are for
// sync/atomic, see View. Not to be touched after Close, as after shmdt.
func (a *Attached) Bytes() []byte { return a.memory }

// Close detaches the segment (shmdt): munmap and a store. A segment that was
// removed goes with its last attach.
func (a *Attached) Close() error {
	if a.closed.Swap(true) {
		return nil
	}
	s := a.s
	if err := unix.Munmap(a.mapped); err != nil {
		return fmt.Errorf("detach segment %d: %w", a.id, err)
	}
	a.memory, a.mapped = nil, nil
	s.detached(a.serial)
	rec, _, ok := s.table.record(abi.Shm, a.id)
	if !ok || rec.Serial != a.serial || rec.Mode&abi.ModeDest == 0 {
		return nil
	}
	// The space may be closed by now.
	ctx := context.Background()
	err := s.enter(ctx, "")
	if err == nil {
		_, err = s.tell(ctx, abi.MsgDetached, int64(a.id))
		s.leave()
	}
	return s.failed(ctx, "shmdt", fmt.Sprintf("segment %d", a.id), err)
}

// SetPermissions changes owner and mode (IPC_SET). What is attached stays so.
func (g *Segment) SetPermissions(ctx context.Context, p Permissions) error {
	return g.setPermissions(ctx, p, nil)
}

// SegmentStat is what is known of a segment (shmid_ds).
type SegmentStat struct {
	Status
	Size               int
	Attaches           int
	Creator, Last      int // pids; 0: none, or not visible here
	Attached, Detached time.Time
	Removed            bool // it goes with its last attach
}

// Stat reads IPC_STAT: always a message, for the attaches of all are counted.
func (g *Segment) Stat(ctx context.Context) (SegmentStat, error) {
	st, err := g.stat(ctx)
	if err != nil {
		return SegmentStat{}, err
	}
	return SegmentStat{
		Status: status(&st), Size: int(st.Size), Attaches: int(st.Count[0]), Creator: int(st.PID[1]), Last: int(st.PID[0]),
		Attached: seconds(st.Time[0]), Detached: seconds(st.Time[1]), Removed: st.Mode&abi.ModeDest != 0,
	}, nil
}
