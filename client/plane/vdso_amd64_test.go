//go:build !explore

package plane

import (
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The vDSO's time is the kernel's, called from goroutines with stacks of any depth
// while the collector moves them.
func TestVDSO(t *testing.T) {
	if vdsoTime == 0 {
		t.Skip("this kernel gives no vDSO")
	}
	var deep func(n int) int64
	deep = func(n int) int64 {
		if n == 0 {
			return Seconds()
		}
		return deep(n-1) + 0*int64(n)
	}
	until := time.Now().Add(1500 * time.Millisecond) // a second begins meanwhile
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			for n := 0; time.Now().Before(until); n = (n + 1) % 200 {
				var before, after unix.Timespec
				err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &before)
				got := make(chan int64)
				go func() { got <- deep(n) }()
				now := <-got
				if err != nil || unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &after) != nil {
					t.Error(err)
				}
				if now < before.Sec || now > after.Sec {
					t.Errorf("%d, the clock said %d before and %d after", now, before.Sec, after.Sec)
				}
			}
		})
	}
	work.Wait()
}
