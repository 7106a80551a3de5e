package manager

import (
	"os"
	"strconv"
	"strings"
)

// mostSpaces is how many spaces there may be, so that one more harms none of the others: each may take
// 8 descriptors besides those of its objects (mostOpen); 4 mounts, and as many again where people
// have it, of which the half is left to the rest of the node; and a thread that reads from FUSE, of
// which Go ends a program that has 10,000.
func (m *Manager) mostSpaces() int {
	return min(m.descriptors/(8+2*leastOpen), mountMax()/2/8, 5000)
}

// mountMax is how many mounts a namespace may have.
func mountMax() int {
	text, err := os.ReadFile("/proc/sys/fs/mount-max")
	if most, bad := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && bad == nil {
		return most
	}
	return 100_000 // the kernel's own
}

// leastOpen is how many files of its objects each space may have open.
const leastOpen = 16

// mostOpen is how many files of a space's objects may be open, each with two
// descriptors: the half of what the process may have is for all spaces.
func (m *Manager) mostOpen() int {
	return max(m.descriptors/4/max(int(m.count.Load()), 1), leastOpen)
}
