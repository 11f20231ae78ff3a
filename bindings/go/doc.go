// SPDX-License-Identifier: LGPL-2.1-or-later

// Package livedisk takes live snapshots of running libvirt/QEMU guests and moves their disks to other storage, while the
// guests run. It is a thin layer over the C library livedisk, whose header says what each call does to the guest.
//
// # The C library
//
// The package has the header with it and links to liblivedisk. Where that is not in the linker's path, build with
//
//	CGO_LDFLAGS="$(pkg-config --libs livedisk)" go build
//
// A program also builds and runs with an older library of the same soname. What that library lacks fails with
// [ErrUnsupported].
//
// # Operations
//
// [Connection.StartLiveSnapshot] and [Connection.MigrateDisk] return as soon as the operation runs; it goes on by itself,
// whether or not anybody waits. [Operation.Finish] completes it, [Operation.Cancel] rolls it back. Its
// [Phase] goes from [PhasePreparing] over [PhaseCopying], [PhaseReady] and [PhaseFinishing] to one of the final
// phases [PhaseDone], [PhaseCancelled] and [PhaseFailed], and never back. Every method may be called in every phase.
//
// # Waiting
//
// A goroutine that waits costs no thread: an operation's descriptor is watched by the runtime's poller. A context that
// ends, ends the wait at once, and only the wait: the operation goes on, as after a timeout. [Operation.FinishOrCancel]
// rolls the operation back instead. A call that talks to libvirt (starting, attaching, cancelling, recovering) holds a
// thread until libvirt answers; there too the context ends the wait for it.
//
// # After a crash
//
// An operation outlives the process that runs it: what QEMU does goes on, and its record stays with the domain, on which a
// new operation says [ErrBusy] until it is resolved. [Connection.Attach] resumes it, [Connection.Recover] rolls it back,
// or completes it where that is the only way. An agent that starts attaches to what it knows of, and recovers the rest.
//
// # Errors
//
// What livedisk reports is an [*Error], with a [Code] that [errors.Is] finds and libvirt's own number:
//
//	if errors.Is(err, livedisk.ErrBusy) { ... }
//	var failure *livedisk.Error
//	if errors.As(err, &failure) { log.Print(failure.Code, failure.LibvirtCode) }
//
// A context that ended gives its own error, a handle that is closed (or nil) [os.ErrClosed].
//
// # Ownership
//
// A [Connection] and an [Operation] hold memory of the C library: each must be closed, once it is not used any more, and
// closing an operation does not end it. No finalizer closes them; one that is forgotten is reported to the logger of
// [SetLogger]. Strings and options are copied before a call returns; nothing of Go's memory is kept in C.
// All methods may be called from several goroutines at once.
package livedisk
