//go:build !amd64 && !arm64

package plane

import "time"

const granuleShift = 20

func ticks() uint64 { return uint64(time.Now().UnixNano()) }

func relax() {}
