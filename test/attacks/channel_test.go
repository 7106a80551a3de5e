package attacks_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

func (h *hostile) fifo() (*os.File, error) {
	fd, err := unix.Open(filepath.Join(h.Dir, abi.RegisterName), unix.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), abi.RegisterName), nil
}

// flood writes to the FIFO as fast as it takes it.
func (h *hostile) flood(next func() []byte) (int, error) {
	fifo, err := h.fifo()
	if err != nil {
		return 0, err
	}
	defer fifo.Close()
	_ = fifo.SetWriteDeadline(time.Now().Add(2 * during))
	written := 0
	for {
		n, err := fifo.Write(next())
		written += n
		if err != nil {
			return written, nil //nolint:nilerr // the time is over
		}
	}
}

func floodGarbage(h *hostile) (string, error) {
	block := make([]byte, 4096)
	n, err := h.flood(func() []byte {
		for i := range block {
			block[i] = byte(rand.Uint32())
		}
		return block
	})
	return fmt.Sprintf("%d KiB", n>>10), err
}

func floodLines(h *hostile) (string, error) {
	lines := 0
	_, err := h.flood(func() []byte {
		lines++
		return fmt.Appendf(nil, abi.RegisterFormat, abi.LayoutMajor, fmt.Sprintf("%016x", rand.Uint64()))
	})
	if err != nil {
		return "", err
	}
	entries, err := os.ReadDir(filepath.Join(h.Dir, abi.ChannelsName))
	if err == nil && len(entries) > 200 {
		err = fmt.Errorf("%d sockets", len(entries))
	}
	return fmt.Sprintf("%d lines", lines), ignore(err, unix.EACCES) // the folder may not be listed by all
}

func ignore(err error, target error) error {
	if errors.Is(err, target) {
		return nil
	}
	return err
}

// expectHangUp sends a packet on a fresh channel that has said hello, or not.
func expectHangUp(dir, what string, greet bool, b, oob []byte) error {
	fd, err := dial(dir)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if greet {
		if err := unix.Sendmsg(fd, packet(abi.MsgHello, 1, nil, abi.LayoutMajor), nil, nil, 0); err != nil {
			return err
		}
		a, err := receive(fd)
		if a != nil {
			for _, f := range a.fds {
				_ = unix.Close(f)
			}
		}
		if err != nil {
			return ignore(err, unix.EMFILE)
		}
	}
	if err := unix.Sendmsg(fd, b, oob, nil, unix.MSG_NOSIGNAL); err != nil {
		return nil //nolint:nilerr // not even that
	}
	if _, err := receive(fd); !errors.Is(err, errHungUp) && !errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("%s: %w, not the end of the channel", what, err)
	}
	return nil
}

func malformed(h *hostile) (string, error) {
	lying := packet(abi.MsgGet, 1, nil, shm, 0, 0o600, 1)
	tried := 0
	for n := range 300 {
		b := lying[:n%64]
		switch n % 5 {
		case 0:
			b = bytes.Clone(lying)
			b[12+n%4] = byte(n) | 1
		case 1:
			b = append(bytes.Clone(lying), make([]byte, abi.MaxPacket-63+n)...)
		case 2:
			b = bytes.Repeat([]byte{byte(n)}, 65+n)
		}
		if len(b) == 0 {
			continue
		}
		tried++
		if err := expectHangUp(h.Dir, fmt.Sprintf("packet %d", n), false, b, nil); err != nil && n%5 != 2 {
			return "", err
		}
	}
	return fmt.Sprintf("%d packets", tried), nil
}

func descriptors(h *hostile) (string, error) {
	f, err := os.Open("/dev/zero")
	if err != nil {
		return "", err
	}
	many := make([]int, 253) // SCM_MAX_FD
	for i := range many {
		many[i] = int(f.Fd())
	}
	for range 200 {
		if err := expectHangUp(h.Dir, "descriptors", false, packet(abi.MsgHello, 1, nil, abi.LayoutMajor), unix.UnixRights(many...)); err != nil {
			return "", err
		}
	}
	// A channel to itself, which garbage collection of sockets has to find.
	if err := expectHangUp(h.Dir, "its own channel", false, packet(abi.MsgHello, 1, nil, abi.LayoutMajor), unix.UnixRights(h.fd)); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d descriptors", 200*len(many)), nil
}

func outOfOrder(h *hostile) (string, error) {
	values := []int64{-1 << 63, -1, 0, 1, 3, 1 << 15, 1<<31 - 1, 1 << 31, 1 << 32, 1 << 62, 1<<63 - 1}
	tried := 0
	for kind := uint32(0); kind < 40; kind++ {
		if kind == abi.MsgCancel || kind == abi.MsgForked {
			continue // not answered
		}
		for range 40 {
			args := make([]int64, 6)
			for i := range args {
				args[i] = values[rand.IntN(len(values))]
			}
			if kind == abi.MsgSemOp {
				args[2] = 0 // do not sleep
			}
			if kind == abi.MsgSend || kind == abi.MsgReceive {
				args[2], args[3] = args[2]|unix.IPC_NOWAIT, args[3]|unix.IPC_NOWAIT
			}
			tried++
			body := make([]byte, rand.IntN(200))
			if _, err := h.call(kind, body, args...); errors.Is(err, errHungUp) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.EAGAIN) {
				if errors.Is(err, unix.EAGAIN) && kind == abi.MsgSpare {
					continue
				}
				// A second hello, a repeated number: it may be cut off, then it comes again.
				h.leave()
				again, err := join(h.Dir)
				if err != nil {
					return "", fmt.Errorf("after request %d %v: %w", kind, args, err)
				}
				h.member = again
			}
		}
	}
	return fmt.Sprintf("%d requests", tried), nil
}

func neverRead(h *hostile) (string, error) {
	fds := []int{}
	sent := 0
	for range 16 {
		fd, err := dial(h.Dir)
		if err != nil {
			return "", err
		}
		fds = append(fds, fd)
		_ = unix.Sendmsg(fd, packet(abi.MsgHello, 1, nil, abi.LayoutMajor), nil, nil, 0)
		for range 3000 {
			if unix.Sendmsg(fd, packet(abi.MsgOpen, 5, nil, sem, h.Set, 6), nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) != nil {
				break
			}
			sent++
		}
	}
	time.Sleep(during)
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
	return fmt.Sprintf("%d requests on %d channels", sent, len(fds)), nil
}

// awaitAlways says all the time that it looks for a short answer, to no request of its own, and
// reads none of those that come.
func awaitAlways(h *hostile) (string, error) {
	const answer = unsafe.Offsetof(abi.SessionPage{}.Answer)
	sent := 0
	members := []*member{}
	defer func() {
		for _, m := range members {
			m.leave()
		}
	}()
	for range 16 {
		m, err := join(h.Dir)
		if err != nil {
			return "", err
		}
		members = append(members, m)
	}
	ask := packet(abi.MsgOpen, 5, nil, sem, h.Set, 6)
	for begun := time.Now(); time.Since(begun) < 2*during; {
		for _, m := range members {
			store(m.page, int(answer), abi.AnswerAwaited)
			for unix.Sendmsg(m.fd, ask, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) == nil {
				sent++
			}
		}
	}
	return fmt.Sprintf("%d requests on %d channels", sent, len(members)), nil
}

func strangers(h *hostile) (string, error) {
	fds := []int{}
	for range 1000 {
		fd, err := dial(h.Dir)
		if err != nil {
			break
		}
		fds = append(fds, fd)
	}
	time.Sleep(during)
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
	return fmt.Sprintf("%d connections", len(fds)), nil
}
