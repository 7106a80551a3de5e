package client

import (
	"fmt"
	"reflect"
	"unsafe"

	"golang.org/x/sys/unix"
)

// View is the value of type T at an offset of shared memory. T must be of a
// size that fits, without pointers, maps, strings and the like, and the offset
// a multiple of its alignment. It is good as long as the memory is attached.
//
// Its words change at any time. What several processes change is to be an
// integer type that is used by sync/atomic alone (atomic.Int64 will do).
func View[T any](memory []byte, offset int) (*T, error) {
	var zero T
	p, err := at[T](memory, offset, int(unsafe.Sizeof(zero)))
	return (*T)(p), err
}

// Slice is n values of type T from an offset of shared memory on. See View.
func Slice[T any](memory []byte, offset, n int) ([]T, error) {
	var zero T
	size := int(unsafe.Sizeof(zero))
	if n < 0 || size > 0 && n > len(memory)/size {
		return nil, fmt.Errorf("%d values of %T do not fit %d bytes: %w", n, zero, len(memory), unix.EINVAL)
	}
	p, err := at[T](memory, offset, n*size)
	if err != nil {
		return nil, err
	}
	return unsafe.Slice((*T)(p), n), nil
}

// at is where size bytes of values of type T stand, if they may stand there.
func at[T any](memory []byte, offset, size int) (unsafe.Pointer, error) {
	t := reflect.TypeFor[T]()
	if kind := pointing(t); kind != nil {
		return nil, fmt.Errorf("view of %v: a %v means nothing to other processes: %w", t, kind, unix.EINVAL)
	}
	if offset < 0 || offset > len(memory) || size > len(memory)-offset || len(memory) == 0 {
		return nil, fmt.Errorf("view of %v: %d bytes at %d do not fit %d: %w", t, size, offset, len(memory), unix.EINVAL)
	}
	p := unsafe.Pointer(unsafe.SliceData(memory))
	if (uintptr(p)+uintptr(offset))%uintptr(t.Align()) != 0 {
		return nil, fmt.Errorf("view of %v: offset %d is no multiple of %d: %w", t, offset, t.Align(), unix.EINVAL)
	}
	if size == 0 {
		return p, nil // at the end of the memory the sum would point behind it
	}
	return unsafe.Add(p, offset), nil
}

// pointing finds a type within t that leads out of the memory it stands in.
func pointing(t reflect.Type) reflect.Type {
	switch t.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr,
		reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128:
		return nil
	case reflect.Array:
		return pointing(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if kind := pointing(t.Field(i).Type); kind != nil {
				return kind
			}
		}
		return nil
	}
	return t
}
