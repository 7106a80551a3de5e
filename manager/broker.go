package manager

import "golang.org/x/sys/unix"

func (s *space) broker(c *channel, req *request) reply {
	return failed(unix.ENOSYS)
}
