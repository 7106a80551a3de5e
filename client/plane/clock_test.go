//go:build !explore

package plane

import (
	"testing"
	"time"
)

// Stamps are in the order of what they are taken of, also where a second has begun
// by one clock and not by the other.
func TestStampOrder(t *testing.T) {
	begun := time.Unix(1_000_000_000, 0)
	for _, late := range []time.Duration{0, 1, 900 * time.Microsecond, 4 * time.Millisecond, tick - 1} {
		last := int64(0)
		for at := -100 * time.Microsecond; at < 2*tick; at += 1009 {
			now := begun.Add(at)
			s := stamp(now, func() int64 { return now.Add(-late).Unix() })
			if s <= last {
				t.Fatalf("the coarse clock %v late: the stamp of %v after the second began is %d, of before it was %d",
					late, at, s-begun.UnixNano(), last-begun.UnixNano())
			}
			if at < late && s >= begun.UnixNano() {
				t.Fatalf("the coarse clock %v late: %v after the second began the stamp is of it", late, at)
			}
			last = s
		}
	}
}
