// Package abi is the one source of every memory layout and channel message
// that the manager, the Go data plane and the preloaded C library share.
//
// It owns sizes, offsets, bit positions and message numbers, and nothing that
// runs. preload/abi.h is generated from it (go generate ./client/abi); both
// sides assert the offsets, so a layout cannot drift apart unnoticed.
//
// All words are little-endian and naturally aligned. A word that several
// processes change is a 32- or 64-bit atomic; its comment says who may write
// it and which invariant binds it.
package abi

//go:generate go run ./gen ../preload/abi.h

// Layout identifies the memory layout. A manager refuses a space, and a
// client a manager, of another Major; Minor grows when fields are added in
// reserved room, which older libraries do not look at.
const (
	Magic       = 0x4543415053435049 // "IPCSPACE"
	LayoutMajor = 1
	LayoutMinor = 0
)

// PageSize is the granule of the shared files, not the machine's page size.
const PageSize = 4096

// Families of objects, in the order of the table's arrays.
const (
	Shm      = 0
	Sem      = 1
	Msg      = 2
	Families = 3
)

// IndexBits splits an id: id = seq<<15 | index, as in the kernel (ipc/util.h).
const (
	IndexBits  = 15
	MaxObjects = 1 << IndexBits
	IndexMask  = MaxObjects - 1
	SeqMax     = 1<<16 - 1
)

// Fixed limits of Linux (linux/sem.h).
const (
	SemVMX = 32767 // largest semaphore value, and largest |semadj| (SEMAEM)
)

// Sessions. A session number names a process of a space in words of shared
// memory. Number 0 names nobody, number 1 is the manager itself.
const (
	SessionBits    = 20
	SessionMask    = 1<<SessionBits - 1
	MaxSessions    = 1 << 18
	ManagerSession = 1
)
