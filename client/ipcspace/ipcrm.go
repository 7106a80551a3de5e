package main

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/ipcspace/ipcspace/manager/admin"
)

func newIpcrmCommand() *cobra.Command {
	ids := map[admin.Family]*[]string{}
	keys := map[admin.Family]*[]string{}
	var all bool
	cmd := &cobra.Command{
		Use:   "ipcrm",
		Short: "Remove objects of a space, as ipcrm(1)",
		Long: `Remove segments, semaphore sets and message queues of a space, by id or by key,
with the manager's rights. Calls that sleep on them end with EIDRM; a segment
goes when its last attach is gone.`,
		Example: `  ipcspace ipcrm --space shop -q 32768
  ipcspace ipcrm --space shop -M 0x0052e2c1 -S 77
  ipcspace ipcrm --space shop --all`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			name, err := spaceOf(cmd)
			if err != nil {
				return err
			}
			byID, byKey, err := parseNumbers(ids, keys)
			if err != nil {
				return err
			}
			if !all && len(byID) == 0 && len(byKey) == 0 {
				return usageErrorf("what to remove? Name ids (-m -q -s) or keys (-M -Q -S), or say --all")
			}
			client, err := dial(cmd)
			if err != nil {
				return err
			}
			defer client.Close()
			reply, err := client.ListObjects(cmd.Context(), &admin.ListObjectsRequest{Space: name})
			if err != nil {
				return plain(err)
			}
			var failed error
			targets := byID
			for _, want := range byKey {
				id, err := idOfKey(reply.GetObjects(), want)
				if err != nil {
					failed = errors.Join(failed, err)
					continue
				}
				targets = append(targets, id)
			}
			if all {
				targets = nil
				for _, o := range reply.GetObjects() {
					targets = append(targets, target{o.GetFamily(), int64(o.GetId())})
				}
			}
			for _, t := range targets {
				_, err := client.RemoveObject(cmd.Context(), &admin.RemoveObjectRequest{
					Space: name, Family: t.family, Id: int32(t.number),
				})
				failed = errors.Join(failed, plain(err))
			}
			return failed
		},
	}
	for _, f := range []struct {
		family           admin.Family
		id, key          string
		idLong, longStem string
	}{
		{admin.Family_FAMILY_SHM, "m", "M", "segment", "shmem"},
		{admin.Family_FAMILY_MSG, "q", "Q", "queue", "queue"},
		{admin.Family_FAMILY_SEM, "s", "S", "semaphore set", "semaphore"},
	} {
		ids[f.family] = cmd.Flags().StringSliceP(f.longStem+"-id", f.id, nil, "the "+f.idLong+" with this id")
		keys[f.family] = cmd.Flags().StringSliceP(f.longStem+"-key", f.key, nil, "the "+f.idLong+" with this key")
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "all objects of the space")
	spaceFlag(cmd)
	return cmd
}

// target is an object named by a number: an id, or a key.
type target struct {
	family admin.Family
	number int64
}

func parseNumbers(ids, keys map[admin.Family]*[]string) (byID, byKey []target, err error) {
	for _, f := range allFamilies {
		for _, text := range *ids[f] {
			number, err := strconv.ParseInt(text, 0, 32)
			if err != nil {
				return nil, nil, usageErrorf("%q is no id", text)
			}
			byID = append(byID, target{f, number})
		}
		for _, text := range *keys[f] {
			number, err := strconv.ParseInt(text, 0, 64)
			if err != nil || number < -1<<31 || number > 1<<32-1 {
				return nil, nil, usageErrorf("%q is no key", text)
			}
			if number == 0 {
				return nil, nil, usageErrorf("key 0 is IPC_PRIVATE, which names no object: give its id")
			}
			byKey = append(byKey, target{f, int64(uint32(number))})
		}
	}
	return byID, byKey, nil
}

func idOfKey(objects []*admin.Object, want target) (target, error) {
	for _, o := range objects {
		if o.GetFamily() == want.family && int64(o.GetKey()) == want.number {
			return target{want.family, int64(o.GetId())}, nil
		}
	}
	return target{}, fmt.Errorf("nothing has the key 0x%08x", want.number)
}
