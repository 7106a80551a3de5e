//go:build !amd64

package plane

// The vDSO of other CPUs has no time(2).
func vdsoSeconds() (seconds int64, ok bool) { return 0, false }
