// Package manager keeps spaces: it makes them on disk, registers processes
// with them, makes and removes objects, decides permissions from what the
// kernel says of a caller, and cleans up after the dead.
//
// It owns everything under Config.Root and never trusts what a client can
// write. What is in the middle of a change when the manager is killed is
// finished or undone when the next one adopts the space.
//
// Lock order: Manager.mu → space.mu → object transaction. A channel is never
// written while one of them is held.
package manager

import (
	"errors"
	"log/slog"
	"math"
	"time"

	"github.com/ipcspace/ipcspace/client/abi"
)

// Config says how a manager works. Only Root is required.
type Config struct {
	// Root is the folder of spaces/ and private/; made if it is not there.
	Root string
	Log  *slog.Logger
	// Library is the path of libipcspace.so, installed into every space.
	// Empty: spaces have none.
	Library string
	// Unprivileged makes plain folders instead of mounts and does not seal
	// objects against their holders, even where the manager could. It is
	// implied where the manager may not mount.
	Unprivileged bool
	// Ephemeral removes all spaces when Run returns.
	Ephemeral bool
	// DefaultSize is the Size of spaces that do not say one. 0: half of the machine's memory.
	DefaultSize uint64
	// ReclaimDelay is how long a space with Delete stays after it was last asked for. 0: 30 s.
	ReclaimDelay time.Duration
	// Budget is the most bytes that all spaces together may promise. 0: no
	// bound but their own sizes.
	Budget uint64
}

// SpaceConfig describes a space to be made. Only Name is required.
type SpaceConfig struct {
	Name string // a DNS label (RFC 1123): lower-case letters, digits and '-', at most 63
	// Size is the most bytes that all objects of the space may have together.
	// 0: Config.DefaultSize.
	Size uint64
	// Inodes bounds the files of the space. 0: enough for the limits.
	Inodes uint64
	// Sessions bounds the processes registered at one time. 0: 8192.
	Sessions int
	// Limits are those of System V IPC. nil: DefaultLimits.
	Limits *Limits
	// Closed: nobody may register before Admit says who.
	Closed bool
	// Reclaim says whether the space goes with its last container.
	Reclaim Reclaim
	// LeftBehind says which objects go when the container that made them is
	// gone and nobody uses them.
	LeftBehind LeftBehind
	// Brokered: members get no descriptor of sets and queues, whatever their
	// rights; the manager makes each call.
	Brokered bool
	// SmallPages: large segments are not on huge pages.
	SmallPages bool
	// ContainerIDs: users and groups are those that containers know, by their
	// user namespaces, not the node's.
	ContainerIDs bool
}

// Reclaim is what becomes of a space that no container has any more.
type Reclaim uint32

// Retain keeps it, Delete removes it.
const (
	Retain Reclaim = iota
	Delete
)

// LeftBehind is what becomes of objects that nobody uses and whose container
// is gone, as after each round of a crash loop.
type LeftBehind uint32

// LeftPrivate removes those made with IPC_PRIVATE, which nobody else can find
// by a key; LeftKeep none, as the kernel does; LeftUnused all.
const (
	LeftPrivate LeftBehind = iota
	LeftKeep
	LeftUnused
)

// Limits are the sysctls kernel.shm*, kernel.sem and kernel.msg* of a space:
// bytes (ShmMax, MsgMax, MsgMnb), pages of 4 KiB (ShmAll), or objects.
type Limits struct {
	ShmMax, ShmAll, ShmMni         uint64
	SemMsl, SemMns, SemOpm, SemMni uint64
	MsgMax, MsgMnb, MsgMni         uint64
	// ShmRmidForced is 1 if segments go with their last attach, or with the
	// process that made them if nobody attached them, else 0.
	ShmRmidForced uint64
}

// NextIDs are the ids that the next objects of some families are to get.
type NextIDs map[Family]uint32

// DefaultLimits are those that Linux starts with.
func DefaultLimits() Limits {
	return Limits{
		ShmMax: math.MaxUint64 - 1<<24, ShmAll: math.MaxUint64 - 1<<24, ShmMni: 4096,
		SemMsl: 32000, SemMns: 1024000000, SemOpm: 500, SemMni: 32000,
		MsgMax: 8192, MsgMnb: 16384, MsgMni: 32000,
	}
}

