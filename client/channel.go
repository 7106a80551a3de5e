package client

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// managerPatience is how long a call waits for a manager that is away. One
// that is restarted or upgraded is back long before.
const managerPatience = 30 * time.Second

const packetHead = 64 // bytes of abi.Request and abi.Reply

// request is one request, less its Seq.
type request struct {
	kind uint32
	args []int64
	body []byte
}

// reply is the manager's answer. Who gets it closes the descriptors.
type reply struct {
	abi.Reply
	body []byte
	fds  []int
}

func (r *reply) close() {
	for _, fd := range r.fds {
		_ = unix.Close(fd)
	}
	r.fds = nil
}

// away tells whether a manager that ends has done nothing: the next one is to be asked.
func (r *reply) away() bool { return unix.Errno(r.Errno) == unix.ECONNRESET }

// errHungUp says that a connection ended: the manager is restarted, or gone.
var errHungUp = errors.New("manager hung up")

// connection is one connection to the manager. Any number of requests may be
// under way; one goroutine reads the replies.
type connection struct {
	conn    *net.UnixConn
	mu      sync.Mutex
	waiting map[uint32]chan *reply // by Seq; nil when the connection ended
}

// connect announces this process at the register and connects to the channel
// that the manager makes for it.
func connect(ctx context.Context, dir string, t *table) (*net.UnixConn, error) {
	var random [abi.NonceDigits / 2]byte
	_, _ = rand.Read(random[:]) // never fails
	nonce := hex.EncodeToString(random[:])
	announced := false
	for round := 0; ; round++ {
		seen := atomic.LoadUint32(&t.header.Registrations)
		if !announced {
			err := announce(dir, nonce)
			if errors.Is(err, unix.ENOENT) {
				return nil, fmt.Errorf("%w in %s any more: %w", ErrNoSpace, dir, err)
			}
			announced = err == nil
		}
		conn, err := dial(dir, nonce)
		if err != nil && (round > 2 || !announced) {
			// Where the FIFO is flooded lines get lost: the permanent socket
			// serves everybody, more slowly.
			conn, err = dial(dir, abi.AnyChannelName)
		}
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("register in %s (%v): %w", dir, err, context.Cause(ctx)) //nolint:errorlint // the cause alone: who asked gave up, whatever the last try met
		}
		if round%16 == 15 {
			announced = false // a manager that came back knows no old line
		}
		futexWait(&t.header.Registrations, seen, 20*time.Millisecond)
	}
}

// announce writes this process's line into the register. ENXIO: nobody reads it.
func announce(dir, nonce string) error {
	fd, err := unix.Open(filepath.Join(dir, abi.RegisterName), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, fmt.Appendf(nil, abi.RegisterFormat, abi.LayoutMajor, nonce))
	return err
}

// longestAddress is what a socket's address has room for (sun_path, unix(7)).
const longestAddress = 107

// dial connects to a channel; by way of a descriptor of the folder if its path
// is too long for a socket's address.
func dial(dir, name string) (*net.UnixConn, error) {
	path := filepath.Join(dir, abi.ChannelsName, name)
	if len(path) > longestAddress {
		folder, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		defer unix.Close(folder)
		path = fmt.Sprintf("/proc/self/fd/%d/%s", folder, name)
	}
	return net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: path})
}

// newConnection begins to read replies; readers counts the goroutine.
func newConnection(conn *net.UnixConn, readers *sync.WaitGroup) *connection {
	c := &connection{conn: conn, waiting: map[uint32]chan *reply{}}
	readers.Go(c.read)
	return c
}

func (c *connection) read() {
	buf, oob := make([]byte, abi.MaxPacket), make([]byte, 256)
	for {
		r, err := receive(c.conn, buf, oob)
		if err != nil {
			break
		}
		c.mu.Lock()
		ch := c.waiting[r.Seq]
		delete(c.waiting, r.Seq)
		c.mu.Unlock()
		if ch == nil {
			r.close() // its caller did not wait for it
			continue
		}
		ch <- r
	}
	_ = c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.waiting {
		close(ch)
	}
	c.waiting = nil
}

// receive reads one reply.
func receive(conn *net.UnixConn, buf, oob []byte) (*reply, error) {
	n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, err
	}
	r := &reply{}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range msgs {
		if fds, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			r.fds = append(r.fds, fds...)
		}
	}
	if n < packetHead || err != nil {
		r.close()
		return nil, errHungUp
	}
	le := binary.LittleEndian
	r.Kind, r.Seq, r.Errno, r.Len = le.Uint32(buf), le.Uint32(buf[4:]), le.Uint32(buf[8:]), le.Uint32(buf[12:])
	for i := range r.Val {
		r.Val[i] = int64(le.Uint64(buf[16+8*i:]))
	}
	r.body = append([]byte(nil), buf[packetHead:n]...)
	return r, nil
}

// post sends a request. The reply comes through the channel, which is closed
// without one when the connection ends.
func (c *connection) post(seq uint32, q *request) (<-chan *reply, error) {
	ch := make(chan *reply, 1)
	c.mu.Lock()
	if c.waiting == nil {
		c.mu.Unlock()
		return nil, errHungUp
	}
	c.waiting[seq] = ch
	c.mu.Unlock()
	err := transmit(c.conn, seq, q)
	if err != nil {
		c.forget(seq)
		if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.ECONNREFUSED) ||
			errors.Is(err, unix.ENOTCONN) || errors.Is(err, net.ErrClosed) {
			return nil, errHungUp
		}
		return nil, fmt.Errorf("request to the manager: %w", err)
	}
	return ch, nil
}

// forget gives up a request's reply.
func (c *connection) forget(seq uint32) {
	c.mu.Lock()
	ch := c.waiting[seq]
	delete(c.waiting, seq)
	c.mu.Unlock()
	select {
	case r, ok := <-ch:
		if ok {
			r.close()
		}
	default:
	}
}

// transmit writes one request, with the effective ids of the calling thread:
// what the kernel would fill in by itself are the real ones.
func transmit(conn *net.UnixConn, seq uint32, q *request) error {
	le := binary.LittleEndian
	b := make([]byte, packetHead, packetHead+len(q.body))
	le.PutUint32(b, q.kind)
	le.PutUint32(b[4:], seq)
	le.PutUint32(b[8:], uint32(unix.Gettid()))
	le.PutUint32(b[12:], uint32(len(q.body)))
	for i, v := range q.args {
		le.PutUint64(b[16+8*i:], uint64(v))
	}
	b = append(b, q.body...)
	credentials := unix.UnixCredentials(&unix.Ucred{
		Pid: int32(os.Getpid()), Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid()),
	})
	_, _, err := conn.WriteMsgUnix(b, credentials, nil)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
		// Ids that the user namespace does not map cannot be named.
		_, _, err = conn.WriteMsgUnix(b, nil, nil)
	}
	return err
}

// ask sends a request and waits for its reply.
func (c *connection) ask(ctx context.Context, seq uint32, q *request) (*reply, error) {
	ch, err := c.post(seq, q)
	if err != nil {
		return nil, err
	}
	select {
	case r, ok := <-ch:
		if !ok {
			return nil, errHungUp
		}
		return r, nil
	case <-ctx.Done():
		c.forget(seq)
		return nil, context.Cause(ctx)
	}
}
