// SPDX-License-Identifier: LGPL-2.1-or-later
//! Watching, finishing, cancelling and letting go of an operation.

use std::ffi::{c_char, c_int};
use std::os::fd::AsRawFd;

use super::connection::{livedisk_connection, must_have_room, on_domain, on_domains};
use super::error::livedisk_error;
use super::output::{Room, livedisk_progress, livedisk_recovery, livedisk_report};
use super::values::LIVEDISK_RECOVER_DRY_RUN;
use super::{Handle, frame, free, input, invalid};
use crate::error::Result;
use crate::operation::{Operation, Recovery};

/// An operation on a running guest. It runs by itself; the handle watches and controls it. Made by
/// livedisk_start_live_snapshot(), livedisk_migrate_disk() or livedisk_attach(), ended by livedisk_operation_free(). Any
/// thread, several at once.
pub struct livedisk_operation {
    handle: Handle<Operation>,
}

/// Starts or resumes an operation on a domain, and hands it out.
///
/// # Safety
/// As for [`on_domain`]; `out` is null or writable.
pub(super) unsafe fn start(
    connection: *mut livedisk_connection,
    domain: *const c_char,
    out: *mut *mut livedisk_operation,
    error: *mut *mut livedisk_error,
    start: impl FnOnce(&livedisk_connection, &str) -> Result<Operation>,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe {
        on_domain(connection, domain, error, |connection, domain| {
            must_have_room(out)?;
            let handle = Handle::new(start(connection, domain)?);
            out.write(Box::into_raw(Box::new(livedisk_operation { handle })));
            Ok(())
        })
    }
}

/// # Safety
/// `operation` is null or alive.
unsafe fn operation<'a>(operation: *const livedisk_operation) -> Result<&'a livedisk_operation> {
    // SAFETY: by the caller's promise.
    unsafe { operation.as_ref() }
        .ok_or_else(|| invalid("operation is NULL; pass one from a start call or livedisk_attach()"))
}

/// A call on an operation.
///
/// # Safety
/// As for [`frame`] and [`operation`].
unsafe fn on_operation(
    operation: *mut livedisk_operation,
    error: *mut *mut livedisk_error,
    call: impl FnOnce(&Handle<Operation>) -> Result<()>,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe { frame(error, || call(&self::operation(operation)?.handle)) }
}

/// Waits until the phase changes or there is progress that no poll has returned yet, and reports the latest. It makes
/// no libvirt call on the caller's thread. In a final phase it returns at once; livedisk_finish() reports why an
/// operation failed.
///
/// @param operation      the operation
/// @param timeout_ms     milliseconds to wait at most; 0: not at all; -1: for ever
/// @param progress       is filled; NULL with size 0 if not wanted
/// @param progress_size  sizeof(struct livedisk_progress)
/// @param error          receives the error, owned by the caller; may be NULL
/// @return LIVEDISK_OK, also when the time passed without news, or
///         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call), LIVEDISK_ERR_INTERNAL (free the handle)
///
/// Any phase, any thread. livedisk_cancel() from another thread ends the wait.
///
/// # Safety
/// Pointers are null or valid as described.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_poll(
    operation: *mut livedisk_operation,
    timeout_ms: i32,
    progress: *mut livedisk_progress,
    progress_size: usize,
    error: *mut *mut livedisk_error,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe {
        on_operation(operation, error, |operation| {
            let room = Room::new(progress, progress_size, "progress")?;
            let timeout = input::timeout(timeout_ms)?;
            let seen = operation.call(|operation| Ok(operation.poll(timeout)))?;
            room.fill(&livedisk_progress::from(&seen));
            Ok(())
        })
    }
}

/// A descriptor that is readable whenever a livedisk_poll() with timeout 0 would show something new: for poll(2),
/// epoll(7), GLib, libuv, Go. Do not read, write or close it; livedisk_poll() makes it unreadable again.
///
/// @param operation  the operation
/// @return the descriptor, which lives as long as the operation; -1 for NULL
///
/// Any phase, any thread.
///
/// # Safety
/// `operation` is null or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_operation_fd(operation: *const livedisk_operation) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe { self::operation(operation) }
        .and_then(|operation| operation.handle.call(|operation| Ok(operation.fd().as_raw_fd())))
        .unwrap_or(-1)
}