// Family is one of the three kinds of objects.
type Family uint32

// The families, in the order of the table.
const (
	Shm Family = abi.Shm
	Sem Family = abi.Sem
	Msg Family = abi.Msg
)

// String returns "shm", "sem" or "msg".
func (f Family) String() string {
	switch f {
	case Shm:
		return "shm"
	case Sem:
		return "sem"
	case Msg:
		return "msg"
	}
	return "invalid"
}

// SpaceInfo describes a space in short.
type SpaceInfo struct {
	Name string
	ID   uint64 // random, of this incarnation
	Dir  string // the public folder, to be mounted read-only at /run/ipcspace
	// Proc has the files of package procfs, to be bound over /proc/sysvipc and
	// /proc/sys/kernel. Empty: there is no FUSE.
	Proc        string
	Created     time.Time
	Size        uint64 // bytes that its objects may have together
	Used        uint64 // bytes promised to objects
	Limits      Limits
	Objects     [abi.Families]int // by Family
	Semaphores  int
	Sessions    int // live processes
	MaxSessions int
	// Sealed: members cannot shrink, reopen or unlink objects. Not so for an
	// unprivileged manager: then members trust each other.
	Sealed     bool
	Reclaim    Reclaim
	LeftBehind LeftBehind
	// Brokered, SmallPages and ContainerIDs are as the space was made.
	Brokered, SmallPages, ContainerIDs bool
	// Closed: only processes of the Kubernetes pods with these uids may register.
	Closed bool
	Pods   []string
}

// SpaceDetail is a space with what is in it.
type SpaceDetail struct {
	SpaceInfo
	ObjectList  []ObjectInfo
	SessionList []SessionInfo
	// ContainerList is who has the folder mounted, registered or not.
	ContainerList []ContainerInfo
}

// ContainerInfo describes a container, or another mount namespace, that has a
// space's folder.
type ContainerInfo struct {
	Name      string // its id, or its cgroup's name; "": none
	PID       int    // one of its processes, in the manager's pid namespace
	Mount     string // where it has the folder
	Writable  bool   // and can write in it: then the library refuses it
	Processes int    // that are registered
	// Registered: one of its processes is, or was since the manager started.
	Registered bool
}

// ObjectInfo describes one object, as the *_STAT calls do.
type ObjectInfo struct {
	Family               Family
	ID                   int
	Key                  uint32
	UID, GID, CUID, CGID uint32
	Mode                 uint32 // low 9 bits; abi.ModeDest, abi.ModeLocked
	Size                 uint64 // shm: bytes; sem: semaphores; msg: msg_qbytes
	Changed              time.Time
	// Shm: attaches and their times; zero times: never.
	Attaches           int
	Attached, Detached time.Time
	// Sem: last semop. Msg: last msgsnd and msgrcv.
	Operated, Sent, Received time.Time
	// Msg: what the queue holds.
	Messages, Bytes uint64
	// Pids in the manager's pid namespace, 0: none or not visible.
	// Shm: last to attach or detach, and creator. Msg: last to send and receive.
	LastPID, CreatorPID, SendPID, ReceivePID int
}

// SessionInfo describes one process registered with a space.
type SessionInfo struct {
	Session   uint32
	PID       int // in the manager's pid namespace
	Command   string
	Container string    // "": none
	Started   time.Time // when it registered with this manager
	Uses      int       // segments attached
	Channels  int
}

// Errors of the exported calls. They come wrapped in what was tried and what
// to do next.
var (
	ErrNoSpace     = errors.New("no such space")
	ErrExists      = errors.New("space exists")
	ErrInUse       = errors.New("space is in use")
	ErrInvalidName = errors.New("invalid space name")
	ErrInvalid     = errors.New("invalid argument")
	ErrNoObject    = errors.New("no such object")
	ErrTooMany     = errors.New("too many spaces")
	ErrClosed      = errors.New("manager is shutting down")
	ErrVersion     = errors.New("other layout version")
)
