package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/ipcspace/ipcspace/manager/admin"
)

func newDoctorCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check a live space, and explain what is wrong",
		Long: `Check a live space: the invariants of each set and queue, sessions, files, room.
Says what was found and what to do. The status is 1 if something is broken.`,
		Example: `  ipcspace doctor --space shop`,
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			name, err := spaceOf(cmd)
			if err != nil {
				return err
			}
			ask := func(m *admin.Client) (*admin.ExamineSpaceResponse, error) {
				return m.ExamineSpace(cmd.Context(), &admin.ExamineSpaceRequest{Name: name})
			}
			return tell(cmd, output, ask, writeFindings)
		},
	}
	spaceFlag(cmd)
	addOutput(cmd, &output)
	return cmd
}

func writeFindings(w io.Writer, r *admin.ExamineSpaceResponse) error {
	broken := 0
	for _, f := range r.GetFindings() {
		degree := "note"
		if f.GetSerious() {
			degree = "BROKEN"
			broken++
		}
		if _, err := fmt.Fprintf(w, "%s: %s: %s\n    %s\n", degree, f.GetWhat(), f.GetText(), f.GetRemedy()); err != nil {
			return err
		}
	}
	if len(r.GetFindings()) == 0 {
		_, err := fmt.Fprintf(w, "healthy: %d objects, %d sessions\n", r.GetObjects(), r.GetSessions())
		return err
	}
	if broken > 0 {
		return errors.New("the space is not as it should be")
	}
	return nil
}
