package attacks_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// Families, and commands of the *ctl calls.
const (
	shm, sem, msg = 0, 1, 2
)

// member speaks the protocol itself, with none of the library's manners.
type member struct {
	dir   string
	fd    int
	seq   uint32
	fds   map[string]int // all descriptors it ever got, by what they are
	table []byte
	pulse []byte
	page  []byte
	num   uint32
}

// answer is a reply.
type answer struct {
	val  [6]int64
	body []byte
	fds  []int
}

var errHungUp = errors.New("hung up")

// dial connects to the permanent socket.
func dial(dir string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	tv := unix.NsecToTimeval(int64(20 * time.Second))
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, abi.ChannelsName, abi.AnyChannelName)}); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// join registers.
func join(dir string) (*member, error) {
	fd, err := dial(dir)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	m := &member{dir: dir, fd: fd, fds: map[string]int{}}
	a, err := m.call(abi.MsgHello, nil, abi.LayoutMajor)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("hello: %w", err)
	}
	m.num = uint32(a.val[0])
	for i, name := range []string{"table", "pulse", "page"} {
		m.fds[name] = a.fds[i]
	}
	rw := unix.PROT_READ | unix.PROT_WRITE
	if m.table, err = unix.Mmap(a.fds[0], 0, abi.TableSize, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, err
	}
	if m.pulse, err = unix.Mmap(a.fds[1], 0, abi.PulseSize, rw, unix.MAP_SHARED); err != nil {
		return nil, err
	}
	m.page, err = unix.Mmap(a.fds[2], 0, abi.PageSize, rw, unix.MAP_SHARED)
	return m, err
}

// leave closes and unmaps everything.
func (m *member) leave() {
	_ = unix.Close(m.fd)
	for _, fd := range m.fds {
		_ = unix.Close(fd)
	}
	for _, mem := range [][]byte{m.table, m.pulse, m.page} {
		_ = unix.Munmap(mem)
	}
}

func packet(kind, seq uint32, body []byte, args ...int64) []byte {
	le := binary.LittleEndian
	b := make([]byte, 64, 64+len(body))
	le.PutUint32(b, kind)
	le.PutUint32(b[4:], seq)
	le.PutUint32(b[8:], uint32(unix.Gettid()))
	le.PutUint32(b[12:], uint32(len(body)))
	for i, v := range args {
		le.PutUint64(b[16+8*i:], uint64(v))
	}
	return append(b, body...)
}

func (m *member) send(kind uint32, body []byte, args ...int64) error {
	m.seq++
	cred := unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getpid()), Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())})
	return unix.Sendmsg(m.fd, packet(kind, m.seq, body, args...), cred, nil, unix.MSG_NOSIGNAL)
}

func (m *member) receive() (*answer, error) { return receive(m.fd) }

func receive(fd int) (*answer, error) {
	b, oob := make([]byte, abi.MaxPacket), make([]byte, 256)
	n, oobn, _, _, err := unix.Recvmsg(fd, b, oob, unix.MSG_CMSG_CLOEXEC)
	for err == unix.EINTR {
		n, oobn, _, _, err = unix.Recvmsg(fd, b, oob, unix.MSG_CMSG_CLOEXEC)
	}
	if err != nil {
		return nil, err
	}
	if n < 64 {
		return nil, errHungUp
	}
	le := binary.LittleEndian
	a := &answer{body: b[64:n]}
	for i := range a.val {
		a.val[i] = int64(le.Uint64(b[16+8*i:]))
	}
	msgs, _ := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range msgs {
		if fds, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			a.fds = append(a.fds, fds...)
		}
	}
	if errno := le.Uint32(b[8:]); errno != 0 {
		return a, unix.Errno(errno)
	}
	return a, nil
}

func (m *member) call(kind uint32, body []byte, args ...int64) (*answer, error) {
	if err := m.send(kind, body, args...); err != nil {
		return nil, err
	}
	return m.receive()
}

func (m *member) get(family, key, flags, size int64) (int64, error) {
	a, err := m.call(abi.MsgGet, nil, family, key, flags, size)
	if err != nil {
		return -1, err
	}
	return a.val[0], nil
}

// open keeps the descriptors that come as name and name+".data".
func (m *member) open(name string, family, id, access int64) (*answer, error) {
	a, err := m.call(abi.MsgOpen, nil, family, id, access)
	if err != nil {
		return a, err
	}
	for i, fd := range a.fds {
		m.fds[name+[]string{"", ".data"}[i]] = fd
	}
	return a, nil
}

// mapped maps what there is of a file.
func (m *member) mapped(name string) ([]byte, error) {
	fd, ok := m.fds[name]
	if !ok {
		return nil, fmt.Errorf("%s: no descriptor", name)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	return unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

func (m *member) set(id int64, uid, gid uint32, mode int64) error {
	_, err := m.call(abi.MsgCtl, nil, sem, id, unix.IPC_SET, int64(uid), int64(gid), mode)
	return err
}

func word(mem []byte, off int) *uint64 { return (*uint64)(unsafe.Pointer(&mem[off])) }

func store(mem []byte, off int, v uint64) { atomic.StoreUint64(word(mem, off), v) }
func load(mem []byte, off int) uint64     { return atomic.LoadUint64(word(mem, off)) }
