// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

// #include "callbacks.h"
import "C"

import (
	"context"
	"runtime/cgo"
	"strconv"
	"time"
	"unsafe"
)

// OperationInfo is an operation that runs, in whichever process, or whose process has ended.
type OperationInfo struct {
	// The domain's name.
	Domain string
	// The operation's unique id.
	ID string
	// The name of the host on which its process runs.
	OwnerHost string
	// The number of that process.
	OwnerProcess int
	// A migration; else a snapshot, or a freeze of [Connection.Freeze], which has no disks.
	IsMigration bool
	// The [Method].
	Method Method
	// The process has ended or released the operation, so call [Connection.Attach] or [Connection.Recover].
	Orphaned bool
	// Disks of the operation.
	Disks []OperationDisk
	// When it was started.
	Started time.Time
	// Bytes copied by the block jobs that run, over all disks.
	BytesDone uint64
	// Bytes that those jobs have to copy, as far as known now; 0 if no job runs.
	BytesTotal uint64
}

// OperationDisk is a disk of an [OperationInfo].
type OperationDisk struct {
	// Target is the disk target, such as "vda".
	Target string
	// Destination is where its content goes.
	Destination string
}

// Operations lists the operations on one domain or on all domains: those that run, in whichever process, and those
// whose process has ended. A restarted agent finds its operations this way. It resumes the orphaned ones with
// [Connection.Attach], or cleans up with [Connection.Recover].
//
// If the context ends first, its error is returned. It fails with the context's error, [os.ErrClosed],
// [ErrInvalidArgument] (correct the call), [ErrNoDomain] (check the name), [ErrNoConnection], [ErrLibvirt],
// [ErrInternal] (see the message).
func (c *Connection) Operations(ctx context.Context, domain string) ([]OperationInfo, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := needs("Operations"); err != nil {
		return nil, err
	}
	connection, err := c.enter()
	if err != nil {
		return nil, err
	}
	return await(ctx, &c.handle, func() ([]OperationInfo, error) {
		var memory memory
		defer memory.free()
		name := memory.optional(domain, "domain")
		if memory.err != nil {
			return nil, memory.err
		}
		var found []OperationInfo
		handle := cgo.NewHandle(&found)
		defer handle.Delete()
		err := check(func(failure **C.struct_livedisk_error) C.int32_t {
			return C.livedisk_go_list_operations(connection, name, C.uintptr_t(handle), failure)
		})
		if err != nil {
			return nil, err
		}
		return found, nil
	}, func([]OperationInfo) {})
}

//export livedisk_go_operation
func livedisk_go_operation(info *C.livedisk_go_operation_info, handle C.uintptr_t) {
	process, _ := strconv.Atoi(C.GoString(info.owner_process))
	operation := OperationInfo{
		Domain:       C.GoString(info.domain),
		ID:           C.GoString(info.id),
		OwnerHost:    C.GoString(info.owner_host),
		OwnerProcess: process,
		IsMigration:  info.is_migration != 0,
		Method:       Method(info.method),
		Orphaned:     info.orphaned != 0,
		Started:      time.Unix(0, int64(info.started_ns)),
		BytesDone:    uint64(info.bytes_done),
		BytesTotal:   uint64(info.bytes_total),
	}
	targets := unsafe.Slice(info.targets, info.disk_count)
	for i, destination := range unsafe.Slice(info.destinations, info.disk_count) {
		operation.Disks = append(operation.Disks, OperationDisk{C.GoString(targets[i]), C.GoString(destination)})
	}
	found := cgo.Handle(handle).Value().(*[]OperationInfo)
	*found = append(*found, operation)
}
