package abi

// The table is a space's key space: a sparse file that only the manager
// writes and that every client maps read-only.
//
//	0                 TableHeader
//	TableSlotsOff     slot words  [Families][MaxObjects]uint64
//	TableKeysOff      key entries [Families][KeyBuckets]uint64
//	TableRecordsOff   Record      [MaxRecords]
//	TableSessionsOff  SessionRecord [MaxSessions]
const (
	KeyBuckets       = 1 << 16
	MaxRecords       = Families*MaxObjects + 4096
	TableSlotsOff    = PageSize
	TableKeysOff     = TableSlotsOff + Families*MaxObjects*8
	TableRecordsOff  = TableKeysOff + Families*KeyBuckets*8
	TableSessionsOff = TableRecordsOff + MaxRecords*128
	TableSize        = TableSessionsOff + MaxSessions*32
)

// TableHeader begins the table. Written by the manager alone.
type TableHeader struct {
	Magic       uint64
	LayoutMajor uint32
	LayoutMinor uint32
	SpaceID     uint64 // random, of this incarnation of the space
	// Registrations is a futex word, bumped and woken after the manager made
	// channel sockets or started: who waits for a channel waits here.
	Registrations uint32
	// Changes is a futex word, bumped and woken after each publication of a
	// slot word: who found an object closing or moving waits here.
	Changes uint32
	Flags   uint32 // TableFlag*
	// Forks is 1 while the manager will look at all spares within milliseconds, so
	// that it need not be told of a fork. It stores 0 and looks once more: a parent
	// reads Forks after it stored PageReserved, and a full barrier, as fork is.
	Forks uint32

	// Limits, of one store each. Units as in the kernel's sysctls: bytes,
	// pages (ShmAll), objects.
	ShmMax, ShmAll, ShmMni         uint64
	SemMsl, SemMns, SemOpm, SemMni uint64
	MsgMax, MsgMnb, MsgMni         uint64

	// Usage, for the *_INFO calls.
	InUse    [Families]uint32 // objects
	MaxIndex [Families]uint32 // highest used index + 1; 0: none is used
	Sems     uint64           // semaphores in all sets
	ShmPages uint64           // pages of 4 KiB in all segments, as asked for
}

// TableHeader.Flags.
const (
	TableFlagTrust   = 1 << 0 // files are not sealed against their holders: members trust each other
	TableFlagLocalID = 1 << 1 // uids and gids are the container's, not the host's
	// TableFlagRmidForced is kernel.shm_rmid_forced: the last detach of any
	// segment is told to the manager.
	TableFlagRmidForced = 1 << 2
)

// A slot word names the current record of the object at one index of one
// family: generation 40 | closing 1 | record 23. Zero: the index is free.
//
// Invariant: a publication is one 64-bit store of a slot word whose
// generation was never used before in this space, made after the record it
// names is complete. So a slot word that reads the same before and after
// vouches for the record read in between, and a cached handle is good exactly
// as long as its slot word stands in the table.
//
// Closing is set while the manager decides whether a removed segment still
// has attaches, or moves an object to a fresh file: wait on Changes.
const (
	SlotRecordBits = 23
	SlotRecordMask = 1<<SlotRecordBits - 1
	SlotClosing    = 1 << SlotRecordBits
	SlotGenShift   = 24
)

// A key entry is one bucket of a family's open-addressed hash of keys:
// used 1 (bit 63) | tombstone 1 (bit 62) | 0 | index 15 (bits 32..46) | key 32.
// Zero: never used, a search ends here. The search for a key starts at
// (key*KeyHash)>>16 (32-bit product) and goes to the next bucket, cyclically.
// The record that the index leads to decides: an entry is only a hint.
const (
	KeyHash       = 0x9E3779B1
	KeyUsed       = 1 << 63
	KeyTombstone  = 1 << 62
	KeyIndexShift = 32
)

// Record describes one object as of one publication. Immutable while a slot
// word names it; read it between two loads of the slot word.
type Record struct {
	ID     uint32
	Key    uint32 // IPC_PRIVATE (0) once a segment is marked for destruction
	Serial uint64 // names the object's file; a moved object has a new one
	Size   uint64 // segment: bytes asked for; set: semaphores; queue: msg_qbytes
	CTime  int64  // seconds; sets have a later one in their header perhaps
	UID    uint32
	GID    uint32
	CUID   uint32
	CGID   uint32
	Mode   uint32 // low 9 bits, ModeDest, ModeLocked
	Flags  uint32 // RecordFlag*
	Cells  uint32 // cells of the control file that may be touched
	Chunks uint32 // chunks of the data file that may be touched
	// Creator is the session that made the object (shm_cpid).
	Creator uint32
	_       [15]uint32
}

// Record.Mode beyond the nine permission bits, as Linux shows them.
const (
	ModeDest   = 0o1000
	ModeLocked = 0o2000
)

// Record.Flags.
const (
	RecordHuge = 1 << 0 // SHM_HUGETLB was asked for and granted
)

// SessionRecord tells who a session number is or was. It stays when the
// process is dead, as long as anything names the number.
type SessionRecord struct {
	PID   uint32 // tgid in the session's own pid namespace; 0: not known yet, ask (MsgWho)
	State uint32 // Session*
	PidNS uint64 // inode of that pid namespace
	Start uint64 // start time of the process, clock ticks after boot (proc(5), field 22)
	_     uint64
}

// SessionRecord.State.
const (
	SessionFree  = 0
	SessionSpare = 1 // mapped ahead for a child of its parent session
	SessionLive  = 2
	SessionDead  = 3
)

// The pulse is one file for all members of a space, mapped writable by all:
// page n is session n's.
// What stands in it is a hint and never the ground of a decision: who finds a
// session's word dead asks the manager (MsgReap), which asks the kernel.
//
// The kernel writes FUTEX_OWNER_DIED into the word when the thread that
// linked it into its robust list ends, before any parent or peer can learn of
// the death. libc's list wants the word at a fixed distance before the list
// pointers (glibc 32, musl 28 bytes); the pointers stand 8 bytes into a
// private page that the owner maps right after this page, so the word falls
// on PulseAlive (glibc) or PulseAlive+4 (musl), and one 64-bit load sees both.
const (
	PulseDoorbell = 0             // uint32 futex: a doorbell waiter of this session was served
	PulseAsk      = PageSize - 32 // uint64: not zero, the session has no word: ask always
	PulseAlive    = PageSize - 24 // two uint32
	PulseDied     = 1<<30 | 1<<62 // FUTEX_OWNER_DIED in either half
	PulseSize     = MaxSessions * PageSize
)
