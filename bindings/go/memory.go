// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

// #include "livedisk.h"
// #include <stdlib.h>
import "C"

import (
	"math"
	"strings"
	"time"
	"unsafe"
)

// memory is C memory for one call; livedisk copies what it keeps. The first value that C cannot take is its err.
type memory struct {
	blocks []unsafe.Pointer
	err    error
}

func (m *memory) free() {
	for _, block := range m.blocks {
		C.free(block)
	}
}

// zeroed is room for count values of a type of C's.
func zeroed[T any](m *memory, count int) []T {
	var one T
	size := uintptr(max(count, 1)) * unsafe.Sizeof(one)
	// It does not return NULL: cgo ends the process before.
	block := C.malloc(C.size_t(size))
	clear(unsafe.Slice((*byte)(block), size))
	m.blocks = append(m.blocks, block)
	return unsafe.Slice((*T)(block), count)
}

func (m *memory) text(value, field string) *C.char {
	if strings.IndexByte(value, 0) >= 0 {
		// C would see another, shorter name.
		m.fail("%s holds a zero byte; remove it", field)
		return nil
	}
	text := C.CString(value)
	m.blocks = append(m.blocks, unsafe.Pointer(text))
	return text
}

// optional is NULL for nothing.
func (m *memory) optional(value, field string) *C.char {
	if value == "" {
		return nil
	}
	return m.text(value, field)
}

// milliseconds rounds up: what is not zero does not become it.
func (m *memory) milliseconds(value time.Duration, field string) C.uint32_t {
	whole := (value + time.Millisecond - 1) / time.Millisecond
	if value < 0 || whole > math.MaxUint32 {
		m.fail("%s is %v; pass 0 to %v", field, value, time.Duration(math.MaxUint32)*time.Millisecond)
		return 0
	}
	return C.uint32_t(whole)
}

// second refuses what an older library does not know, if it is wanted.
func (m *memory) second(wanted bool, what string) {
	if wanted && m.err == nil {
		m.err = needs(what)
	}
}

func (m *memory) fail(format string, arguments ...any) {
	if m.err == nil {
		m.err = invalid(format, arguments...)
	}
}
