package containers_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
)

// The three images, made of this machine's own files: what differs is the C library of /bin/ipc.
const (
	imageGlibc  = "ipcspace-test/glibc"
	imageMusl   = "ipcspace-test/musl"
	imageStatic = "ipcspace-test/static"
)

var images = []string{imageGlibc, imageMusl, imageStatic}

// secureProgram is /bin/ipc, too, with root as set-user-id: it loses LD_PRELOAD when others run it.
const secureProgram = "/bin/ipc-secure"

// imageFiles is path in the image → file here.
type imageFiles map[string]string

var programs = sync.OnceValues(func() (map[string]string, error) {
	built := map[string]string{}
	for image, compiler := range map[string][]string{
		imageGlibc: {"gcc"}, imageMusl: {"musl-gcc"}, imageStatic: {"gcc", "-static"},
	} {
		out := filepath.Join(scratch, "ipc-"+filepath.Base(image))
		args := append(compiler[1:], "-O1", "-Wall", "-o", out, "testdata/ipc.c")
		if _, err := runCommand(exec.Command(compiler[0], args...)); err != nil {
			return nil, fmt.Errorf("%w (apt-get install gcc libc6-dev musl-tools)", err)
		}
		built[image] = out
	}
	return built, nil
})

var library = regexp.MustCompile(`/\S+\.so\S*`)

// files lists what an image has.
func files(image string) (imageFiles, error) {
	built, err := programs()
	if err != nil {
		return nil, err
	}
	all := imageFiles{"/bin/ipc": built[image], secureProgram: built[image], "/bin/busybox": "/usr/bin/busybox"}
	if image == imageMusl {
		loader, err := filepath.EvalSymlinks("/lib/ld-musl-x86_64.so.1")
		if err != nil {
			return nil, err
		}
		all["/lib/ld-musl-x86_64.so.1"] = loader
	}
	if image == imageGlibc {
		dynamic := []string{built[image]}
		for _, tool := range []string{"ipcs", "ipcmk", "ipcrm"} {
			all["/usr/bin/"+tool] = "/usr/bin/" + tool
			dynamic = append(dynamic, "/usr/bin/"+tool)
		}
		for _, program := range dynamic {
			output, err := runCommand(exec.Command("ldd", program))
			if err != nil {
				return nil, err
			}
			for _, path := range library.FindAllString(output, -1) {
				all[path] = path
			}
		}
	}
	return all, nil
}

// layerOf is the one layer of an image.
func layerOf(image string) ([]byte, error) {
	all, err := files(image)
	if err != nil {
		return nil, err
	}
	return archive(all)
}

// archive is the one layer of an image: its files, busybox's names, and the folders of a system.
func archive(all imageFiles) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, dir := range []string{"bin", "etc", "lib", "lib64", "proc", "run", "sys", "dev", "tmp", "usr", "usr/bin", "data"} {
		mode := int64(0o755)
		if dir == "tmp" {
			mode = 0o1777
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: mode}); err != nil {
			return nil, err
		}
	}
	for path, from := range all {
		content, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		mode := int64(0o755)
		if path == secureProgram {
			mode = 0o4755
		}
		if err := w.WriteHeader(&tar.Header{Name: path[1:], Mode: mode, Size: int64(len(content))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"sh", "cat", "ls", "sleep", "mount", "umount", "env", "id", "rm", "cp", "echo", "touch", "chmod", "ln", "grep", "true", "mknod", "dd", "su"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"}); err != nil {
			return nil, err
		}
	}
	passwd := "root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000:user:/:/bin/sh\n"
	if err := w.WriteHeader(&tar.Header{Name: "etc/passwd", Mode: 0o644, Size: int64(len(passwd))}); err != nil {
		return nil, err
	}
	if _, err := w.Write([]byte(passwd)); err != nil {
		return nil, err
	}
	return out.Bytes(), w.Close()
}
