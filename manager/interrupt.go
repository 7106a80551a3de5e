package manager

import (
	"errors"

	"golang.org/x/sys/unix"
)

// uninterrupted repeats a system call as long as a signal cuts it off. The Go
// runtime preempts with signals, which poll(2), epoll_wait(2) and fallocate(2)
// answer with EINTR even where they would not have waited.
func uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
