// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

// #include "callbacks.h"
import "C"

import (
	"context"
	"time"
)

// Freeze freezes a guest's file systems while something else takes a snapshot, such as a volume service or a storage
// array. The freeze is recorded in the domain's metadata. It ends with [Connection.Thaw], when this process dies (the
// guard thaws the guest), or when the limit has passed, whichever comes first. The connection may be closed meanwhile.
//
// If the context ends first, its error is returned, and what has been frozen meanwhile is thawed in the background.
//
// It fails with the context's error, [os.ErrClosed], [ErrInvalidArgument] (correct the call), [ErrBusy] (an operation
// or a freeze is in the way, the message says whose: wait for it or end it), [ErrAgent] (no agent answers: start it in
// the guest), [ErrFreeze] (the freeze failed or took longer than the limit and was undone, or a guard is required and
// none can run), [ErrDomainState] (start or resume the domain), [ErrNoDomain], [ErrNoConnection], [ErrLibvirt],
// [ErrInternal].
func (c *Connection) Freeze(ctx context.Context, domain string, limit time.Duration) (int, error) {
	return c.count(ctx, "Freeze", domain, func(memory *memory) counter {
		milliseconds := memory.milliseconds(limit, "limit")
		return func(connection *C.struct_livedisk_connection, domain *C.char, count *C.uint32_t,
			failure **C.struct_livedisk_error) C.int32_t {
			return C.livedisk_go_freeze(connection, domain, milliseconds, count, failure)
		}
	}, thawForgotten)
}

// Thaw ends a freeze that [Connection.Freeze] began, in whichever process and over whichever connection.
//
// If the context ends first, its error is returned and the thaw continues. It fails with the context's error,
// [os.ErrClosed], [ErrInvalidArgument] (correct the call), [ErrFreeze] (the guest was thawed too early, so a snapshot
// taken meanwhile is not consistent: freeze and take it again; or the thaw failed: try again, the guard thaws the guest
// when the limit has passed), [ErrNoOperation] (the domain has no freeze of livedisk's: it was thawed or recovered
// before), [ErrNoDomain], [ErrNoConnection], [ErrLibvirt], [ErrInternal].
func (c *Connection) Thaw(ctx context.Context, domain string) (int, error) {
	return c.count(ctx, "Thaw", domain, func(*memory) counter {
		return func(connection *C.struct_livedisk_connection, domain *C.char, count *C.uint32_t,
			failure **C.struct_livedisk_error) C.int32_t {
			return C.livedisk_go_thaw(connection, domain, count, failure)
		}
	}, func(*C.struct_livedisk_connection, *C.char) {})
}

// thawForgotten thaws a guest whose freeze no caller waits for any more.
func thawForgotten(connection *C.struct_livedisk_connection, domain *C.char) {
	err := check(func(failure **C.struct_livedisk_error) C.int32_t {
		return C.livedisk_go_thaw(connection, domain, nil, failure)
	})
	if logger := logger.Load(); err != nil && logger != nil {
		logger.Error("livedisk: what was frozen after its context had ended is not thawed", "error", err)
	}
}

// counter is a C call that counts file systems.
type counter func(*C.struct_livedisk_connection, *C.char, *C.uint32_t, **C.struct_livedisk_error) C.int32_t

func (c *Connection) count(ctx context.Context, what, domain string, prepare func(*memory) counter,
	discard func(*C.struct_livedisk_connection, *C.char)) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := needs(what); err != nil {
		return 0, err
	}
	connection, err := c.enter()
	if err != nil {
		return 0, err
	}
	return await(ctx, &c.handle, func() (int, error) {
		var memory memory
		defer memory.free()
		name := memory.text(domain, "domain")
		call := prepare(&memory)
		if memory.err != nil {
			return 0, memory.err
		}
		var count C.uint32_t
		err := check(func(failure **C.struct_livedisk_error) C.int32_t { return call(connection, name, &count, failure) })
		return int(count), err
	}, func(int) {
		var memory memory
		defer memory.free()
		discard(connection, memory.text(domain, "domain"))
	})
}
