package chaos_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/client/plane"
)

// manager is one ipcspace-manager, killed and started again.
type manager struct {
	program string
	root    string
	log     *os.File
	process *process
}

func newManager(t *testing.T) *manager { t.Helper(); return newManagerOf(t, "ipcspace-manager") }

// newManagerOf starts one of another build.
func newManagerOf(t *testing.T, program string) *manager {
	t.Helper()
	m := &manager{program: program, root: filepath.Join(scratch, strings.NewReplacer("/", "-", " ", "-").Replace(t.Name()))}
	var err error
	if m.log, err = os.Create(m.root + ".log"); err != nil {
		t.Fatal(err)
	}
	m.start(t)
	t.Cleanup(func() {
		// The last manager removes the spaces and their mounts.
		m.kill()
		m.start(t, "--ephemeral")
		for range 200 {
			if _, err := finish(nil, command("ipcspace"), "space", "list", "--root", m.root); err == nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		_ = syscall.Kill(m.process.pid, syscall.SIGTERM)
		select {
		case <-m.process.done:
			if m.process.status != 0 {
				t.Errorf("the manager ended with status %#x", m.process.status)
			}
		case <-time.After(20 * time.Second):
			t.Error("the manager does not end")
			m.kill()
		}
		if t.Failed() {
			text, _ := os.ReadFile(m.root + ".log")
			t.Logf("the manager's log:\n%s", text[max(0, len(text)-4000):])
		}
		_ = m.log.Close()
	})
	return m
}

func command(name string) string { return filepath.Join(scratch, name) }

func (m *manager) start(t *testing.T, args ...string) {
	t.Helper()
	m.startWith(t, nil, args...)
}

func (m *manager) startWith(t *testing.T, env []string, args ...string) {
	t.Helper()
	p, err := start(env, m.log, append([]string{command(m.program), "--root", m.root, "--log-level", "warn"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	m.process = p
}

func (m *manager) kill() {
	_ = syscall.Kill(m.process.pid, syscall.SIGKILL)
	<-m.process.done
}

// alive says whether it did not end by itself.
func (m *manager) alive() bool {
	select {
	case <-m.process.done:
		return false
	default:
		return true
	}
}

// space makes one; its environment for clients with a library.
func (m *manager) space(t *testing.T, name, library string, args ...string) []string {
	t.Helper()
	var err error
	for range 250 {
		if _, err = finish(nil, append([]string{command("ipcspace"), "space", "create", name, "--root", m.root}, args...)...); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(m.root, "spaces", name)
	return []string{"LD_PRELOAD=" + library, "IPCSPACE_DIR=" + dir, "IPCSPACE_DIR_WRITABLE=ok", "IPCSPACE_REQUIRED=1"}
}

// frozen is the plane.Host of an object that nobody uses.
type frozen struct {
	cells, chunks int
	qbytes        uint64
}

func (f frozen) Session() uint32          { return abi.ManagerSession }
func (f frozen) Capacity() (int, int)     { return f.cells, f.chunks }
func (f frozen) Grow(int, int) error      { return unix.ENOMEM }
func (f frozen) Valid() bool              { return true }
func (f frozen) Died(uint32) bool         { return false }
func (f frozen) Reap(uint32) error        { return nil }
func (f frozen) QueueBytes() uint64       { return f.qbytes }
func (f frozen) Brokered() (uint32, bool) { return 0, false }
func (f frozen) Thread() uint32           { return 0 }
func (f frozen) RingDoorbell(uint32)      {}
func (f frozen) Bell() *plane.Bell        { return nil }

func mapFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() == 0 { // of a queue that never had a long message
		return nil, nil
	}
	mem, err := unix.Mmap(int(file.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	return mem, nil
}

// objects of a space, as its table tells.
func (m *manager) objects(space string, family int) ([]*abi.Record, error) {
	mem, err := mapFile(filepath.Join(m.root, "spaces", space, abi.TableName))
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Munmap(mem) }()
	return records(mem, family), nil
}

// verifySoon is verify, once the manager has seen to what those that ended left.
func (m *manager) verifySoon(space string) (checked int, err error) {
	for range 250 {
		if checked, err = m.verify(space); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return checked, err
}

// verify checks the invariants of every set and queue of a space, and that no cell is in use but
// those of queued messages.
func (m *manager) verify(space string) (checked int, err error) {
	for _, family := range []int{abi.Sem, abi.Msg} {
		records, err := m.objects(space, family)
		if err != nil {
			return checked, err
		}
		for _, r := range records {
			if err := m.verifyObject(space, family, r); err != nil {
				return checked, fmt.Errorf("space %s, family %d, id %d: %w", space, family, r.ID, err)
			}
			checked++
		}
	}
	return checked, nil
}

func (m *manager) verifyObject(space string, family int, r *abi.Record) error {
	prefix := filepath.Join(m.root, "private", space, []string{abi.Sem: "sem-", abi.Msg: "msg-"}[family]+fmt.Sprint(r.Serial))
	control, err := mapFile(prefix)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it is made when somebody first uses the object
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(control) }()
	host := frozen{int(r.Cells), int(r.Chunks), r.Size}
	sems := 0
	if family == abi.Sem {
		sems = int(r.Size)
		s, err := plane.NewSet(control, sems, host)
		if err != nil {
			return err
		}
		if err := s.Verify(); err != nil {
			return err
		}
	} else {
		data, err := mapFile(prefix + ".data")
		if err != nil {
			return err
		}
		if data != nil {
			defer func() { _ = unix.Munmap(data) }()
		}
		q, err := plane.NewQueue(control, data, host)
		if err != nil {
			return err
		}
		if err := q.Verify(); err != nil {
			return err
		}
	}
	return idle(control, sems, int(r.Cells))
}

// records reads a table that may change meanwhile: at worst a record is one of a moment ago.
func records(table []byte, family int) []*abi.Record {
	var found []*abi.Record
	for i := range abi.MaxObjects {
		slot := *(*uint64)(unsafe.Pointer(&table[abi.TableSlotsOff+8*(family*abi.MaxObjects+i)]))
		if slot == 0 {
			continue
		}
		r := *(*abi.Record)(unsafe.Pointer(&table[abi.TableRecordsOff+int(slot&abi.SlotRecordMask)*int(unsafe.Sizeof(abi.Record{}))]))
		found = append(found, &r)
	}
	return found
}

// idle checks that all cells are free but those of queued messages.
func idle(control []byte, sems, cells int) error {
	for i := range cells {
		w := *(*uint64)(unsafe.Pointer(&control[abi.CellsOff(sems)+i*abi.CellSize]))
		state, kind := w&abi.CellStateMask, w>>abi.CellKindShift&abi.CellKindMask
		if state != abi.CellFree && kind != abi.KindMessage && kind != abi.KindIndex {
			return fmt.Errorf("cell %d is left over: kind %d, state %d, session %d", i+1, kind, state,
				w>>abi.CellSessionShift&abi.SessionMask)
		}
		if kind == abi.KindMessage && state != abi.CellQueued {
			return fmt.Errorf("message %d is left over: state %d", i+1, state)
		}
	}
	return nil
}
