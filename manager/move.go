package manager

import "github.com/ipcspace/ipcspace/client/abi"

// move gives a set or queue a fresh file.
func (s *space) move(o *object, rec abi.Record) error {
	return o.publish(rec)
}
