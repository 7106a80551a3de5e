package manager

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// stranger connects without saying hello.
func stranger(t *testing.T, dir string) *peer {
	t.Helper()
	fd, err := connect(dir, abi.AnyChannelName)
	check(t, err)
	p := &peer{dir: dir, fd: fd}
	t.Cleanup(p.close)
	return p
}

// wantHangUp expects the manager to close the channel.
func wantHangUp(t *testing.T, what string, p *peer) {
	t.Helper()
	if _, err := p.receive(); !errors.Is(err, errHungUp) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("%s: %v, want the channel closed", what, err)
	}
}

func TestHostilePackets(t *testing.T) {
	inBothWays(t, func(t *testing.T, cfg Config) {
		_, info := newManager(t, cfg, SpaceConfig{})
		good := mustPeer(t, info.Dir)
		passed, err := os.Open("/dev/null")
		check(t, err)
		defer passed.Close()
		head := packRequest(abi.MsgHello, 1, 0, nil, abi.LayoutMajor)
		lying := bytes.Clone(head)
		lying[12] = 200
		for _, c := range []struct {
			name   string
			packet []byte
			oob    []byte
		}{
			{"one byte", []byte{1}, nil},
			{"half a head", head[:40], nil},
			{"a length that lies", lying, nil},
			{"too long", append(bytes.Clone(head), make([]byte, abi.MaxPacket)...), nil},
			{"descriptors", head, unix.UnixRights(int(passed.Fd()), int(passed.Fd()))},
		} {
			p := stranger(t, info.Dir)
			if err := unix.Sendmsg(p.fd, c.packet, c.oob, nil, unix.MSG_NOSIGNAL); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			wantHangUp(t, c.name, p)
		}

		p := stranger(t, info.Dir)
		_, err = p.call(abi.MsgGet, nil, int64(Shm), 0, 0o600, 1)
		wantErr(t, "a request before hello", err, unix.EPROTO)
		wantHangUp(t, "a request before hello", p)

		p = stranger(t, info.Dir)
		a, err := p.call(abi.MsgHello, nil, abi.LayoutMajor+1)
		wantErr(t, "another version", err, unix.EPROTO)
		if a.Val[0] != abi.LayoutMajor {
			t.Errorf("refusal does not tell the version: %v", a.Val)
		}
		for _, c := range []struct {
			name    string
			session int64
			state   int64
			cookie  []byte
			want    error
		}{
			{"no cookie", int64(good.session), 0, nil, unix.EINVAL},
			{"a wrong cookie", int64(good.session), 0, make([]byte, 16), unix.EPERM},
			{"a wrong cookie, claiming", int64(good.session), 1, make([]byte, 16), unix.EPERM},
			{"no such session", 77777, 0, make([]byte, 16), unix.ESRCH},
			{"session out of range", 1 << 40, 0, make([]byte, 16), unix.ESRCH},
			{"negative session", -5, 0, make([]byte, 16), unix.ESRCH},
		} {
			p := stranger(t, info.Dir)
			_, err := p.call(abi.MsgHello, c.cookie, abi.LayoutMajor, c.session, c.state)
			wantErr(t, c.name, err, c.want)
		}

		_, err = good.call(999, nil)
		wantErr(t, "unknown request", err, unix.ENOSYS)
		for kind := uint32(2); kind <= abi.MsgForked; kind++ {
			if kind == abi.MsgCancel || kind == abi.MsgForked {
				continue
			}
			for _, v := range []int64{-1, 0, 1, 1 << 15, 1 << 31, 1 << 62, -1 << 63} {
				_, err := good.call(kind, []byte("x"), v, v, v, v, v, v)
				if errors.Is(err, errHungUp) {
					t.Fatalf("request %d of %d hung up", kind, v)
				}
			}
		}
		if _, err := good.get(Shm, 0, 0o600, 1); err != nil {
			t.Error("after all that: ", err)
		}
	})
}

// Another process cannot take over a session, even with its cookie.
func TestStolenCookie(t *testing.T) {
	_, info := newManager(t, Config{Unprivileged: true}, SpaceConfig{})
	victim := newPuppet(t, info.Dir, nil)
	out := victim.call(abi.MsgFold)
	p := stranger(t, info.Dir)
	_, err := p.call(abi.MsgHello, out.Cookie, abi.LayoutMajor, int64(out.Session), 0)
	wantErr(t, "resuming another's session", err, unix.EPERM)
	p = stranger(t, info.Dir)
	_, err = p.call(abi.MsgHello, out.Cookie, abi.LayoutMajor, int64(out.Session), 1)
	wantErr(t, "claiming another's session", err, unix.EPERM)
}

func TestHostileRegister(t *testing.T) {
	inBothWays(t, func(t *testing.T, cfg Config) {
		_, info := newManager(t, cfg, SpaceConfig{})
		fifo, err := os.OpenFile(filepath.Join(info.Dir, abi.RegisterName), os.O_WRONLY, 0)
		check(t, err)
		defer fifo.Close()
		for _, line := range []string{
			strings.Repeat("x", 10000), "\n\n\n", "ipcspace", "ipcspace 1 ", "\nipcspace 1 ../../../../etc/x\n",
			"\nipcspace 1 0123456789ABCDEF\n", "\nipcspace 1 0123456789abcdef0\n", "\nipcspace -1 0123456789abcdef\n",
			"\nipcspace 1 any\n", "\x00\x01\xff", "no end",
		} {
			_, err := fifo.WriteString(line)
			check(t, err)
			if _, err := newPeer(info.Dir); err != nil {
				t.Fatalf("registering after %q: %v", line, err)
			}
		}
		for i := range 3 * maxNonces { // nobody comes for them
			fmt.Fprintf(fifo, abi.RegisterFormat, abi.LayoutMajor, fmt.Sprintf("%016x", i))
		}
		time.Sleep(100 * time.Millisecond)
		entries, _ := os.ReadDir(filepath.Join(info.Dir, abi.ChannelsName))
		if len(entries) > maxNonces+1 {
			t.Errorf("%d sockets stand there", len(entries))
		}
		p := stranger(t, info.Dir)
		if err := p.hello(0, 0, nil); err != nil {
			t.Error("channels/any while the register is abused: ", err)
		}
	})
}

