// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

// #cgo pkg-config: livedisk
// #include <livedisk.h>
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

// OpenFlag says who runs libvirt's event loop. Without one livedisk asks libvirt at an adaptive interval, and the reason
// of a failed copy is told less well.
type OpenFlag uint32

const (
	// RunEventLoop lets livedisk run libvirt's default event loop in a thread of its own, for as long as the process
	// lives. For programs that do not use libvirt's event loop themselves.
	RunEventLoop OpenFlag = C.LIVEDISK_OPEN_RUN_EVENT_LOOP
	// UseEvents: the caller runs libvirt's event loop, registered before the connection was opened.
	UseEvents OpenFlag = C.LIVEDISK_OPEN_USE_EVENTS
)

// Connection is a connection to libvirt. Close it when no call is to be made on it any more.
type Connection struct {
	handle handle[*C.struct_livedisk_connection]
}

// Open connects to libvirt; the empty URI is libvirt's own default. It fails with [ErrNoConnection] (libvirt's reason
// is in the message: check the URI and the daemon) or [ErrInvalidArgument] (correct the call).
//
// From the first Open on, libvirt's process-wide error function is livedisk's: it does what libvirt's own does, and is
// silent for errors that livedisk handles. Set yours after the first Open.
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
// RawPtr returns. One reference of it is taken, and given back by [Connection.Close] and by the last operation that uses
// it. It fails with [ErrNoConnection] (libvirt refuses the pointer) or [ErrInvalidArgument] (nil, or unknown flags).
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

// Close ends the use of the connection. Operations that were started on it go on and keep what they need of it. Calls
// under way are waited for, also those whose context has ended. Closing again does nothing. It returns nil.
func (c *Connection) Close() error {
	if c != nil && c.handle.object != nil && c.handle.close() {
		c.handle.drain()
		C.livedisk_close(c.handle.object)
		runtime.SetFinalizer(c, nil)
	}
	return nil
}

// Recovery is what [Connection.Recover] found and did. Operations that somebody runs are not counted.
type Recovery struct {
	// Domains that had something left to settle.
	Domains int
	// Thawed guests.
	Thawed int
	// Completed operations: they had passed their point of no return.
	Completed int
	// TakenBack operations.
	TakenBack int
	// Failed operations: they could not be settled, and stay to be recovered again; the log says why.
	Failed int
}

// Recover settles what processes that have ended left on a domain, running or not, or on all domains if the name is empty:
// it thaws what they froze, completes what is past its point of no return, and takes back the rest. Operations that
// somebody runs are left alone, and so is every job that livedisk did not start, so it is safe at any time, and again.
//
// If the context ends first, its error is returned and settling goes on in the background; [Connection.Close] waits for it.
//
// An operation that could not be settled is no error: see [Recovery].Failed. It fails with the context's error,
// [os.ErrClosed], [ErrInvalidArgument] (correct the call), [ErrNoDomain] (check the name), [ErrNoConnection],
// [ErrLibvirt], [ErrInternal] (see the message).
func (c *Connection) Recover(ctx context.Context, domain string) (Recovery, error) {
	return c.recover(ctx, domain, 0)
}

// RecoverDryRun counts what [Connection.Recover] would do, and changes nothing. It fails as Recover.
func (c *Connection) RecoverDryRun(ctx context.Context, domain string) (Recovery, error) {
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
			return C.livedisk_recover_flags(connection, name, flags, &found, C.size_t(unsafe.Sizeof(found)), failure)
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
