package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ipcspace/ipcspace/manager/admin"
)

func newSpaceCommand() *cobra.Command {
	space := &cobra.Command{
		Use:   "space",
		Short: "Make, list, inspect and remove spaces",
		Long: `Make, list, inspect and remove the spaces of a running manager.

A space has its own keys, ids and limits. Its public folder is what programs
get: ` + "`ipcspace run --space NAME`" + ` gives it to a command, a read-only mount at
/run/ipcspace gives it to a container:

  ipcspace space create shop --size 2g --limit semmni=128
  docker run -v /run/ipcspace/spaces/shop:/run/ipcspace:ro \
         -e LD_PRELOAD=/run/ipcspace/lib/libipcspace.so ...`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return usageErrorf("unknown command %q; see: ipcspace space --help", args[0])
		},
	}
	space.AddCommand(newSpaceCreate(), newSpaceList(), newSpaceInspect(), newSpaceLimit(), newSpaceRemove())
	return space
}

func newSpaceCreate() *cobra.Command {
	var size, output string
	var inodes uint64
	var sessions uint32
	var limits []string
	var reclaim, leftBehind string
	var brokered, smallPages, containerIDs bool
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a space",
		Long: `Make a space. NAME is a DNS label: lower-case letters, digits and '-'.

Limits are those of Linux (kernel.shmmax … kernel.msgmni) unless set here:
shmmax shmall shmmni semmsl semmns semopm semmni msgmax msgmnb msgmni
shm_rmid_forced.`,
		Example: `  ipcspace space create shop
  ipcspace space create shop --size 2g --limit shmmni=64,msgmnb=65536`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			bytes, err := parseSize(size)
			if err != nil {
				return usageErrorf("--size: %w", err)
			}
			parsed, err := parseLimits(limits)
			if err != nil {
				return usageErrorf("--limit: %w", err)
			}
			policy, ok := admin.Reclaim_value["RECLAIM_"+strings.ToUpper(reclaim)]
			if !ok {
				return usageErrorf("--reclaim %q: it is retain or delete", reclaim)
			}
			left, ok := admin.LeftBehind_value["LEFT_BEHIND_"+strings.ToUpper(leftBehind)]
			if !ok {
				return usageErrorf("--left-behind %q: it is private, keep or unused", leftBehind)
			}
			ask := func(m *admin.Client) (*admin.CreateSpaceResponse, error) {
				return m.CreateSpace(cmd.Context(), &admin.CreateSpaceRequest{
					Name: args[0], Size: bytes, Inodes: inodes, Sessions: sessions, Limits: parsed,
					Reclaim: admin.Reclaim(policy), LeftBehind: admin.LeftBehind(left),
					Brokered: brokered, SmallPages: smallPages, ContainerIds: containerIDs,
				})
			}
			return tell(cmd, output, ask, func(w io.Writer, reply *admin.CreateSpaceResponse) error {
				_, err := fmt.Fprintln(w, reply.GetSpace().GetDir())
				return err
			})
		},
	}
	cmd.Flags().StringVar(&size, "size", "", "bytes that all objects may have together, as 512m or 2g (default the manager's)")
	cmd.Flags().Uint64Var(&inodes, "inodes", 0, "files of the space (default enough for the limits)")
	cmd.Flags().Uint32Var(&sessions, "sessions", 0, "processes at one time (default the manager's)")
	cmd.Flags().StringSliceVar(&limits, "limit", nil, "a limit, as shmmni=64; several by commas or repeated")
	cmd.Flags().StringVar(&reclaim, "reclaim", "retain", "delete: the space goes with the last container that has it")
	cmd.Flags().StringVar(&leftBehind, "left-behind", "private", "which objects go when the container that made them is gone and nobody uses them: private (made with IPC_PRIVATE), keep (none), unused (all)")
	cmd.Flags().BoolVar(&brokered, "brokered", false, "the manager makes each call on sets and queues, so that members cannot spoil them for each other; slower")
	cmd.Flags().BoolVar(&smallPages, "small-pages", false, "no huge pages for large segments")
	cmd.Flags().BoolVar(&containerIDs, "container-ids", false, "users and groups are those that containers with a user namespace know, not the node's")
	addOutput(cmd, &output)
	return cmd
}

func newSpaceList() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the spaces",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask := func(m *admin.Client) (*admin.ListSpacesResponse, error) {
				return m.ListSpaces(cmd.Context(), &admin.ListSpacesRequest{})
			}
			return tell(cmd, output, ask, writeSpaces)
		},
	}
	addOutput(cmd, &output)
	return cmd
}

