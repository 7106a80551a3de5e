package differential

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// step is one line for the stage: an actor (or, without one, the stage itself), what it does, and
// with which numbers.
type step struct {
	actor int
	name  string
	args  []int
}

func (s step) String() string {
	var b strings.Builder
	if outside[s.name] {
		fmt.Fprintf(&b, "%s %d", s.name, s.actor)
	} else {
		fmt.Fprintf(&b, "%d %s", s.actor, s.name)
	}
	for _, arg := range s.args {
		fmt.Fprintf(&b, " %d", arg)
	}
	return b.String()
}

// outside are the steps that are done to an actor, not by it; of go the number is places.
var outside = map[string]bool{"go": true, "kill": true, "stop": true, "cont": true, "signal": true, "ignored": true, "jump": true, "nest": true}

type program []step

func (p program) String() string {
	var b strings.Builder
	for _, s := range p {
		fmt.Fprintln(&b, s)
	}
	return b.String()
}

// The choices. The first of each is what a shrunk program has; few objects, few values and small
// ones make processes meet.
const (
	semUndo = 0x1000

	msgNoerror = 0o10000
	msgExcept  = 0o20000
	msgCopy    = 0o40000

	shmExec  = 0o100000
	shmRemap = 0o40000
)

var (
	actors   = []int{0, 0, 1, 1, 2, 2, 3, 4, 5}
	places   = []int{3, 4, 5}
	slots    = []int{0, 0, 0, 1, 2}
	keys     = []int{0, 1, 1, 2}
	modes    = []int{0o666, 0o600, 0o644, 0o640, 0o222, 0o060, 0o006, 0}
	wider    = []int{0o666, 0o066, 0o044, 0o022, 0}
	getFlags = []int{unix.IPC_CREAT | 0o666, unix.IPC_CREAT | unix.IPC_EXCL | 0o660, 0, 0o600, 0o400, 0o200, 0o666}
	ids      = []int{0, 1001, 1002}
	values   = []int{0, 1, 2, 3, 100, 32766, 32767, 32768, -1}
	deltas   = []int{1, -1, 0, -2, 2, 3, -3, 32767, -32767}
	opFlags  = []int{0, 0, semUndo, unix.IPC_NOWAIT, semUndo | unix.IPC_NOWAIT}
	timeouts = []int{-1, -1, -1, -1, -1, 0, 5}
	types    = []int{1, 2, 3, 4, 1 << 40, 0, -1}
	wanted   = []int{0, 1, 2, 3, -1, -2, -3, 7}
	sizes    = []int{0, 1, 8, 20, 47, 48, 49, 300, 4096, 8192, 8193}
	rooms    = []int{8192, 100, 20, 8, 1, 0, 9000}
	qbytes   = []int{16384, 100, 50, 20, 4, 0, 1 << 20}
	segments = []int{4096, 1, 9000, 12288, 20000, 0, 1 << 20}
	caps     = []int{-1, 15, 24, 14}
	attaches = []int{0, 1, 2}
)

const maxSteps = 70

// themes are what programs are about: one family, so that its processes meet more often, or all of
// them. In each, a generator is drawn as often as it stands there.
var themes = []*rapid.Generator[step]{
	rapid.OneOf(slices.Concat(repeat(4, makes()), repeat(6, semCalls()), repeat(6, msgCalls()), repeat(6, shmCalls()), repeat(2, others()))...),
	rapid.OneOf(slices.Concat(makes(), repeat(4, semCalls()), others())...),
	rapid.OneOf(slices.Concat(makes(), repeat(5, msgCalls()), others())...),
	rapid.OneOf(slices.Concat(makes(), repeat(4, shmCalls()), others())...),
}

func repeat(n int, g []*rapid.Generator[step]) []*rapid.Generator[step] {
	var all []*rapid.Generator[step]
	for range n {
		all = append(all, g...)
	}
	return all
}

func programs() *rapid.Generator[program] {
	return rapid.Custom(func(t *rapid.T) program { return programOf(t, themes) })
}

func programOf(t *rapid.T, themes []*rapid.Generator[step]) program {
	// Most programs begin with objects that exist.
	p := program{
		{0, "semget", []int{0, 1, 2, unix.IPC_CREAT | 0o666}},
		{0, "msgget", []int{0, 1, 0, unix.IPC_CREAT | 0o666}},
		{0, "shmget", []int{0, 1, 12288, unix.IPC_CREAT | 0o666}},
	}
	if rapid.IntRange(0, 9).Draw(t, "bare") == 9 {
		p = nil
	}
	theme := themes[rapid.IntRange(0, len(themes)-1).Draw(t, "theme")]
	for range maxSteps {
		s := theme.Draw(t, "step")
		if rapid.Bool().Draw(t, "kept") { // a slice would be short most of the time
			p = append(p, s)
		}
	}
	return p
}

// choice is what one argument of a step may be.
type choice []int

