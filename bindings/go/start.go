// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

// #include <livedisk.h>
import "C"

import (
	"context"
	"unsafe"
)

// StartLiveSnapshot starts a live snapshot of a running guest, named by its domain's name or UUID: its disks become
// standalone images, all of one point in time, with its file systems frozen only for the moment that fixes it. It returns
// as soon as the operation runs; it goes on whether or not anybody waits for it. Whatever can be found out beforehand is,
// and then nothing was changed.
//
// With [MethodMirror] (the content is that of [Operation.Finish]) and [MethodClone] (the content is that of the start) a
// destination that fails or hangs never reaches the guest; with [MethodBackup] (the content is that of the start) it gives
// the guest I/O errors or stalls it. [MethodAuto] takes MethodClone where the destinations share a file system that clones
// with the images, and nothing is to be flattened or converted; else MethodMirror.
//
// A guard process lets the guest go if this one dies or hangs while the guest is frozen: the program livedisk-guard, at
// LIVEDISK_GUARD or in libexec beside the C library. Without it a warning is logged before the freeze; with
// LIVEDISK_GUARD_REQUIRED=1 in the environment the start fails.
//
// The context bounds the start, not the operation. If it ends first, its error is returned, and what has been started
// meanwhile is taken back in the background; [Connection.Close] waits for that.
//
// It fails with the context's error, [os.ErrClosed], [ErrInvalidArgument] (correct the call), [ErrNoConnection],
// [ErrNoDomain], [ErrNoDisk] (check the names), [ErrDomainState] (start or resume the domain), [ErrBusy] (wait for what is
// in the way, or end it), [ErrUnsupported] (ask for another method, format or disk), [ErrAgent] (QuiesceRequire, and no
// agent answers: start it in the guest), [ErrFreeze] (a guard is required, and none can run), [ErrDestination],
// [ErrPermission] (name another destination, or mend this one), [ErrLibvirt], [ErrIO], [ErrInternal] (see the message).
func (c *Connection) StartLiveSnapshot(ctx context.Context, domain string, options SnapshotOptions) (*Operation, error) {
	return c.start(ctx, domain, options.CloneFunc, func(memory *memory, clone *clone) starter {
		options := options.in(memory, clone)
		return func(connection *C.struct_livedisk_connection, domain *C.char, out **C.struct_livedisk_operation,
			failure **C.struct_livedisk_error) C.int32_t {
			return C.livedisk_start_live_snapshot(connection, domain, options, C.size_t(unsafe.Sizeof(*options)), out, failure)
		}
	})
}

// MigrateDisk moves a running guest's disk to other storage, without downtime. It returns as soon as the operation runs.
//
// PhaseReady is the moment before the pivot to the destination. Until [Operation.Finish] everything can be taken back;
// behind the pivot forward is the only way: [Operation.Cancel] then completes the migration and says [ErrNoOperation].
//
// The context bounds the start, as in [Connection.StartLiveSnapshot]. It fails as that, for the same reasons; with
// [ErrBusy] also where the domain has snapshots, or a checkpoint's bitmap would be lost in a destination that is not qcow2
// (delete them first).
func (c *Connection) MigrateDisk(ctx context.Context, domain string, options MigrateOptions) (*Operation, error) {
	return c.start(ctx, domain, options.CloneFunc, func(memory *memory, clone *clone) starter {
		options := options.in(memory, clone)
		return func(connection *C.struct_livedisk_connection, domain *C.char, out **C.struct_livedisk_operation,
			failure **C.struct_livedisk_error) C.int32_t {
			return C.livedisk_migrate_disk(connection, domain, options, C.size_t(unsafe.Sizeof(*options)), out, failure)
		}
	})
}

// Attach takes an operation of a domain up again, after the process that ran it has ended or has closed it. Target is a
// disk target of the operation. Progress goes on where it was, and what was asked for at the start, such as AutoFinish,
// still holds; an operation that was being taken back goes on being taken back, and so does one whose [CloneFunc] had not
// returned: what that function left is yours to remove.
//
// If the context ends first, its error is returned; an operation attached meanwhile is let go again and goes on in QEMU.
//
// It fails with the context's error, [os.ErrClosed], [ErrNoOperation] (the disk has none), [ErrBusy] (a process runs it;
// the message says which), [ErrDomainState] (the domain is off: [Connection.Recover] settles what is left),
// [ErrInvalidArgument] (correct the call), [ErrNoDomain] (check the name), [ErrNoConnection], [ErrLibvirt], [ErrIO],
// [ErrInternal] (see the message).
func (c *Connection) Attach(ctx context.Context, domain, target string) (*Operation, error) {
	return c.take(ctx, domain, nil, func(memory *memory, _ *clone) starter {
		target := memory.text(target, "target")
		return func(connection *C.struct_livedisk_connection, domain *C.char, out **C.struct_livedisk_operation,
			failure **C.struct_livedisk_error) C.int32_t {
			return C.livedisk_attach(connection, domain, target, out, failure)
		}
	}, func(operation *Operation) { operation.Close() })
}

// starter is a C call that makes an operation.
type starter func(*C.struct_livedisk_connection, *C.char, **C.struct_livedisk_operation, **C.struct_livedisk_error) C.int32_t

// start takes back what nobody waits for any more.
func (c *Connection) start(ctx context.Context, domain string, function CloneFunc,
	prepare func(*memory, *clone) starter) (*Operation, error) {
	return c.take(ctx, domain, function, prepare, func(operation *Operation) {
		if err := operation.Cancel(context.WithoutCancel(ctx)); err != nil {
			if logger := logger.Load(); logger != nil {
				logger.Error("livedisk: what was started after its context had ended is not taken back", "error", err)
			}
		}
		operation.Close()
	})
}

func (c *Connection) take(ctx context.Context, domain string, function CloneFunc,
	prepare func(*memory, *clone) starter, discard func(*Operation)) (*Operation, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	connection, err := c.enter()
	if err != nil {
		return nil, err
	}
	return await(ctx, &c.handle, func() (*Operation, error) {
		return c.call(connection, domain, newClone(function), prepare)
	}, discard)
}

func (c *Connection) call(connection *C.struct_livedisk_connection, domain string, clone *clone,
	prepare func(*memory, *clone) starter) (*Operation, error) {
	var memory memory
	defer memory.free()
	name := memory.text(domain, "domain")
	start := prepare(&memory, clone)
	err := memory.err
	var object *C.struct_livedisk_operation
	if err == nil {
		err = check(func(failure **C.struct_livedisk_error) C.int32_t { return start(connection, name, &object, failure) })
	}
	if err != nil {
		clone.release()
		return nil, err
	}
	return newOperation(object, domain, clone)
}
