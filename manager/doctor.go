package manager

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/client/plane"
)

// Finding is what an examination of a space found, and what to do about it.
type Finding struct {
	Serious bool   // something is broken; else it is to be known
	What    string // it concerns: "set 5", "session 7", "files"
	Text    string
	Remedy  string
}

// Objects in use change while they are looked at. What is wrong for a moment
// only is a call under way: so a finding must be the same in all looks.
const (
	looks     = 12
	lookPause = 5 * time.Millisecond
)

// Examine checks the invariants of a live space. ErrNoSpace.
func (m *Manager) Examine(name string) ([]Finding, error) {
	m.mu.Lock()
	s, err := m.findLocked(name)
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, f := range []Family{Sem, Msg} {
		s.mu.Lock()
		var ids []uint32
		for _, o := range s.objects[f] {
			ids = append(ids, o.rec.ID)
		}
		s.mu.Unlock()
		for _, id := range ids {
			if err := s.examineObject(f, id); err != nil {
				found = append(found, Finding{
					Serious: true, What: fmt.Sprintf("%s %d", f, id), Text: err.Error(),
					Remedy: "a member wrote nonsense into it, or this is a bug; its users may see wrong values: remove it (ipcspace ipcrm) and let them make it again",
				})
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	found = append(found, s.examineSessions()...)
	found = append(found, s.examineFiles()...)
	return found, nil
}

// examineObject is the error that each of many looks at an object shows.
func (s *space) examineObject(f Family, id uint32) error {
	var first error
	for n := range looks {
		if n > 0 {
			time.Sleep(lookPause) //nolint:forbidigo // a call under way has no event
		}
		s.mu.Lock()
		o, err := s.find(f, int64(id))
		if err == nil {
			err = o.onPlane((*plane.Set).Verify, (*plane.Queue).Verify)
		} else {
			err = nil // removed meanwhile
		}
		s.mu.Unlock()
		if err == nil || first != nil && err.Error() != first.Error() {
			return nil
		}
		first = err
	}
	return first
}

func (s *space) examineSessions() (found []Finding) {
	for _, x := range s.sessions {
		what := fmt.Sprintf("session %d (pid %d)", x.number, x.id.pid)
		switch {
		case x.id == (processID{}) && !x.reserved.IsZero() && time.Since(x.reserved) > time.Minute:
			found = append(found, Finding{What: what, Text: "a fork has been under way for more than a minute", Remedy: "its parent is stopped, or forks very slowly; it is settled when the parent goes on or ends"})
		case x.id != (processID{}) && s.isDead(x):
			found = append(found, Finding{Serious: true, What: what, Text: "its process is dead and was not cleaned up after", Remedy: "restart the manager: it cleans up as it starts; and report this as a bug"})
		}
	}
	most := s.state.header.MaxSessions
	if n := uint64(len(s.sessions)); n*10 >= most*9 {
		found = append(found, Finding{What: "sessions", Text: fmt.Sprintf("%d of %d are taken", n, most), Remedy: "processes beyond that are refused (EUSERS): make a space with more sessions"})
	}
	return found
}

func (s *space) examineFiles() (found []Finding) {
	st := &s.storage
	if st.guard == nil {
		found = append(found, Finding{What: "files", Text: "not sealed: members trust each other", Remedy: "run the manager as root, on Linux 6.2 or later with Landlock"})
	}
	if n := st.jams.hanging.Load(); n > 0 {
		found = append(found, Finding{Serious: true, What: "files", Text: fmt.Sprintf("%d calls wait for files that a member keeps busy", n), Remedy: "look for a process of the space that hangs in write(2), and end it"})
	}
	var fs unix.Statfs_t
	if st.mounted && unix.Statfs(st.private, &fs) == nil {
		used := (fs.Blocks - fs.Bfree) * uint64(fs.Bsize)
		if bound := st.inner + st.heldInner.Load() + st.overhead + innerSlack; used > bound {
			found = append(found, Finding{Serious: true, What: "files", Text: fmt.Sprintf("they take %d MiB, %d MiB were promised", used>>20, bound>>20), Remedy: "a member makes files longer, or touches all of the pulse: the log has its pid"})
		}
		if free := fs.Ffree; fs.Files > 0 && free < fs.Files/20 {
			found = append(found, Finding{What: "files", Text: fmt.Sprintf("%d inodes of %d are left", free, fs.Files), Remedy: "remove objects, or make a space with more inodes"})
		}
	}
	if st.promised*10 >= st.size*9 {
		found = append(found, Finding{What: "size", Text: fmt.Sprintf("%d of %d MiB are promised", st.promised>>20, st.size>>20), Remedy: "new segments are refused (ENOSPC) soon: remove some, or make a larger space"})
	}
	for _, name := range []string{abi.TableName, abi.RegisterName, abi.ChannelsName} {
		if _, err := os.Lstat(st.public + "/" + name); errors.Is(err, os.ErrNotExist) {
			found = append(found, Finding{Serious: true, What: "public folder", Text: name + " is missing", Remedy: "somebody with root on the node removed it: remove the space and make it again"})
		}
	}
	return found
}
