// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

import (
	"context"
	"runtime"
	"sync"
)

// handle is a C object that calls share. Closing it waits for them, and refuses new ones.
type handle[P any] struct {
	what   string
	object P
	mutex  sync.Mutex
	closed bool
	calls  sync.WaitGroup
}

// enter gives the object until leave.
func (h *handle[P]) enter() (object P, err error) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if h.closed {
		return object, closed(h.what)
	}
	h.calls.Add(1)
	return h.object, nil
}

func (h *handle[P]) leave() {
	h.calls.Done()
}

// close refuses calls from now on; false if that was done before. drain waits for those under way.
func (h *handle[P]) close() bool {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	before := h.closed
	h.closed = true
	return !before
}

func (h *handle[P]) drain() {
	h.calls.Wait()
}

// await makes a call that blocks its thread, and waits for it or for the context. What the call has made when
// the caller no longer waits goes to discard. Last of all it leaves the handle that it was made on.
func await[P, T any](ctx context.Context, on *handle[P], call func() (T, error), discard func(T)) (T, error) {
	type result struct {
		value T
		err   error
	}
	results := make(chan result)
	go func() {
		defer on.leave()
		value, err := call()
		select {
		case results <- result{value, err}:
		case <-ctx.Done():
			if err == nil {
				discard(value)
			}
		}
	}()
	select {
	case found := <-results:
		return found.value, found.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// reportLeak logs a handle that is collected without having been closed. It closes nothing: when the garbage
// collector runs is no time to release an operation.
func reportLeak[T any](object *T, what string) {
	runtime.SetFinalizer(object, func(*T) {
		if logger := logger.Load(); logger != nil {
			logger.Warn("livedisk: " + what + " was dropped without Close; its memory is lost")
		}
	})
}
