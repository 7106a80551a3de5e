package admin

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ipcspace/ipcspace/manager"
)

// LimitsFrom is l with Linux's defaults for what it leaves open; nil for nil.
func LimitsFrom(l *Limits) *manager.Limits {
	if l == nil {
		return nil
	}
	limits := manager.DefaultLimits()
	l.apply(&limits)
	return &limits
}

// apply sets in limits what l does not leave open.
func (l *Limits) apply(limits *manager.Limits) {
	if l == nil {
		return
	}
	for _, f := range []struct {
		to   *uint64
		from *uint64
	}{
		{&limits.ShmMax, l.Shmmax}, {&limits.ShmAll, l.Shmall}, {&limits.ShmMni, l.Shmmni},
		{&limits.SemMsl, l.Semmsl}, {&limits.SemMns, l.Semmns}, {&limits.SemOpm, l.Semopm},
		{&limits.SemMni, l.Semmni},
		{&limits.MsgMax, l.Msgmax}, {&limits.MsgMnb, l.Msgmnb}, {&limits.MsgMni, l.Msgmni},
		{&limits.ShmRmidForced, l.ShmRmidForced},
	} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
}

func configFrom(r *CreateSpaceRequest) manager.SpaceConfig {
	return manager.SpaceConfig{
		Name: r.GetName(), Size: r.GetSize(), Inodes: r.GetInodes(),
		Sessions: int(r.GetSessions()), Limits: LimitsFrom(r.GetLimits()), Closed: r.GetClosed(),
		Reclaim: manager.Reclaim(r.GetReclaim()), LeftBehind: manager.LeftBehind(r.GetLeftBehind()),
		Brokered: r.GetBrokered(), SmallPages: r.GetSmallPages(), ContainerIDs: r.GetContainerIds(),
	}
}

func limitsOf(l manager.Limits) *Limits {
	return &Limits{
		Shmmax: proto.Uint64(l.ShmMax), Shmall: proto.Uint64(l.ShmAll), Shmmni: proto.Uint64(l.ShmMni),
		Semmsl: proto.Uint64(l.SemMsl), Semmns: proto.Uint64(l.SemMns), Semopm: proto.Uint64(l.SemOpm),
		Semmni: proto.Uint64(l.SemMni),
		Msgmax: proto.Uint64(l.MsgMax), Msgmnb: proto.Uint64(l.MsgMnb), Msgmni: proto.Uint64(l.MsgMni),
		ShmRmidForced: proto.Uint64(l.ShmRmidForced),
	}
}

func spaceOf(s manager.SpaceInfo) *Space {
	return &Space{
		Name: s.Name, Id: s.ID, Dir: s.Dir, Proc: s.Proc, Created: timeOf(s.Created),
		Size: s.Size, Used: s.Used, Limits: limitsOf(s.Limits),
		ShmSegments: uint32(s.Objects[manager.Shm]),
		SemSets:     uint32(s.Objects[manager.Sem]),
		MsgQueues:   uint32(s.Objects[manager.Msg]),
		Semaphores:  uint32(s.Semaphores),
		Sessions:    uint32(s.Sessions), MaxSessions: uint32(s.MaxSessions),
		Sealed:  s.Sealed,
		Reclaim: Reclaim(s.Reclaim), LeftBehind: LeftBehind(s.LeftBehind),
		Brokered: s.Brokered, SmallPages: s.SmallPages, ContainerIds: s.ContainerIDs, Closed: s.Closed, Pods: s.Pods,
	}
}

func objectOf(o manager.ObjectInfo) *Object {
	return &Object{
		Family: familyOf(o.Family), Id: int32(o.ID), Key: o.Key,
		Uid: o.UID, Gid: o.GID, Cuid: o.CUID, Cgid: o.CGID, Mode: o.Mode, Size: o.Size,
		Changed:  timeOf(o.Changed),
		Attaches: uint64(o.Attaches), Attached: timeOf(o.Attached), Detached: timeOf(o.Detached),
		Operated: timeOf(o.Operated), Sent: timeOf(o.Sent), Received: timeOf(o.Received),
		Messages: o.Messages, Bytes: o.Bytes,
		LastPid: int32(o.LastPID), CreatorPid: int32(o.CreatorPID),
		SendPid: int32(o.SendPID), ReceivePid: int32(o.ReceivePID),
	}
}

func familyOf(f manager.Family) Family {
	switch f {
	case manager.Shm:
		return Family_FAMILY_SHM
	case manager.Sem:
		return Family_FAMILY_SEM
	case manager.Msg:
		return Family_FAMILY_MSG
	}
	return Family_FAMILY_UNSPECIFIED
}

func sessionOf(s manager.SessionInfo) *Session {
	return &Session{
		Number: s.Session, Pid: int32(s.PID), Command: s.Command, Started: timeOf(s.Started),
		Attaches: uint32(s.Uses), Channels: uint32(s.Channels), Container: s.Container,
	}
}

// timeOf is nil for the zero time, which means never.
func timeOf(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
