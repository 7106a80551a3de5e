package plane

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

const (
	offLogOutcome = int(unsafe.Offsetof(abi.LogCell{}.Outcome))
	offLogCount   = int(unsafe.Offsetof(abi.LogCell{}.Count))
	offLogEntries = int(unsafe.Offsetof(abi.LogCell{}.Entries))
	logEntrySize  = int(unsafe.Sizeof(abi.LogEntry{}))
)

// transaction is one call's use of the lock, see ARCHITECTURE.md. The pattern:
//
//	lock; get and put; commit or unlock
//
// What put changes, get sees, and nobody else before commit.
type transaction struct {
	o    *object
	log  logCell // that the lock word names
	more []int   // offsets of further log cells
	held uint64  // the lock word while we hold it, 0: we do not

	// entries change data, states the states of cells. States come last in
	// the log, so that who sees its cell DONE sees all the rest done.
	entries, states []abi.LogEntry
	at              map[int]int // where in entries an offset is, when they are many

	limit int        // of entries, beyond which a scan is left to the next transaction
	work  int        // steps of scanning left to this call, see spend
	ring  []uint32   // sessions whose doorbells are rung after the commit
	undo  []undoCell // the set's undo cells, once walked
	seen  bool       // undo is loaded
	// Undo cells of ours: spare are on no list, this attempt puts linking there.
	spare, linking []int
	ops            []abi.SemOp // a sleeper's operations
}

// begin makes a transaction with a log cell of its own.
func (o *object) begin() (*transaction, error) {
	log := o.takeLog()
	if log.off == 0 {
		var err error
		if log.off, err = o.allocGrow(abi.KindLog); err != nil {
			return nil, err
		}
	}
	t := transactions.Get().(*transaction)
	t.o, t.log, t.limit, t.work = o, log, roomy, maxWork
	return t, nil
}

// transactions are kept for the room in their slices.
var transactions = sync.Pool{New: func() any { return &transaction{} }}

// end frees the log cells. The transaction is over, committed or not.
func (t *transaction) end() {
	t.unlock()
	t.reset()
	for _, off := range t.spare {
		t.o.free(off)
	}
	t.o.giveLog(t.log)
	for _, off := range t.more {
		t.o.free(off)
	}
	t.o, t.held, t.more, t.spare = nil, 0, t.more[:0], t.spare[:0]
	transactions.Put(t)
}

func (t *transaction) reset() {
	if len(t.linking) > 0 {
		t.spare, t.linking = append(t.spare, t.linking...), t.linking[:0]
	}
	t.entries, t.states, t.at, t.ring = t.entries[:0], t.states[:0], nil, t.ring[:0]
	t.undo, t.seen = t.undo[:0], false
}

// few entries are sooner looked through than looked up.
const few = 24

func (t *transaction) find(off int) (i int, ok bool) {
	if len(t.entries) < few {
		for i := range t.entries {
			if t.entries[i].Off == uint64(off) {
				return i, true
			}
		}
		return 0, false
	}
	return t.lookUp(off)
}

func (t *transaction) lookUp(off int) (i int, ok bool) {
	if t.at == nil {
		t.at = make(map[int]int, 2*len(t.entries))
		for i := range t.entries {
			t.at[int(t.entries[i].Off)] = i
		}
	}
	i, ok = t.at[off]
	return i, ok
}

// get reads a word as it will be.
func (t *transaction) get(off int) uint64 {
	if i, ok := t.find(off); ok {
		return t.entries[i].New
	}
	return t.o.load(off)
}

// put changes a word that is now old; the caller gave new a version of its own.
func (t *transaction) put(off int, old, new uint64) {
	if i, ok := t.find(off); ok {
		t.entries[i].New = new
		return
	}
	if t.at != nil {
		t.at[off] = len(t.entries)
	}
	t.entries = append(t.entries, abi.LogEntry{Off: uint64(off), Old: old, New: new})
}

