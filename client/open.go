package client

import (
	"context"
	"os"
	"sync/atomic"

	"github.com/ipcspace/ipcspace/client/abi"
)

// DefaultDir is where containers have their space.
const DefaultDir = "/run/ipcspace"

// Option changes how Open finds a space.
type Option func(*opening)

type opening struct {
	dir      string
	writable bool
}

// Dir says in which folder the space is, instead of IPCSPACE_DIR or DefaultDir.
func Dir(path string) Option { return func(o *opening) { o.dir = path } }

// Writable takes a folder that is not mounted read-only, as
// IPCSPACE_DIR_WRITABLE=ok does. The mount is the only proof that the space is
// the node's and not a neighbour's: say this only where the folder is surely
// yours.
func Writable() Option { return func(o *opening) { o.writable = true } }

// Space is one open of a space. All that one process opens of one space are
// one session of it. Safe for use by many goroutines.
type Space struct {
	s      *session
	closed atomic.Bool
}

// Open finds a space and registers this process with it: in the folder that an
// option says, or IPCSPACE_DIR, or DefaultDir, as the preloaded library does.
// There is no kernel behind it: without a space it is ErrNoSpace.
//
// ctx bounds the wait for a manager that is not there (at most 30 s), no more.
// The returned space is to be closed.
func Open(ctx context.Context, options ...Option) (*Space, error) {
	o := opening{dir: os.Getenv("IPCSPACE_DIR"), writable: os.Getenv("IPCSPACE_DIR_WRITABLE") == "ok"}
	if o.dir == "" {
		o.dir = DefaultDir
	}
	for _, option := range options {
		option(&o)
	}
	s, err := sessionIn(ctx, o.dir, o.writable)
	if err != nil {
		return nil, err
	}
	return &Space{s: s}, nil
}

// Close ends what the space holds of this program: a connection and a thread.
// With the last Close of a space its blocked calls end with ErrClosed, as do
// all calls after it.
//
// What belongs to the process stays with it until it ends, as in the kernel:
// adjustments (SEM_UNDO), and attached segments, whose memory stays good.
func (s *Space) Close() error {
	if !s.closed.Swap(true) {
		s.s.leave()
	}
	return nil
}

// PID is this process's pid as other members of its pid namespace see it in
// sempid, lspid and the like.
func (s *Space) PID() int { return int(s.s.pid) }

// CredentialsChanged has the rights to all objects decided anew. A program
// that changes its user, its groups or its capabilities calls it afterwards:
// Go programs do that by calls that no library sees.
func (s *Space) CredentialsChanged() {
	s.s.who.Store(nil)
	s.s.doubt.Add(1)
}

// Limits are the space's limits, as in the kernel's sysctls: objects, bytes,
// pages of 4 KiB (ShmAll).
type Limits struct {
	ShmMax, ShmAll, ShmMni         uint64
	SemMsl, SemMns, SemOpm, SemMni uint64
	MsgMax, MsgMnb, MsgMni         uint64
}

// Limits reads the space's limits from the table: no system call.
func (s *Space) Limits() Limits {
	h := s.s.table.header
	return Limits{
		ShmMax: atomic.LoadUint64(&h.ShmMax), ShmAll: atomic.LoadUint64(&h.ShmAll), ShmMni: atomic.LoadUint64(&h.ShmMni),
		SemMsl: atomic.LoadUint64(&h.SemMsl), SemMns: atomic.LoadUint64(&h.SemMns),
		SemOpm: atomic.LoadUint64(&h.SemOpm), SemMni: atomic.LoadUint64(&h.SemMni),
		MsgMax: atomic.LoadUint64(&h.MsgMax), MsgMnb: atomic.LoadUint64(&h.MsgMnb), MsgMni: atomic.LoadUint64(&h.MsgMni),
	}
}

// Usage is what a space holds at one moment.
type Usage struct {
	Segments, Sets, Queues int
	ShmPages               uint64 // pages of 4 KiB of all segments, as asked for
	Semaphores             uint64
}

// Usage reads from the table what the space holds: no system call.
func (s *Space) Usage() Usage {
	h := s.s.table.header
	n := func(family int) int { return int(atomic.LoadUint32(&h.InUse[family])) }
	return Usage{
		Segments: n(abi.Shm), Sets: n(abi.Sem), Queues: n(abi.Msg),
		ShmPages: atomic.LoadUint64(&h.ShmPages), Semaphores: atomic.LoadUint64(&h.Sems),
	}
}
