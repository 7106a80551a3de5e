package manager

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Names in a space's private folder.

// segmentData is the file in a folder of a segment's own.
const segmentData = "data"

func segmentName(key uint32, serial uint64) string { return fmt.Sprintf("SYSV%08x-%d", key, serial) }
func setName(serial uint64) string                 { return fmt.Sprintf("sem-%d", serial) }
func queueName(serial uint64) string               { return fmt.Sprintf("msg-%d", serial) }
func dataName(serial uint64) string                { return fmt.Sprintf("msg-%d.data", serial) }

func pagesName(serial uint64) string { return fmt.Sprintf("pages-%d", serial) }

// objectFile matches the names of all files and folders of objects.
var objectFile = regexp.MustCompile(`^(?:SYSV[0-9a-f]{8}|sem|msg)-(\d+)(?:\.data)?$`)

// controlSerial is the serial in the name of a set's or queue's control file, at the end of a text.
func controlSerial(text string) (serial uint64, ok bool) {
	name := text[strings.LastIndexByte(text, '/')+1:]
	number, ok := strings.CutPrefix(name, "sem-")
	if !ok {
		if number, ok = strings.CutPrefix(name, "msg-"); !ok {
			return 0, false
		}
	}
	serial, err := strconv.ParseUint(number, 10, 64)
	return serial, err == nil
}