func newSpaceInspect() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:               "inspect NAME",
		Short:             "Show a space: limits, processes, objects",
		Args:              exactArgs("NAME"),
		ValidArgsFunction: completeSpaces,
		RunE: func(cmd *cobra.Command, args []string) error {
			ask := func(m *admin.Client) (*admin.InspectSpaceResponse, error) {
				return m.InspectSpace(cmd.Context(), &admin.InspectSpaceRequest{Name: args[0]})
			}
			return tell(cmd, output, ask, writeSpace)
		},
	}
	addOutput(cmd, &output)
	return cmd
}

func newSpaceLimit() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "limit NAME LIMIT=VALUE...",
		Short: "Change limits of a space in use",
		Long: `Change limits of a space in use. What exists stays, new objects see them; only
shm_rmid_forced=1 removes the segments that nobody has attached and whose
creators ended. The names are those of "space create".`,
		Example: `  ipcspace space limit shop shmmni=8192 msgmnb=65536`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usageErrorf("NAME and LIMIT=VALUE are needed; see: %s --help", cmd.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: completeSpaces,
		RunE: func(cmd *cobra.Command, args []string) error {
			limits, err := parseLimits(args[1:])
			if err != nil {
				return usageErrorf("%w", err)
			}
			show, err := format(output)
			if err != nil {
				return err
			}
			client, err := dial(cmd)
			if err != nil {
				return err
			}
			defer client.Close()
			reply, err := client.SetLimits(cmd.Context(), &admin.SetLimitsRequest{Space: args[0], Limits: limits})
			if err != nil {
				return plain(err)
			}
			if show == formatJSON {
				return writeJSON(cmd.OutOrStdout(), reply.GetSpace())
			}
			writeSpaceLimits(cmd.OutOrStdout(), reply.GetSpace().GetLimits())
			return nil
		},
	}
	addOutput(cmd, &output)
	return cmd
}