func TestTooManyChannels(t *testing.T) {
	_, info := newManager(t, Config{Unprivileged: true}, SpaceConfig{Sessions: 2})
	first := mustPeer(t, info.Dir)
	for i := 1; ; i++ {
		p := stranger(t, info.Dir)
		err := p.hello(first.session, 0, first.cookie())
		if i == maxChannels {
			wantErr(t, "one channel too many", err, unix.EMFILE)
			break
		}
		check(t, err)
	}
	mustPeer(t, info.Dir) // this process again: its page is mapped, so another session
	_, err := newPeer(info.Dir)
	wantErr(t, "one session too many", err, unix.EUSERS)
}

// A client that does not read is not read from: it loses no answer, even if it
// says all the time that it looks for one in its page, and others are served.
func TestReadsLate(t *testing.T) {
	_, info := newManager(t, Config{Unprivileged: true}, SpaceConfig{})
	other, p := mustPeer(t, info.Dir), mustPeer(t, info.Dir)
	id, err := p.get(Msg, 0, 0o600, 0)
	check(t, err)
	atomic.StoreUint64(&p.view().Answer, abi.AnswerAwaited) // to a request that nobody makes
	ask := packRequest(abi.MsgCtl, 1, 1, nil, int64(Msg), id, unix.IPC_STAT)
	sent := 0
	for full := 0; full < 5; { // by then nothing is taken any more
		switch err := unix.Sendmsg(p.fd, ask, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); {
		case err == nil:
			sent, full = sent+1, 0
		case errors.Is(err, unix.EAGAIN):
			full++
			time.Sleep(20 * time.Millisecond)
		default:
			t.Fatalf("request %d: %v", sent, err)
		}
	}
	if _, err := other.get(Shm, 0, 0o600, 1); err != nil {
		t.Error(err)
	}
	for i := range sent {
		if _, err := p.receive(); err != nil {
			t.Fatalf("answer %d of %d: %v", i, sent, err)
		}
	}
}

func TestLineReader(t *testing.T) {
	var got []string
	var l lineReader
	for _, s := range []string{"ab", "c\n\nd\n", strings.Repeat("x", 200) + "\n", "e", "\n"} {
		l.feed([]byte(s), func(s string) { got = append(got, s) })
	}
	if strings.Join(got, "|") != "abc|d|e" {
		t.Errorf("lines %q", got)
	}
}

func FuzzRegistration(f *testing.F) {
	f.Add([]byte("\nipcspace 1 0123456789abcdef\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var l lineReader
		l.feed(b, func(line string) {
			if nonce, ok := parseRegistration(line); ok && (len(nonce) != abi.NonceDigits || strings.ContainsAny(nonce, "./")) {
				t.Errorf("nonce %q", nonce)
			}
		})
	})
}

func FuzzRequest(f *testing.F) {
	f.Add(packRequest(abi.MsgGet, 1, 2, []byte("abc"), 1, 2, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRequest(b, unix.Ucred{})
		if err == nil && len(r.body) != int(r.Len) {
			t.Errorf("body of %d bytes, length %d", len(r.body), r.Len)
		}
	})
}

func FuzzStat(f *testing.F) {
	f.Add([]byte("1 (a b) c) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 77 0"))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = parseStat(b) })
}

// What a session's page says of a segment that the session was never given counts for nothing: not
// for nattch, nor for the times, nor is the segment kept for it.
func TestLiesAboutAttaches(t *testing.T) {
	inBothWays(t, func(t *testing.T, cfg Config) {
		_, info := newManager(t, cfg, SpaceConfig{})
		owner, liar := mustPeer(t, info.Dir), mustPeer(t, info.Dir)
		for _, size := range []int64{4096, 2 << 20} {
			id, err := owner.get(Shm, 0, 0o600, size)
			check(t, err)
			before, err := owner.stat(Shm, id)
			check(t, err)
			unchanged := func(lie string) {
				t.Helper()
				if st, err := owner.stat(Shm, id); err != nil || st != before {
					t.Errorf("%d bytes, %s: %v, %+v, want %+v", size, lie, err, st, before)
				}
			}
			serial := owner.record(Shm, id).Serial
			liar.count(serial, 1)
			unchanged("attached")
			liar.count(serial, -1)
			_, err = liar.call(abi.MsgFold, nil)
			check(t, err)
			unchanged("detached")
			number, pg := liar.spare(t, 0)
			pg.view().Uses[0] = abi.Use{Serial: serial, Count: 1, ATime: time.Now().UnixNano()}
			atomic.StoreUint32(&pg.view().State, abi.PageReserved)
			unchanged("about to fork with it")
			pg.view().Uses[0] = abi.Use{}
			liar.spare(t, number)

			liar.count(serial, 1)
			_, err = owner.ctl(Shm, id, unix.IPC_RMID)
			check(t, err)
			_, err = owner.stat(Shm, id)
			wantErr(t, "a removed segment that somebody says he has attached", err, unix.EINVAL)
			liar.view().Uses = [abi.PageUses]abi.Use{}
		}
	})
}
