// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

// #include "livedisk.h"
import "C"

import (
	"context"
	"unsafe"
)

// StartLiveSnapshot starts a live snapshot of a running guest. The guest's disks are copied to standalone images of one
// point in time, and its file systems are frozen only while that point is fixed. The call returns as soon as the
// operation runs, and the operation runs whether or not it is polled. Whatever can be checked beforehand is checked
// first, and a call that fails has changed nothing.
//
// [MethodMirror] (virDomainBlockCopy): the images have the content of the moment of [Operation.Finish]. A destination
// that fails or hangs never reaches the guest.
//
// [MethodBackup] (virDomainBackupBegin, pull mode): the images have the content of the start. QEMU saves what the guest
// overwrites in a scratch file for each disk, and livedisk reads QEMU's export with qemu-img at its own pace. A
// destination that fails or hangs never reaches the guest. If the scratch files run out of room, the operation fails
// with [ErrNoSpace] and the guest continues.
//
// Verify compares a [MethodBackup]'s images with the export. Compress, Checkpoint and Since work with [MethodBackup]
// only. The call that fixes the point in time also creates the checkpoint, and an increment holds the clusters that the
// bitmaps of an older checkpoint mark. If a bitmap is missing or inconsistent, the checkpoint is refused before
// anything begins; with FullIfNeeded that disk is copied whole.
//
// [MethodClone]: the images have the content of the start. livedisk takes one external snapshot of all disks
// (virDomainSnapshotCreateXML, no metadata), clones the images outside QEMU while they do not change, and commits the
// overlays (virDomainBlockCommit, active, with pivot). Meanwhile the guest writes to the overlays, which lie beside its
// images. A destination that fails or hangs never reaches the guest.
//
// If images share blocks with their clones, the time that [MethodClone] takes does not depend on their size. A disk
// with a backing file is flattened in the same pass unless Shallow is set.
//
// [MethodAuto] takes [MethodBackup] for Compress, Checkpoint and Since. Otherwise it takes [MethodClone] if the
// destinations can share blocks with the images and nothing needs flattening or converting, else [MethodMirror].
//
// The guest is frozen around the one call that fixes the point in time, and never around the copy (docs/threads.md
// quotes qemu-devel, 20 January 2022, on Nova's live snapshot).
//
// A guard process, livedisk-guard, thaws or resumes the guest if this process dies or hangs while the guest is frozen.
// The environment variable LIVEDISK_GUARD names its program; the default is in libexec beside the library. It starts
// with the first operation that needs it and ends with this process. If it cannot run, a warning is logged before the
// freeze; with LIVEDISK_GUARD_REQUIRED=1 in the environment, the start fails instead.
//
// The context bounds the start, not the operation. If it ends first, its error is returned, and what has been started
// meanwhile is rolled back in the background; [Connection.Close] waits for that.
//
// It fails with the context's error, [os.ErrClosed], [ErrInvalidArgument] (correct the call), [ErrNoConnection],
// [ErrNoDomain], [ErrNoDisk] (check the names), [ErrDomainState] (start or resume the domain), [ErrBusy] (wait for what
// is in the way, or end it), [ErrUnsupported] (ask for another method, format or disk), [ErrAgent] (QuiesceRequire, and
// no agent answers: start it in the guest), [ErrFreeze] (a guard is required, and none can run), [ErrDestination],
// [ErrPermission] (name another destination, or fix this one), [ErrLibvirt], [ErrIO], [ErrInternal] (see the message).
func (c *Connection) StartLiveSnapshot(ctx context.Context, domain string, options SnapshotOptions) (*Operation, error) {
	return c.start(ctx, domain, options.CloneFunc, func(memory *memory, clone *clone) starter {
		options := options.in(memory, clone)
		return func(connection *C.struct_livedisk_connection, domain *C.char, out **C.struct_livedisk_operation,
			failure **C.struct_livedisk_error) C.int32_t {
			return C.livedisk_start_live_snapshot(connection, domain, options, C.size_t(unsafe.Sizeof(*options)), out, failure)
		}
	})
}

// MigrateDisk moves a disk of a running guest to other storage without downtime. The call returns as soon as the
// operation runs.
//
// [MethodClone] takes five steps: an external snapshot (virDomainSnapshotCreateXML, no metadata), a clone of the base
// outside QEMU while it does not change, an overlay on the clone, a shallow block copy with pivot (virDomainBlockCopy),
// and an active commit with pivot (virDomainBlockCommit). docs/threads.md quotes their source, libvir-list, 7 October
// 2014. [MethodMirror] is one full block copy with pivot, for block devices, NBD exports and other formats.
// [MethodAuto] takes [MethodClone] if the destination is a file that can be cloned to, else [MethodMirror].
//
// At [PhaseReady] only the pivot to the destination is left. Until [Operation.Finish] everything can be rolled back.
// After the pivot the migration cannot be undone: [Operation.Cancel] then completes it and returns [ErrNoOperation].
//
// The context bounds the start, as in [Connection.StartLiveSnapshot]. It fails as that, for the same reasons; with
// [ErrBusy] also where the domain has snapshots, or a checkpoint's bitmap would be lost in a destination that is not
// qcow2 (delete them first).
func (c *Connection) MigrateDisk(ctx context.Context, domain string, options MigrateOptions) (*Operation, error) {
	return c.start(ctx, domain, options.CloneFunc, func(memory *memory, clone *clone) starter {
		options := options.in(memory, clone)
		return func(connection *C.struct_livedisk_connection, domain *C.char, out **C.struct_livedisk_operation,
			failure **C.struct_livedisk_error) C.int32_t {
			return C.livedisk_migrate_disk(connection, domain, options, C.size_t(unsafe.Sizeof(*options)), out, failure)
		}
	})
}

// Attach resumes an operation of a running domain after the process that ran it has ended, or after [Operation.Close].
// Progress and finish work as if nothing had happened; AutoFinish and the other flags still apply. An operation that
// was being rolled back continues to be rolled back.
//
// In Go an operation whose [CloneFunc] had not returned is rolled back as well; what that function left is yours to
// remove.
//
// If the context ends first, its error is returned; an operation attached meanwhile is released again and goes on in
// QEMU.
//
// It fails with the context's error, [os.ErrClosed], [ErrNoOperation] (the disk has none), [ErrBusy] (a process runs
// it; the message says which), [ErrDomainState] (the domain is off: [Connection.Recover] cleans up),
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

// start rolls back what no caller waits for any more.
func (c *Connection) start(ctx context.Context, domain string, function CloneFunc,
	prepare func(*memory, *clone) starter) (*Operation, error) {
	return c.take(ctx, domain, function, prepare, func(operation *Operation) {
		if err := operation.Cancel(context.WithoutCancel(ctx)); err != nil {
			if logger := logger.Load(); logger != nil {
				logger.Error("livedisk: what was started after its context had ended is not rolled back", "error", err)
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
