package manager

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ipcspace/ipcspace/client/abi"
)

// complete checks a configuration and fills in what it leaves out.
func (c *SpaceConfig) complete() error {
	if !ValidName(c.Name) {
		return nameError(c.Name)
	}
	if c.Reclaim > Delete || c.LeftBehind > LeftUnused {
		return fmt.Errorf("reclaim %d, left behind %d: %w", c.Reclaim, c.LeftBehind, ErrInvalid)
	}
	limits := DefaultLimits()
	if c.Limits != nil {
		limits = *c.Limits
	}
	if err := limits.check(); err != nil {
		return err
	}
	c.Limits = &limits
	if c.Size == 0 {
		var si unix.Sysinfo_t
		if err := unix.Sysinfo(&si); err != nil {
			return fmt.Errorf("sysinfo: %w", err)
		}
		c.Size = si.Totalram * uint64(si.Unit) / 2
	}
	if c.Sessions == 0 {
		c.Sessions = 8192
	}
	if c.Sessions < 0 || c.Sessions > abi.MaxSessions-2 {
		return fmt.Errorf("%d sessions is not between 1 and %d: %w", c.Sessions, abi.MaxSessions-2, ErrInvalid)
	}
	if c.Inodes == 0 {
		c.Inodes = limits.inodes(c.Sessions)
	}
	if c.Size < abi.PageSize {
		return fmt.Errorf("a size of %d bytes holds nothing: %w", c.Size, ErrInvalid)
	}
	return nil
}

func nameError(name string) error {
	return fmt.Errorf("%q: %w; use lower-case letters, digits and '-', at most 63, no '-' at the ends", name, ErrInvalidName)
}

// ValidName tells whether name is a DNS label (RFC 1123), as spaces' names are.
func ValidName(name string) bool {
	if len(name) == 0 || len(name) > 63 || name[0] == '-' || name[len(name)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-'
	})
}
