//go:build !amd64 && !arm64

package plane

import (
	"sync/atomic"
	"time"
)

const granuleShift = 20

func ticks() uint64 { return uint64(time.Now().UnixNano()) }

func relax() {}

// storeRelease stores v after all that was done before it.
func storeRelease(word *int64, v int64) { atomic.StoreInt64(word, v) }
