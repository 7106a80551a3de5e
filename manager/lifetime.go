package manager

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// What becomes of a space, and of the objects in it, when containers are gone. Nothing is asked for
// again and again: each wait is for the end of one process.

// reclaimDelay is how long a space with Delete stays after it was last asked for, if the
// configuration says nothing: a container's start takes a while from asking to mounting.
const reclaimDelay = 30 * time.Second

// EnsureSpace makes the space if it is not there: the configuration counts then. Either way it is
// not reclaimed before who asked has had time to mount it. mustExist: ErrNoSpace instead of making
// it. Otherwise the errors of CreateSpace.
func (m *Manager) EnsureSpace(ctx context.Context, cfg SpaceConfig, mustExist bool) (info SpaceInfo, created bool, err error) {
	if !ValidName(cfg.Name) {
		return SpaceInfo{}, false, nameError(cfg.Name)
	}
	for {
		m.mu.Lock()
		s, err := m.findLocked(cfg.Name)
		if err == nil {
			s.asked.Store(time.Now().UnixNano())
			info := s.info()
			m.mu.Unlock()
			return info, false, nil
		}
		m.mu.Unlock()
		if !errors.Is(err, ErrNoSpace) || mustExist {
			return SpaceInfo{}, false, err
		}
		info, err := m.CreateSpace(ctx, cfg)
		if !errors.Is(err, ErrExists) {
			return info, err == nil, err
		}
	}
}

// reclaim removes the space when nobody has it any more.
func (m *Manager) reclaim(s *space) {
	delay := m.cfg.ReclaimDelay
	if delay == 0 {
		delay = reclaimDelay
	}
	for {
		for left := delay; left > 0; left = time.Until(time.Unix(0, s.asked.Load()).Add(delay)) {
			select {
			case <-time.After(left):
			case <-s.ctx.Done():
				return
			}
		}
		m.mu.Lock()
		if m.closed || m.spaces[s.name] != s {
			m.mu.Unlock()
			return
		}
		pid, err := s.somebody()
		if err == nil && pid == 0 && time.Since(time.Unix(0, s.asked.Load())) >= delay {
			delete(m.spaces, s.name)
			err := s.destroy()
			m.mu.Unlock()
			if err != nil {
				s.log.Error("space not removed with its last container", keyError, err)
			} else {
				s.log.Info("space removed with its last container")
			}
			return
		}
		m.mu.Unlock()
		if err != nil && !s.pause(scarcePause) {
			return
		}
		if pid != 0 && waitEnd(s.ctx, pid) != nil {
			return
		}
	}
}

// scarcePause is how long the manager waits for what it has too little of to see.
const scarcePause = time.Second

// pause is false if the space ends meanwhile.
func (s *space) pause(long time.Duration) bool {
	select {
	case <-time.After(long):
		return true
	case <-s.ctx.Done():
		return false
	}
}

// somebody is a process that has the space, 0 if nobody has.
func (s *space) somebody() (int, error) {
	s.mu.Lock()
	for _, x := range s.sessions {
		if x.id != (processID{}) && !s.isDead(x) {
			s.mu.Unlock()
			return x.id.pid, nil
		}
	}
	s.mu.Unlock()
	members, err := s.members()
	if len(members) == 0 {
		return 0, err
	}
	return members[0].pid, nil
}

// waitEnd waits until a process has ended. An error: ctx did.
func waitEnd(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return ctx.Err() // it has ended
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(0, 1)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool { return !pidAlive(int(fd)) })
}

// left is called when a session ended. With the last one of its container begins the wait for the
// container's own end, before which it counts as one that has registered. Callers hold space.mu.
func (s *space) left(x *session) {
	if len(s.gone) > 0 {
		s.sweepSoon()
	}
	if x.container == "" || s.closed || s.watched[x.container] {
		return
	}
	for _, y := range s.sessions {
		if y != x && y.container == x.container {
			return
		}
	}
	s.watchContainer(x.container)
}

func (s *space) policy() LeftBehind { return LeftBehind(s.state.header.LeftBehind) }

