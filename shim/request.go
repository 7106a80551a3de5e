// Package shim is what the container side has in common: what a container asks for, in annotations
// or by the mount that it has, and what it gets for it. Its folders are the ways to do so: a wrapper
// of the OCI runtime, an OCI hook, a CDI specification, an NRI plugin.
//
// It knows the manager's admin API only, and trusts nothing that an image can say: annotations and
// mounts come from who starts the container, the environment may come from the image.
package shim

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ipcspace/ipcspace/manager/admin"
)

// Annotations of a container (or of its pod) that are for us.
const (
	Prefix = "ipcspace.io/"
	// AnnotationSpace names the space that the container is to have.
	AnnotationSpace = Prefix + "space"
	// AnnotationKernelIPC is "closed", the default: the kernel's own System V IPC refuses everything
	// in the container's IPC namespace, so that what goes past the library fails instead of working
	// on tables of its own; or "open".
	AnnotationKernelIPC = Prefix + "kernel-ipc"
	// AnnotationCreate is "if-missing", the default, or "never".
	AnnotationCreate = Prefix + "create"
	// AnnotationSize and AnnotationLimits are those of a space that is made: "512m",
	// "shmmni=64,semmni=128".
	AnnotationSize   = Prefix + "size"
	AnnotationLimits = Prefix + "limits"
	// AnnotationReclaim of a space that is made: "retain", the default, or "delete" when no container
	// has it any more.
	AnnotationReclaim = Prefix + "reclaim"
	// AnnotationLeftBehind of a space that is made: which of the objects that a container made go when
	// it is gone and nobody uses them: "keep", "private" (the default) or "unused".
	AnnotationLeftBehind = Prefix + "left-behind"
	// AnnotationPreload "bind" binds a file over /etc/ld.so.preload, for programs of glibc that lose
	// their environment (su -, env -i, sudo) or are setuid.
	AnnotationPreload = Prefix + "ld-so-preload"
)

// Where a container has its space.
const (
	Target  = "/run/ipcspace"
	Library = Target + "/lib/libipcspace.so"
	// PreloadFile stands in a space's folder and names Library; PreloadTarget is what it is bound over.
	PreloadFile   = "lib/ld.so.preload"
	PreloadTarget = "/etc/ld.so.preload"
)

// Sysctls close the kernel's own System V IPC in an IPC namespace.
var Sysctls = map[string]string{"kernel.shmmni": "0", "kernel.msgmni": "0", "kernel.sem": "0 0 0 0"}

// ErrRefused is what a container asks for and cannot have. Its text says what to do.
var ErrRefused = errors.New("refused")

// Request is what one container asks for.
type Request struct {
	Space string // "" if only mounted under another path, by a volume driver
	// Mounted: the container's configuration has the mount at Target already.
	Mounted    bool
	OpenKernel bool // leave the kernel's own System V IPC as it is
	MustExist  bool
	BindFile   bool // AnnotationPreload
	Config     *admin.CreateSpaceRequest
}

// Mount is a mount of a container's configuration, as far as it matters here.
type Mount struct {
	Destination, Source string
	Options             []string
}

// Parse finds out what a container asks for. nil: nothing. root is the manager's.
func Parse(root string, annotations map[string]string, mounts []Mount) (*Request, error) {
	r := &Request{Space: annotations[AnnotationSpace]}
	for _, m := range mounts {
		if filepath.Clean("/"+m.Destination) != Target {
			continue
		}
		name, known := SpaceOf(root, m.Source)
		if !known && !looksLikeSpace(m.Source) {
			continue // of something else
		}
		// Docker from version 25 on writes rro: with all that is mounted below.
		if !contains(m.Options, "ro") && !contains(m.Options, "rro") {
			return nil, fmt.Errorf("%w: %s is mounted at %s without ro; mount it read-only (docker run -v %s:%s:ro)",
				ErrRefused, m.Source, Target, m.Source, Target)
		}
		if r.Space != "" && known && name != r.Space {
			return nil, fmt.Errorf("%w: space %q is mounted and the annotation %s asks for %q; drop one of them",
				ErrRefused, name, AnnotationSpace, r.Space)
		}
		// What a volume driver has mounted it has chosen: a name of its users need not be one of this node.
		r.Space, r.Mounted = name, true
	}
	if r.Space == "" && !r.Mounted {
		return nil, nil
	}
	if r.Space != "" && !admin.ValidName(r.Space) {
		return nil, fmt.Errorf("%w: %q is no name of a space: use lower-case letters, digits and '-', at most 63, no '-' at the ends",
			ErrRefused, r.Space)
	}
	return r, r.settings(annotations)
}

