package manager

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// peer is a client that speaks the real protocol over the real FIFO and
// sockets.
type peer struct {
	dir     string
	fd      int
	seq     uint32
	session uint32
	pidns   uint64
	pid     uint32
	table   []byte
	pulse   []byte
	page    []byte
}

// answer is a reply with its descriptors.
type answer struct {
	abi.Reply
	body []byte
	fds  []int
}

func (a *answer) close() {
	for _, fd := range a.fds {
		_ = unix.Close(fd)
	}
}

func mapFile(fd int, size, prot int) ([]byte, error) {
	return unix.Mmap(fd, 0, size, prot, unix.MAP_SHARED)
}

// register announces the process in the FIFO and connects to its channel.
func register(dir string) (fd int, err error) {
	tf, err := os.Open(filepath.Join(dir, abi.TableName))
	if err != nil {
		return -1, err
	}
	defer tf.Close()
	table, err := mapFile(int(tf.Fd()), abi.PageSize, unix.PROT_READ)
	if err != nil {
		return -1, err
	}
	defer unix.Munmap(table)
	word := &(*abi.TableHeader)(unsafe.Pointer(&table[0])).Registrations
	nonce := fmt.Sprintf("%016x", rand.Uint64())
	fifo, err := unix.Open(filepath.Join(dir, abi.RegisterName), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fifo)
	seen := atomic.LoadUint32(word)
	if _, err := unix.Write(fifo, fmt.Appendf(nil, abi.RegisterFormat, abi.LayoutMajor, nonce)); err != nil {
		return -1, err
	}
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		fd, err = connect(dir, nonce)
		if err == nil || !errors.Is(err, unix.ENOENT) {
			return fd, err
		}
		ts := unix.NsecToTimespec(int64(time.Second))
		_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), 0, uintptr(seen), uintptr(unsafe.Pointer(&ts)), 0, 0)
		seen = atomic.LoadUint32(word)
	}
	return -1, unix.ETIMEDOUT
}

func connect(dir, name string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	d, err := unix.Open(filepath.Join(dir, abi.ChannelsName), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", d, name)})
		_ = unix.Close(d)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	tv := unix.NsecToTimeval(int64(20 * time.Second))
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	return fd, nil
}

// newPeer registers by the FIFO and says hello.
func newPeer(dir string) (*peer, error) {
	fd, err := register(dir)
	if err != nil {
		return nil, fmt.Errorf("register: %w", err)
	}
	p := &peer{dir: dir, fd: fd}
	if err := p.hello(0, 0, nil); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return p, nil
}

func (p *peer) hello(session uint32, state int64, cookie []byte) error {
	a, err := p.call(abi.MsgHello, cookie, abi.LayoutMajor, int64(session), state)
	if err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	defer a.close()
	if len(a.fds) != 3 {
		return fmt.Errorf("hello: %d descriptors", len(a.fds))
	}
	p.session, p.pidns, p.pid = uint32(a.Val[0]), uint64(a.Val[1]), uint32(a.Val[2])
	if p.table, err = mapFile(a.fds[0], abi.TableSize, unix.PROT_READ); err != nil {
		return err
	}
	if p.pulse, err = mapFile(a.fds[1], abi.PulseSize, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return err
	}
	p.page, err = mapFile(a.fds[2], abi.PageSize, unix.PROT_READ|unix.PROT_WRITE)
	return err
}

// close leaves; the session goes on as long as the process.
func (p *peer) close() {
	_ = unix.Close(p.fd)
	for _, m := range [][]byte{p.table, p.pulse, p.page} {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
}

func (p *peer) view() *abi.SessionPage   { return (*abi.SessionPage)(unsafe.Pointer(&p.page[0])) }
func (p *peer) header() *abi.TableHeader { return (*abi.TableHeader)(unsafe.Pointer(&p.table[0])) }
func (p *peer) cookie() []byte           { c := p.view().Cookie; return c[:] }

func (p *peer) slot(f Family, id int64) uint64 {
	i := abi.TableSlotsOff + (int(f)*abi.MaxObjects+int(id&abi.IndexMask))*8
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(&p.table[i])))
}

func (p *peer) record(f Family, id int64) abi.Record {
	n := int(p.slot(f, id) & abi.SlotRecordMask)
	return *(*abi.Record)(unsafe.Pointer(&p.table[abi.TableRecordsOff+n*int(unsafe.Sizeof(abi.Record{}))]))
}

// send writes a request and returns its Seq.
func (p *peer) send(kind uint32, body []byte, args ...int64) (uint32, error) {
	p.seq++
	return p.seq, p.sendSeq(p.seq, kind, body, args...)
}

