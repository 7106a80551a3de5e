package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/ipcspace/ipcspace/manager/admin"
)

type outputFormat int

const (
	formatTable outputFormat = iota
	formatJSON
)

func addOutput(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "table", "table or json")
	// The flag was registered the line before; nothing else can fail.
	_ = cmd.RegisterFlagCompletionFunc("output",
		cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

func format(name string) (outputFormat, error) {
	switch name {
	case "table":
		return formatTable, nil
	case "json":
		return formatJSON, nil
	}
	return 0, usageErrorf("--output %q: it must be table or json", name)
}

// tell asks the manager and shows what it says: as JSON, or as text writes it.
func tell[R proto.Message](cmd *cobra.Command, output string, ask func(*admin.Client) (R, error), text func(io.Writer, R) error) error {
	show, err := format(output)
	if err != nil {
		return err
	}
	client, err := dial(cmd)
	if err != nil {
		return err
	}
	defer client.Close()
	reply, err := ask(client)
	if err != nil {
		return plain(err)
	}
	if show == formatJSON {
		return writeJSON(cmd.OutOrStdout(), reply)
	}
	return text(cmd.OutOrStdout(), reply)
}

// writeJSON writes a message of the admin API under its own field names.
// protojson varies its white space on purpose: indent with encoding/json.
func writeJSON(w io.Writer, message proto.Message) error {
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(message)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err = w.Write(out.Bytes())
	return err
}

// table lines up columns.
type table struct {
	rows [][]string
}

func newTable(head ...string) *table {
	return &table{rows: [][]string{head}}
}

func (t *table) row(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = fmt.Sprint(c)
	}
	t.rows = append(t.rows, row)
}

func (t *table) write(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range t.rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}

var errSize = errors.New("write a number, with k, m, g or t for powers of 1024")

// parseSize reads 4096, 64k, 512m, 2g, 2GiB, 1t. Empty is 0.
func parseSize(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	digits := strings.TrimRight(strings.ToLower(text), "bikmgt")
	unit := strings.ToLower(text)[len(digits):]
	value, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q: %w", text, errSize)
	}
	shift, known := map[string]int{
		"": 0, "b": 0, "k": 10, "kb": 10, "kib": 10, "m": 20, "mb": 20, "mib": 20,
		"g": 30, "gb": 30, "gib": 30, "t": 40, "tb": 40, "tib": 40,
	}[unit]
	if !known {
		return 0, fmt.Errorf("%q: %w", text, errSize)
	}
	if value > math.MaxUint64>>shift {
		return 0, fmt.Errorf("%q: larger than 64 bits hold", text)
	}
	return value << shift, nil
}

func humanSize(bytes uint64) string {
	value, unit := float64(bytes), 0
	for value >= 1024 && unit < 5 {
		value /= 1024
		unit++
	}
	text := strconv.FormatFloat(value, 'f', 1, 64)
	return strings.TrimSuffix(text, ".0") + []string{"B", "K", "M", "G", "T", "P"}[unit]
}

// humanLimit shows Linux's largest limits as what they mean.
func humanLimit(limit uint64) string {
	if limit >= math.MaxUint64-1<<24 {
		return "unlimited"
	}
	return strconv.FormatUint(limit, 10)
}

// humanAge is the time since t in its largest unit.
func humanAge(t time.Time) string {
	age := time.Since(t)
	switch {
	case age < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(age.Seconds())))
	case age < time.Hour:
		return fmt.Sprintf("%dm", int(age.Minutes()))
	case age < 48*time.Hour:
		return fmt.Sprintf("%dh", int(age.Hours()))
	}
	return fmt.Sprintf("%dd", int(age.Hours()/24))
}
