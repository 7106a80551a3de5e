package manager

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// state is what the manager alone must remember of a space, in a mapped file
// that nobody else sees: a store to it survives the manager's death.
// Callers hold space.mu.
type state struct {
	file    *os.File
	mem     []byte
	header  *stateHeader
	ensured map[int]bool // pages of the file that surely have memory
}

// stateHeader begins the file.
type stateHeader struct {
	Magic       uint64
	Layout      uint64
	Generation  uint64 // of the last slot word
	Serial      uint64 // of the last object
	Created     int64
	Size        uint64
	Inodes      uint64
	MaxSessions uint64
	Top         uint32 // the highest session number ever given out
	_           uint32
	IDs         [abi.Families]idState
	Intent      intent
	Reclaim     uint32
	LeftBehind  uint32
	Flags       uint32 // state*
	Pages       uint64 // serial of the last file of session pages
}

// sessionState is the private side of an abi.SessionRecord.
type sessionState struct {
	PID     uint32 // in the manager's pid namespace; 0: a spare that nobody claimed
	Parent  uint32
	Start   uint64
	Cookie  [16]byte
	Levels  pidList
	Results [keptResults]result
	// Container is the tag of the process's container. It outlives the process
	// as long as an object names the session.
	Container uint64
	// Page and Pages are where the session's page is: the number of the page in
	// a file, and the file's serial.
	Page, Pages uint64
}

// turnTo gives the session the one page of a new file.
//
// Cut in between, the number is one that the new file does not have, or its only
// one: never that of another session's page.
func (st *sessionState) turnTo(pf *pageFile) {
	st.Cookie = newCookie()
	atomic.StoreUint64(&st.Pages, pf.serial)
	step("session: page turned")
	atomic.StoreUint64(&st.Page, 0)
}

// What a space was made with, in stateHeader.Flags.
const (
	stateBrokered     = 1 << iota // no set or queue is given away
	stateSmallPages               // no huge pages
	stateContainerIDs             // ids are those of the containers
)

// pidLevels is how many nested pid namespaces are remembered of a process.
const pidLevels = 4

// pidList is a process's pids in its own pid namespace and outwards.
type pidList [pidLevels]pidLevel

// pidLevel is a process's pid in one of the namespaces that it is visible in.
type pidLevel struct {
	NS  uint64
	PID uint32
	_   uint32
}

// result is the answer to a request that must not be carried out twice.
type result struct {
	Seq   uint32 // 0: none
	Errno uint32
	Val   [2]int64
}

const keptResults = 4

// intent is written before a change of the table and tells the next manager
// whether the change was made: it was, if Serial's object is there (creation),
// or if the slot word is no longer Word.
type intent struct {
	Kind    uint32 // abi.Msg*, 0: none. Stored last, cleared last
	Session uint32
	Seq     uint32
	Family  uint32
	ID      uint32
	Command uint32
	Serial  uint64
	Word    uint64
}

// segmentState is what outlives the uses of a segment, by its index.
type segmentState struct {
	Serial       uint64 // whose
	ATime, DTime int64  // ns since 1970
	LastTime     int64  // ns: the event LastSession stands for
	LastSession  uint32
	_            uint32
	_            [3]uint64
}

const (
	stateMagic    = 0x5453504349 // "ICPST"
	stateLayout   = 3
	stateSessions = abi.PageSize
	stateSegments = stateSessions + abi.MaxSessions*int(unsafe.Sizeof(sessionState{}))
	stateSize     = stateSegments + abi.MaxObjects*int(unsafe.Sizeof(segmentState{}))
)

// mapState maps the state file, which is made to full size but sparse.
func mapState(f *os.File) (*state, error) {
	if err := f.Truncate(int64(stateSize)); err != nil {
		return nil, fmt.Errorf("size state: %w", err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, stateSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map state: %w", err)
	}
	s := &state{file: f, mem: mem, header: (*stateHeader)(unsafe.Pointer(&mem[0])), ensured: map[int]bool{}}
	if err := s.ensure(0, int(unsafe.Sizeof(stateHeader{}))); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *state) format() {
	s.header.Layout = stateLayout
	for f := range s.header.IDs {
		s.header.IDs[f] = idState{Last: -1}
	}
	s.header.Top = abi.ManagerSession
	atomic.StoreUint64(&s.header.Magic, stateMagic)
}

func (s *state) check() error {
	if s.header.Magic != stateMagic || s.header.Layout != stateLayout {
		return fmt.Errorf("state file has magic %#x, layout %d: %w", s.header.Magic, s.header.Layout, ErrVersion)
	}
	if s.header.Top < abi.ManagerSession || s.header.Top >= abi.MaxSessions {
		return fmt.Errorf("state file is damaged: %d session numbers", s.header.Top)
	}
	return nil
}

func (s *state) close() {
	_ = unix.Munmap(s.mem)
	_ = s.file.Close()
}

// ensure gives memory to a range before it is touched: the file shares a file
// system with what clients can fill, and a fault would be the manager's death.
func (s *state) ensure(off, n int) error {
	for p := off / abi.PageSize; p <= (off+n-1)/abi.PageSize; p++ {
		if s.ensured[p] {
			continue
		}
		err := uninterrupted(func() error {
			return unix.Fallocate(int(s.file.Fd()), 0, int64(p)*abi.PageSize, abi.PageSize)
		})
		if err != nil {
			return fmt.Errorf("memory for the state file: %w", err)
		}
		s.ensured[p] = true
	}
	return nil
}

func (s *state) session(n uint32) (*sessionState, error) {
	const size = int(unsafe.Sizeof(sessionState{}))
	off := stateSessions + int(n)*size
	if err := s.ensure(off, size); err != nil {
		return nil, err
	}
	return (*sessionState)(unsafe.Pointer(&s.mem[off])), nil
}

func (s *state) segment(index uint32) (*segmentState, error) {
	const size = int(unsafe.Sizeof(segmentState{}))
	off := stateSegments + int(index)*size
	if err := s.ensure(off, size); err != nil {
		return nil, err
	}
	return (*segmentState)(unsafe.Pointer(&s.mem[off])), nil
}

func (s *state) ids(f Family) *idState { return &s.header.IDs[f] }

// nextGeneration is written down before the slot word that uses it.
func (s *state) nextGeneration() uint64 { return atomic.AddUint64(&s.header.Generation, 1) }

func (s *state) nextSerial() uint64 { return atomic.AddUint64(&s.header.Serial, 1) }

func (s *state) nextPages() uint64 { return atomic.AddUint64(&s.header.Pages, 1) }

// begin writes an intent down.
func (s *state) begin(i intent) {
	kind := i.Kind
	i.Kind = 0
	s.header.Intent = i
	atomic.StoreUint32(&s.header.Intent.Kind, kind)
}

// end forgets the intent, after its result was kept.
func (s *state) end() { atomic.StoreUint32(&s.header.Intent.Kind, 0) }

// result finds the kept answer to a request of this Seq.
func (s *sessionState) result(seq uint32) (result, bool) {
	r := s.Results[seq%keptResults]
	return r, seq != 0 && r.Seq == seq
}

func (s *sessionState) keep(r result) {
	slot := &s.Results[r.Seq%keptResults]
	atomic.StoreUint32(&slot.Seq, 0)
	slot.Errno, slot.Val = r.Errno, r.Val
	atomic.StoreUint32(&slot.Seq, r.Seq)
}
