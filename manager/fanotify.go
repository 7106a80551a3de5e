package manager

import (
	"encoding/binary"
	"os"
)

// eachEvent calls f with each event that fan tells of, until fan is closed: a
// descriptor of the file, which is f's to close, or less than 0 where events were
// lost, and who did it.
func eachEvent(fan *os.File, f func(fd, pid int)) {
	const head = 24              // struct fanotify_event_metadata
	buf := make([]byte, 64*head) // each event has a descriptor
	for {
		n, err := fan.Read(buf)
		if err != nil {
			return
		}
		for b := buf[:n]; len(b) >= head; {
			size := binary.NativeEndian.Uint32(b)
			if size < head || int(size) > len(b) {
				return
			}
			f(int(int32(binary.NativeEndian.Uint32(b[16:]))), int(int32(binary.NativeEndian.Uint32(b[20:]))))
			b = b[size:]
		}
	}
}
