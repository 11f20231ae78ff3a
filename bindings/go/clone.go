// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

// #include "callbacks.h"
import "C"

import (
	"runtime/cgo"
	"sync"
)

// clone is a CloneFunc that C may call until the operation is over.
type clone struct {
	call     CloneFunc
	handle   cgo.Handle
	released sync.Once
	mutex    sync.Mutex
	err      error
}

func newClone(call CloneFunc) *clone {
	if call == nil {
		return nil
	}
	made := &clone{call: call}
	made.handle = cgo.NewHandle(made)
	return made
}

// release: C does not call it any more.
func (c *clone) release() {
	if c != nil {
		c.released.Do(c.handle.Delete)
	}
}

// failure is what the function returned.
func (c *clone) failure() error {
	if c == nil {
		return nil
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.err
}

//export livedisk_go_clone
func livedisk_go_clone(source, destination *C.livedisk_go_text, handle C.uintptr_t) C.int32_t {
	clone := cgo.Handle(handle).Value().(*clone)
	err := clone.call(C.GoString((*C.char)(source)), C.GoString((*C.char)(destination)))
	clone.mutex.Lock()
	defer clone.mutex.Unlock()
	clone.err = err
	if err != nil {
		return 1
	}
	return 0
}
