package attacks_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// want is a call and what must come of it.
type want struct {
	what  string
	err   error // nil: it works
	kind  uint32
	body  []byte
	args  []int64
	value int64 // of the answer, if not 0
}

func (h *hostile) expect(wants []want) (string, error) {
	for _, w := range wants {
		a, err := h.call(w.kind, w.body, w.args...)
		if w.err == nil && err != nil || w.err != nil && !errors.Is(err, w.err) {
			return "", fmt.Errorf("%s: %w, want %w", w.what, err, w.err)
		}
		if w.value != 0 && a.val[0] != w.value {
			return "", fmt.Errorf("%s: %d, want %d", w.what, a.val[0], w.value)
		}
		if a != nil && len(a.fds) > 0 && w.kind == abi.MsgOpen {
			return "", fmt.Errorf("%s: %d descriptors", w.what, len(a.fds))
		}
	}
	return fmt.Sprintf("%d calls as expected", len(wants)), nil
}

func ops(list ...abi.SemOp) (b []byte) {
	for _, o := range list {
		b = binary.LittleEndian.AppendUint16(b, o.Num)
		b = binary.LittleEndian.AppendUint16(b, uint16(o.Op))
		b = binary.LittleEndian.AppendUint16(b, o.Flag)
	}
	return b
}

func secrets(h *hostile) (string, error) {
	e := unix.EACCES
	return h.expect([]want{
		{"open the segment", e, abi.MsgOpen, nil, []int64{shm, h.Secret, 4}, 0},
		{"open the segment to write", e, abi.MsgOpen, nil, []int64{shm, h.Secret, 2}, 0},
		{"open the segment for nothing", nil, abi.MsgCreds, nil, nil, 0},
		{"open the set", nil, abi.MsgOpen, nil, []int64{sem, h.SecretSet, 6}, 0},
		{"GETVAL", e, abi.MsgSemCtl, nil, []int64{h.SecretSet, 0, abi.SemGetVal}, 0},
		{"SETVAL", e, abi.MsgSemCtl, nil, []int64{h.SecretSet, 0, abi.SemSetVal, 1}, 0},
		{"semop", e, abi.MsgSemOp, ops(abi.SemOp{Op: 1}), []int64{h.SecretSet, 1, -1}, 0},
		{"msgsnd", e, abi.MsgSend, []byte("x"), []int64{h.SecretQueue, 1, 0}, 0},
		{"msgrcv", e, abi.MsgReceive, nil, []int64{h.SecretQueue, 10, 0, 0}, 0},
		{"grow the set", e, abi.MsgGrow, nil, []int64{sem, h.SecretSet, 100, 0}, 0},
		{"IPC_STAT", e, abi.MsgCtl, nil, []int64{shm, h.Secret, unix.IPC_STAT}, 0},
		{"IPC_SET", unix.EPERM, abi.MsgCtl, nil, []int64{sem, h.SecretSet, unix.IPC_SET, nobody, nobody, 0o666}, 0},
		{"IPC_RMID", unix.EPERM, abi.MsgCtl, nil, []int64{msg, h.SecretQueue, unix.IPC_RMID}, 0},
		{"SHM_LOCK", unix.EPERM, abi.MsgCtl, nil, []int64{shm, h.Secret, 11}, 0},
	})
}

// made is an object of this user. Owners are bound by the owner's bits like anybody else.
func (h *hostile) made(family, mode, size int64) (int64, error) {
	return h.get(family, 0, mode, size)
}

func writeOnlyQueue(h *hostile) (string, error) {
	id, err := h.made(msg, 0o222, 0)
	if err != nil {
		return "", err
	}
	e := unix.EACCES
	return h.expect([]want{
		{"open", nil, abi.MsgOpen, nil, []int64{msg, id, 6}, 0},
		{"msgsnd", nil, abi.MsgSend, []byte("text"), []int64{id, 1, 0}, 0},
		{"msgrcv", e, abi.MsgReceive, nil, []int64{id, 10, 0, unix.IPC_NOWAIT}, 0},
		{"msgrcv MSG_COPY", e, abi.MsgReceive, nil, []int64{id, 10, 0, 0o40000 | unix.IPC_NOWAIT}, 0},
		{"IPC_STAT", e, abi.MsgCtl, nil, []int64{msg, id, unix.IPC_STAT}, 0},
		{"IPC_RMID by the owner", nil, abi.MsgCtl, nil, []int64{msg, id, unix.IPC_RMID}, 0},
	})
}

func readOnlySet(h *hostile) (string, error) {
	id, err := h.made(sem, 0o444, 3)
	if err != nil {
		return "", err
	}
	e := unix.EACCES
	return h.expect([]want{
		{"open", nil, abi.MsgOpen, nil, []int64{sem, id, 6}, 0},
		{"GETVAL", nil, abi.MsgSemCtl, nil, []int64{id, 1, abi.SemGetVal}, 0},
		{"semop of zero", nil, abi.MsgSemOp, ops(abi.SemOp{Num: 1}), []int64{id, 1, -1}, 0},
		{"semop +1", e, abi.MsgSemOp, ops(abi.SemOp{Num: 1, Op: 1}), []int64{id, 1, -1}, 0},
		{"semop of zero and +1", e, abi.MsgSemOp, ops(abi.SemOp{}, abi.SemOp{Num: 1, Op: 1}), []int64{id, 2, -1}, 0},
		{"SETVAL", e, abi.MsgSemCtl, nil, []int64{id, 1, abi.SemSetVal, 5}, 0},
		{"SETALL", e, abi.MsgSemCtl, make([]byte, 6), []int64{id, 0, abi.SemSetAll}, 0},
		{"grow", e, abi.MsgGrow, nil, []int64{sem, id, 100, 0}, 0},
	})
}

