package manager

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

const (
	// largeSegment is the size from which a segment has a tmpfs of its own.
	largeSegment = 1 << 20
	hugePage     = 2 << 20
)

// createSegment makes the file of a segment. Its name shows the key, as the
// kernel's does, in /proc/<pid>/maps.
func (s *storage) createSegment(key uint32, serial uint64, size uint64) (*file, error) {
	path := s.path(segmentName(key, serial))
	length := int64(pages(size) * abi.PageSize)
	if !s.mounted || size < largeSegment {
		return s.newFile(path, length), nil
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return nil, err
	}
	room := (uint64(length) + hugePage - 1) / hugePage * hugePage
	huge := "always"
	if s.small {
		huge = "never"
	}
	if err := mountTmpfs(path, fmt.Sprintf("size=%d,nr_inodes=4,mode=700", room), huge); err != nil {
		_ = os.Remove(path)
		return nil, err
	}
	f := s.newFile(filepath.Join(path, segmentData), length)
	err := f.make()
	if err != nil {
		_ = unix.Unmount(path, unix.MNT_DETACH)
		_ = os.Remove(path)
	}
	return f, err
}

// segmentFiles finds the segments' files by their serials.
func (s *storage) segmentFiles() (map[uint64]string, error) {
	found := map[uint64]string{}
	paths, err := filepath.Glob(s.path("SYSV*-*"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		m := objectFile.FindStringSubmatch(filepath.Base(path))
		if m == nil {
			continue
		}
		serial, err := strconv.ParseUint(m[1], 10, 64)
		if err != nil {
			continue
		}
		if fi, err := os.Lstat(path); err == nil && fi.IsDir() {
			path = filepath.Join(path, segmentData)
		}
		found[serial] = path
	}
	return found, nil
}

// removeFile unlinks an object's file, and first that if it has a tmpfs of its
// own, which is unmounted then: a copy of the mount in somebody's mount
// namespace would pin the memory otherwise.
func (s *storage) removeFile(f *file) error {
	err := f.remove()
	if filepath.Base(f.path) != segmentData {
		return err
	}
	return errors.Join(err, s.removeFolder(filepath.Dir(f.path)))
}

func (s *storage) removeFolder(path string) (err error) {
	if m, _ := isMount(path); m {
		err = unix.Unmount(path, unix.MNT_DETACH)
	}
	return errors.Join(err, os.Remove(path))
}

// removeLitter unlinks what no object has, by its path.
func (s *storage) removeLitter(path string) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		return s.remove(path)
	}
	err = s.remove(filepath.Join(path, segmentData))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, s.removeFolder(path))
}
