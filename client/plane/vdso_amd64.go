package plane

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// vdsoTime is where the kernel's time(2) that needs no system call stands
// (vdso(7)); 0: there is none.
var vdsoTime = findVDSO("__vdso_time")

// callVDSO calls a function of the vDSO with a null pointer. It runs on the
// goroutine's stack, of which at least 800 bytes are left for it: enough for
// functions that only read the vDSO's data.
func callVDSO(function uintptr) int64

// vdsoSeconds is time(2).
func vdsoSeconds() (seconds int64, ok bool) {
	if vdsoTime == 0 {
		return 0, false
	}
	return callVDSO(vdsoTime), true
}

// Of the ELF format (elf(5)), where the kernel's image has it.
const (
	atSysinfoEHDR = 33 // getauxval(3)
	headerSize    = 64
	sectionSize   = 64
	symbolSize    = 24
	dynamicSyms   = 11 // SHT_DYNSYM
	mostImage     = 1 << 16
)

func findVDSO(name string) uintptr {
	aux, err := unix.Auxv()
	if err != nil {
		return 0
	}
	for _, a := range aux {
		if a[0] != atSysinfoEHDR || a[1] == 0 {
			continue
		}
		at := unsafe.Add(unsafe.Pointer(nil), a[1]) // an address of the kernel's, not Go's
		head := unsafe.Slice((*byte)(at), headerSize)
		sections, count := binary.LittleEndian.Uint64(head[40:]), binary.LittleEndian.Uint16(head[60:])
		end := sections + uint64(count)*sectionSize // the sections' table is the last of the image
		if sections < headerSize || end > mostImage {
			continue
		}
		if value := symbol(unsafe.Slice((*byte)(at), end), name); value != 0 {
			return a[1] + uintptr(value)
		}
	}
	return 0
}

// symbol is the value of a dynamic symbol of a shared object that is loaded as it
// stands in its file, at 0; 0: it has none of that name.
func symbol(image []byte, name string) uint64 {
	le := binary.LittleEndian
	table := image[le.Uint64(image[40:]):]
	section := func(i uint32) (kind, link uint32, content []byte) {
		s := table[i*sectionSize:]
		offset, size := le.Uint64(s[24:]), le.Uint64(s[32:])
		if offset > uint64(len(image)) || size > uint64(len(image))-offset {
			return 0, 0, nil // takes no place in the image
		}
		return le.Uint32(s[4:]), le.Uint32(s[40:]), image[offset : offset+size]
	}
	for i := range uint32(len(table) / sectionSize) {
		kind, link, symbols := section(i)
		if kind != dynamicSyms || int(link) >= len(table)/sectionSize {
			continue
		}
		_, _, names := section(link)
		for ; len(symbols) >= symbolSize; symbols = symbols[symbolSize:] {
			at := int(le.Uint32(symbols))
			if at+len(name) < len(names) && string(names[at:at+len(name)]) == name && names[at+len(name)] == 0 {
				return le.Uint64(symbols[8:])
			}
		}
	}
	return 0
}
