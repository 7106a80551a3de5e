package plane

import "sync/atomic"

// failPoint is nil in production. Tests set it to end an operation at a step,
// as a death would: a session is killed by runtime.Goexit.
//
// Hence no deferred call in this package changes shared memory.
var failPoint atomic.Pointer[func(session uint32, step string)]

func fail(h Host, step string) {
	if failPoint.Load() != nil {
		reach(h, step)
	}
}

func reach(h Host, step string) {
	if f := failPoint.Load(); f != nil {
		(*f)(h.Session(), step)
	}
}