func (p *peer) sendSeq(seq, kind uint32, body []byte, args ...int64) error {
	b := packRequest(kind, seq, uint32(unix.Gettid()), body, args...)
	cred := unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getpid()), Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())})
	return unix.Sendmsg(p.fd, b, cred, nil, unix.MSG_NOSIGNAL)
}

func packRequest(kind, seq, tid uint32, body []byte, args ...int64) []byte {
	le := binary.LittleEndian
	b := make([]byte, 64, 64+len(body))
	le.PutUint32(b, kind)
	le.PutUint32(b[4:], seq)
	le.PutUint32(b[8:], tid)
	le.PutUint32(b[12:], uint32(len(body)))
	for i, v := range args {
		le.PutUint64(b[16+8*i:], uint64(v))
	}
	return append(b, body...)
}

// receive reads a reply. An errno in it is the error.
func (p *peer) receive() (*answer, error) {
	b := make([]byte, abi.MaxPacket)
	oob := make([]byte, 256)
	n, oobn, _, _, err := unix.Recvmsg(p.fd, b, oob, unix.MSG_CMSG_CLOEXEC)
	for err == unix.EINTR {
		n, oobn, _, _, err = unix.Recvmsg(p.fd, b, oob, unix.MSG_CMSG_CLOEXEC)
	}
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, errHungUp
	}
	if n < 64 {
		return nil, fmt.Errorf("reply of %d bytes", n)
	}
	le := binary.LittleEndian
	a := &answer{body: b[64:n]}
	a.Kind, a.Seq, a.Errno, a.Len = le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])
	for i := range a.Val {
		a.Val[i] = int64(le.Uint64(b[16+8*i:]))
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, err
	}
	for i := range msgs {
		if fds, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			a.fds = append(a.fds, fds...)
		}
	}
	if a.Errno != 0 {
		return a, unix.Errno(a.Errno)
	}
	return a, nil
}

var errHungUp = errors.New("hung up")

func (p *peer) call(kind uint32, body []byte, args ...int64) (*answer, error) {
	seq, err := p.send(kind, body, args...)
	if err != nil {
		return nil, err
	}
	a, err := p.receive()
	if a != nil && a.Seq != seq {
		return a, fmt.Errorf("reply to request %d, not %d", a.Seq, seq)
	}
	return a, err
}

// get is one of the *get calls.
func (p *peer) get(f Family, key uint32, flags, size int64) (int64, error) {
	a, err := p.call(abi.MsgGet, nil, int64(f), int64(key), flags, size)
	if err != nil {
		return -1, err
	}
	return a.Val[0], nil
}

func (p *peer) ctl(f Family, id, cmd int64, rest ...int64) (*answer, error) {
	return p.call(abi.MsgCtl, nil, append([]int64{int64(f), id, cmd}, rest...)...)
}

func (p *peer) stat(f Family, id int64) (abi.Stat, error) {
	a, err := p.ctl(f, id, unix.IPC_STAT)
	if err != nil {
		return abi.Stat{}, err
	}
	return *(*abi.Stat)(unsafe.Pointer(&a.body[0])), nil
}

// attach maps a segment and counts it as a client does.
func (p *peer) attach(id int64, access int64) ([]byte, error) {
	a, err := p.call(abi.MsgOpen, nil, int64(Shm), id, access)
	if err != nil {
		return nil, err
	}
	defer a.close()
	rec := p.record(Shm, id)
	prot := unix.PROT_READ
	if access&abi.AccessWrite != 0 {
		prot |= unix.PROT_WRITE
	}
	p.count(rec.Serial, 1)
	return mapFile(a.fds[0], int(pages(rec.Size)*abi.PageSize), prot)
}

// open has the manager give the process a segment, which it does not attach.
func (p *peer) open(t *testing.T, id int64) {
	t.Helper()
	a, err := p.call(abi.MsgOpen, nil, int64(Shm), id, abi.AccessRead|abi.AccessWrite)
	check(t, err)
	a.close()
}

func (p *peer) detach(id int64, serial uint64, mem []byte) {
	_ = unix.Munmap(mem)
	p.count(serial, -1)
}

func (p *peer) count(serial uint64, by int32) {
	uses := &p.view().Uses
	for i := range uses {
		if uses[i].Serial == serial || uses[i].Serial == 0 {
			atomic.StoreUint64(&uses[i].Serial, serial)
			if by > 0 {
				atomic.StoreInt64(&uses[i].ATime, time.Now().UnixNano())
			} else {
				atomic.StoreInt64(&uses[i].DTime, time.Now().UnixNano())
			}
			atomic.AddUint32(&uses[i].Count, uint32(by))
			return
		}
	}
}