// SpaceOf is the name of the space whose folder a path is.
func SpaceOf(root, path string) (string, bool) {
	dir, name := filepath.Split(filepath.Clean(path))
	if filepath.Clean(dir) != filepath.Join(root, "spaces") || !admin.ValidName(name) {
		return "", false
	}
	return name, true
}

func (r *Request) settings(annotations map[string]string) error {
	var err error
	choose := func(key string, choices ...string) int { // the first is the default
		value, set := annotations[key]
		if !set {
			return 0
		}
		for i, c := range choices {
			if value == c {
				return i
			}
		}
		err = errors.Join(err, fmt.Errorf("%w: %s=%q; it is one of: %s", ErrRefused, key, value, strings.Join(choices, ", ")))
		return 0
	}
	r.OpenKernel = choose(AnnotationKernelIPC, "closed", "open") == 1
	r.MustExist = choose(AnnotationCreate, "if-missing", "never") == 1
	r.BindFile = choose(AnnotationPreload, "none", "bind") == 1
	r.Config = &admin.CreateSpaceRequest{
		Name:       r.Space,
		Reclaim:    admin.Reclaim(choose(AnnotationReclaim, "retain", "delete")),
		LeftBehind: []admin.LeftBehind{admin.LeftBehind_LEFT_BEHIND_PRIVATE, admin.LeftBehind_LEFT_BEHIND_KEEP, admin.LeftBehind_LEFT_BEHIND_UNUSED}[choose(AnnotationLeftBehind, "private", "keep", "unused")],
	}
	if text := annotations[AnnotationSize]; text != "" {
		size, bad := parseSize(text)
		if bad != nil {
			err = errors.Join(err, fmt.Errorf("%w: %s=%q: %w", ErrRefused, AnnotationSize, text, bad))
		}
		r.Config.Size = size
	}
	if text := annotations[AnnotationLimits]; text != "" {
		limits, bad := parseLimits(text)
		if bad != nil {
			err = errors.Join(err, fmt.Errorf("%w: %s=%q: %w", ErrRefused, AnnotationLimits, text, bad))
		}
		r.Config.Limits = limits
	}
	return err
}

// parseSize reads bytes as 4096, 512k, 512m, 2g: binary multiples.
func parseSize(text string) (uint64, error) {
	digits := strings.TrimRight(text, "kmgKMG")
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || len(text)-len(digits) > 1 {
		return 0, errors.New("write bytes as 4096, 512k, 512m or 2g")
	}
	shift := map[string]uint{"": 0, "k": 10, "m": 20, "g": 30}[strings.ToLower(text[len(digits):])]
	if n<<shift>>shift != n {
		return 0, errors.New("more than 64 bits")
	}
	return n << shift, nil
}

func parseLimits(text string) (*admin.Limits, error) {
	l := &admin.Limits{}
	fields := map[string]**uint64{
		"shmmax": &l.Shmmax, "shmall": &l.Shmall, "shmmni": &l.Shmmni,
		"semmsl": &l.Semmsl, "semmns": &l.Semmns, "semopm": &l.Semopm, "semmni": &l.Semmni,
		"msgmax": &l.Msgmax, "msgmnb": &l.Msgmnb, "msgmni": &l.Msgmni,
		"shm_rmid_forced": &l.ShmRmidForced,
	}
	for pair := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
		field := fields[name]
		if field == nil {
			return nil, fmt.Errorf("%q is no limit; there are shmmax shmall shmmni semmsl semmns semopm semmni msgmax msgmnb msgmni shm_rmid_forced", name)
		}
		n, err := parseSize(value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		*field = &n
	}
	return l, nil
}

// JoinPreload puts our library in front of the value that LD_PRELOAD has.
func JoinPreload(existing string) string {
	libraries := []string{Library}
	for _, one := range strings.FieldsFunc(existing, func(r rune) bool { return r == ':' || r == ' ' }) {
		if one != Library {
			libraries = append(libraries, one)
		}
	}
	return strings.Join(libraries, ":")
}

// Preloads tells whether a container's environment has the library.
func Preloads(env []string) bool {
	has := false
	for _, pair := range env {
		if value, ok := strings.CutPrefix(pair, "LD_PRELOAD="); ok {
			has = contains(strings.FieldsFunc(value, func(r rune) bool { return r == ':' || r == ' ' }), Library)
		}
	}
	return has
}

func contains(list []string, s string) bool {
	for _, one := range list {
		if one == s {
			return true
		}
	}
	return false
}