func readOnlySegment(h *hostile) (string, error) {
	id, err := h.made(shm, 0o444, 4096)
	if err != nil {
		return "", err
	}
	if _, err := h.call(abi.MsgOpen, nil, shm, id, 6); !errors.Is(err, unix.EACCES) {
		return "", fmt.Errorf("open for writing: %w, want EACCES", err)
	}
	if _, err := h.open("read-only", shm, id, 4); err != nil {
		return "", err
	}
	fd := h.fds["read-only"]
	if _, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); !errors.Is(err, unix.EACCES) {
		return "", fmt.Errorf("map for writing: %w, want EACCES", err)
	}
	mem, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return "", err
	}
	if err := unix.Mprotect(mem, unix.PROT_READ|unix.PROT_WRITE); !errors.Is(err, unix.EACCES) {
		return "", fmt.Errorf("mprotect: %w, want EACCES", err)
	}
	if _, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDWR, 0); err == nil {
		return "", errors.New("opened again for writing")
	}
	return "EACCES", nil
}

// narrowed keeps a mapping of a set that is closed to it.
func narrowed(h *hostile) (string, error) {
	if err := h.openShared(); err != nil {
		return "", err
	}
	id, err := h.made(sem, 0o666, 4)
	if err != nil {
		return "", err
	}
	if _, err := h.open("mine", sem, id, 6); err != nil {
		return "", err
	}
	mem, err := h.mapped("mine")
	if err != nil {
		return "", err
	}
	if _, err := h.call(abi.MsgSemCtl, nil, id, 0, abi.SemSetVal, 7); err != nil {
		return "", err
	}
	if err := h.set(id, nobody, nobody, 0o400); err != nil {
		return "", fmt.Errorf("IPC_SET: %w", err)
	}
	for off := abi.WordsOff; off < abi.WordsOff+32; off += 8 {
		store(mem, off, 1<<40|99)
	}
	if a, err := h.call(abi.MsgSemCtl, nil, id, 0, abi.SemGetVal); err != nil || a.val[0] != 7 {
		return "", fmt.Errorf("GETVAL: %d, %w; want 7", a.val[0], err)
	}
	if a, err := h.open("again", sem, id, 6); err != nil || len(a.fds) > 0 {
		return "", fmt.Errorf("opened again: %w", err)
	}
	if _, err := h.call(abi.MsgSemCtl, nil, id, 0, abi.SemSetVal, 9); !errors.Is(err, unix.EACCES) {
		return "", fmt.Errorf("SETVAL: %w, want EACCES", err)
	}
	return "value kept, no descriptor", nil
}

// exhaust makes objects until there are no more to be had, and gives them back.
func exhaust(family, size int64) func(*hostile) (string, error) {
	return func(h *hostile) (string, error) {
		var ids []int64
		for {
			id, err := h.get(family, 0, 0o600, size)
			if errors.Is(err, unix.ENOSPC) {
				break
			}
			if err != nil {
				return "", fmt.Errorf("object %d: %w, want ENOSPC", len(ids), err)
			}
			ids = append(ids, id)
		}
		for _, id := range ids {
			if _, err := h.call(abi.MsgCtl, nil, family, id, unix.IPC_RMID); err != nil {
				return "", err
			}
		}
		_, err := h.get(family, 0, 0o600, size)
		return fmt.Sprintf("%d, then ENOSPC", len(ids)), err
	}
}

func exhaustBytes(h *hostile) (string, error) {
	var ids []int64
	for size := int64(64 << 20); size >= 4096; size /= 2 {
		for {
			id, err := h.get(shm, 0, 0o600, size)
			if errors.Is(err, unix.ENOSPC) {
				break
			}
			if err != nil {
				return "", fmt.Errorf("a segment of %d: %w, want ENOSPC", size, err)
			}
			ids = append(ids, id)
		}
	}
	if _, err := h.get(sem, 0, 0o600, 1); !errors.Is(err, unix.ENOMEM) {
		return "", fmt.Errorf("a set: %w, want ENOMEM", err)
	}
	time.Sleep(during / 2)
	for _, id := range ids {
		if _, err := h.call(abi.MsgCtl, nil, shm, id, unix.IPC_RMID); err != nil {
			return "", err
		}
	}
	_, err := h.get(shm, 0, 0o600, 64<<20)
	return fmt.Sprintf("%d segments", len(ids)), err
}

func exhaustCalls(h *hostile) (string, error) {
	slept := 0
	for range 300 {
		if err := h.send(abi.MsgSemOp, ops(abi.SemOp{Num: 1, Op: -1}), h.Set, 1, -1); err != nil {
			return "", err
		}
	}
	for {
		a, err := h.receive()
		if !errors.Is(err, unix.ENOMEM) {
			return "", fmt.Errorf("%+v: %w, want ENOMEM", a, err)
		}
		if slept++; slept == 300-64 {
			break
		}
	}
	time.Sleep(during)
	return fmt.Sprintf("64 sleep, %d refused", slept), nil
}

func exhaustSpares(h *hostile) (string, error) {
	for n := range 1000 {
		if _, err := h.call(abi.MsgSpare, nil, 0); errors.Is(err, unix.EAGAIN) {
			return fmt.Sprintf("%d spares", n), nil
		} else if err != nil {
			return "", err
		}
	}
	return "", errors.New("1,000 spares")
}
