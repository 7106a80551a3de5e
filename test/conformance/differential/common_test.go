package differential

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// The Go client is the third executor. A program of what Go processes can do, too, runs on the
// kernel by C processes, in a space by C processes, and in a space by Go processes or by some of
// each: goactor is stage/actor.c in Go.

// allGo has a Go process in every place.
const allGo = 1<<6 - 1

// byGo says which places Go processes have.
func (p program) byGo(places int) program {
	return slices.Insert(slices.Clone(p), 0, step{actor: places, name: "go"})
}

// TestDifferentialGo searches half as long as TestDifferential.
func TestDifferentialGo(t *testing.T) {
	needs(t)
	binary := compile(t)
	space := inSpace(t, binary, compileGo(t))
	search(t, onKernel(t, binary), space, *searchTime/2, func(r *rapid.T) []program {
		p := commonPrograms().Draw(r, "program")
		mixed := rapid.SampledFrom([]int{allGo, allGo, 0b010101, 0b101010, 0b000001, 0b110110}).Draw(r, "places")
		return []program{p.byGo(0), p.byGo(mixed)}
	})
}

var commonThemes = []*rapid.Generator[step]{
	rapid.OneOf(slices.Concat(repeat(4, makes()[:3]), repeat(6, semCalls()), repeat(6, msgCalls()), repeat(6, commonShmCalls()), repeat(2, commonOthers()))...),
	rapid.OneOf(slices.Concat(makes()[:3], repeat(4, semCalls()), commonOthers())...),
	rapid.OneOf(slices.Concat(makes()[:3], repeat(5, msgCalls()), commonOthers())...),
	rapid.OneOf(slices.Concat(makes()[:3], repeat(4, commonShmCalls()), commonOthers())...),
}

// commonPrograms leave out what package client has no words for: fork, *_STAT_ANY, SHM_LOCK,
// SHM_EXEC, addresses and parts of attaches, signal handlers but for an end of the call.
func commonPrograms() *rapid.Generator[program] {
	return rapid.Custom(func(t *rapid.T) program {
		p := programOf(t, commonThemes)
		for i := range p {
			switch s := &p[i]; s.name {
			case "semstat", "shmstat", "msgstat":
				s.args[1] = 0
			case "semop":
				if s.args[1] >= 0 {
					s.args[1] = shortTimeout
				}
			}
		}
		return p
	})
}

// shortTimeout is in ms. The end of a context counts from the beginning of the call, with all that
// it asks the manager: it is not to be shorter than that takes.
const shortTimeout = 80

func commonShmCalls() []*rapid.Generator[step] {
	return []*rapid.Generator[step]{
		op("shmat", slots, attaches, choice{0, 0, unix.SHM_RDONLY}), op("shmat", slots, attaches, choice{0}),
		op("shmdt", attaches), op("touch", attaches, choice{0, 5000, 12287}, choice{7, 9, -1}),
		op("shmstat", slots, choice{0}), op("shmstat", slots, choice{0}),
		op("shmrmid", slots), op("shmset", slots, ids, ids, modes),
	}
}

func commonOthers() []*rapid.Generator[step] {
	return []*rapid.Generator[step]{
		op("become", ids, ids, ids), op("become", ids, ids, ids), op("adopt", ids, ids), op("capability", caps, choice{0, 1}),
		op("spawn", places), op("spawn", places), op("exec", choice{0, 1, 2}), op("exit"),
		op("thread", places), op("thread", places), op("leave"), op("limits", choice{0, 1, 2}, choice{0, 1}),
		op("kill"), op("signal"), op("signal"), op("ignored"), op("stop"), op("cont"), op("cont"),
	}
}

// TestCommonRows plays testdata/common.txt: each case by C processes, by Go processes, and by both.
func TestCommonRows(t *testing.T) {
	needs(t)
	binary := compile(t)
	kernel, space := onKernel(t, binary), inSpace(t, binary, compileGo(t))
	text, err := os.ReadFile("testdata/common.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, script := range strings.Split(string(text), "\n== ")[1:] {
		name, steps, _ := strings.Cut(script, "\n")
		t.Run(name, func(t *testing.T) {
			p := parse(t, steps)
			for _, places := range []int{0, allGo, 0b010101, 0b101010} {
				d := compare(kernel, space, p.byGo(places))
				if d != nil {
					t.Fatalf("\n%s", d)
				}
			}
			shown := play(kernel, p.byGo(0), shortSettle).transcript
			if strings.Contains(shown, "not understood") || strings.Contains(shown, "unknown") {
				t.Errorf("no program:\n%s", shown)
			}
			t.Logf("\n%s", shown)
		})
	}
}

// parse reads steps as String writes them.
func parse(t *testing.T, text string) (p program) {
	t.Helper()
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		if outside[words[0]] {
			words[0], words[1] = words[1], words[0]
		}
		actor, err := strconv.Atoi(words[0])
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		s := step{actor: actor, name: words[1]}
		for _, w := range words[2:] {
			n, err := strconv.ParseInt(w, 0, 64)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			s.args = append(s.args, int(n))
		}
		p = append(p, s)
	}
	return p
}
