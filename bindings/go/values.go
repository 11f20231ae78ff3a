// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

// #include "livedisk.h"
import "C"

import "strconv"

// Method is how an image is made.
type Method int32

const (
	// Let livedisk choose the cheapest method that cannot hurt the guest; the report says which one it was.
	MethodAuto Method = C.LIVEDISK_METHOD_AUTO
	// virDomainBackupBegin: content as of the start. A destination that fails or hangs never reaches the guest.
	MethodBackup Method = C.LIVEDISK_METHOD_BACKUP
	// virDomainBlockCopy: content as of the finish. A destination that fails or hangs never reaches the guest.
	MethodMirror Method = C.LIVEDISK_METHOD_MIRROR
	// Like [MethodMirror], by virDomainBlockRebase, for old hosts. Destinations are files and block devices. A
	// persistent domain is undefined for a moment, and defined again as it was. The disk's backing chain is copied into
	// the image after the point in time. Not for migrations.
	MethodRebase Method = C.LIVEDISK_METHOD_REBASE
	// External snapshot, clone of the base outside QEMU, active commit: content as of the start. A destination that
	// fails or hangs never reaches the guest. For a migration: the five steps of [Connection.MigrateDisk].
	MethodClone Method = C.LIVEDISK_METHOD_CLONE
)

// String returns the method's name in the command livedisk.
func (m Method) String() string {
	return name(int32(m), "auto", "backup", "mirror", "rebase", "clone")
}

// Quiesce is whether the guest's file systems are frozen over the point in time.
type Quiesce int32

const (
	// Freeze if a guest agent answers; else the images are crash-consistent, and the report says so.
	QuiescePrefer Quiesce = C.LIVEDISK_QUIESCE_PREFER
	// Freeze, or fail before anything is started.
	QuiesceRequire Quiesce = C.LIVEDISK_QUIESCE_REQUIRE
	// Do not freeze.
	QuiesceNone Quiesce = C.LIVEDISK_QUIESCE_NONE
)

// String returns the name in the command livedisk.
func (q Quiesce) String() string {
	return name(int32(q), "prefer", "require", "none")
}

// CloneMethod is how [MethodClone] clones the quiet base.
type CloneMethod int32

const (
	// The cheapest way that works.
	CloneAuto CloneMethod = C.LIVEDISK_CLONE_AUTO
	// Share blocks (FICLONE), or fail.
	CloneReflink CloneMethod = C.LIVEDISK_CLONE_REFLINK
	// Copy, keeping holes. A snapshot that is flattened or converted, or whose destination exists, is written in one
	// pass from the content of the disk's backing chain; so it is with [CloneAuto].
	CloneCopy CloneMethod = C.LIVEDISK_CLONE_COPY
	// The daemon clones, as libvirt storage volumes: source and destination are in directories of active storage pools.
	// For migrations. [CloneAuto] takes it on a remote connection.
	CloneVolume CloneMethod = C.LIVEDISK_CLONE_VOLUME
	// The caller's own function.
	CloneCallback CloneMethod = C.LIVEDISK_CLONE_CALLBACK
)

// String returns the name in the command livedisk.
func (c CloneMethod) String() string {
	return name(int32(c), "auto", "reflink", "copy", "volume", "callback")
}

// Phase is how far an operation is. It never goes back.
type Phase int32

const (
	// Destinations are being created.
	PhasePreparing Phase = C.LIVEDISK_PHASE_PREPARING
	// Content is being copied.
	PhaseCopying Phase = C.LIVEDISK_PHASE_COPYING
	// Everything is copied; [Operation.Finish] will not take long.
	PhaseReady Phase = C.LIVEDISK_PHASE_READY
	// The point in time is being fixed and the result checked, or the operation is being rolled back.
	PhaseFinishing Phase = C.LIVEDISK_PHASE_FINISHING
	// The images are complete. Final.
	PhaseDone Phase = C.LIVEDISK_PHASE_DONE
	// Cancelled and rolled back. Final.
	PhaseCancelled Phase = C.LIVEDISK_PHASE_CANCELLED
	// Failed and rolled back; [Operation.Finish] reports why. Final.
	PhaseFailed Phase = C.LIVEDISK_PHASE_FAILED
)

// String returns the phase's name.
func (p Phase) String() string {
	return name(int32(p), "preparing", "copying", "ready", "finishing", "done", "cancelled", "failed")
}

// Final is whether the operation is over.
func (p Phase) Final() bool {
	return p >= PhaseDone
}

// Consistency is what images can be relied on for.
type Consistency int32

const (
	// As after a power failure: file systems replay their journals.
	ConsistencyCrash Consistency = C.LIVEDISK_CONSISTENCY_CRASH
	// Frozen by the guest agent across the whole point in time, and still frozen when thawed.
	ConsistencyFilesystem Consistency = C.LIVEDISK_CONSISTENCY_FILESYSTEM
)

// String returns the name that the command livedisk prints.
func (c Consistency) String() string {
	return name(int32(c), "crash", "filesystem")
}

// name also has a word for values of a newer library.
func name(value int32, names ...string) string {
	if value < 0 || int(value) >= len(names) {
		return strconv.Itoa(int(value))
	}
	return names[value]
}
