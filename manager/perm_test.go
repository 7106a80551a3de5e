package manager

import (
	"encoding/binary"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

const someone, someGroup = 12345, 23456

func someoneElse(groups ...uint32) *syscall.Credential {
	return &syscall.Credential{Uid: someone, Gid: someone, Groups: groups}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
}

// Rows 5 to 7, 22 to 29.
func TestPermissions(t *testing.T) {
	needRoot(t)
	_, info := newManager(t, Config{}, SpaceConfig{})
	owner := mustPeer(t, info.Dir)
	other := newPuppet(t, info.Dir, someoneElse(someGroup))

	id, err := owner.get(Shm, 1, unix.IPC_CREAT|0o640, 4096)
	check(t, err)
	get := func(what string, errno unix.Errno, key, flags, size int64) {
		t.Helper()
		other.want(what, errno, abi.MsgGet, int64(Shm), key, flags, size)
	}
	get("no bits asked", 0, 1, 0, 0)
	get("read asked", unix.EACCES, 1, 0o400, 0)
	get("too large, read asked", unix.EINVAL, 1, 0o400, 5000)
	get("exists", unix.EEXIST, 1, unix.IPC_CREAT|unix.IPC_EXCL|0o400, 5000)
	get("absent", unix.ENOENT, 2, 0, 0)
	for _, cmd := range []int64{unix.IPC_STAT, shmStat} {
		other.want("stat", unix.EACCES, abi.MsgCtl, int64(Shm), id, cmd)
	}
	other.want("stat any", 0, abi.MsgCtl, int64(Shm), id, shmStatAny)
	other.want("rmid", unix.EPERM, abi.MsgCtl, int64(Shm), id, unix.IPC_RMID)
	other.want("set", unix.EPERM, abi.MsgCtl, int64(Shm), id, unix.IPC_SET, someone, 0, 0o666)
	other.want("lock", unix.EPERM, abi.MsgCtl, int64(Shm), id, shmLock)

	set := func(uid, gid, mode int64) {
		t.Helper()
		if _, err := owner.ctl(Shm, id, unix.IPC_SET, uid, gid, mode); err != nil {
			t.Fatal(err)
		}
	}
	set(0, someGroup, 0o640) // a supplementary group
	get("group reads", 0, 1, 0o400, 0)
	get("group writes", unix.EACCES, 1, 0o600, 0)
	set(someone, someGroup, 0o066)
	get("owner without a bit", unix.EACCES, 1, 0o400, 0)
	other.want("owner removes without a bit", 0, abi.MsgCtl, int64(Shm), id, unix.IPC_RMID)
	_, err = owner.stat(Shm, id)
	wantErr(t, "stat", err, unix.EINVAL)
}

// Row 33, and rows 20 and 31: what IPC_SET changes.
func TestSet(t *testing.T) {
	inBothWays(t, func(t *testing.T, cfg Config) {
		_, info := newManager(t, cfg, SpaceConfig{})
		p := mustPeer(t, info.Dir)
		id, err := p.get(Shm, 7, unix.IPC_CREAT|0o600, 1)
		check(t, err)
		_, err = p.ctl(Shm, id, unix.IPC_SET, -1, 0, 0o600)
		wantErr(t, "uid -1", err, unix.EINVAL)
		uid, gid := int64(os.Geteuid()), int64(os.Getegid())
		if uid == 0 {
			uid, gid = someone, someGroup
		}
		_, err = p.ctl(Shm, id, shmLock)
		if uid == someone {
			check(t, err)
		}
		if _, err := p.ctl(Shm, id, unix.IPC_SET, uid, gid, 0o7644); err != nil {
			t.Fatal(err)
		}
		st, err := p.stat(Shm, id)
		check(t, err)
		if int64(st.UID) != uid || int64(st.GID) != gid || st.CUID != uint32(os.Geteuid()) || st.Mode&0o777 != 0o644 || st.Mode&abi.ModeDest != 0 || st.Key != 7 {
			t.Errorf("stat %+v", st)
		}
	})
}

// Rows 109, 110, 153, 156, 174, 197: part of an object's rights.
func TestBrokered(t *testing.T) {
	needRoot(t)
	_, info := newManager(t, Config{}, SpaceConfig{})
	owner := mustPeer(t, info.Dir)
	other := newPuppet(t, info.Dir, someoneElse())

	id, err := owner.get(Sem, 1, unix.IPC_CREAT|0o604, 2)
	check(t, err)
	out := other.want("open", 0, abi.MsgOpen, int64(Sem), id)
	if out.Val[2] != 1 || out.Val[1] != abi.AccessRead || out.Files != 0 {
		t.Errorf("read-only set opened: %+v", out)
	}
	semop := func(what string, errno unix.Errno, num, op, flags int16, timeout int64) {
		t.Helper()
		body := binary.LittleEndian.AppendUint16(nil, uint16(num))
		body = binary.LittleEndian.AppendUint16(body, uint16(op))
		body = binary.LittleEndian.AppendUint16(body, uint16(flags))
		out := other.do(order{Do: "call", Kind: abi.MsgSemOp, Body: body, Args: []int64{id, 1, timeout}})
		if unix.Errno(out.Errno) != errno {
			t.Errorf("%s: %v, want %v", what, unix.Errno(out.Errno), errno)
		}
	}
	semop("zero", 0, 0, 0, 0, -1)
	semop("increment", unix.EACCES, 0, 1, 0, -1)
	semop("no such semaphore", unix.EFBIG, 2, 1, 0, -1)
	other.want("GETVAL", 0, abi.MsgSemCtl, id, 0, abi.SemGetVal)
	other.want("GETVAL of none", unix.EINVAL, abi.MsgSemCtl, id, 2, abi.SemGetVal)
	other.want("SETVAL", unix.EACCES, abi.MsgSemCtl, id, 0, abi.SemSetVal, 1)
	other.want("SETVAL of none", unix.EINVAL, abi.MsgSemCtl, id, 2, abi.SemSetVal, 1)
	other.want("SETVAL out of range", unix.ERANGE, abi.MsgSemCtl, 999, 2, abi.SemSetVal, 40000)

	// The owner's own calls go through the broker as well.
	_, err = owner.call(abi.MsgSemCtl, nil, id, 0, abi.SemSetVal, 1)
	check(t, err)
	semop("zero, at once", unix.EAGAIN, 0, 0, unix.IPC_NOWAIT, -1)
	semop("zero, for a while", unix.EAGAIN, 0, 0, 0, int64(20*time.Millisecond))

	queue, err := owner.get(Msg, 1, unix.IPC_CREAT|0o602, 0)
	check(t, err)
	if out := other.do(order{Do: "call", Kind: abi.MsgSend, Body: []byte("hello"), Args: []int64{queue, 3, 0}}); out.Errno != 0 {
		t.Errorf("send: %v", unix.Errno(out.Errno))
	}
	other.want("receive", unix.EACCES, abi.MsgReceive, queue, 10, 0, 0)
	a, err := owner.call(abi.MsgReceive, nil, queue, 10, 0, 0)
	check(t, err)
	if string(a.body) != "hello" || a.Val[1] != 3 {
		t.Errorf("received %q of type %d", a.body, a.Val[1])
	}
	st, err := owner.stat(Msg, queue)
	check(t, err)
	if st.PID != [2]uint32{uint32(other.cmd.Process.Pid), owner.pid} {
		t.Errorf("lspid, lrpid %v", st.PID)
	}
}

// An IPC_SET moves a set away from whoever loses a right by it, also where nobody had to know the
// groups of those that opened it, and leaves it where it is if nobody does.
func TestWhoKeepsASet(t *testing.T) {
	needRoot(t)
	_, info := newManager(t, Config{}, SpaceConfig{})
	owner := mustPeer(t, info.Dir)
	for _, c := range []struct {
		name     string
		uid, gid int64
		mode     int64
		moves    bool
	}{
		{"the owner's bits are gone", someone, someGroup, 0o466, true},
		{"the others' bits are gone", someone, someGroup, 0o600, false},
		{"an owner no more, and in a group without bits", 0, someGroup, 0o606, true},
		{"an owner no more, and in no group with bits", 0, 0, 0o660, true},
		{"an owner no more, and all may", 0, someGroup, 0o666, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			id, err := owner.get(Sem, 0, unix.IPC_CREAT|0o666, 1)
			check(t, err)
			_, err = owner.ctl(Sem, id, unix.IPC_SET, someone, someGroup, 0o666)
			check(t, err)
			other := newPuppet(t, info.Dir, someoneElse(someGroup))
			if out := other.want("open", 0, abi.MsgOpen, int64(Sem), id); out.Files == 0 {
				t.Fatal("no file")
			}
			before := owner.record(Sem, id).Serial
			_, err = owner.ctl(Sem, id, unix.IPC_SET, c.uid, c.gid, c.mode)
			check(t, err)
			if moved := owner.record(Sem, id).Serial != before; moved != c.moves {
				t.Errorf("moved: %v", moved)
			}
		})
	}
}

