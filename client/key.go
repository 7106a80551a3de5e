package client

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Key names an object within a space, key_t.
type Key int32

// Private is IPC_PRIVATE: a fresh object each time, which others find by its
// id alone.
const Private Key = 0

func (k Key) String() string { return fmt.Sprintf("%#08x", uint32(k)) }

// KeyOf makes a key from a file that exists and a project number, of which 8
// bits count: ftok(3), with the result of glibc and musl bit by bit.
//
// It is made of 16 bits of the inode and 8 of the device, so different files
// may have the same key, and a file that is made anew has another one.
func KeyOf(path string, project int) (Key, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return -1, fmt.Errorf("key of a file: %w", &os.PathError{Op: "stat", Path: path, Err: err})
	}
	return Key(uint32(st.Ino)&0xffff | uint32(st.Dev)&0xff<<16 | uint32(project)&0xff<<24), nil
}
