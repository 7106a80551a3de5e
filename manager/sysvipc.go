package manager

import (
	"bytes"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/manager/procfs"
)

// The texts of /proc/sysvipc, letter by letter those of ipc/shm.c, ipc/sem.c
// and ipc/msg.c on a 64-bit machine.
const (
	shmTitle = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n"
	semTitle = "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n"
	msgTitle = "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n"

	shmLine = "%10d %10d  %4o %21d %5d %5d  %5d %5d %5d %5d %5d %10d %10d %10d %21d %21d\n"
	semLine = "%10d %10d  %4o %10d %5d %5d %5d %5d %10d %10d\n"
	msgLine = "%10d %10d  %4o  %10d %10d %5d %5d %5d %5d %5d %5d %10d %10d %10d\n"
)

// viewer is who reads a list: pids and ids are those of its namespaces.
type viewer struct {
	pidns      uint64
	uids, gids idMap
}

// view looks at the reader's namespaces. A reader whose process cannot be seen
// gets pids of 0 and ids as the manager knows them.
func (s *space) view(reader procfs.Process) viewer {
	everyone := idMap{{0, 0, 1 << 32}}
	v := viewer{uids: everyone, gids: everyone}
	if reader.PID == 0 {
		return v
	}
	start, err := startTime(reader.PID)
	who := &caller{pid: reader.PID, self: s.m.userns, alive: func() bool {
		again, err2 := startTime(reader.PID)
		return err == nil && err2 == nil && start == again
	}}
	s.localize(who)
	if uids, gids, err := who.maps(); err == nil {
		v.uids, v.gids = uids, gids
		v.pidns, _ = nsInode(reader.PID, "pid")
	}
	return v
}

// List is the text of /proc/sysvipc/name. The space is locked for one object
// at a time: a list may be long.
func (s *space) List(name string, reader procfs.Process) ([]byte, error) {
	f, title := Shm, shmTitle
	switch name {
	case "sem":
		f, title = Sem, semTitle
	case "msg":
		f, title = Msg, msgTitle
	}
	v := s.view(reader)
	var text bytes.Buffer
	text.WriteString(title)
	s.mu.Lock()
	defer s.mu.Unlock()
	indices := make([]uint32, 0, len(s.objects[f]))
	for index := range s.objects[f] {
		indices = append(indices, index)
	}
	slices.Sort(indices)
	for i, index := range indices {
		if i > 0 {
			s.mu.Unlock()
			s.mu.Lock()
		}
		if s.closed {
			return nil, unix.ENODEV
		}
		if o := s.objects[f][index]; o != nil {
			s.writeLine(&text, o, v)
		}
	}
	return text.Bytes(), nil
}

func (s *space) writeLine(text *bytes.Buffer, o *object, v viewer) {
	st, err := s.statOf(o, func(n, thread uint32) uint32 { return s.pidIn(v.pidns, n, thread) })
	if err != nil || o.gone {
		return
	}
	key, id := int32(st.Key), int32(st.ID)
	uid, gid, cuid, cgid := v.uids.out(st.UID), v.gids.out(st.GID), v.uids.out(st.CUID), v.gids.out(st.CGID)
	switch o.family {
	case Shm:
		fmt.Fprintf(text, shmLine, key, id, st.Mode, st.Size, st.PID[1], st.PID[0], st.Count[0],
			uid, gid, cuid, cgid, st.Time[0], st.Time[1], st.Time[2], o.resident(), 0)
	case Sem:
		fmt.Fprintf(text, semLine, key, id, st.Mode, st.Size, uid, gid, cuid, cgid, st.Time[0], st.Time[2])
	case Msg:
		fmt.Fprintf(text, msgLine, key, id, st.Mode, st.Count[0], st.Count[1], st.PID[0], st.PID[1],
			uid, gid, cuid, cgid, st.Time[0], st.Time[1], st.Time[2])
	}
}

// resident is how many bytes of a segment are in memory, or swapped out, which
// is not told apart.
func (o *object) resident() (bytes uint64) {
	var st unix.Stat_t
	if unix.Lstat(o.control.path, &st) != nil {
		return 0
	}
	return uint64(st.Blocks) * 512
}

// resident is shm_rss of SHM_INFO, in pages of 4 KiB.
func (s *space) resident() (pages uint64) {
	for _, o := range s.objects[Shm] {
		pages += o.resident() / abi.PageSize
	}
	return pages
}

// showProc mounts the space's files of /proc, if FUSE can be used.
func (s *space) showProc() {
	if !s.storage.mounted {
		return
	}
	dir := s.storage.proc
	procfs.Clear(dir)
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		s.proc, err = procfs.Mount(dir, s, s.log)
	}
	if err != nil {
		s.log.Warn("/proc/sysvipc and /proc/sys/kernel will not show the space", keyError, err)
	}
}

// hideProc ends what showProc began. The files call into the space: without
// space.mu.
func (s *space) hideProc() {
	if s.proc != nil {
		s.proc.Close()
		s.proc = nil
		_ = os.Remove(s.storage.proc)
	}
}

// procDir is where the files are; empty: there is no FUSE.
func (s *space) procDir() string {
	if s.proc == nil {
		return ""
	}
	return s.storage.proc
}
