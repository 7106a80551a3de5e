package manager

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// channel is one connection of a session. Its hello is read by a goroutine of
// its own; after that the space's poller reads its requests and answers them in
// turn. Brokered calls that sleep answer from goroutines of their own.
type channel struct {
	space *space
	pid   int      // who connected
	pidfd *os.File // of pid

	session *session // nil before hello; set once, by greet

	write sync.Mutex // one packet at a time

	mu   sync.Mutex    // guards what follows; held for moments only
	conn *net.UnixConn // before hello
	fd   int           // after it; -1: none
	last bool          // it ends when what has come is answered
	over bool
}

// request is a packet from a client, whole.
type request struct {
	abi.Request
	body []byte
	cred unix.Ucred
}

// reply is an answer. Files are sent along in order; those in closing are
// closed afterwards.
type reply struct {
	errno   unix.Errno
	val     [6]int64
	body    []byte
	files   []*os.File
	closing []*os.File
	hangUp  bool // close the channel after the reply
	later   bool // no reply now: another goroutine will
	given   bool // in the session page, no packet is needed
}

const (
	packetHead   = 64
	writeTimeout = 5 * time.Second
	maxPassed    = 8 // descriptors that are looked for in a message, to be closed
)

// newChannel asks the kernel who is at the other end.
func newChannel(s *space, conn *net.UnixConn) (*channel, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &channel{space: s, conn: conn, fd: -1}
	var opErr error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			opErr = fmt.Errorf("SO_PEERCRED: %w", err)
			return
		}
		c.pid = int(cred.Pid)
		if c.pid <= 0 {
			opErr = errors.New("peer is in a pid namespace that the manager does not see; run the manager in the host's")
			return
		}
		pidfd, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		if err != nil {
			// Before Linux 6.5. Should the pid be somebody else's by now, the
			// credentials of the first message do not match it.
			if pidfd, err = unix.PidfdOpen(c.pid, 0); err != nil {
				opErr = fmt.Errorf("pidfd of peer %d: %w", c.pid, err)
				return
			}
		}
		unix.CloseOnExec(pidfd)
		c.pidfd = os.NewFile(uintptr(pidfd), "pidfd")
	})
	if err = errors.Join(err, opErr); err != nil {
		return nil, err
	}
	return c, nil
}

// alive tells whether the process that connected lives. Not once the channel
// is over.
func (c *channel) alive() bool {
	alive := false
	raw, err := c.pidfd.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { alive = pidAlive(int(fd)) })
	}
	return alive
}

// connected tells whether the client has its end still open.
func (c *channel) connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	open := false
	look := func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd)}}, 0)
		open = err == nil && n == 0
	}
	if c.fd >= 0 {
		look(uintptr(c.fd))
	} else if c.conn != nil {
		if raw, err := c.conn.SyscallConn(); err == nil {
			_ = raw.Control(look)
		}
	}
	return open
}

// close ends the connection, and whoever serves it then cleans up (drop).
func (c *channel) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.fd >= 0 {
		_ = unix.Shutdown(c.fd, unix.SHUT_RDWR)
	} else if c.conn != nil {
		_ = c.conn.Close()
	}
}

// finish takes no more requests. The client learns that at once, so it knows which were none.
func (c *channel) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = true
	if c.fd >= 0 {
		_ = unix.Shutdown(c.fd, unix.SHUT_RD)
	}
}

// drop cleans up after a channel that is over.
func (c *channel) drop() {
	c.close()
	c.space.channels.known(c)
	c.space.leave(c)
	c.write.Lock() // whoever writes fails soon
	defer c.write.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd >= 0 {
		_ = unix.Close(c.fd)
		c.fd = -1
	}
	_ = c.pidfd.Close()
}

// greet waits for the hello of a new connection and hands it to the poller.
func (c *channel) greet() {
	err := c.hello()
	if err == nil {
		c.space.channels.known(c)
		if c.space.poller.add(c) {
			return
		}
	} else {
		c.report(err)
	}
	c.drop()
}

