// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

// #include "callbacks.h"
import "C"

import (
	"fmt"
	"time"
)

// CloneFunc clones source, which nobody writes to meanwhile, to destination, where there is nothing yet unless it was to be
// reused: a storage array's clone, rsync. It may run for hours. For a snapshot without Shallow what it makes must be
// standalone, in the destination's format, and of exactly the disk's virtual size. It is called on a thread of livedisk's,
// at most once at a time for an operation, and holds the operation up until it returns; it may use the Operation, but must
// not close it. An error makes the operation fail with [ErrJobFailed] and is found in
// it by errors.Is and errors.As.
type CloneFunc func(source, destination string) error

// SnapshotDisk is one disk of a snapshot.
type SnapshotDisk struct {
	// Target is the disk target, such as "vda".
	Target string
	// Destination is the absolute path of a file that does not exist yet, the path of a block device, or an nbd:// or
	// nbd+unix:// URI.
	Destination string
	// Format is "qcow2" or "raw". Empty: the disk's own for a file, raw for a block device or an NBD export.
	Format string
	// ReuseExisting: the destination holds an image of the format and of exactly the disk's virtual size; it is
	// overwritten, and never removed.
	ReuseExisting bool
	// AllowPlaintext: an encrypted disk may be written to a plain destination.
	AllowPlaintext bool
	// Backing is the image that an increment (SnapshotOptions.Since) rests on. Empty: none is named. Not supported yet.
	Backing string
}

// SnapshotOptions is what a live snapshot is asked for. The zero value of each field but Disks is a good choice.
type SnapshotOptions struct {
	// Disks to snapshot, each once; all get one point in time.
	Disks []SnapshotDisk
	// Method is how.
	Method Method
	// Quiesce is whether the guest is frozen.
	Quiesce Quiesce
	// Shallow keeps the backing file instead of making a standalone image. MethodMirror and MethodClone to qcow2 only.
	Shallow bool
	// AutoFinish finishes as soon as PhaseReady, without waiting for Finish.
	AutoFinish bool
	// DryRun checks everything, tells the plan to the logger (Info), changes nothing, and is done.
	DryRun bool
	// Verify checks the images when complete, and their content where the guest wrote nothing meanwhile.
	Verify bool
	// WriteBlocking lets the guest's writes wait for the mirror, so that it always converges.
	WriteBlocking bool
	// Compress compresses the images (qcow2, zstd). By MethodBackup, which MethodAuto takes then.
	Compress bool
	// FullIfNeeded copies a disk whole where Since cannot be used; the report says how many disks that were. Not
	// supported yet.
	FullIfNeeded bool
	// FreezeLimit is how long the guest may be frozen; 0: 10 s. Past it the guest is thawed and the operation fails
	// with ErrFreeze.
	FreezeLimit time.Duration
	// Bandwidth in bytes per second; 0: no limit.
	Bandwidth uint64
	// Checkpoint to create at the point in time, with MethodBackup. Empty: none. Not supported yet.
	Checkpoint string
	// Since is the checkpoint since which changes are wanted, with MethodBackup. Empty: everything. Not supported yet.
	Since string
	// Scratch is the directory of the scratch files, with MethodBackup. Empty: beside each disk's image.
	Scratch string
	// Clone is how MethodClone clones.
	Clone CloneMethod
	// CloneFunc is called with CloneCallback.
	CloneFunc CloneFunc
}

// MigrateOptions is what a migration is asked for. Target and Destination must be set.
type MigrateOptions struct {
	// Target is the disk target, such as "vda".
	Target string
	// Destination is where the disk is to move: a path, or an nbd:// or nbd+unix:// URI.
	Destination string
	// Format is "qcow2" or "raw". Empty: the disk's own.
	Format string
	// Method is how.
	Method Method
	// Clone is how MethodClone clones.
	Clone CloneMethod
	// CloneFunc is called with CloneCallback.
	CloneFunc CloneFunc
	// AutoFinish finishes as soon as PhaseReady, without waiting for Finish.
	AutoFinish bool
	// DryRun checks everything, tells the plan to the logger (Info), changes nothing, and is done.
	DryRun bool
	// Verify compares base and clone before the pivot. With MethodClone only: a guest that runs writes to both sides of a
	// mirror, which is refused.
	Verify bool
	// DeleteSource removes the source when the disk has moved.
	DeleteSource bool
	// WriteBlocking lets the guest's writes wait for the mirror, so that it always converges.
	WriteBlocking bool
	// AllowPlaintext: an encrypted disk becomes a plain one. Without this a LUKS disk moves, by MethodMirror, to a new file
	// only, which libvirt encrypts with the same secret.
	AllowPlaintext bool
	// Bandwidth in bytes per second; 0: no limit.
	Bandwidth uint64
}