// setLink makes the link word at off lead to the cell of that number.
func (t *transaction) setLink(off int, number uint64) {
	old := t.get(off)
	t.put(off, old, link(old, number))
}

// setState changes a cell's state with the transaction. from is what stands
// there, and nobody but the holder of the lock may change it: see claim.
func (t *transaction) setState(off int, from, to state) {
	t.states = append(t.states, abi.LogEntry{Off: uint64(off), Old: uint64(from), New: uint64(to)})
}

// full says that what else could be done is better left to the next
// transaction.
func (t *transaction) full(more int) bool {
	return len(t.entries)+len(t.states)+more > t.limit
}

// maxWork bounds what one call scans, in operations looked at: far beyond
// honest sets. What is left over stays Pending for the next caller.
const maxWork = 1 << 23

// spend counts n steps of scanning. False: stop, all is spent or the lock is
// lost. It keeps others patient meanwhile.
func (t *transaction) spend(n int) bool {
	before := t.work
	t.work -= n
	if before>>12 != t.work>>12 && !t.renew() {
		return false
	}
	return t.work > 0
}

// commit makes everything happen, in one compare-and-swap. With keep the lock
// is held on, for a transaction that follows, unless holds says otherwise.
// errRevoked: nothing happened; the lock is lost. errRoom: neither, for lack
// of log cells; the caller calls makeRoom and starts again.
func (t *transaction) commit(keep bool) error {
	o := t.o
	t.entries = append(t.entries, t.states...)
	n := len(t.entries)
	for len(t.more) < (n-1)/abi.LogEntries {
		off, ok := o.alloc(abi.KindLog)
		if !ok {
			t.unlock()
			return errRoom
		}
		t.more = append(t.more, off)
		if len(t.more)%64 == 0 && !t.renew() {
			return errRevoked
		}
	}
	t.record()
	if t.held == 0 {
		return errRevoked
	}
	fail(o.host, "recorded")
	committed := t.held&^abi.LockStateMask | abi.LockCommitted
	if !o.cas(offLock, t.held, committed) {
		t.held = 0
		return errRevoked
	}
	fail(o.host, "committed")
	t.linking = t.linking[:0]
	o.apply(t.entries)
	fail(o.host, "applied")
	next := released(committed)
	if keep {
		next = lockWord(lockEpoch(committed)+1, lockCell(committed), abi.LockHeld)
	}
	if o.cas(offLock, committed, next) && keep {
		t.held = next
	} else {
		t.held = 0
	}
	for _, session := range t.ring {
		o.host.RingDoorbell(session)
	}
	t.reset()
	return nil
}

// record copies the entries to the log cells, for helpers.
func (t *transaction) record() {
	o, off, rest := t.o, t.log.off, t.entries
	for i := 0; ; i++ {
		n := min(len(rest), abi.LogEntries)
		if o.inside(off + abi.CellSize - 8) {
			log := (*abi.LogCell)(unsafe.Pointer(o.word(off)))
			copy(log.Entries[:], rest[:n])
			log.Count = uint64(n)
		}
		rest = rest[n:]
		if len(rest) == 0 || i == len(t.more) {
			o.setNext(off, 0)
			return
		}
		o.setNext(off, o.number(t.more[i]))
		off = t.more[i]
		if i%64 == 63 && !t.renew() {
			return // revoked: the commit will say so
		}
	}
}

// makeRoom has room made for the log that a commit did not find.
func (t *transaction) makeRoom() error {
	return t.o.grow((len(t.entries)+len(t.states))/abi.LogEntries + 2)
}

// attempt runs f under the lock until it is not revoked any more. f gathers
// changes and returns commit's error, or any other to end with, after unlock.
func (t *transaction) attempt(f func() error) error {
	for range tries {
		err := t.lock()
		if err != nil {
			return err
		}
		switch err = f(); err {
		case errRevoked, errAgain:
		case errRoom:
			if err := t.makeRoom(); err != nil {
				return err
			}
		default:
			t.unlock()
			return err
		}
		t.unlock()
	}
	return unix.EIO
}