func (s *space) watchContainer(name string) {
	s.watched[name] = true
	s.work.Go(func() {
		for {
			pid, err := s.m.node.memberOf(name)
			if err == nil && pid == 0 {
				break
			}
			if err != nil && !s.pause(scarcePause) || err == nil && waitEnd(s.ctx, pid) != nil {
				return
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watched, name)
		if s.closed || s.policy() == LeftKeep {
			return
		}
		s.gone[containerTag(name)] = name
		s.sweep()
	})
}

// sweepSoon looks once more, some time after sessions ended, for objects that nobody uses now.
func (s *space) sweepSoon() {
	if s.sweeping != nil || s.closed {
		return
	}
	s.sweeping = time.AfterFunc(time.Second, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sweeping = nil
		if !s.closed {
			s.sweep()
		}
	})
}

// sweep removes what containers that are gone left behind, as far as the policy goes and nobody uses
// it, and forgets those that left nothing.
func (s *space) sweep() {
	for _, x := range s.sessions {
		delete(s.gone, containerTag(x.container)) // it was started again under its old name
	}
	remain := map[uint64]bool{}
	removed := map[string]int{}
	for f := range s.objects {
		for _, o := range s.objects[f] {
			tag := s.creator(o)
			name, gone := s.gone[tag]
			if !gone || tag == 0 || s.policy() == LeftPrivate && o.rec.Key != 0 {
				continue
			}
			if s.used(o) {
				remain[tag] = true
				continue
			}
			s.removeObject(o)
			removed[name]++
		}
	}
	for tag := range s.gone {
		if !remain[tag] {
			delete(s.gone, tag)
		}
	}
	for name, n := range removed {
		s.log.Info("removed what a container that is gone left behind", keyContainer, name, "objects", n)
	}
}

// creator is the tag of the container in which an object was made.
func (s *space) creator(o *object) uint64 {
	if o.rec.Creator == 0 || o.rec.Creator > s.state.header.Top {
		return 0
	}
	st, err := s.state.session(o.rec.Creator)
	if err != nil {
		return 0
	}
	return st.Container
}

// used tells whether a live process may have something of an object.
func (s *space) used(o *object) bool {
	if o.family == Shm {
		a := s.attaches(o)
		return a.held || a.count > 0
	}
	for _, x := range s.sessions {
		if _, opened := x.opened[o]; opened || x.everything {
			return true
		}
	}
	return false
}

// resumeWatches takes up after a restart: the containers in which the objects were made are watched,
// or are gone by now. What cannot be seen is looked for again.
func (s *space) resumeWatches() {
	err := s.findContainers()
	if err == nil {
		return
	}
	s.log.Warn("what containers left behind stays for now: who is there is not known", keyError, err)
	s.work.Go(func() {
		for err != nil && s.pause(scarcePause) {
			s.mu.Lock()
			err = nil
			if !s.closed {
				err = s.findContainers()
			}
			s.mu.Unlock()
		}
	})
}

// findContainers is resumeWatches. An error: the manager has too little of something to see.
func (s *space) findContainers() error {
	tags := map[uint64]bool{}
	for f := range s.objects {
		for _, o := range s.objects[f] {
			if tag := s.creator(o); tag != 0 {
				tags[tag] = true
			}
		}
	}
	if len(tags) == 0 || s.policy() == LeftKeep {
		return nil
	}
	for _, x := range s.sessions {
		delete(tags, containerTag(x.container)) // its last session's end begins the watch
	}
	for name := range s.watched {
		delete(tags, containerTag(name))
	}
	pids, err := processes()
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, pid := range pids {
		name, err := s.m.node.containerOf(pid)
		if err != nil {
			return err
		}
		if tags[containerTag(name)] {
			there[name] = true
		}
	}
	for name := range there {
		delete(tags, containerTag(name))
		s.watchContainer(name)
	}
	for tag := range tags {
		s.gone[tag] = fmt.Sprintf("(before the restart, %x)", tag)
	}
	if len(tags) > 0 {
		s.sweep()
	}
	return nil
}
