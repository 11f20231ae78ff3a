// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

// #cgo LDFLAGS: -llivedisk -ldl
// #include "callbacks.h"
// #include <stdlib.h>
import "C"

import (
	"context"
	"runtime"
	"unsafe"
)

// Version returns the C library's version, as "major.minor.patch".
func Version() string {
	return C.GoString(C.livedisk_version())
}

// OpenFlag says who runs libvirt's event loop. Without one, livedisk polls libvirt at an adaptive interval, and the
// reason of a failed copy may be missing.
type OpenFlag uint32

const (
	// livedisk runs libvirt's default event loop in its own thread for as long as the process lives.
	RunEventLoop OpenFlag = C.LIVEDISK_OPEN_RUN_EVENT_LOOP
	// The caller runs libvirt's event loop, registered before this connection was opened.
	UseEvents OpenFlag = C.LIVEDISK_OPEN_USE_EVENTS
)

// Connection is a connection to libvirt. Close it when you no longer use it.
type Connection struct {
	handle handle[*C.struct_livedisk_connection]
}

// Open connects to libvirt; the empty URI is libvirt's own default. It fails with [ErrNoConnection] (libvirt's reason
// is in the message: check the URI and the daemon) or [ErrInvalidArgument] (correct the call).
//
// The first Open installs a libvirt error function, which is process-wide. It acts as libvirt's own, except that it is
// silent about errors that livedisk handles. If you have one, install it after the first Open.
func Open(uri string, flags ...OpenFlag) (*Connection, error) {
	var memory memory
	defer memory.free()
	text := memory.optional(uri, "uri")
	if memory.err != nil {
		return nil, memory.err
	}
	return open(func(out **C.struct_livedisk_connection, failure **C.struct_livedisk_error) C.int32_t {
		return C.livedisk_open(text, joined(flags), out, failure)
	})
}

// OpenFrom connects over a virConnectPtr that the caller has, with write access; with libvirt's Go module that is what
// RawPtr returns. livedisk takes one reference and releases it in [Connection.Close] or with the last operation that
// uses it, whichever comes later. It fails with [ErrNoConnection] (libvirt refuses the pointer) or [ErrInvalidArgument]
// (nil, or unknown flags).
func OpenFrom(virConnect unsafe.Pointer, flags ...OpenFlag) (*Connection, error) {
	return open(func(out **C.struct_livedisk_connection, failure **C.struct_livedisk_error) C.int32_t {
		return C.livedisk_open_from(virConnect, joined(flags), out, failure)
	})
}

func joined(flags []OpenFlag) C.uint32_t {
	var all OpenFlag
	for _, flag := range flags {
		all |= flag
	}
	return C.uint32_t(all)
}

func open(call func(**C.struct_livedisk_connection, **C.struct_livedisk_error) C.int32_t) (*Connection, error) {
	var object *C.struct_livedisk_connection
	err := check(func(failure **C.struct_livedisk_error) C.int32_t { return call(&object, failure) })
	if err != nil {
		return nil, err
	}
	connection := &Connection{handle[*C.struct_livedisk_connection]{what: "connection", object: object}}
	reportLeak(connection, "a Connection")
	return connection, nil
}

func (c *Connection) enter() (*C.struct_livedisk_connection, error) {
	if c == nil || c.handle.object == nil {
		return nil, closed("connection")
	}
	return c.handle.enter()
}

// Close closes the connection. Operations that were started on it continue; they hold their own reference. Calls under
// way are waited for, also those whose context has ended. Closing again does nothing. It returns nil.
func (c *Connection) Close() error {
	if c != nil && c.handle.object != nil && c.handle.close() {
		c.handle.drain()
		C.livedisk_close(c.handle.object)
		runtime.SetFinalizer(c, nil)
	}
	return nil
}

// Recovery is what [Connection.Recover] found and did. Operations whose process is alive are not counted.
type Recovery struct {
	// Domains on which something was left to clean up.
	Domains int
	// Guests thawed.
	Thawed int
	// Operations completed because they had passed their point of no return.
	Completed int
	// Operations rolled back.
	TakenBack int
	// Operations that could not be resolved; the log says why.
	Failed int
}

// Recover cleans up operations whose process has ended, on a domain that is running or not. It thaws frozen guests,
// completes operations that are past their point of no return, and rolls back the rest. Operations whose process is
// alive are left alone, so it is safe at any time, any number of times. The log says what was found and done.
//
// If the context ends first, its error is returned and the recovery continues in the background; [Connection.Close]
// waits for it.
//
// An operation that could not be resolved is not an error: see [Recovery].Failed. It fails with the context's error,
// [os.ErrClosed], [ErrInvalidArgument] (correct the call), [ErrNoDomain] (check the name), [ErrNoConnection],
// [ErrLibvirt], [ErrInternal] (see the message).
func (c *Connection) Recover(ctx context.Context, domain string) (Recovery, error) {
	return c.recover(ctx, domain, 0)
}

// RecoverDryRun counts what [Connection.Recover] would do, and changes nothing. It fails as Recover.
func (c *Connection) RecoverDryRun(ctx context.Context, domain string) (Recovery, error) {
	if err := needs("RecoverDryRun"); err != nil {
		return Recovery{}, err
	}
	return c.recover(ctx, domain, C.LIVEDISK_RECOVER_DRY_RUN)
}

func (c *Connection) recover(ctx context.Context, domain string, flags C.uint32_t) (Recovery, error) {
	if err := ctx.Err(); err != nil {
		return Recovery{}, err
	}
	connection, err := c.enter()
	if err != nil {
		return Recovery{}, err
	}
	return await(ctx, &c.handle, func() (Recovery, error) {
		var memory memory
		defer memory.free()
		name := memory.optional(domain, "domain")
		if memory.err != nil {
			return Recovery{}, memory.err
		}
		var found C.struct_livedisk_recovery
		err := check(func(failure **C.struct_livedisk_error) C.int32_t {
			if flags == 0 {
				return C.livedisk_recover(connection, name, &found, C.size_t(unsafe.Sizeof(found)), failure)
			}
			return C.livedisk_go_recover_flags(connection, name, flags, &found, C.size_t(unsafe.Sizeof(found)), failure)
		})
		return Recovery{
			Domains:   int(found.domains),
			Thawed:    int(found.thawed),
			Completed: int(found.completed),
			TakenBack: int(found.taken_back),
			Failed:    int(found.failed),
		}, err
	}, func(Recovery) {})
}