/// Waits for READY if necessary, completes the operation, and reports. Once DONE it gives the same report again.
///
/// @param operation    the operation
/// @param timeout_ms   milliseconds to wait at most; 0: not at all, the operation completes by itself; -1: for ever
/// @param report       is filled on success; NULL with size 0 if not wanted
/// @param report_size  sizeof(struct livedisk_report)
/// @param error        receives the error, owned by the caller; may be NULL
/// @return LIVEDISK_OK, or
///         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
///         LIVEDISK_ERR_TIMEOUT (the operation continues to its end: call again, or cancel),
///         LIVEDISK_ERR_CANCELLED (it was cancelled and rolled back),
///         or what made the operation fail, after it was rolled back: LIVEDISK_ERR_DOMAIN_STATE, LIVEDISK_ERR_BUSY (another
///         program changed the domain meanwhile), LIVEDISK_ERR_FREEZE,
///         LIVEDISK_ERR_DESTINATION, LIVEDISK_ERR_NO_SPACE, LIVEDISK_ERR_PERMISSION, LIVEDISK_ERR_JOB_FAILED,
///         LIVEDISK_ERR_VERIFY, LIVEDISK_ERR_NO_CONNECTION, LIVEDISK_ERR_LIBVIRT, LIVEDISK_ERR_IO, LIVEDISK_ERR_INTERNAL
///         (see the message for what to do, then start again)
///
/// Any phase, any thread. livedisk_cancel() from another thread ends the wait.
///
/// # Safety
/// Pointers are null or valid as described.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_finish(
    operation: *mut livedisk_operation,
    timeout_ms: i32,
    report: *mut livedisk_report,
    report_size: usize,
    error: *mut *mut livedisk_error,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe {
        on_operation(operation, error, |operation| {
            let room = Room::new(report, report_size, "report")?;
            let timeout = input::timeout(timeout_ms)?;
            let found = operation.call(|operation| operation.finish(timeout))?;
            room.fill(&livedisk_report::from(&found));
            Ok(())
        })
    }
}

/// Rolls the operation back and waits until that is done: jobs are ended, the guest is thawed, disk chain and
/// definition are as before, and the files that the operation made are removed. Nothing else is touched. An operation
/// that was cancelled or failed is rolled back already.
///
/// @param operation  the operation
/// @param error      receives the error, owned by the caller; may be NULL
/// @return LIVEDISK_OK, or
///         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
///         LIVEDISK_ERR_NO_OPERATION (it was complete: its images are yours to remove),
///         or what could not be rolled back (the message says what is left and where)
///
/// Any phase, any thread; it ends a livedisk_poll() or livedisk_finish() that waits.
///
/// # Safety
/// Pointers are null or valid as described.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_cancel(operation: *mut livedisk_operation, error: *mut *mut livedisk_error) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe { on_operation(operation, error, |operation| operation.call(Operation::cancel)) }
}

/// Requests what livedisk_cancel() does, and returns at once. livedisk_poll() and the descriptor show when it is over:
/// the phase is then LIVEDISK_PHASE_CANCELLED, and livedisk_finish() returns CANCELLED. LIVEDISK_PHASE_DONE means that
/// the request came too late. LIVEDISK_PHASE_FAILED means that not everything could be rolled back; livedisk_finish()
/// reports what is left. A second request does nothing.
///
/// @param operation  the operation
/// @param error      receives the error, owned by the caller; may be NULL
/// @return LIVEDISK_OK, also where it is cancelled or failed already, or
///         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
///         LIVEDISK_ERR_NO_OPERATION (it was complete: its images are yours to remove),
///         LIVEDISK_ERR_INTERNAL (free the handle)
///
/// Any phase, any thread. It does not block. A livedisk_finish() that waits returns when everything is rolled back.
///
/// # Safety
/// Pointers are null or valid as described.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_request_cancel(
    operation: *mut livedisk_operation,
    error: *mut *mut livedisk_error,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe { on_operation(operation, error, |operation| operation.call(Operation::request_cancel)) }
}

/// Frees an operation's handle. It neither pivots nor aborts anything: QEMU's jobs continue, and the operation's record
/// stays with the domain. livedisk_attach() resumes the operation, livedisk_recover() cleans up, and until then a start
/// call on the domain returns BUSY. If the operation is in the freeze window, the call returns after the thaw.
///
/// @param operation  the operation; NULL is fine
///
/// Any phase, any thread, once; no other call may use the operation at the time or later, and its descriptor is closed.
///
/// # Safety
/// `operation` is null or alive, and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_operation_free(operation: *mut livedisk_operation) {
    if !operation.is_null() {
        // SAFETY: made by `start`, and given up by the caller.
        unsafe { free(operation, |operation| &operation.handle) }
    }
}

