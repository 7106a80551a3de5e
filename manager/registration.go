package manager

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

const (
	registerTimeout = 5 * time.Second // to connect, and then to say hello
	maxNonces       = 128             // channel sockets that nobody came to yet
	maxStrangers    = 256             // connections that did not say hello yet
	maxLine         = 64
)

// openRegister opens the FIFO for reading and writing, so that it never comes
// to its end when the last writer leaves.
func openRegister(path string) (*os.File, error) {
	// A manager that is not root needs the read bit for the moment of opening.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if err := os.Chmod(path, 0o222); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// readRegister makes a channel for each line that asks for one. Anything else
// in the FIFO is skipped; anybody can write anything there, and a line proves
// nothing.
func (s *space) readRegister() {
	buf := make([]byte, abi.PageSize)
	var line lineReader
	for {
		n, err := s.register.Read(buf)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				s.log.Error("register unreadable", keyError, err)
			}
			return
		}
		made, skipped := 0, 0
		line.feed(buf[:n], func(text string) {
			nonce, ok := parseRegistration(text)
			if !ok {
				skipped++
				return
			}
			if err := s.channels.add(nonce); err != nil {
				skipped++
				s.log.Debug("registration refused", keyError, err)
				return
			}
			made++
		})
		if made > 0 {
			s.table.bump(&s.table.header.Registrations)
		}
		// Who floods the FIFO gets a slower reader, not a busy one.
		if skipped > made {
			select {
			case <-time.After(2 * time.Millisecond):
			case <-s.ctx.Done():
				return
			}
		}
	}
}

// lineReader cuts a stream into lines of at most maxLine bytes. The rest of a
// longer one is skipped.
type lineReader struct {
	line []byte
	skip bool
}

func (l *lineReader) feed(b []byte, f func(string)) {
	for _, c := range b {
		switch {
		case c == '\n':
			if !l.skip && len(l.line) > 0 {
				f(string(l.line))
			}
			l.line, l.skip = l.line[:0], false
		case len(l.line) == maxLine:
			l.skip = true
		default:
			l.line = append(l.line, c)
		}
	}
}

// parseRegistration parses a line of abi.RegisterFormat. The version is
// checked on the channel, where it can be refused.
func parseRegistration(line string) (nonce string, ok bool) {
	rest, ok := strings.CutPrefix(line, "ipcspace ")
	if !ok {
		return "", false
	}
	version, nonce, ok := strings.Cut(rest, " ")
	if !ok || len(nonce) != abi.NonceDigits {
		return "", false
	}
	if _, err := strconv.ParseUint(version, 10, 32); err != nil {
		return "", false
	}
	for _, c := range []byte(nonce) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", false
		}
	}
	return nonce, true
}

// listeners are the sockets in channels/.
type listeners struct {
	space *space
	dir   *os.File // O_PATH: socket names are short through /proc/self/fd

	mu        sync.Mutex
	any       *net.UnixListener
	nonces    map[string]*net.UnixListener
	strangers map[*channel]struct{}
	closed    bool
}

func newListeners(s *space) (*listeners, error) {
	path := filepath.Join(s.storage.public, abi.ChannelsName)
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	l := &listeners{
		space: s, dir: os.NewFile(uintptr(fd), path),
		nonces: map[string]*net.UnixListener{}, strangers: map[*channel]struct{}{},
	}
	// Sockets of a manager before this one lead nowhere.
	entries, err := os.ReadDir(path)
	if err != nil {
		_ = l.dir.Close()
		return nil, err
	}
	for _, e := range entries {
		_ = os.Remove(filepath.Join(path, e.Name()))
	}
	if l.any, err = l.listen(abi.AnyChannelName); err != nil {
		_ = l.dir.Close()
		return nil, err
	}
	return l, nil
}

// open serves the permanent socket, once the space has its listeners.
func (l *listeners) open() {
	l.space.work.Go(func() {
		for l.accept(l.any) {
		}
	})
}

// listen binds a socket under a hidden name, opens it to all and renames it,
// so that nobody meets it half made.
func (l *listeners) listen(name string) (*net.UnixListener, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	at := func(n string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", l.dir.Fd(), n) }
	fresh := at("." + name)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: fresh}); err != nil {
		return nil, &os.PathError{Op: "bind", Path: name, Err: err}
	}
	err = errors.Join(
		os.Chmod(fresh, 0o666),
		// Accepted sockets inherit it, so that the first message has credentials.
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1),
		unix.Listen(fd, 64),
	)
	if err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, fresh, unix.AT_FDCWD, at(name), unix.RENAME_NOREPLACE)
	}
	if err != nil {
		_ = os.Remove(fresh)
		return nil, fmt.Errorf("make channel %s: %w", name, err)
	}
	ln, err := net.FileListener(f)
	if err != nil {
		_ = os.Remove(at(name))
		return nil, err
	}
	ul := ln.(*net.UnixListener)
	ul.SetUnlinkOnClose(false)
	return ul, nil
}

// add makes the channel of a nonce. It goes with the first who connects, or
// after registerTimeout.
func (l *listeners) add(nonce string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.nonces[nonce] != nil || len(l.nonces) >= maxNonces {
		return unix.EAGAIN
	}
	ln, err := l.listen(nonce)
	if err != nil {
		return err
	}
	l.nonces[nonce] = ln
	_ = ln.SetDeadline(time.Now().Add(registerTimeout))
	l.space.work.Go(func() {
		l.accept(ln)
		l.mu.Lock()
		delete(l.nonces, nonce)
		l.mu.Unlock()
		_ = ln.Close()
		_ = unix.Unlinkat(int(l.dir.Fd()), nonce, 0)
	})
	return nil
}

// accept takes one connection and serves it in a goroutine. false: no more
// will come.
func (l *listeners) accept(ln *net.UnixListener) bool {
	conn, err := ln.AcceptUnix()
	if err != nil {
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		l.space.log.Warn("accept failed", keyError, err)
		select {
		case <-time.After(100 * time.Millisecond): // out of descriptors
			return true
		case <-l.space.ctx.Done():
			return false
		}
	}
	c, err := newChannel(l.space, conn)
	if err != nil {
		_ = conn.Close()
		l.space.log.Debug("connection refused", keyError, err)
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.strangers) >= maxStrangers {
		c.close()
		_ = c.pidfd.Close()
		return true
	}
	l.strangers[c] = struct{}{}
	l.space.work.Go(c.greet)
	return true
}

// known says that a connection said hello, or is over.
func (l *listeners) known(c *channel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.strangers, c)
}

func (l *listeners) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	_ = l.any.Close()
	_ = unix.Unlinkat(int(l.dir.Fd()), abi.AnyChannelName, 0)
	for _, ln := range l.nonces {
		_ = ln.SetDeadline(time.Now())
	}
	for c := range l.strangers {
		c.close()
	}
	// l.dir stays open until the goroutines of the nonces have unlinked them;
	// its finalizer closes it.
}
