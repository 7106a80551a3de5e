package manager

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
	"github.com/ipcspace/ipcspace/manager/procfs"
)

// The sysctls of a space, as ipc/ipc_sysctl.c has them for an IPC namespace.

// sysctl is one of the files. fields leads to the values of those that are
// limits; the others are a family's next_id.
type sysctl struct {
	fields func(l *Limits) []*uint64
	most   uint64 // of each value; 0: no bound (unsigned long)
	signed bool   // values below 0 can be read, if not set
	next   Family
}

var sysctls = map[string]sysctl{
	"shmmax":          {fields: func(l *Limits) []*uint64 { return []*uint64{&l.ShmMax} }},
	"shmall":          {fields: func(l *Limits) []*uint64 { return []*uint64{&l.ShmAll} }},
	"shmmni":          {fields: func(l *Limits) []*uint64 { return []*uint64{&l.ShmMni} }, most: abi.MaxObjects},
	"shm_rmid_forced": {fields: func(l *Limits) []*uint64 { return []*uint64{&l.ShmRmidForced} }, most: 1},
	"sem": {fields: func(l *Limits) []*uint64 {
		return []*uint64{&l.SemMsl, &l.SemMns, &l.SemOpm, &l.SemMni}
	}, most: math.MaxInt32, signed: true},
	"msgmax":      {fields: func(l *Limits) []*uint64 { return []*uint64{&l.MsgMax} }, most: math.MaxInt32},
	"msgmnb":      {fields: func(l *Limits) []*uint64 { return []*uint64{&l.MsgMnb} }, most: math.MaxInt32},
	"msgmni":      {fields: func(l *Limits) []*uint64 { return []*uint64{&l.MsgMni} }, most: abi.MaxObjects},
	"shm_next_id": {next: Shm, most: math.MaxInt32},
	"sem_next_id": {next: Sem, most: math.MaxInt32},
	"msg_next_id": {next: Msg, most: math.MaxInt32},
}

// Sysctl is the text of /proc/sys/kernel/name.
func (s *space) Sysctl(name string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := sysctls[name]
	if s.closed || !ok {
		return nil, unix.ENODEV
	}
	if c.fields == nil {
		return fmt.Appendln(nil, s.table.nextID(c.next)), nil
	}
	l := s.table.limits()
	var words []string
	for _, v := range c.fields(&l) {
		words = append(words, strconv.FormatUint(*v, 10))
	}
	return []byte(strings.Join(words, "\t") + "\n"), nil
}

// SetSysctl writes /proc/sys/kernel/name. As in the kernel, values before one
// that is refused are set, values that are left out stay.
func (s *space) SetSysctl(name string, text []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := sysctls[name]
	if s.closed || !ok {
		return 0, unix.ENODEV
	}
	l := s.table.limits()
	fields := []*uint64{new(uint64)}
	if c.fields != nil {
		fields = c.fields(&l)
	}
	set, used, err := c.parse(text, fields)
	if set == 0 {
		return 0, err
	}
	if c.fields == nil {
		s.table.setNextID(c.next, int64(*fields[0]))
		return used, err
	}
	// sem_check_semmni: it is put back, the other three stay as written.
	if l.SemMni > abi.MaxObjects {
		l.SemMni, err = s.table.limits().SemMni, unix.ERANGE
	}
	if refused := s.setLimits(l); refused != nil {
		return 0, unix.EINVAL
	}
	return used, err
}

// MaySet is ipc_permissions (ipc/ipc_sysctl.c): the limits are for the owner
// of the namespace, which is the manager's root, the ids for those who restore
// checkpoints.
func (s *space) MaySet(name string, writer procfs.Process) bool {
	if sysctls[name].fields != nil {
		return writer.UID == 0
	}
	if writer.PID == 0 {
		return false
	}
	who := &caller{pid: writer.PID, uid: writer.UID, gid: writer.GID, self: s.m.userns, alive: func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d", writer.PID))
		return err == nil
	}}
	return who.capable(capCheckpointRestore) || who.capable(capSysAdmin)
}

// parse reads numbers into fields as proc_dointvec and proc_doulongvec_minmax
// (kernel/sysctl.c) do: decimal, octal or hexadecimal, between white space, at
// most 21 characters each. It returns how many fields were set and how many
// bytes were used; EINVAL where a number is refused or none is there. A number
// below 0 that can be read becomes one that no limit allows.
func (c sysctl) parse(text []byte, fields []*uint64) (set, used int, err error) {
	const space, longest = " \t\n\v\f\r", 21
	rest := bytes.TrimLeft(text, space)
	for set < len(fields) && len(rest) > 0 {
		end := bytes.IndexAny(rest, " \t\n")
		if end < 0 {
			end = len(rest)
		}
		word, negative := strings.CutPrefix(string(rest[:end]), "-")
		value, perr := parseNumber(word)
		if perr != nil || end > longest || negative && !c.signed || c.most > 0 && value > c.most {
			err = unix.EINVAL
			break
		}
		if negative && value > 0 {
			value = math.MaxUint64
		}
		*fields[set] = value
		set++
		rest = bytes.TrimLeft(rest[end:], space)
	}
	if set == 0 {
		err = unix.EINVAL
	}
	return set, len(text) - len(rest), err
}

// parseNumber is strtoul with base 0: Go knows more prefixes.
func parseNumber(word string) (uint64, error) {
	base := 10
	if hex, ok := strings.CutPrefix(strings.ToLower(word), "0x"); ok {
		word, base = hex, 16
	} else if len(word) > 1 && word[0] == '0' {
		base = 8
	}
	return strconv.ParseUint(word, base, 64)
}