func newSpaceRemove() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "remove NAME...",
		Aliases: []string{"rm"},
		Short:   "Remove spaces and all that is in them",
		Long: `Remove spaces and all that is in them. Calls that sleep in it end with EIDRM,
memory that is attached stays until its processes detach it. A space that
processes are registered with is removed with --force only.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageErrorf("NAME is missing; see: %s --help", cmd.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: completeSpaces,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := dial(cmd)
			if err != nil {
				return err
			}
			defer client.Close()
			var failed error
			for _, name := range args {
				_, err := client.RemoveSpace(cmd.Context(), &admin.RemoveSpaceRequest{Name: name, Force: force})
				if status.Code(err) == codes.FailedPrecondition && !force {
					err = fmt.Errorf("%w; end them, or remove it with --force", plain(err))
				}
				failed = errors.Join(failed, plain(err))
			}
			return failed
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also while processes are registered")
	return cmd
}

// completeSpaces offers the names of spaces to the shell.
func completeSpaces(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	client, err := dial(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer client.Close()
	reply, err := client.ListSpaces(cmd.Context(), &admin.ListSpacesRequest{})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, s := range reply.GetSpaces() {
		names = append(names, s.GetName())
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func writeSpaces(w io.Writer, reply *admin.ListSpacesResponse) error {
	t := newTable("NAME", "SEGMENTS", "SETS", "QUEUES", "PROCESSES", "USED", "SIZE", "AGE")
	for _, s := range reply.GetSpaces() {
		t.row(s.GetName(), s.GetShmSegments(), s.GetSemSets(), s.GetMsgQueues(), s.GetSessions(),
			humanSize(s.GetUsed()), humanSize(s.GetSize()), humanAge(s.GetCreated().AsTime()))
	}
	return t.write(w)
}

func writeSpace(w io.Writer, reply *admin.InspectSpaceResponse) error {
	s, l := reply.GetSpace(), reply.GetSpace().GetLimits()
	trust := "sealed: members cannot shrink, reopen or unlink objects"
	if !s.GetSealed() {
		trust = "not sealed: members trust each other (unprivileged manager)"
	}
	fmt.Fprintf(w, "Space      %s (%016x)\nFolder     %s\nCreated    %s\nMemory     %s promised of %s\nObjects    %s\nProcesses  %d of at most %d\n",
		s.GetName(), s.GetId(), s.GetDir(), s.GetCreated().AsTime().Local().Format(time.DateTime),
		humanSize(s.GetUsed()), humanSize(s.GetSize()), trust, s.GetSessions(), s.GetMaxSessions())
	writeSpaceLimits(w, l)
	fmt.Fprintf(w, "Policy     %s with the last container, of objects left behind %s\n",
		map[admin.Reclaim]string{admin.Reclaim_RECLAIM_RETAIN: "stays", admin.Reclaim_RECLAIM_DELETE: "goes"}[s.GetReclaim()],
		map[admin.LeftBehind]string{admin.LeftBehind_LEFT_BEHIND_PRIVATE: "the private ones go", admin.LeftBehind_LEFT_BEHIND_KEEP: "all stay", admin.LeftBehind_LEFT_BEHIND_UNUSED: "all that nobody uses go"}[s.GetLeftBehind()])
	if s.GetBrokered() {
		fmt.Fprintln(w, "Access     brokered: the manager makes each call on sets and queues")
	}
	if s.GetClosed() {
		fmt.Fprintf(w, "Open to    %d pods: %s\n", len(s.GetPods()), strings.Join(s.GetPods(), " "))
	}
	if err := writeContainers(w, reply.GetContainers()); err != nil {
		return err
	}
	fmt.Fprintln(w, "\n------ Processes --------")
	t := newTable("PID", "COMMAND", "CONTAINER", "ATTACHES", "SINCE")
	for _, one := range reply.GetSessions() {
		t.row(one.GetPid(), one.GetCommand(), shortContainer(one.GetContainer()), one.GetAttaches(), humanAge(one.GetStarted().AsTime()))
	}
	if err := t.write(w); err != nil {
		return err
	}
	return writeObjects(w, reply.GetObjects(), allFamilies, listPlain)
}

// writeContainers lists who has the space's folder, with what is wrong.
func writeContainers(w io.Writer, containers []*admin.Container) error {
	fmt.Fprintln(w, "\n------ Containers --------")
	t := newTable("CONTAINER", "PID", "MOUNT", "PROCESSES", "REMARK")
	for _, c := range containers {
		remark := "-"
		switch {
		case c.GetWritable():
			remark = "REFUSED: writable; mount it read-only (:ro)"
		case !c.GetRegistered():
			remark = "no program registered; is LD_PRELOAD set, and is the program not static?"
		}
		t.row(shortContainer(c.GetName()), c.GetPid(), c.GetMount(), c.GetProcesses(), remark)
	}
	return t.write(w)
}

// shortContainer is as much of a container's id as Docker shows.
func shortContainer(name string) string {
	switch {
	case name == "":
		return "-"
	case len(name) == 64:
		return name[:12]
	}
	return name
}

func writeSpaceLimits(w io.Writer, l *admin.Limits) {
	fmt.Fprintf(w, "Limits     shmmax %s, shmall %s, shmmni %d\n           semmsl %d, semmns %d, semopm %d, semmni %d\n           msgmax %d, msgmnb %d, msgmni %d\n           shm_rmid_forced %d\n",
		humanLimit(l.GetShmmax()), humanLimit(l.GetShmall()), l.GetShmmni(),
		l.GetSemmsl(), l.GetSemmns(), l.GetSemopm(), l.GetSemmni(),
		l.GetMsgmax(), l.GetMsgmnb(), l.GetMsgmni(), l.GetShmRmidForced())
}

// parseLimits reads name=value pairs.
func parseLimits(pairs []string) (*admin.Limits, error) {
	if len(pairs) == 0 {
		return nil, nil
	}
	limits := &admin.Limits{}
	fields := map[string]**uint64{
		"shmmax": &limits.Shmmax, "shmall": &limits.Shmall, "shmmni": &limits.Shmmni,
		"semmsl": &limits.Semmsl, "semmns": &limits.Semmns, "semopm": &limits.Semopm, "semmni": &limits.Semmni,
		"msgmax": &limits.Msgmax, "msgmnb": &limits.Msgmnb, "msgmni": &limits.Msgmni,
		"shm_rmid_forced": &limits.ShmRmidForced,
	}
	for _, pair := range pairs {
		name, text, found := strings.Cut(pair, "=")
		field := fields[name]
		switch {
		case !found:
			return nil, fmt.Errorf("%q: write NAME=VALUE, as shmmni=64", pair)
		case field == nil:
			return nil, fmt.Errorf("%q is no limit; there are shmmax shmall shmmni semmsl semmns semopm semmni msgmax msgmnb msgmni shm_rmid_forced", name)
		}
		value, err := parseSize(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		*field = &value
	}
	return limits, nil
}

// plain strips gRPC's own words from an error of the manager.
func plain(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := status.FromError(err); ok {
		return errors.New(s.Message())
	}
	return err
}
