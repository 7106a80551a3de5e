package manager

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ipcspace/ipcspace/client/abi"
)

// What the exported calls tell of a space.

func (s *space) info() SpaceInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.table.header
	info := SpaceInfo{
		Name: s.name, ID: h.SpaceID, Dir: s.storage.shown, Proc: s.procDir(),
		Created: time.Unix(s.state.header.Created, 0),
		Size:    s.storage.size, Used: s.storage.promised, Limits: s.table.limits(),
		Objects:    [abi.Families]int{int(h.InUse[Shm]), int(h.InUse[Sem]), int(h.InUse[Msg])},
		Semaphores: int(h.Sems), Sessions: s.liveLocked(), MaxSessions: int(s.state.header.MaxSessions),
		Sealed:  s.storage.guard != nil,
		Reclaim: Reclaim(s.state.header.Reclaim), LeftBehind: s.policy(),
		Brokered: s.made(stateBrokered), SmallPages: s.made(stateSmallPages), ContainerIDs: s.made(stateContainerIDs),
	}
	if pods := s.door.pods.Load(); pods != nil {
		info.Closed, info.Pods = true, slices.Clone(*pods)
	}
	return info
}

// made tells what the space was made with.
func (s *space) made(flag uint32) bool { return s.state.header.Flags&flag != 0 }

// live counts the processes registered.
func (s *space) live() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.liveLocked()
}

func (s *space) liveLocked() int {
	n := 0
	for _, x := range s.sessions {
		if x.id != (processID{}) && !s.isDead(x) {
			n++
		}
	}
	return n
}

func (s *space) sessionInfos() []SessionInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []SessionInfo
	for _, x := range s.sessions {
		if x.id == (processID{}) {
			continue
		}
		i := SessionInfo{Session: x.number, PID: x.id.pid, Container: x.container, Started: x.since, Channels: len(x.channels)}
		if b, err := readProc(fmt.Sprintf("/proc/%d/comm", x.id.pid)); err == nil {
			i.Command = strings.TrimSuffix(string(b), "\n")
		}
		x.page.uses(func(_ int, u use) {
			if u.count > 0 {
				i.Uses++
			}
		})
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b SessionInfo) int { return int(a.Session) - int(b.Session) })
	return out
}

func (s *space) objectInfos() []ObjectInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []ObjectInfo
	for f := range s.objects {
		var list []*object
		for _, o := range s.objects[f] {
			list = append(list, o)
		}
		slices.SortFunc(list, func(a, b *object) int { return int(a.index) - int(b.index) })
		for _, o := range list {
			if i, err := s.objectInfo(o); err == nil && !o.gone {
				out = append(out, i)
			}
		}
	}
	return out
}

func (s *space) objectInfo(o *object) (ObjectInfo, error) {
	// Threads are not told from their processes.
	host := func(n, _ uint32) uint32 {
		if x := s.sessions[n]; x != nil {
			return uint32(x.id.pid)
		}
		if n <= abi.ManagerSession || n > s.state.header.Top {
			return 0
		}
		st, err := s.state.session(n)
		if err != nil {
			return 0
		}
		pid := uint32(0)
		for _, l := range st.Levels { // the outermost is the manager's
			if l.PID != 0 {
				pid = l.PID
			}
		}
		return pid
	}
	st, err := s.statOf(o, host)
	if err != nil {
		return ObjectInfo{}, err
	}
	at := func(seconds int64) time.Time {
		if seconds == 0 {
			return time.Time{}
		}
		return time.Unix(seconds, 0)
	}
	i := ObjectInfo{
		Family: o.family, ID: int(st.ID), Key: st.Key, UID: st.UID, GID: st.GID, CUID: st.CUID, CGID: st.CGID,
		Mode: st.Mode, Size: st.Size, Changed: at(st.Time[2]), CreatorPID: int(host(o.rec.Creator, 0)),
	}
	switch o.family {
	case Shm:
		i.Attached, i.Detached, i.Attaches, i.LastPID = at(st.Time[0]), at(st.Time[1]), int(st.Count[0]), int(st.PID[0])
	case Sem:
		i.Operated = at(st.Time[0])
	case Msg:
		i.Sent, i.Received = at(st.Time[0]), at(st.Time[1])
		i.Bytes, i.Messages = st.Count[0], st.Count[1]
		i.SendPID, i.ReceivePID = int(st.PID[0]), int(st.PID[1])
	}
	return i, nil
}