// A brokered call that sleeps: cancelled, served, ended by removal, by a lost
// right (row 200), by its process.
func TestBrokeredSleep(t *testing.T) {
	needRoot(t)
	_, info := newManager(t, Config{}, SpaceConfig{})
	owner := mustPeer(t, info.Dir)
	other := newPuppet(t, info.Dir, someoneElse())
	queue, err := owner.get(Msg, 1, unix.IPC_CREAT|0o604, 0)
	check(t, err)
	sleep := func() {
		other.start(order{Do: "call", Kind: abi.MsgReceive, Args: []int64{queue, 10, 0, 0}})
		time.Sleep(50 * time.Millisecond)
	}
	end := func(what string, errno unix.Errno) {
		t.Helper()
		if out := other.finish(); unix.Errno(out.Errno) != errno {
			t.Errorf("%s: %v, want %v", what, unix.Errno(out.Errno), errno)
		}
	}
	sleep()
	_, err = owner.call(abi.MsgSend, []byte("x"), queue, 1, 0)
	check(t, err)
	end("served", 0)

	seq, err := owner.send(abi.MsgReceive, nil, queue, 10, 0, 0)
	check(t, err)
	time.Sleep(20 * time.Millisecond)
	_, err = owner.send(abi.MsgCancel, nil, int64(seq))
	check(t, err)
	a, err := owner.receive()
	wantErr(t, "cancelled", err, unix.EINTR)
	if a.Seq != seq {
		t.Errorf("answer to %d, not %d", a.Seq, seq)
	}

	sleep()
	ipcset := func(mode int64) {
		t.Helper()
		_, err := owner.call(abi.MsgCtl, binary.LittleEndian.AppendUint64(nil, 16384), int64(Msg), queue, unix.IPC_SET, 0, 0, mode)
		check(t, err)
	}
	ipcset(0o600)
	end("right lost", unix.EACCES)
	ipcset(0o604)
	sleep()
	_, err = owner.ctl(Msg, queue, unix.IPC_RMID)
	check(t, err)
	end("removed", unix.EIDRM)

	queue, err = owner.get(Msg, 1, unix.IPC_CREAT|0o604, 0)
	check(t, err)
	sleep()
	other.kill()
	time.Sleep(50 * time.Millisecond)
	_, err = owner.call(abi.MsgSend, []byte("x"), queue, 1, 0)
	check(t, err)
	st, err := owner.stat(Msg, queue)
	check(t, err)
	if st.Count[1] != 1 {
		t.Errorf("a dead receiver took the message: %+v", st)
	}
}
