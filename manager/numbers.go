package manager

import (
	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// sessionWindow is how many numbers are in use before old ones come again.
// Every number costs a page of the pulse for good.
const sessionWindow = 1024

// freeSession takes a number that nobody has and that no object names. Which
// numbers are named is found out for many at a time.
func (s *space) freeSession() (uint32, error) {
	h := s.state.header
	if len(s.numbers) == 0 {
		if h.Top >= uint32(max(sessionWindow, 2*len(s.sessions))) || h.Top == abi.MaxSessions-1 {
			s.numbers = s.unnamedSessions()
		}
		for fresh := len(s.numbers); fresh < sessionWindow/4 && h.Top < abi.MaxSessions-1; fresh++ {
			h.Top = max(h.Top, abi.ManagerSession) + 1
			s.numbers = append(s.numbers, h.Top)
		}
	}
	if len(s.numbers) == 0 {
		return 0, unix.EUSERS
	}
	n := s.numbers[0]
	s.numbers = s.numbers[1:]
	return n, s.storage.reserve(s.overhead())
}

// overhead is what sessions take of the private folder: a page each and their
// page of the pulse, and the state file.
func (s *space) overhead() uint64 {
	return (uint64(s.state.header.Top) + s.storage.pages + uint64(len(s.sessions)) + 1024) * abi.PageSize
}

// unnamedSessions lists the numbers that were given out before, that nobody
// has now and that no object names.
func (s *space) unnamedSessions() []uint32 {
	named, err := s.namedSessions()
	if err != nil {
		s.log.Error("session numbers cannot be used again", keyError, err)
		return nil
	}
	var out []uint32
	for n := uint32(abi.ManagerSession + 1); n <= s.state.header.Top; n++ {
		if s.sessions[n] == nil && !named[n] {
			out = append(out, n)
		}
	}
	return out
}