func flag(wanted bool, bit C.uint32_t) C.uint32_t {
	if wanted {
		return bit
	}
	return 0
}

func (o *SnapshotOptions) in(m *memory, clone *clone) *C.struct_livedisk_snapshot_options {
	disks := zeroed[C.struct_livedisk_snapshot_disk](m, len(o.Disks))
	for i, disk := range o.Disks {
		field := func(name string) string { return fmt.Sprintf("options.disks[%d].%s", i, name) }
		disks[i].target = m.text(disk.Target, field("target"))
		disks[i].destination = m.text(disk.Destination, field("destination"))
		disks[i].format = m.optional(disk.Format, field("format"))
		disks[i].flags = flag(disk.ReuseExisting, C.LIVEDISK_DISK_REUSE_EXISTING) |
			flag(disk.AllowPlaintext, C.LIVEDISK_DISK_ALLOW_PLAINTEXT)
		disks[i].backing = m.optional(disk.Backing, field("backing"))
	}
	options := &zeroed[C.struct_livedisk_snapshot_options](m, 1)[0]
	if len(disks) > 0 {
		options.disks = &disks[0]
	}
	options.disk_count = C.size_t(len(disks))
	options.method = C.int32_t(o.Method)
	options.quiesce = C.int32_t(o.Quiesce)
	options.flags = flag(o.Shallow, C.LIVEDISK_SNAPSHOT_SHALLOW) |
		flag(o.AutoFinish, C.LIVEDISK_SNAPSHOT_AUTO_FINISH) |
		flag(o.DryRun, C.LIVEDISK_SNAPSHOT_DRY_RUN) |
		flag(o.Verify, C.LIVEDISK_SNAPSHOT_VERIFY) |
		flag(o.WriteBlocking, C.LIVEDISK_SNAPSHOT_WRITE_BLOCKING) |
		flag(o.Compress, C.LIVEDISK_SNAPSHOT_COMPRESS) |
		flag(o.FullIfNeeded, C.LIVEDISK_SNAPSHOT_FULL_IF_NEEDED)
	options.freeze_limit_ms = m.milliseconds(o.FreezeLimit, "options.freeze_limit")
	options.bandwidth = C.uint64_t(o.Bandwidth)
	options.checkpoint = m.optional(o.Checkpoint, "options.checkpoint")
	options.since = m.optional(o.Since, "options.since")
	options.scratch = m.optional(o.Scratch, "options.scratch")
	options.clone = C.int32_t(o.Clone)
	if clone != nil {
		C.livedisk_go_clone_snapshot(options, C.uintptr_t(clone.handle))
	}
	return options
}

func (o *MigrateOptions) in(m *memory, clone *clone) *C.struct_livedisk_migrate_options {
	options := &zeroed[C.struct_livedisk_migrate_options](m, 1)[0]
	options.target = m.text(o.Target, "options.target")
	options.destination = m.text(o.Destination, "options.destination")
	options.format = m.optional(o.Format, "options.format")
	options.method = C.int32_t(o.Method)
	options.clone = C.int32_t(o.Clone)
	options.flags = flag(o.AutoFinish, C.LIVEDISK_MIGRATE_AUTO_FINISH) |
		flag(o.DryRun, C.LIVEDISK_MIGRATE_DRY_RUN) |
		flag(o.Verify, C.LIVEDISK_MIGRATE_VERIFY) |
		flag(o.DeleteSource, C.LIVEDISK_MIGRATE_DELETE_SOURCE) |
		flag(o.WriteBlocking, C.LIVEDISK_MIGRATE_WRITE_BLOCKING) |
		flag(o.AllowPlaintext, C.LIVEDISK_MIGRATE_ALLOW_PLAINTEXT)
	options.bandwidth = C.uint64_t(o.Bandwidth)
	if clone != nil {
		C.livedisk_go_clone_migrate(options, C.uintptr_t(clone.handle))
	}
	return options
}