func op(name string, choices ...choice) *rapid.Generator[step] {
	return rapid.Custom(func(t *rapid.T) step {
		s := step{actor: rapid.SampledFrom(actors).Draw(t, "actor"), name: name}
		for _, c := range choices {
			s.args = append(s.args, rapid.SampledFrom(c).Draw(t, "arg"))
		}
		return s
	})
}

func makes() []*rapid.Generator[step] {
	return []*rapid.Generator[step]{
		op("semget", slots, keys, choice{2, 1, 3, 0, 5}, getFlags),
		op("msgget", slots, keys, choice{0}, getFlags),
		op("shmget", slots, keys, segments, getFlags),
		op("fork", places, choice{0, 0, 1}),
	}
}

func semCalls() []*rapid.Generator[step] {
	semaphores := choice{0, 1, 0, 1, 2, -1}
	return []*rapid.Generator[step]{
		semop(), semop(), semop(), semop(), semop(), semop(),
		op("getval", slots, semaphores), op("getpid", slots, semaphores),
		op("getncnt", slots, semaphores), op("getzcnt", slots, semaphores),
		op("getall", slots), op("semstat", slots, choice{0, 1}),
		op("setval", slots, semaphores, values), op("setall", slots, values, values, values),
		op("semrmid", slots), op("semset", slots, ids, ids, modes), op("semwiden", slots, wider),
	}
}

func msgCalls() []*rapid.Generator[step] {
	return []*rapid.Generator[step]{
		op("msgsnd", slots, types, sizes, choice{0, unix.IPC_NOWAIT}, choice{1, 2, 3}),
		op("msgsnd", slots, types, sizes, choice{0, unix.IPC_NOWAIT}, choice{4, 5, 6}),
		op("msgrcv", slots, wanted, rooms, choice{0, 0, unix.IPC_NOWAIT, msgNoerror, msgExcept, msgNoerror | msgExcept}),
		op("msgrcv", slots, wanted, rooms, choice{0, unix.IPC_NOWAIT}),
		op("msgrcv", slots, choice{0, 1, 2, -1}, rooms, choice{msgCopy | unix.IPC_NOWAIT, msgCopy | unix.IPC_NOWAIT | msgNoerror, msgCopy, msgCopy | msgExcept | unix.IPC_NOWAIT}),
		op("msgstat", slots, choice{0, 1}), op("msgrmid", slots),
		op("msgset", slots, ids, ids, modes, qbytes), op("msgset", slots, choice{0}, choice{0}, choice{0o666}, qbytes),
		op("msgwiden", slots, wider),
	}
}

func shmCalls() []*rapid.Generator[step] {
	return []*rapid.Generator[step]{
		op("shmat", slots, choice{0, 1, 2}, choice{0, 0, unix.SHM_RDONLY, shmExec}),
		op("shmdt", choice{0, 1, 2}), op("munmap", choice{0, 1, 2}, choice{0, 1, 2}),
		op("touch", choice{0, 1, 2}, choice{0, 5000, 12287}, choice{7, 9, -1}),
		op("shmstat", slots, choice{0, 1}), op("shmstat", slots, choice{0, 1}),
		op("shmrmid", slots), op("shmset", slots, ids, ids, modes),
		op("over", slots, attaches, choice{shmRemap, shmRemap, 0, shmRemap | unix.SHM_RDONLY, shmRemap | unix.SHM_RND, unix.SHM_RND}),
		op("mprotect", attaches, choice{1, 3, 0, 5}, choice{0, 1, 2}), op("mremap", attaches, choice{1, 2, 3, 5}),
		op("madvise", attaches, choice{10, 11, 9}, choice{0, 0, 1, 2}), op("shmwiden", slots, wider), op("shmlock", slots, choice{11, 12}),
	}
}

func others() []*rapid.Generator[step] {
	return []*rapid.Generator[step]{
		op("become", ids, ids, ids), op("become", ids, ids, ids),
		op("adopt", ids, ids),
		op("capability", caps, choice{0, 1}),
		op("exec"), op("exit"), op("thread", places), op("thread", places), op("leave"), op("vfork", choice{0, 1, 2}, slots),
		op("info", choice{0, 1, 2}, choice{0, 1}), op("jump"), op("nest"), op("nest"), op("closeall"),
		op("kill"), op("signal"), op("signal"), op("ignored"), op("stop"), op("cont"), op("cont"),
	}
}

func semop() *rapid.Generator[step] {
	return rapid.Custom(func(t *rapid.T) step {
		s := step{actor: rapid.SampledFrom(actors).Draw(t, "actor"), name: "semop"}
		s.args = []int{rapid.SampledFrom(slots).Draw(t, "slot"), rapid.SampledFrom(timeouts).Draw(t, "timeout")}
		for range rapid.SampledFrom([]int{1, 1, 1, 2, 2, 3}).Draw(t, "operations") {
			s.args = append(s.args,
				rapid.SampledFrom([]int{0, 1, 0, 1, 0, 1, 2}).Draw(t, "semaphore"),
				rapid.SampledFrom(deltas).Draw(t, "change"),
				rapid.SampledFrom(opFlags).Draw(t, "flags"))
		}
		return s
	})
}
