// SPDX-License-Identifier: LGPL-2.1-or-later

// Package livedisk takes live snapshots of running libvirt/QEMU guests and moves their disks to other storage, while
// the guests run. It is a thin layer over the C library livedisk, whose header describes what each call does to the
// guest.
//
// # The C library
//
// The package contains the header and links to liblivedisk. If that is not in the linker's path, build with
//
//	CGO_LDFLAGS="$(pkg-config --libs livedisk)" go build
//
// A program also builds and runs with an older library of the same soname. Missing features fail with [ErrUnsupported].
//
// # Operations
//
// [Connection.StartLiveSnapshot] and [Connection.MigrateDisk] return as soon as the operation runs. It runs by itself,
// whether or not a goroutine waits. [Operation.Finish] completes it, [Operation.Cancel] rolls it back. Its [Phase]
// advances from [PhasePreparing] through [PhaseCopying], [PhaseReady] and [PhaseFinishing] to one of the final phases
// [PhaseDone], [PhaseCancelled] and [PhaseFailed], and never goes back. Every method may be called in every phase.
//
// # Waiting
//
// A goroutine that waits costs no thread, because the runtime's poller watches an operation's descriptor. When a
// context ends, only the wait ends: the operation continues, as after a timeout. [Operation.FinishOrCancel] rolls the
// operation back instead. A call that talks to libvirt (starting, attaching, cancelling, recovering) holds a thread
// until libvirt answers; there too the context ends the wait for it.
//
// # After a crash
//
// An operation outlives the process that runs it: QEMU's jobs continue, and the operation's record stays with the
// domain. A new operation on that domain fails with [ErrBusy] until the old one is resolved. [Connection.Attach]
// resumes it; [Connection.Recover] rolls it back, or completes it where that is the only way. When an agent starts, it
// attaches to the operations that it knows, and recovers the rest.
//
// # Errors
//
// Failures are an [*Error], with a [Code] that [errors.Is] finds and libvirt's own error number:
//
//	if errors.Is(err, livedisk.ErrBusy) { ... }
//	var failure *livedisk.Error
//	if errors.As(err, &failure) { log.Print(failure.Code, failure.LibvirtCode) }
//
// If a context ends, the call returns the context's error. A closed or nil handle returns [os.ErrClosed].
//
// # Ownership
//
// A [Connection] and an [Operation] hold memory of the C library. Close each when you no longer use it; closing an
// operation does not end it. No finalizer closes them; a forgotten one is reported to the logger of [SetLogger].
// Strings and options are copied before a call returns, and C keeps no pointer to Go's memory. All methods may be
// called from several goroutines at once.
package livedisk
