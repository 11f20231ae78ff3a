// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

// #include "callbacks.h"
import "C"

import (
	"fmt"
	"time"
)

// CloneFunc clones source, which does not change meanwhile, to destination, which does not exist yet unless it is to be
// reused. An error makes the operation fail with [ErrJobFailed]. It may run for hours. Without Shallow, the result for
// a snapshot must be standalone, in the destination's format, and of exactly the disk's virtual size.
//
// In Go it is called on a thread of livedisk's, at most once at a time for an operation. It may use the Operation, but
// must not close it. Its error is in the operation's, found by errors.Is and errors.As.
type CloneFunc func(source, destination string) error

// SnapshotDisk is one disk of a snapshot.
type SnapshotDisk struct {
	// The disk target, such as "vda".
	Target string
	// Absolute path of a file that does not exist yet, path of a block device, or an nbd:// or nbd+unix:// URI.
	Destination string
	// "qcow2" or "raw". Empty: the disk's own format for a file, raw for a block device or an NBD export.
	Format string
	// The destination already holds an image of this format and of exactly the disk's virtual size. It is overwritten,
	// and never removed.
	ReuseExisting bool
	// An encrypted disk may be written to a plain destination.
	AllowPlaintext bool
	// The backing file of an increment (Since): the image of the backup that made the checkpoint. It is taken as raw if
	// it is a block device or its name ends in `.raw`, else as qcow2; it is refused if its header says otherwise.
	// Empty: the increment names no backing file, and is not the whole disk by itself.
	Backing string
}

// SnapshotOptions is what a live snapshot is asked for. The zero value of each field but Disks is a good choice.
type SnapshotOptions struct {
	// The disks, each named once. All images have the content of one point in time.
	Disks []SnapshotDisk
	// The [Method].
	Method Method
	// The [Quiesce].
	Quiesce Quiesce
	// Keep the backing file instead of making a standalone image. [MethodMirror] and [MethodClone] to qcow2 only.
	Shallow bool
	// Finish as soon as the operation is [PhaseReady], without waiting for [Operation.Finish].
	AutoFinish bool
	// Check everything, report the plan to the logger (Info) and change nothing. The operation is [PhaseDone] at once.
	DryRun bool
	// Check the images when they are complete, and compare their content if the guest wrote nothing meanwhile.
	Verify bool
	// Let the guest's writes wait for the mirror, so that it always converges.
	WriteBlocking bool
	// Compress the images (qcow2, zstd). For [MethodBackup], which [MethodAuto] then takes.
	Compress bool
	// Copy a disk whole if Since cannot be used for it; the report counts such disks.
	FullIfNeeded bool
	// How long the guest may be frozen; 0: 10 s. When the limit has passed, the guest is thawed and the operation fails
	// with [ErrFreeze].
	FreezeLimit time.Duration
	// Bytes per second; 0: no limit. The disks of the operation share it equally.
	Bandwidth uint64
	// [MethodBackup]: create a checkpoint of this name at the point in time. It covers the disks that can keep a
	// bitmap: writable qcow2 images of version 3. A backup that fails or is cancelled leaves no checkpoint. Empty:
	// none.
	Checkpoint string
	// [MethodBackup]: copy only what changed since this checkpoint, to a qcow2 image with the disk's Backing as backing
	// file. A disk that the checkpoint does not cover is copied whole; the report counts it, and the log says why.
	// Empty: copy everything.
	Since string
	// [MethodBackup]: absolute path of a directory for the scratch files, which grow as the guest overwrites data until
	// everything is copied. Empty: beside each disk's image.
	Scratch string
	// [MethodClone]: how to clone.
	Clone CloneMethod
	// [MethodClone] with [CloneCallback]: the function. It is called once for each disk, from another thread, before
	// the operation reaches a final phase.
	CloneFunc CloneFunc
}

// MigrateOptions is what a migration is asked for. Target and Destination must be set.
type MigrateOptions struct {
	// The disk target, such as "vda".
	Target string
	// Where the disk moves: a path, or an nbd:// or nbd+unix:// URI.
	Destination string
	// "qcow2" or "raw". Empty: the disk's own.
	Format string
	// The [Method].
	Method Method
	// The [CloneMethod].
	Clone CloneMethod
	// With [CloneCallback]: the function.
	CloneFunc CloneFunc
	// As AutoFinish of [SnapshotOptions].
	AutoFinish bool
	// As DryRun of [SnapshotOptions].
	DryRun bool
	// Compare base and clone before the pivot. With [MethodClone] only; [MethodMirror] is refused with
	// [ErrUnsupported], because the guest writes to both sides of a mirror.
	Verify bool
	// Remove the source when the disk has moved: the image, and the symbolic links by which the disk named it.
	DeleteSource bool
	// As WriteBlocking of [SnapshotOptions].
	WriteBlocking bool
	// An encrypted disk becomes a plain one. Without this flag a LUKS disk moves, by [MethodMirror], only to a new file
	// that libvirt encrypts with the same secret.
	AllowPlaintext bool
	// Bytes per second; 0: no limit.
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
		m.second(disk.Backing != "", field("backing"))
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
	m.second(o.Compress, "Compress")
	m.second(o.FullIfNeeded, "FullIfNeeded")
	m.second(o.Scratch != "", "Scratch")
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