var errRefused = errors.New("refused")

func (c *channel) hello() error {
	_ = c.conn.SetDeadline(time.Now().Add(registerTimeout))
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, packetHead+maxHello+1)
	var n int
	var cred unix.Ucred
	var opErr error
	err = raw.Read(func(fd uintptr) bool {
		n, cred, opErr = receivePacket(int(fd), buf, make([]byte, ancillaryRoom))
		return !errors.Is(opErr, unix.EAGAIN)
	})
	if err = errors.Join(err, opErr); err != nil {
		return err
	}
	req, err := parseRequest(buf[:n], cred)
	if err != nil {
		return err
	}
	r := reply{errno: unix.EPROTO, hangUp: true}
	if req.Kind == abi.MsgHello {
		r = c.space.hello(c, req)
	}
	// A fresh connection has room for one packet.
	err = raw.Write(func(fd uintptr) bool {
		opErr = sendPacket(int(fd), req.Kind, req.Seq, &r)
		return !errors.Is(opErr, unix.EAGAIN)
	})
	r.done()
	if err = errors.Join(err, opErr); err != nil {
		return err
	}
	if r.hangUp {
		return errRefused
	}
	return c.adopt(raw)
}

// adopt takes the descriptor from Go's poller, which would be woken by each
// reply that a client reads.
func (c *channel) adopt(raw syscall.RawConn) error {
	fd, opErr := -1, error(nil)
	err := raw.Control(func(old uintptr) { fd, opErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, opErr); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fd = fd
	_ = c.conn.Close()
	c.conn = nil
	if c.last {
		_ = unix.Shutdown(c.fd, unix.SHUT_RD)
	}
	if c.over {
		return net.ErrClosed
	}
	return nil
}

// report logs why a channel ended, unless its client just left.
func (c *channel) report(err error) {
	for _, usual := range []error{io.EOF, net.ErrClosed, os.ErrDeadlineExceeded, unix.ECONNRESET, unix.EPIPE, errRefused} {
		if errors.Is(err, usual) {
			return
		}
	}
	c.space.log.Warn("channel closed", keyPID, c.pid, keyError, err)
}

// maxHello bounds what follows the head of a hello.
const maxHello = 64

// ancillaryRoom is for the credentials of a packet, and more descriptors than may be.
const ancillaryRoom = 512

// receivePacket takes one packet, with ancillaryRoom in oob; EAGAIN: there is none.
// io.EOF: the end.
func receivePacket(fd int, buf, oob []byte) (n int, cred unix.Ucred, err error) {
	part := unix.Iovec{Base: &buf[0]}
	part.SetLen(len(buf))
	msg := unix.Msghdr{Iov: &part, Control: &oob[0]}
	msg.SetIovlen(1)
	msg.SetControllen(len(oob))
	n, err = transfer(unix.SYS_RECVMSG, fd, &msg, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return 0, cred, err
	}
	cred, told, passed := parseControl(oob[:msg.Controllen])
	switch {
	case passed:
		err = errors.New("client sent descriptors")
	case n == 0:
		err = io.EOF
	case msg.Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || n >= len(buf):
		err = errors.New("packet too large")
	case !told:
		err = errors.New("packet without credentials")
	}
	return n, cred, err
}

// transfer is sendmsg or recvmsg, which do not wait here. A raw call: to tell Go's
// scheduler of one that may wait costs nearly as much as the call.
func transfer(call uintptr, fd int, msg *unix.Msghdr, flags uintptr) (int, error) {
	n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(msg)), unix.MSG_DONTWAIT|flags)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// parseControl finds the credentials and closes descriptors.
