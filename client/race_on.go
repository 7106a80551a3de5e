//go:build race

package client

import (
	"runtime"
	"unsafe"

	"github.com/ipcspace/ipcspace/client/abi"
)

// The race detector follows the Go heap alone. What goroutines order by an
// object of a space would be races to it, so it is told: all that was done
// before a call on an object comes before all that is done after a later call.
// A byte stands for the objects of one index; two spaces share it, which can
// hide a race and not invent one.
var ordered [abi.Families * abi.MaxObjects]byte

func (o *object) order() unsafe.Pointer {
	return unsafe.Pointer(&ordered[o.family*abi.MaxObjects+int(o.id&abi.IndexMask)])
}

// begin is for the beginning of a call that others may learn of.
func (o *object) begin() { runtime.RaceReleaseMerge(o.order()) }

// end is for the end of a call that may have learnt of others.
func (o *object) end() { runtime.RaceAcquire(o.order()) }
