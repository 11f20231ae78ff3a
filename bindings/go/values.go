// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

// #include <livedisk.h>
import "C"

import "strconv"

// Method is how an image is made.
type Method int32

const (
	// MethodAuto lets livedisk choose the cheapest method that cannot hurt the guest; the report says which one it was.
	MethodAuto Method = C.LIVEDISK_METHOD_AUTO
	// MethodBackup is virDomainBackupBegin: content as of the start. A destination that fails or hangs never reaches
	// the guest.
	MethodBackup Method = C.LIVEDISK_METHOD_BACKUP
	// MethodMirror is virDomainBlockCopy: content as of the finish. A destination that fails or hangs never reaches
	// the guest.
	MethodMirror Method = C.LIVEDISK_METHOD_MIRROR
	// MethodRebase is as MethodMirror, by virDomainBlockRebase, for old hosts. Not supported yet.
	MethodRebase Method = C.LIVEDISK_METHOD_REBASE
	// MethodClone is an external snapshot, a clone of the quiet base and an active commit; in a migration the
	// five-step procedure.
	MethodClone Method = C.LIVEDISK_METHOD_CLONE
)

// String returns the method's name in the command livedisk.
func (m Method) String() string {
	return name(int32(m), "auto", "backup", "mirror", "rebase", "clone")
}

// Quiesce is whether the guest's file systems are frozen over the point in time.
type Quiesce int32

const (
	// QuiescePrefer freezes if a guest agent answers, else is crash-consistent and says so in the report.
	QuiescePrefer Quiesce = C.LIVEDISK_QUIESCE_PREFER
	// QuiesceRequire freezes, or fails before anything was started.
	QuiesceRequire Quiesce = C.LIVEDISK_QUIESCE_REQUIRE
	// QuiesceNone does not freeze.
	QuiesceNone Quiesce = C.LIVEDISK_QUIESCE_NONE
)

// String returns the name in the command livedisk.
func (q Quiesce) String() string {
	return name(int32(q), "prefer", "require", "none")
}

// CloneMethod is how [MethodClone] clones the quiet base.
type CloneMethod int32

const (
	// CloneAuto is the cheapest way to clone that works.
	CloneAuto CloneMethod = C.LIVEDISK_CLONE_AUTO
	// CloneReflink is FICLONE.
	CloneReflink CloneMethod = C.LIVEDISK_CLONE_REFLINK
	// CloneCopy copies, with holes kept.
	CloneCopy CloneMethod = C.LIVEDISK_CLONE_COPY
	// CloneVolume clones a libvirt storage volume.
	CloneVolume CloneMethod = C.LIVEDISK_CLONE_VOLUME
	// CloneCallback is the caller's own [CloneFunc].
	CloneCallback CloneMethod = C.LIVEDISK_CLONE_CALLBACK
)

// String returns the name in the command livedisk.
func (c CloneMethod) String() string {
	return name(int32(c), "auto", "reflink", "copy", "volume", "callback")
}

// Phase is how far an operation is. It never goes back.
type Phase int32

const (
	// PhasePreparing: destinations are made.
	PhasePreparing Phase = C.LIVEDISK_PHASE_PREPARING
	// PhaseCopying: content is copied.
	PhaseCopying Phase = C.LIVEDISK_PHASE_COPYING
	// PhaseReady: everything is copied, and Finish will not wait long.
	PhaseReady Phase = C.LIVEDISK_PHASE_READY
	// PhaseFinishing: the point in time is fixed and the result checked, or everything is taken back.
	PhaseFinishing Phase = C.LIVEDISK_PHASE_FINISHING
	// PhaseDone: the images are complete. Final.
	PhaseDone Phase = C.LIVEDISK_PHASE_DONE
	// PhaseCancelled: cancelled, and everything taken back. Final.
	PhaseCancelled Phase = C.LIVEDISK_PHASE_CANCELLED
	// PhaseFailed: failed, and everything taken back; Finish says why. Final.
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
	// ConsistencyCrash is as after a power failure: file systems replay their journals.
	ConsistencyCrash Consistency = C.LIVEDISK_CONSISTENCY_CRASH
	// ConsistencyFilesystem: frozen by the guest agent over the whole point in time, and still frozen when thawed.
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
