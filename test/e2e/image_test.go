package e2e_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// The images, made of this machine's own files. They stand under a name of no registry, so that the
// kubelet can have none but these.
const (
	imagePause    = "e2e.test/static:1" // its command sleeps
	imageStatic   = imagePause
	imageGlibc    = "e2e.test/glibc:1"
	imageMusl     = "e2e.test/musl:1"
	imagePostgres = "e2e.test/postgres:1"
)

const postgresHome = "/usr/lib/postgresql/15"

// image is what an image has: path in it → file or folder here.
type image map[string]string

// importImages makes the images and gives them to containerd.
func importImages() error {
	for name, compiler := range map[string][]string{
		imageStatic: {"gcc", "-static"}, imageGlibc: {"gcc"}, imageMusl: {"musl-gcc"}, imagePostgres: {"gcc"},
	} {
		program := filepath.Join(scratch, "ipc-"+strings.TrimSuffix(filepath.Base(name), ":1"))
		arguments := append(compiler[1:], "-O1", "-Wall", "-o", program, "../containers/testdata/ipc.c")
		if _, err := runCommand(exec.Command(compiler[0], arguments...)); err != nil {
			return fmt.Errorf("%w (make deps)", err)
		}
		content := image{"/bin/ipc": program, "/bin/busybox": "/usr/bin/busybox"}
		var dynamic []string
		switch name {
		case imageMusl:
			loader, err := filepath.EvalSymlinks("/lib/ld-musl-x86_64.so.1")
			if err != nil {
				return err
			}
			content["/lib/ld-musl-x86_64.so.1"] = loader
		case imageGlibc:
			dynamic = []string{"/bin/ipc", "/usr/bin/ipcs", "/usr/bin/ipcmk", "/usr/bin/ipcrm", "/usr/bin/lsipc"}
		case imagePostgres:
			dynamic = []string{"/bin/ipc"}
			for _, tool := range []string{"postgres", "initdb", "psql", "pg_ctl", "pg_isready", "pgbench"} {
				dynamic = append(dynamic, postgresHome+"/bin/"+tool)
			}
			content[postgresHome+"/lib"] = postgresHome + "/lib"
			content["/usr/share/postgresql/15"] = "/usr/share/postgresql/15"
			content["/usr/share/zoneinfo/UTC"] = "/usr/share/zoneinfo/UTC"
		}
		if err := content.addDynamic(dynamic...); err != nil {
			return err
		}
		if err := content.load(name, map[string]any{"Cmd": []string{"/bin/ipc", "sleep"}, "Env": []string{"PATH=/usr/bin:/bin:" + postgresHome + "/bin"}}); err != nil {
			return err
		}
	}
	return nil
}

var library = regexp.MustCompile(`/\S+\.so\S*`)

// addDynamic adds programs, at their own paths if the image has them not, and the libraries that they need.
func (i image) addDynamic(programs ...string) error {
	for _, program := range programs {
		if i[program] == "" {
			i[program] = program
		}
		output, err := runCommand(exec.Command("ldd", i[program]))
		if err != nil {
			return err
		}
		for _, path := range library.FindAllString(output, -1) {
			i[path] = path
		}
	}
	return nil
}

// load gives containerd the image under a name.
func (i image) load(name string, config map[string]any) error {
	layer, err := i.layer()
	if err != nil {
		return err
	}
	description, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "config": config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, file := range []struct {
		name    string
		content []byte
	}{{"config.json", description}, {"manifest.json", manifest}, {"layer.tar", layer}} {
		if err := add(w, file.name, file.content); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	command := ctr("images", "import", "--local", "-")
	command.Stdin = &archive
	_, err = runCommand(command)
	return err
}

// layer is the one layer of an image: its files, busybox's names, and the folders of a system.
func (i image) layer() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, dir := range []string{"bin", "etc", "lib", "lib64", "proc", "run", "sys", "dev", "tmp", "usr", "usr/bin", "data"} {
		mode := int64(0o755)
		if dir == "tmp" || dir == "data" {
			mode = 0o1777
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: mode}); err != nil {
			return nil, err
		}
	}
	for path, from := range i {
		err := filepath.WalkDir(from, func(file string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			if info, err := os.Stat(file); err != nil || info.IsDir() {
				return err // a link to a folder is none of an image's files
			}
			content, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			return add(w, path[1:]+strings.TrimPrefix(file, from), content)
		})
		if err != nil {
			return nil, err
		}
	}
	if i["/bin/busybox"] != "" {
		for _, name := range []string{"sh", "cat", "ls", "sleep", "env", "id", "rm", "echo", "touch", "grep", "true", "mount", "seq", "kill", "ps", "head"} {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"}); err != nil {
				return nil, err
			}
		}
	}
	if err := add(w, "etc/passwd", []byte("root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n")); err != nil {
		return nil, err
	}
	return out.Bytes(), w.Close()
}

func add(w *tar.Writer, name string, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