func parseControl(oob []byte) (cred unix.Ucred, told, passed bool) {
	for len(oob) >= unix.CmsgLen(0) {
		head, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return unix.Ucred{}, false, passed
		}
		oob = rest
		switch {
		case head.Level != unix.SOL_SOCKET:
		case head.Type == unix.SCM_RIGHTS:
			passed = true
			for ; len(data) >= 4; data = data[4:] {
				_ = unix.Close(int(binary.NativeEndian.Uint32(data)))
			}
		case head.Type == unix.SCM_CREDENTIALS && len(data) >= unix.SizeofUcred:
			told = true
			ne := binary.NativeEndian
			cred = unix.Ucred{Pid: int32(ne.Uint32(data)), Uid: ne.Uint32(data[4:]), Gid: ne.Uint32(data[8:])}
		}
	}
	return cred, told, passed
}

func parseRequest(b []byte, cred unix.Ucred) (*request, error) {
	if len(b) < packetHead {
		return nil, fmt.Errorf("packet of %d bytes has no head", len(b))
	}
	le := binary.LittleEndian
	r := &request{cred: cred}
	r.Kind, r.Seq, r.TID, r.Len = le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])
	for i := range r.Arg {
		r.Arg[i] = int64(le.Uint64(b[16+8*i:]))
	}
	if int(r.Len) != len(b)-packetHead {
		return nil, fmt.Errorf("packet of kind %d says %d bytes, has %d", r.Kind, r.Len, len(b)-packetHead)
	}
	r.body = b[packetHead:]
	return r, nil
}

// done closes what was only to be sent along.
func (r *reply) done() {
	for _, f := range r.closing {
		_ = f.Close()
	}
}

// sendPacket writes a reply; EAGAIN: the client has not read the ones before.
func sendPacket(fd int, kind, seq uint32, r *reply) error {
	le := binary.LittleEndian
	b := make([]byte, packetHead, packetHead+len(r.body))
	le.PutUint32(b, kind)
	le.PutUint32(b[4:], seq)
	le.PutUint32(b[8:], uint32(r.errno))
	le.PutUint32(b[12:], uint32(len(r.body)))
	for i, v := range r.val {
		le.PutUint64(b[16+8*i:], uint64(v))
	}
	b = append(b, r.body...)
	part := unix.Iovec{Base: &b[0]}
	part.SetLen(len(b))
	msg := unix.Msghdr{Iov: &part}
	msg.SetIovlen(1)
	if len(r.files) > 0 {
		fds := make([]int, len(r.files))
		for i, f := range r.files {
			fds[i] = int(f.Fd())
		}
		oob := unix.UnixRights(fds...)
		msg.Control = &oob[0]
		msg.SetControllen(len(oob))
	}
	_, err := transfer(unix.SYS_SENDMSG, fd, &msg, unix.MSG_NOSIGNAL)
	return err
}

// trySend sends a reply if that takes no waiting; false: it does.
func (c *channel) trySend(kind, seq uint32, r *reply) (bool, error) {
	if !c.write.TryLock() {
		return false, nil
	}
	defer c.write.Unlock()
	if c.fd < 0 {
		return true, net.ErrClosed
	}
	err := sendPacket(c.fd, kind, seq, r)
	return !errors.Is(err, unix.EAGAIN), err
}

// send sends a reply. A client that does not read is cut off.
func (c *channel) send(kind, seq uint32, r *reply) error {
	c.write.Lock()
	defer c.write.Unlock()
	// Waiting takes no thread: there may be as many of these as channels.
	for pause, waited := time.Millisecond, time.Duration(0); ; pause = min(2*pause, 100*time.Millisecond) {
		if c.fd < 0 {
			return net.ErrClosed
		}
		err := sendPacket(c.fd, kind, seq, r)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EAGAIN) || waited > writeTimeout {
			c.close()
			return err
		}
		select {
		case <-time.After(pause):
			waited += pause
		case <-c.space.ctx.Done():
			return net.ErrClosed
		}
	}
}

// away is the answer of a manager that ends to what it has done nothing of: the client asks the next.
var away = reply{errno: unix.ECONNRESET, hangUp: true}

func failed(errno unix.Errno) reply { return reply{errno: errno} }

// refuse turns an error into the errno of a reply.
func refuse(err error) reply {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return reply{errno: errno}
	}
	return reply{errno: unix.EIO}
}
