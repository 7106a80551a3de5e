//go:build failpoints

package manager

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Built with the tag failpoints, a manager kills itself at the step that
// IPCSPACE_MANAGER_DIES_AT names, in its pass that follows "@": "move: closed@2".
func init() {
	name, pass, _ := strings.Cut(os.Getenv("IPCSPACE_MANAGER_DIES_AT"), "@")
	left := atomic.Int64{}
	left.Store(1)
	if n, err := strconv.ParseInt(pass, 10, 64); err == nil {
		left.Store(n)
	}
	failpoint = func(step string) {
		if step == name && left.Add(-1) <= 0 {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
}
