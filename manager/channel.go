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

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// channel is one connection of a session. One goroutine reads its requests
// and answers them in turn; brokered calls that sleep answer from goroutines
// of their own.
type channel struct {
	space *space
	conn  *net.UnixConn
	raw   syscall.RawConn
	pid   int      // who connected
	pidfd *os.File // of pid

	session *session // nil before hello; set once, by serve

	write  sync.Mutex // one packet at a time
	closer sync.Once
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
}

const (
	packetHead   = 64
	writeTimeout = 5 * time.Second
	maxPassed    = 8 // descriptors that are looked for in a message, to be closed
)

var packets = sync.Pool{New: func() any { return new([abi.MaxPacket + 1]byte) }}

// newChannel asks the kernel who is at the other end.
func newChannel(s *space, conn *net.UnixConn) (*channel, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &channel{space: s, conn: conn, raw: raw}
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

// close ends the connection; serve returns.
func (c *channel) close() { c.closer.Do(func() { _ = c.conn.Close() }) }

func (c *channel) serve() {
	defer func() {
		c.close()
		c.space.channels.known(c)
		c.space.leave(c)
		_ = c.pidfd.Close()
	}()
	_ = c.conn.SetReadDeadline(time.Now().Add(registerTimeout))
	for {
		again, err := c.serveOne()
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) &&
				!errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
				c.space.log.Warn("channel closed", keyPID, c.pid, keyError, err)
			}
			return
		}
		if !again {
			return
		}
	}
}

func (c *channel) serveOne() (again bool, err error) {
	buf, n, cred, err := c.receive()
	if err != nil {
		return false, err
	}
	defer packets.Put(buf)
	req, err := parseRequest(buf[:n], cred)
	if err != nil {
		return false, err
	}
	var r reply
	switch {
	case c.session == nil && req.Kind != abi.MsgHello:
		r = reply{errno: unix.EPROTO, hangUp: true}
	case c.session == nil:
		if r = c.space.hello(c, req); r.errno == 0 {
			c.space.channels.known(c)
			_ = c.conn.SetReadDeadline(time.Time{})
		}
	default:
		r = c.space.handle(c, req)
	}
	if !r.later {
		err = c.send(req.Kind, req.Seq, &r)
	}
	for _, f := range r.closing {
		_ = f.Close()
	}
	return !r.hangUp, err
}

// receive waits for a packet without holding a buffer meanwhile.
func (c *channel) receive() (buf *[abi.MaxPacket + 1]byte, n int, cred *unix.Ucred, err error) {
	var oob [512]byte
	var oobn, flags int
	var opErr error
	err = c.raw.Read(func(fd uintptr) bool {
		buf = packets.Get().(*[abi.MaxPacket + 1]byte)
		for {
			n, oobn, flags, _, opErr = unix.Recvmsg(int(fd), buf[:], oob[:], unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
			if opErr != unix.EINTR {
				break
			}
		}
		if opErr != nil {
			packets.Put(buf)
		}
		return opErr != unix.EAGAIN
	})
	if err = errors.Join(err, opErr); err != nil {
		return nil, 0, nil, err
	}
	cred, passed := parseControl(oob[:oobn])
	switch {
	case passed:
		err = errors.New("client sent descriptors")
	case n == 0:
		err = io.EOF
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || n > abi.MaxPacket:
		err = errors.New("packet too large")
	case cred == nil:
		err = errors.New("packet without credentials")
	}
	if err != nil {
		packets.Put(buf)
		return nil, 0, nil, err
	}
	return buf, n, cred, nil
}

// parseControl finds the credentials and closes descriptors.
func parseControl(oob []byte) (cred *unix.Ucred, passed bool) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, false
	}
	for i := range msgs {
		if fds, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			passed = true
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
		} else if u, err := unix.ParseUnixCredentials(&msgs[i]); err == nil {
			cred = u
		}
	}
	return cred, passed
}

func parseRequest(b []byte, cred *unix.Ucred) (*request, error) {
	if len(b) < packetHead {
		return nil, fmt.Errorf("packet of %d bytes has no head", len(b))
	}
	le := binary.LittleEndian
	r := &request{cred: *cred}
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

// send writes a reply. A client that does not read is cut off.
func (c *channel) send(kind, seq uint32, r *reply) error {
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
	var oob []byte
	if len(r.files) > 0 {
		fds := make([]int, len(r.files))
		for i, f := range r.files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	c.write.Lock()
	defer c.write.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, _, err := c.conn.WriteMsgUnix(b, oob, nil)
	if err != nil {
		c.close()
	}
	return err
}

func failed(errno unix.Errno) reply { return reply{errno: errno} }

// refuse turns an error into the errno of a reply.
func refuse(err error) reply {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return reply{errno: errno}
	}
	return reply{errno: unix.EIO}
}