/// Resumes an operation of a running domain after the process that ran it has ended, or after
/// livedisk_operation_free(). Progress and finish work as if nothing had happened; AUTO_FINISH and the other flags
/// still apply. An operation that was being rolled back continues to be rolled back.
///
/// @param connection  from livedisk_open() or livedisk_open_from()
/// @param domain      name or UUID of a domain
/// @param target      a disk target of the operation
/// @param out         receives the operation, owned by the caller: end it with livedisk_operation_free()
/// @param error       receives the error, owned by the caller; may be NULL
/// @return LIVEDISK_OK, or
///         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
///         LIVEDISK_ERR_NO_DOMAIN,
///         LIVEDISK_ERR_NO_OPERATION (the disk has none),
///         LIVEDISK_ERR_BUSY (another process runs it; the message says which),
///         LIVEDISK_ERR_DOMAIN_STATE (the domain is off: livedisk_recover() cleans up),
///         LIVEDISK_ERR_NO_CONNECTION, LIVEDISK_ERR_LIBVIRT, LIVEDISK_ERR_INTERNAL
///
/// Any thread.
///
/// # Safety
/// Pointers are null or valid as described.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_attach(
    connection: *mut livedisk_connection,
    domain: *const c_char,
    target: *const c_char,
    out: *mut *mut livedisk_operation,
    error: *mut *mut livedisk_error,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe {
        start(connection, domain, out, error, |connection, domain| {
            let target = input::string(target, "target")?;
            connection.call(|connection| connection.attach(domain, &target))
        })
    }
}

/// Cleans up operations whose process has ended, on a domain that is running or not. It thaws frozen guests, completes
/// operations that are past their point of no return, and rolls back the rest. Operations whose process is alive are
/// left alone, so it is safe at any time, any number of times. The log says what was found and done.
///
/// @param connection     from livedisk_open() or livedisk_open_from()
/// @param domain         name or UUID; NULL: all domains
/// @param recovery       is filled; NULL with size 0 if not wanted
/// @param recovery_size  sizeof(struct livedisk_recovery)
/// @param error          receives the error, owned by the caller; may be NULL
/// @return LIVEDISK_OK, also where an operation could not be resolved: see `failed`; or
///         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
///         LIVEDISK_ERR_NO_DOMAIN, LIVEDISK_ERR_NO_CONNECTION, LIVEDISK_ERR_LIBVIRT, LIVEDISK_ERR_INTERNAL
///
/// Any thread.
///
/// # Safety
/// Pointers are null or valid as described.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_recover(
    connection: *mut livedisk_connection,
    domain: *const c_char,
    recovery: *mut livedisk_recovery,
    recovery_size: usize,
    error: *mut *mut livedisk_error,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe { livedisk_recover_flags(connection, domain, 0, recovery, recovery_size, error) }
}

/// livedisk_recover() with flags.
///
/// @param connection     from livedisk_open() or livedisk_open_from()
/// @param domain         name or UUID; NULL: all domains
/// @param flags          LIVEDISK_RECOVER_DRY_RUN: change nothing, count what would be done, and log the steps at INFO;
///                       0: as livedisk_recover()
/// @param recovery       is filled; NULL with size 0 if not wanted
/// @param recovery_size  sizeof(struct livedisk_recovery)
/// @param error          receives the error, owned by the caller; may be NULL
/// @return as livedisk_recover()
///
/// Any thread. It blocks on libvirt until everything is done.
///
/// # Safety
/// Pointers are null or valid as described.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn livedisk_recover_flags(
    connection: *mut livedisk_connection,
    domain: *const c_char,
    flags: u32,
    recovery: *mut livedisk_recovery,
    recovery_size: usize,
    error: *mut *mut livedisk_error,
) -> i32 {
    // SAFETY: by the caller's promise.
    unsafe {
        on_domains(connection, domain, error, |connection, domain| {
            let dry_run = input::flags(flags, LIVEDISK_RECOVER_DRY_RUN, "flags")? & LIVEDISK_RECOVER_DRY_RUN != 0;
            let room = Room::new(recovery, recovery_size, "recovery")?;
            let found = connection.call(|connection| connection.recover(domain, dry_run))?;
            if dry_run {
                log_plan(&found);
            }
            room.fill(&livedisk_recovery::from(&found));
            Ok(())
        })
    }
}

fn log_plan(found: &Recovery) {
    for operation in &found.operations {
        for (number, line) in operation.plan.iter().enumerate() {
            let number = number + 1;
            log::info!(
                "plan for domain '{}', operation {}, step {number}: {line}",
                operation.domain,
                operation.id
            );
        }
    }
}
