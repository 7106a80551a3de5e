package manager

import (
	"fmt"
	"math"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// Flags of shmget, as in shm.h.
const (
	shmHugeTLB   = 0o4000
	shmNoReserve = 0o10000
	shmHugeShift = 26
	shmHugeMask  = 0x3f
)

// get answers shmget, semget and msgget.
func (s *space) get(x *session, c *caller, req *request) reply {
	f, ok := family(req.Arg[0])
	if !ok {
		return failed(unix.EINVAL)
	}
	key, flags, size := uint32(req.Arg[1]), uint32(req.Arg[2]), uint64(req.Arg[3])
	if r, ok := x.state.result(req.Seq); ok {
		return reply{errno: unix.Errno(r.Errno), val: [6]int64{r.Val[0]}}
	}
	// "EINVAL: nsems is less than 0 or greater than the limit on the number of
	// semaphores per semaphore set (SEMMSL)." - semget(2); also for a set
	// that exists.
	if f == Sem && (req.Arg[3] < 0 || size > s.table.header.SemMsl) {
		return failed(unix.EINVAL)
	}
	id, err := s.getPublic(x, c, f, key, flags, size, req.Seq)
	if err != nil {
		return refuse(err)
	}
	return reply{val: [6]int64{int64(id)}}
}

// getPublic is ipcget (ipc/util.c).
func (s *space) getPublic(x *session, c *caller, f Family, key, flags uint32, size uint64, seq uint32) (uint32, error) {
	if key == 0 { // IPC_PRIVATE
		return s.createObject(x, c, f, 0, flags, size, seq)
	}
	index, exists := s.table.keys[f][key]
	if !exists {
		// "ENOENT: No segment exists for the given key, and IPC_CREAT was
		// not specified."
		if flags&unix.IPC_CREAT == 0 {
			return 0, unix.ENOENT
		}
		return s.createObject(x, c, f, key, flags, size, seq)
	}
	o := s.objects[f][index]
	// "EEXIST: IPC_CREAT and IPC_EXCL were specified in shmflg, but a shared
	// memory segment already exists for key."
	if flags&unix.IPC_CREAT != 0 && flags&unix.IPC_EXCL != 0 {
		return 0, unix.EEXIST
	}
	// "EINVAL: A segment for the given key exists, but size is greater than
	// the size of that segment." - shmget(2). "EINVAL: A semaphore set
	// corresponding to key already exists, but nsems is larger than the
	// number of semaphores in that set." - semget(2). Before permissions.
	if f != Msg && size > o.rec.Size {
		return 0, unix.EINVAL
	}
	if err := checkPermission(&o.rec, c, flags); err != nil {
		return 0, err
	}
	return o.rec.ID, nil
}

// createObject makes an object: checks, then files, then the slot word.
//
// Cut before the slot word: litter, and the intent says that nothing was done.
// Cut after it: the object exists and the intent leads to its id; key entry
// and counters are written anew by recovery.
func (s *space) createObject(x *session, c *caller, f Family, key, flags uint32, size uint64, seq uint32) (uint32, error) {
	rec, err := s.checkNew(c, f, flags, size)
	if err != nil {
		return 0, err
	}
	id, err := s.table.newID(f, s.table.most(f))
	if err != nil {
		return 0, err
	}
	rec.ID, rec.Key, rec.Serial = id, key, s.state.nextSerial()
	rec.CTime, rec.Mode, rec.Creator = now(), flags&0o777, x.number
	rec.UID, rec.CUID, rec.GID, rec.CGID = c.uid, c.uid, c.gid, c.gid
	s.state.begin(intent{Kind: abi.MsgGet, Session: x.number, Seq: seq, Family: uint32(f), ID: id, Serial: rec.Serial})
	defer s.state.end()
	step("create: intended")
	o := &object{space: s, family: f, index: id & abi.IndexMask, rec: rec}
	if err := s.makeFiles(o); err != nil {
		return 0, err
	}
	step("create: files made")
	if err := o.publish(rec); err != nil {
		s.dropFiles(o)
		return 0, err
	}
	step("create: published")
	s.enter(o)
	s.table.account(f, &o.rec, true)
	if key != 0 {
		s.table.addKey(f, key, o.index)
	}
	step("create: entered")
	x.state.keep(result{Seq: seq, Val: [2]int64{int64(id)}})
	step("create: kept")
	return id, nil
}

// enter puts an object that exists into the manager's own books.
func (s *space) enter(o *object) {
	s.objects[o.family][o.index] = o
	if o.family == Shm {
		s.segments[o.rec.Serial] = o
	}
}

func (t *table) most(f Family) uint64 {
	switch f {
	case Shm:
		return t.header.ShmMni
	case Sem:
		return t.header.SemMni
	}
	return t.header.MsgMni
}

// checkNew checks what newseg, newary and newque check, in their order.
func (s *space) checkNew(c *caller, f Family, flags uint32, size uint64) (abi.Record, error) {
	h := s.table.header
	switch f {
	case Shm:
		return s.checkNewSegment(c, flags, size)
	case Sem:
		// "EINVAL: nsems is 0, and a semaphore set is created."
		if size == 0 {
			return abi.Record{}, unix.EINVAL
		}
		// "ENOSPC: A semaphore set has to be created but the system limit for
		// the maximum number of semaphore sets (SEMMNI), or the system wide
		// maximum number of semaphores (SEMMNS), would be exceeded."
		if h.Sems+size > h.SemMns {
			return abi.Record{}, unix.ENOSPC
		}
		return abi.Record{Size: size, Cells: startCells(int(size))}, nil
	}
	return abi.Record{Size: h.MsgMnb, Cells: startCells(0)}, nil
}

func (s *space) checkNewSegment(c *caller, flags uint32, size uint64) (abi.Record, error) {
	h := s.table.header
	// "EINVAL: A new segment was to be created and size is less than SHMMIN or
	// greater than SHMMAX."
	if size < 1 || size > h.ShmMax {
		return abi.Record{}, unix.EINVAL
	}
	// "ENOSPC: […] allocating a segment of the requested size would cause the
	// system to exceed the system-wide limit on shared memory (SHMALL)."
	p := pages(size)
	if p > math.MaxUint64/abi.PageSize || h.ShmPages+p > h.ShmAll {
		return abi.Record{}, unix.ENOSPC
	}
	rec := abi.Record{Size: size}
	if flags&shmHugeTLB != 0 {
		if err := checkHuge(c, flags, size); err != nil {
			return abi.Record{}, err
		}
		rec.Flags |= abi.RecordHuge
	} else if size > math.MaxInt64 {
		return abi.Record{}, unix.EINVAL // __shmem_file_setup: no file is as large
	} else if flags&shmNoReserve == 0 && size > machineMemory() {
		return abi.Record{}, unix.ENOMEM // __vm_enough_memory: "obvious overcommits"
	}
	return rec, nil
}

// machineMemory is all memory of the machine, with its swap.
func machineMemory() uint64 {
	var i unix.Sysinfo_t
	if unix.Sysinfo(&i) != nil {
		return math.MaxUint64
	}
	return (i.Totalram + i.Totalswap) * uint64(i.Unit)
}

// checkHuge decides about SHM_HUGETLB. Huge pages come from the segment's own
// tmpfs; a program that asks for them is told whether the machine has them to
// spare, as by the kernel.
//
// "EPERM: The SHM_HUGETLB flag was specified, but the caller was not
// privileged (did not have the CAP_IPC_LOCK capability) and is not a member
// of the sysctl_hugetlb_shm_group group."
func checkHuge(c *caller, flags uint32, size uint64) error {
	free, page := hugePages()
	switch order := flags >> shmHugeShift & shmHugeMask; order {
	case 0, 21:
	case 30:
		free, page = 0, 1<<30
	default:
		return unix.EINVAL
	}
	if !c.capable(capIPCLock) {
		return unix.EPERM
	}
	if page == 0 || (size-1)/page >= free {
		return unix.ENOMEM
	}
	return nil
}

// hugePages is how many huge pages of the default size are free, and that size.
func hugePages() (free, size uint64) {
	b, err := readProc("/proc/meminfo")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(b)) {
		_, _ = fmt.Sscanf(line, "HugePages_Free: %d", &free)
		if n, _ := fmt.Sscanf(line, "Hugepagesize: %d kB", &size); n == 1 {
			size <<= 10
		}
	}
	return free, size
}

