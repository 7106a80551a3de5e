package main

import (
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/manager/admin"
)

// allFamilies, in the order in which util-linux's ipcs shows them.
var allFamilies = []admin.Family{admin.Family_FAMILY_MSG, admin.Family_FAMILY_SHM, admin.Family_FAMILY_SEM}

// listing says which columns are shown of the objects.
type listing int

const (
	listPlain listing = iota
	listTimes
	listPIDs
	listCreators
)

// spaceFlag adds --space; inside `ipcspace run` it need not be given.
func spaceFlag(cmd *cobra.Command) {
	cmd.Flags().String("space", os.Getenv(spaceEnv), "name of the space (also: IPCSPACE_SPACE)")
	// The flag was registered the line before; nothing else can fail.
	_ = cmd.RegisterFlagCompletionFunc("space", completeSpaces)
}

func spaceOf(cmd *cobra.Command) (string, error) {
	name, err := cmd.Flags().GetString("space")
	if err != nil {
		return "", err
	}
	if name == "" {
		return "", usageErrorf("which space? Name it with --space; `ipcspace space list` shows them")
	}
	return name, nil
}

func newIpcsCommand() *cobra.Command {
	var shm, sem, msg, all, times, pids, creators, limits bool
	var output string
	cmd := &cobra.Command{
		Use:   "ipcs",
		Short: "Show the objects of a space, as ipcs(1)",
		Long: `Show the segments, semaphore sets and message queues of a space, whoever owns
them: the manager answers. util-linux's own ipcs works too, as a member of the
space and with its rights: ipcspace run --space NAME -- ipcs`,
		Example: `  ipcspace ipcs --space shop
  ipcspace ipcs --space shop -m -p
  ipcspace ipcs --space shop -o json`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			name, err := spaceOf(cmd)
			if err != nil {
				return err
			}
			families := chosen(shm && !all, sem && !all, msg && !all)
			if limits {
				ask := func(m *admin.Client) (*admin.Limits, error) {
					reply, err := m.InspectSpace(cmd.Context(), &admin.InspectSpaceRequest{Name: name})
					return reply.GetSpace().GetLimits(), err
				}
				return tell(cmd, output, ask, func(w io.Writer, l *admin.Limits) error {
					writeLimits(w, l, families)
					return nil
				})
			}
			ask := func(m *admin.Client) (*admin.ListObjectsResponse, error) {
				reply, err := m.ListObjects(cmd.Context(), &admin.ListObjectsRequest{Space: name})
				return only(reply, families), err
			}
			columns := listPlain
			switch {
			case times:
				columns = listTimes
			case pids:
				columns = listPIDs
			case creators:
				columns = listCreators
			}
			return tell(cmd, output, ask, func(w io.Writer, reply *admin.ListObjectsResponse) error {
				return writeObjects(w, reply.GetObjects(), families, columns)
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&shm, "shmems", "m", false, "shared memory segments")
	flags.BoolVarP(&sem, "semaphores", "s", false, "semaphore sets")
	flags.BoolVarP(&msg, "queues", "q", false, "message queues")
	flags.BoolVarP(&all, "all", "a", false, "all three (default)")
	flags.BoolVarP(&times, "time", "t", false, "times of the last operations")
	flags.BoolVarP(&pids, "pid", "p", false, "process ids of creators and last users")
	flags.BoolVarP(&creators, "creator", "c", false, "owners and creators")
	flags.BoolVarP(&limits, "limits", "l", false, "the space's limits")
	cmd.MarkFlagsMutuallyExclusive("time", "pid", "creator", "limits")
	spaceFlag(cmd)
	addOutput(cmd, &output)
	return cmd
}

// chosen is the families asked for; none asked for means all.
func chosen(shm, sem, msg bool) []admin.Family {
	if !shm && !sem && !msg {
		return allFamilies
	}
	var families []admin.Family
	for _, f := range allFamilies {
		if msg && f == admin.Family_FAMILY_MSG || shm && f == admin.Family_FAMILY_SHM || sem && f == admin.Family_FAMILY_SEM {
			families = append(families, f)
		}
	}
	return families
}

func ofFamily(objects []*admin.Object, f admin.Family) []*admin.Object {
	var found []*admin.Object
	for _, o := range objects {
		if o.GetFamily() == f {
			found = append(found, o)
		}
	}
	return found
}

func only(reply *admin.ListObjectsResponse, families []admin.Family) *admin.ListObjectsResponse {
	kept := &admin.ListObjectsResponse{}
	for _, f := range families {
		kept.Objects = append(kept.Objects, ofFamily(reply.GetObjects(), f)...)
	}
	return kept
}

// writeObjects shows objects in the manner of util-linux's ipcs.
func writeObjects(w io.Writer, objects []*admin.Object, families []admin.Family, columns listing) error {
	for _, f := range families {
		fmt.Fprintf(w, "\n------ %s --------\n", map[admin.Family]string{
			admin.Family_FAMILY_MSG: "Message Queues",
			admin.Family_FAMILY_SHM: "Shared Memory Segments",
			admin.Family_FAMILY_SEM: "Semaphore Arrays",
		}[f])
		t := newTable(heads[columns][f]...)
		for _, o := range ofFamily(objects, f) {
			t.row(cells(o, columns)...)
		}
		if err := t.write(w); err != nil {
			return err
		}
	}
	return nil
}

var heads = map[listing]map[admin.Family][]string{
	listPlain: {
		admin.Family_FAMILY_MSG: {"key", "msqid", "owner", "perms", "used-bytes", "messages"},
		admin.Family_FAMILY_SHM: {"key", "shmid", "owner", "perms", "bytes", "nattch", "status"},
		admin.Family_FAMILY_SEM: {"key", "semid", "owner", "perms", "nsems"},
	},
	listTimes: {
		admin.Family_FAMILY_MSG: {"msqid", "owner", "send", "recv", "change"},
		admin.Family_FAMILY_SHM: {"shmid", "owner", "attached", "detached", "changed"},
		admin.Family_FAMILY_SEM: {"semid", "owner", "last-op", "last-changed"},
	},
	listPIDs: {
		admin.Family_FAMILY_MSG: {"msqid", "owner", "lspid", "lrpid"},
		admin.Family_FAMILY_SHM: {"shmid", "owner", "cpid", "lpid"},
		admin.Family_FAMILY_SEM: {"semid", "owner"},
	},
	listCreators: {
		admin.Family_FAMILY_MSG: {"msqid", "perms", "cuid", "cgid", "uid", "gid"},
		admin.Family_FAMILY_SHM: {"shmid", "perms", "cuid", "cgid", "uid", "gid"},
		admin.Family_FAMILY_SEM: {"semid", "perms", "cuid", "cgid", "uid", "gid"},
	},
}

func cells(o *admin.Object, columns listing) []any {
	owner, perms := userName(o.GetUid()), fmt.Sprintf("%o", o.GetMode()&0o777)
	family := o.GetFamily()
	switch columns {
	case listTimes:
		switch family {
		case admin.Family_FAMILY_MSG:
			return []any{o.GetId(), owner, clock(o.GetSent()), clock(o.GetReceived()), clock(o.GetChanged())}
		case admin.Family_FAMILY_SHM:
			return []any{o.GetId(), owner, clock(o.GetAttached()), clock(o.GetDetached()), clock(o.GetChanged())}
		}
		return []any{o.GetId(), owner, clock(o.GetOperated()), clock(o.GetChanged())}
	case listPIDs:
		switch family {
		case admin.Family_FAMILY_MSG:
			return []any{o.GetId(), owner, o.GetSendPid(), o.GetReceivePid()}
		case admin.Family_FAMILY_SHM:
			return []any{o.GetId(), owner, o.GetCreatorPid(), o.GetLastPid()}
		}
		return []any{o.GetId(), owner}
	case listCreators:
		return []any{o.GetId(), perms, userName(o.GetCuid()), o.GetCgid(), owner, o.GetGid()}
	}
	key := fmt.Sprintf("0x%08x", o.GetKey())
	switch family {
	case admin.Family_FAMILY_MSG:
		return []any{key, o.GetId(), owner, perms, o.GetBytes(), o.GetMessages()}
	case admin.Family_FAMILY_SHM:
		return []any{key, o.GetId(), owner, perms, o.GetSize(), o.GetAttaches(), segmentStatus(o.GetMode())}
	}
	return []any{key, o.GetId(), owner, perms, o.GetSize()}
}

func segmentStatus(mode uint32) string {
	var words []string
	if mode&abi.ModeDest != 0 {
		words = append(words, "dest")
	}
	if mode&abi.ModeLocked != 0 {
		words = append(words, "locked")
	}
	return strings.Join(words, " ")
}

func writeLimits(w io.Writer, l *admin.Limits, families []admin.Family) {
	for _, f := range families {
		switch f {
		case admin.Family_FAMILY_MSG:
			fmt.Fprintf(w, "\n------ Messages Limits --------\nqueues (msgmni) = %d\nbytes of a message (msgmax) = %d\nbytes of a queue (msgmnb) = %d\n",
				l.GetMsgmni(), l.GetMsgmax(), l.GetMsgmnb())
		case admin.Family_FAMILY_SHM:
			fmt.Fprintf(w, "\n------ Shared Memory Limits --------\nsegments (shmmni) = %d\nbytes of a segment (shmmax) = %s\npages of all segments (shmall) = %s\n",
				l.GetShmmni(), humanLimit(l.GetShmmax()), humanLimit(l.GetShmall()))
		case admin.Family_FAMILY_SEM:
			fmt.Fprintf(w, "\n------ Semaphore Limits --------\nsets (semmni) = %d\nsemaphores of a set (semmsl) = %d\nsemaphores (semmns) = %d\noperations of a semop (semopm) = %d\n",
				l.GetSemmni(), l.GetSemmsl(), l.GetSemmns(), l.GetSemopm())
		}
	}
}

func userName(uid uint32) string {
	if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
		return u.Username
	}
	return strconv.FormatUint(uint64(uid), 10)
}

func clock(t *timestamppb.Timestamp) string {
	if t == nil {
		return "never"
	}
	return t.AsTime().Local().Format(time.DateTime)
}
