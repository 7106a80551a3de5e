package containers_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var readmes = []string{"../../README.md", "../../shim/README.md"}

// marked is a block of commands under a comment that names the test that runs it.
var marked = regexp.MustCompile("(?s)<!-- (Test\\w+):? ?([a-z0-9 ]*) -->\n```console\n(.*?)```")

// command is one of a block, and what it prints.
type command struct{ text, output string }

func commands(block string) []command {
	var list []command
	for line := range strings.Lines(block) {
		text, isCommand := strings.CutPrefix(line, "# ")
		switch last := len(list) - 1; {
		case isCommand:
			list = append(list, command{text: text})
		case strings.HasSuffix(list[last].text, "\\\n"):
			list[last].text += line
		default:
			list[last].output += line
		}
	}
	return list
}

// The commands of the READMEs do what they say, word for word, with each engine that they are for.
func TestReadme(t *testing.T) {
	must(t, node.start())
	engines := []struct {
		name   string
		need   func(*testing.T)
		engine *engine
	}{{"docker", needDocker, docker}, {"docker29", needDocker29, docker29}, {"podman", needPodman, podman}}
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			e.need(t)
			mustRun(t, e.engine.command("tag", imageGlibc, "my-image"))
			path := e.engine.onPath(t)
			made := map[string]bool{}
			t.Cleanup(func() {
				for name := range made {
					mustRun(t, ipcspace("space", "remove", name))
				}
			})
			ran := 0
			for _, file := range readmes {
				text, err := os.ReadFile(file)
				must(t, err)
				for _, block := range marked.FindAllStringSubmatch(string(text), -1) {
					if block[1] != t.Name()[:len("TestReadme")] || !slices.Contains(strings.Fields(block[2]), e.name) {
						continue
					}
					for _, c := range commands(block[3]) {
						ran++
						if name := regexp.MustCompile(`space create (\S+)`).FindStringSubmatch(c.text); name != nil {
							made[name[1]] = true
						}
						cmd := exec.Command("sh", "-ec", c.text)
						cmd.Env = append(os.Environ(), "PATH="+path)
						output := mustRun(t, cmd)
						if strings.TrimSpace(output) != strings.TrimSpace(c.output) {
							t.Errorf("%s:\n# %sprints\n%s\nnot\n%s", file, c.text, output, c.output)
						}
					}
				}
			}
			if ran == 0 {
				t.Error("no command is for it")
			}
		})
	}
}

// onPath is a PATH on which docker and podman are this engine, with the flags that it needs here.
func (e *engine) onPath(t *testing.T) string {
	t.Helper()
	dir := directory(t)
	args := e.command("run").Args
	quoted := func(list []string) string {
		var words []string
		for _, word := range list {
			words = append(words, "'"+word+"'")
		}
		return strings.Join(words, " ")
	}
	real, err := exec.LookPath(args[0])
	must(t, err)
	script := fmt.Sprintf("#!/bin/sh\nverb=$1\nshift\n[ $verb != run ] || set -- %s \"$@\"\nexec %s %s $verb \"$@\"\n",
		quoted(e.flags), real, quoted(args[1:len(args)-1]))
	for _, name := range []string{"docker", "podman"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
	return strings.Join([]string{dir, bin, os.Getenv("PATH")}, ":")
}