// makeFiles promises the memory of a new object and says where its files will
// be. Zeros are a fresh set or queue. ENOSPC for segments (the space's size is
// like SHMALL), ENOMEM for the others.
func (s *space) makeFiles(o *object) error {
	if o.family == Shm {
		o.promised = pages(o.rec.Size) * abi.PageSize
		o.inner = !s.storage.mounted || o.rec.Size < largeSegment
		if err := s.storage.promise(o.promised, o.inner); err != nil {
			return unix.ENOSPC
		}
		f, err := s.storage.createSegment(o.rec.Key, o.rec.Serial, o.rec.Size)
		if err != nil {
			s.log.Error("no file for a segment", keyError, err)
			s.storage.release(o.promised, o.inner)
			return unix.ENOMEM
		}
		o.control = f
		return nil
	}
	o.promised, o.inner = cost(o.sems(), o.rec.Cells, o.rec.Chunks), true
	if err := s.storage.promise(o.promised, true); err != nil {
		return unix.ENOMEM
	}
	if o.family == Msg {
		o.control = s.storage.newFile(s.storage.path(queueName(o.rec.Serial)), controlLength(0, o.rec.Cells))
		o.data = s.storage.newFile(s.storage.path(dataName(o.rec.Serial)), dataLength(o.rec.Chunks))
	} else {
		o.control = s.storage.newFile(s.storage.path(setName(o.rec.Serial)), controlLength(o.sems(), o.rec.Cells))
	}
	o.setCapacity(o.rec.Cells, o.rec.Chunks)
	return nil
}

// dropFiles takes back what makeFiles did.
func (s *space) dropFiles(o *object) {
	o.close()
	_ = s.removeFiles(o)
	s.storage.release(o.promised, o.inner)
}
