// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

// #include "callbacks.h"
import "C"

import (
	"context"
	"math"
	"runtime/cgo"
	"time"
)

// Checkpoint is a point in time since which a domain's disks note what changes.
type Checkpoint struct {
	// Its name.
	Name string
	// The name of the checkpoint before it. Empty: it is the oldest.
	Parent string
	// Its point in time; libvirt keeps whole seconds.
	Created time.Time
	// Bytes that have changed on its disks since then, in whole clusters; [ChangedUnknown] if that is not known,
	// because it is not usable, the domain is off, or a backup, migration or save is running.
	ChangedBytes uint64
	// What has changed since then is known for certain on all of its disks.
	Usable bool
	// The disks of the domain that it covers.
	DiskCount int
	// Why it is not usable, such as a missing or inconsistent bitmap. Empty: it is usable.
	WhyNot string
}

// ChangedUnknown is the [Checkpoint.ChangedBytes] where it is not known.
const ChangedUnknown uint64 = math.MaxUint64

// Checkpoints lists the checkpoints of a domain, oldest first, whichever program created them. The domain may be
// running or off. The state of the bitmaps comes from QEMU or, if the domain is off, from the images.
//
// If the context ends first, its error is returned. It fails with the context's error, [os.ErrClosed],
// [ErrInvalidArgument] (correct the call), [ErrUnsupported] (this libvirt has no checkpoints), [ErrNoDomain] (check the
// name), [ErrNoConnection], [ErrLibvirt], [ErrInternal] (see the message).
func (c *Connection) Checkpoints(ctx context.Context, domain string) ([]Checkpoint, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := needs("Checkpoints"); err != nil {
		return nil, err
	}
	connection, err := c.enter()
	if err != nil {
		return nil, err
	}
	return await(ctx, &c.handle, func() ([]Checkpoint, error) {
		var memory memory
		defer memory.free()
		name := memory.text(domain, "domain")
		if memory.err != nil {
			return nil, memory.err
		}
		var found []Checkpoint
		handle := cgo.NewHandle(&found)
		defer handle.Delete()
		err := check(func(failure **C.struct_livedisk_error) C.int32_t {
			return C.livedisk_go_list_checkpoints(connection, name, C.uintptr_t(handle), failure)
		})
		if err != nil {
			return nil, err
		}
		return found, nil
	}, func([]Checkpoint) {})
}

// DeleteCheckpoint deletes a checkpoint with its bitmaps, even if some of them are missing or inconsistent. Its child
// then records what changed since its parent; if there is no child, that record is lost. Backups stay as they are.
//
// If the context ends first, its error is returned and the deletion continues. It fails with the context's error,
// [os.ErrClosed], [ErrInvalidArgument] (correct the call), [ErrNoCheckpoint] (there is none of that name), [ErrBusy]
// (an operation, backup, migration or save is in the way: wait for it or end it), [ErrDomainState] (the domain is off
// and its images are on another host: start it), [ErrIO] (an image of a domain that is off cannot be changed),
// [ErrNoDomain], [ErrNoConnection], [ErrLibvirt], [ErrInternal].
func (c *Connection) DeleteCheckpoint(ctx context.Context, domain, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := needs("DeleteCheckpoint"); err != nil {
		return err
	}
	connection, err := c.enter()
	if err != nil {
		return err
	}
	_, err = await(ctx, &c.handle, func() (struct{}, error) {
		var memory memory
		defer memory.free()
		of, name := memory.text(domain, "domain"), memory.text(name, "name")
		if memory.err != nil {
			return struct{}{}, memory.err
		}
		return struct{}{}, check(func(failure **C.struct_livedisk_error) C.int32_t {
			return C.livedisk_go_delete_checkpoint(connection, of, name, failure)
		})
	}, func(struct{}) {})
	return err
}

//export livedisk_go_checkpoint
func livedisk_go_checkpoint(found *C.livedisk_go_checkpoint_info, handle C.uintptr_t) {
	list := cgo.Handle(handle).Value().(*[]Checkpoint)
	*list = append(*list, Checkpoint{
		Name:         C.GoString(found.name),
		Parent:       C.GoString(found.parent),
		Created:      time.Unix(0, int64(found.created_ns)),
		ChangedBytes: uint64(found.changed_bytes),
		Usable:       found.usable != 0,
		DiskCount:    int(found.disk_count),
		WhyNot:       C.GoString(found.why_not),
	})
}
